"""ResNet-50 and VGG-16 as encoders of five levels: torchvision's blocks, names and order, at any width.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Simonyan and Zisserman, "Very Deep Convolutional
Networks for Large-Scale Image Recognition", ICLR 2015. The classifiers are left out. The entries of the state dict are
torchvision's, name by name and in order, so its ImageNet weights fill the encoder at width 64.
"""

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, VGG16_BN_Weights
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import make_layers

from models.layers.imagenet import load_backbone

WIDTH = 64  # channels of the first layer, as published
RESNET50_BLOCKS = (3, 4, 6, 3)
VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)  # per level; a 2x2 max pool stands between two levels


def _require_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width = {width}, expected at least 1")


class ResNet50(nn.Module):
    """ResNet-50 without its classifier, 23.51M parameters at width 64.

    `width`: channels of the stem; the five levels have 1, 4, 8, 16 and 32 times as many. `weights`: "none", "imagenet"
    (torchvision's IMAGENET1K_V1, the file that the networks of 2020 start from), or the path of that state dict.
    `last_stride`: 2 as published, or 1, which keeps the fifth level at the size of the fourth, without dilation.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, width: int = WIDTH, weights: str = "none", last_stride: int = 2):
        super().__init__()
        _require_width(width)
        self.channels = (width, 4 * width, 8 * width, 16 * width, 32 * width)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for level, (blocks, stride) in enumerate(zip(RESNET50_BLOCKS, (1, 2, 2, last_stride)), start=1):
            planes = width * 2 ** (level - 1)  # a bottleneck puts out 4 times its planes
            shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes))
            first = Bottleneck(inputs, planes, stride, shortcut)
            rest = (Bottleneck(4 * planes, planes) for _ in range(blocks - 1))
            setattr(self, f"layer{level}", nn.Sequential(first, *rest))
            inputs = 4 * planes
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision starts a ResNet
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        published = ResNet50_Weights.IMAGENET1K_V1
        load_backbone(
            self,
            weights,
            lambda: published.get_state_dict(progress=False, check_hash=True),
            file=published.url.rsplit("/", 1)[1],
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized RGB (N, 3, H, W) -> five features, fine to coarse, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size
        (1/16 with `last_stride` 1). Odd sizes are rounded up. The first feature is taken before the max pooling."""
        stem = self.relu(self.bn1(self.conv1(image)))
        levels = [stem, self.layer1(self.maxpool(stem))]
        for layer in (self.layer2, self.layer3, self.layer4):
            levels.append(layer(levels[-1]))
        return levels


class VGG16(nn.Module):
    """The convolutions of VGG-16 with batch normalization, 14.72M parameters at width 64.

    `width`: channels of the first level; the five levels have 1, 2, 4, 8 and 8 times as many. `weights`: "none",
    "imagenet" (torchvision's VGG-16-BN), or the path of that state dict.
    """

    def __init__(self, width: int = WIDTH, weights: str = "none"):
        super().__init__()
        _require_width(width)
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        layout: list[str | int] = []
        self.ends: list[int] = []
        for channels, count in zip(self.channels, VGG16_CONVOLUTIONS):
            layout += [*(["M"] if layout else []), *([channels] * count)]
            convolutions = sum(layer != "M" for layer in layout)
            self.ends.append(3 * convolutions + layout.count("M"))  # each convolution brings a norm and a ReLU
        self.features = make_layers(layout, batch_norm=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision starts a VGG
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None  # make_layers gives every convolution one
                nn.init.zeros_(module.bias)
        published = VGG16_BN_Weights.IMAGENET1K_V1
        load_backbone(
            self,
            weights,
            lambda: published.get_state_dict(progress=False, check_hash=True),
            file=published.url.rsplit("/", 1)[1],
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized RGB (N, 3, H, W) -> five features, fine to coarse, at 1, 1/2, 1/4, 1/8 and 1/16 of the size, each
        the last before the next max pooling. Sizes that don't halve are rounded down."""
        levels = []
        for start, end in zip((0, *self.ends), self.ends):
            image = self.features[start:end](image)
            levels.append(image)
        return levels


def encoder(name: str, width: int, weights: str, last_stride: int = 2) -> ResNet50 | VGG16:
    """The encoder called "resnet50" or "vgg16". `last_stride` concerns ResNet-50 alone."""
    return VGG16(width, weights) if name == "vgg16" else ResNet50(width, weights, last_stride)
