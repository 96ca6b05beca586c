"""The manipulation-trace features of ManTra-Net, on which SPAN builds as well: 13 convolutions at full resolution.

Wu, AbdAlmageed, Natarajan, "ManTra-Net: Manipulation Tracing Network for Detection and Localization of Image Forgeries
With Anomalous Features", CVPR 2019, and the authors' public code (feature extractor of type 2, that of their
pretrained model 4). The first layer looks for noise rather than content: next to free filters it has fixed ones of the
steganalysis rich model (SRM; Fridrich and Kodovsky 2012) and constrained ones (Bayar and Stamm 2016).

The published code trains the extractor beforehand on 385 kinds of manipulation whose generator is not released. Here it
starts from random weights unless a file is given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.imagenet import read_state_dict
from models.layers.symmetric_padding import symmetric_pad

FREE, CONSTRAINED = 4, 3
TINY = 1e-7  # Keras's epsilon, which the published constraints add to their denominators


class ConstrainedModule(nn.Module):
    """A layer whose weights must satisfy a constraint, as Keras's layers have it.

    Keras projects the weights onto the constraint after each update. An optimizer here doesn't know of constraints,
    so the layer projects before its next forward pass: in training whenever the weights have changed, in evaluation
    if they have changed since it was trained. The weights of a layer that never trained, such as released ones, are
    used as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projected: list[int] | None = None  # the weights' versions when they were last projected
        self.register_forward_pre_hook(_project_what_changed)

    def versions(self) -> list[int]:
        """How often each weight was changed in place, as autograd counts."""
        return [parameter._version for parameter in self.parameters()]

    def project(self) -> None:
        """Change the weights in place so that they satisfy the constraint."""
        raise NotImplementedError


def _project_what_changed(layer: ConstrainedModule, _) -> None:
    trained = layer.training or layer.projected is not None
    if trained and layer.projected != layer.versions():
        with torch.no_grad():
            layer.project()
        layer.projected = layer.versions()


def srm_filters() -> Tensor:
    """(9, 3, 5, 5): three high-pass filters of the steganalysis rich model, each on red, on green and on blue alone."""
    square = torch.tensor([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    large = torch.tensor(
        [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    )
    line = torch.tensor([[1.0, -2.0, 1.0]]) / 2
    kernels = torch.stack([F.pad(square, (1, 1, 1, 1)), large / 12, F.pad(line, (1, 1, 2, 2))])
    # kernel k on colour c: (3 kernels, 3 colours of the output, 3 colours of the input, 5, 5)
    return (kernels[:, None, None] * torch.eye(3)[None, :, :, None, None]).flatten(0, 1)


class NoiseConv(ConstrainedModule):
    """5x5 convolution without bias, 3 -> 16 channels: 4 free filters, 9 fixed SRM filters, 3 constrained filters.

    A constrained filter predicts the centre pixel from its neighbours and gives the error: its centre is -1 and its 24
    other taps sum to 1, for each colour apart. Our choice: these taps start from the absolute values of the published
    initialization, so that their sum, by which the constraint divides, isn't near 0.
    """

    outputs = FREE + 9 + CONSTRAINED
    srm: Tensor

    def __init__(self):
        super().__init__()
        self.free = nn.Parameter(nn.init.xavier_uniform_(torch.empty(FREE, 3, 5, 5)))
        self.constrained = nn.Parameter(nn.init.xavier_uniform_(torch.empty(CONSTRAINED, 3, 5, 5)).abs_())
        self.register_buffer("srm", srm_filters(), persistent=False)  # constants, not part of a released state dict
        with torch.no_grad():
            self.project()

    def project(self) -> None:
        self.constrained[:, :, 2, 2] = 0
        total = self.constrained.sum((2, 3), keepdim=True)
        self.constrained /= total + torch.copysign(torch.full_like(total, TINY), total)
        self.constrained[:, :, 2, 2] = -1

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 16, H, W)."""
        return F.conv2d(symmetric_pad(image, 2), torch.cat([self.free, self.srm, self.constrained]))


class UnitNormConv(ConstrainedModule):
    """1x1 convolution without bias whose filters have Euclidean norm 1."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, inputs, 1, 1)))
        with torch.no_grad():
            self.project()

    def project(self) -> None:
        self.weight.div_(self.weight.norm(dim=1, keepdim=True) + TINY)

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight)


def initialize_as_keras(network: nn.Module) -> None:
    """Glorot's uniform distribution for the weights of all convolutions, 0 for their biases: Keras's defaults."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ManipulationFeatures(nn.Module):
    """`width`: channels of the first block (32 published); the features have `channels` = 8 times as many.

    Nothing lowers the resolution. Each 3x3 convolution mirrors the border and is followed by a ReLU, the last one
    excepted. `backbone_weights`: "none", or the path of a state dict of `mantranet` or `span`, whose features are
    taken. Raises ValueError for a file that doesn't hold them.
    """

    def __init__(self, width: int = 32, backbone_weights: str = "none"):
        super().__init__()
        self.channels = 8 * width
        self.noise = NoiseConv()
        sizes = (NoiseConv.outputs,) + tuple(width * m for m in (1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8))
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3) for before, after in zip(sizes, sizes[1:]))
        initialize_as_keras(self)
        if backbone_weights != "none":
            self._load(backbone_weights)

    def forward(self, image: Tensor) -> Tensor:
        """RGB (N, 3, H, W) in [0, 1] -> features (N, channels, H, W), float32, of Euclidean norm 1 at every pixel."""
        features = self.noise(image * 2 - 1)
        for conv in self.convs:
            # the ReLU comes after the padding and in place: one tensor per layer is kept for the gradient, not three
            features = conv(F.relu(symmetric_pad(features, 1), inplace=True))
        return F.normalize(features.float(), dim=1, eps=1e-6)

    def _load(self, path: str) -> None:
        if path == "imagenet":
            raise ValueError(
                "backbone_weights = 'imagenet': manipulation features aren't trained on ImageNet; give 'none' or the "
                "path of a state dict of mantranet or span"
            )
        prefix, held = "features.", read_state_dict(path)
        state = {key.removeprefix(prefix): value for key, value in held.items() if key.startswith(prefix)}
        for name, tensor in self.state_dict().items():
            if name not in state or state[name].shape != tensor.shape:
                shape = f"is {tuple(state[name].shape)}" if name in state else "is missing"
                raise ValueError(f"backbone_weights = {path!r}: {prefix}{name} {shape}, expected {tuple(tensor.shape)}")
        self.load_state_dict({name: state[name] for name in self.state_dict()})
