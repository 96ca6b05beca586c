"""The U-shaped network behind UNet, DIRL and RSRNet: ResNet-34 encoder of five levels and the plain decoder.

The layers are those of the plain UNets in the public codes of the group behind these networks (DIRL, MadisNet and
AustNet); the decoder is AustNet's. Unlike the classifier, the stem keeps full resolution (3x3, no stride, no pooling), so
ImageNet weights serve `layer1` to `layer4` only, and a fifth level of three basic blocks follows.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from models.layers.imagenet import load_backbone

IMAGENET_FILE = "resnet34-b627a593.pth"
"""torchvision's ResNet34_Weights.IMAGENET1K_V1"""
LEVELS = 5
STRIDE = 2 ** (LEVELS - 1)


def channels_of(width: int) -> tuple[int, ...]:
    """Channels of the five levels, fine to coarse."""
    return width, 2 * width, 4 * width, 8 * width, 8 * width


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: the block of ResNet-18 and -34 (He et al., "Deep Residual Learning for Image
    Recognition", CVPR 2016, figure 5 left). Names and order of its parameters are those of torchvision's block of this name, whose
    weights it takes; importing that one takes longer than all the rest that a small network's stage needs."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride), both rounded up."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        # the shortcut comes last, as in torchvision's: gradients are summed in the order in which x was read
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class ResNetEncoder(nn.Module):
    """`width` channels at full resolution (64 published), 35.44M parameters at 64.

    `backbone_weights`: "none", "imagenet" (torchvision's ResNet-34, published), or the path of its state dict.
    """

    def __init__(self, width: int = 64, backbone_weights: str = "none"):
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}, expected at least 1")
        c0, c1, c2, c3, c4 = channels_of(width)
        self.conv = nn.Conv2d(3, c0, 3, padding=1)
        self.norm = nn.BatchNorm2d(c0)
        self.relu = nn.ReLU(inplace=True)
        # torchvision's names, which its state dict is matched by
        self.layer1 = _layer(c0, c0, blocks=3, stride=1)
        self.layer2 = _layer(c0, c1, blocks=4, stride=2)
        self.layer3 = _layer(c1, c2, blocks=6, stride=2)
        self.layer4 = _layer(c2, c3, blocks=3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer5 = _layer(c3, c4, blocks=3, stride=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:  # as torchvision starts a ResNet
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._load(backbone_weights)

    def _load(self, source: str) -> None:
        layers = nn.ModuleDict({f"layer{i}": getattr(self, f"layer{i}") for i in (1, 2, 3, 4)})
        load_backbone(layers, source, _published, file=IMAGENET_FILE)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized RGB (N, 3, H, W), H and W divisible by 16 -> five features, fine to coarse, at
        1, 1/2, 1/4, 1/8 and 1/16 of the size."""
        levels = [self.layer1(self.relu(self.norm(self.conv(image))))]
        for layer in (self.layer2, self.layer3, self.layer4):
            levels.append(layer(levels[-1]))
        levels.append(self.layer5(self.pool(levels[-1])))
        return levels


def _published() -> dict:
    from torchvision.models import ResNet34_Weights

    return dict(ResNet34_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True))


def _merge(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNetDecoder(nn.Module):
    """Per level: nearest x2, 3x3 convolution, concatenation with the encoder's level, two 3x3 convolutions."""

    def __init__(self, width: int = 64):
        super().__init__()
        channels = channels_of(width)
        self.steps = nn.ModuleList()
        for coarse, fine in zip(channels[:0:-1], channels[-2::-1]):
            self.steps.append(nn.ModuleDict({"up": _up(coarse, fine), "merge": _merge(2 * fine, fine)}))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The encoder's five features -> (N, width, H, W)."""
        x = levels[-1]
        for step, skip in zip(cast("Iterable[nn.ModuleDict]", self.steps), levels[-2::-1]):
            x = step["merge"](torch.cat([skip, step["up"](x)], dim=1))
        return x
