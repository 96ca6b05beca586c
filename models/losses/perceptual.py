"""Perceptual and style losses on a VGG network that was trained on ImageNet.

Johnson et al. 2016 and Gatys et al. 2016, in the form of PConv, RFR-Net (eqs 10-12) and EdgeConnect. The weights are
asked for by name and loaded when the first loss is computed, so that a network can be built, loaded and used for
inference on a machine that does not have them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.base import sum_of

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # per block; each block ends with a 2x2 max pool
CHANNELS = (64, 128, 256, 512, 512)
POOLS_1_TO_3 = (4, 9, 16)  # indices in torchvision's vgg16().features


class VGGFeatures:
    """Frozen VGG features of images. Not an nn.Module: a loss's helper is no part of the network that it trains, its
    weights do not belong into that network's state dict, and it follows its input to any device.

    architecture: "vgg16" or "vgg19". weights: "torchvision", or the path of a .pth or .safetensors file with
    torchvision's names ("features.0.weight", ...). layers: indices in torchvision's `features` after which to tap.
    normalize: standardize with ImageNet's mean and deviation first.
    """

    def __init__(self, architecture: str, weights: str, layers: Sequence[int], normalize: bool):
        self.architecture, self.weights, self.layers, self.normalize = architecture, weights, tuple(layers), normalize
        self._network: nn.Sequential | None = None

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Features after each layer asked for; image (N, 3, H, W) in [0, 1].

        Raises ValueError, naming the file to put where, when the weights cannot be had.
        """
        if self._network is None:
            self._network = _load(self.architecture, self.weights, max(self.layers) + 1)
        self._network.to(image.device)
        if self.normalize:
            mean, deviation = image.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
            image = (image - mean) / deviation
        taps = []
        for index, layer in enumerate(self._network):
            image = layer(image)
            if index in self.layers:
                taps.append(image)
        return taps


def perceptual_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference (RFR-Net eq. 10)."""
    return sum_of((tap - wanted).abs().mean() for tap, wanted in zip(first, second))


def style_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference of Gram matrices (RFR-Net eqs 11-12)."""
    return sum_of((gram(tap) - gram(wanted)).abs().mean() for tap, wanted in zip(first, second))


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C): products of channels, summed over space and divided by C H W. In float32 and divided
    before it is summed, because the plain sum of a large feature map leaves the range of float16."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return (flat / (flat.shape[1] * flat.shape[2])) @ flat.transpose(1, 2)


def raw_and_composite_terms(
    features: VGGFeatures, raw: Tensor, composite: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """Perceptual and style loss of PConv and RFR-Net, unweighted: the network's output and its composite with the
    input are each compared with the real image, and the two are added. All images (N, 3, H, W)."""
    with torch.no_grad():
        wanted = features(real)
    both = features(torch.cat([raw, composite]))
    halves = list(zip(*(tap.chunk(2) for tap in both)))
    return (
        sum_of(perceptual_distance(half, wanted) for half in halves),
        sum_of(style_distance(half, wanted) for half in halves),
    )


def _load(architecture: str, weights: str, depth: int) -> nn.Sequential:
    network = _layers(architecture)[:depth]
    state = _torchvision_state(architecture) if weights == "torchvision" else _file_state(architecture, weights)
    state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in state or state[key].shape != value.shape:
            fault = f"has shape {tuple(state[key].shape)}" if key in state else "is missing"
            raise ValueError(
                f"perceptual_weights = {weights!r} is no {architecture}: features.{key} {fault}, "
                f"expected {tuple(value.shape)}"
            )
    network.load_state_dict({key: state[key] for key in wanted})
    return network.eval().requires_grad_(False)


def _layers(architecture: str) -> nn.Sequential:
    layers, before = [], 3
    for channels, repeats in zip(CHANNELS, CONVOLUTIONS[architecture]):
        for _ in range(repeats):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _torchvision_state(architecture: str) -> dict[str, Tensor]:
    from torchvision.models import VGG16_Weights, VGG19_Weights

    published = {"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[architecture].IMAGENET1K_V1
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    try:
        return published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"perceptual_weights = 'torchvision': {place.name} cannot be fetched ({error}); put it at {place}, "
            "or give perceptual_weights the path of a file, or 'none' to leave the perceptual and style terms out"
        ) from error


def _file_state(architecture: str, weights: str) -> dict[str, Tensor]:
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"perceptual_weights = {weights!r}: no such file; put torchvision's {architecture} weights there (.pth or "
            ".safetensors), or say 'torchvision' to fetch them, or 'none' to leave the perceptual and style terms out"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the two readers raise
        raise ValueError(f"perceptual_weights = {weights!r} cannot be read: {str(error).splitlines()[0]}") from error
