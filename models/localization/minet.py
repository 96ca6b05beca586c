"""MINet: each encoder level interacts with its neighbours, each decoder step with itself at half the size, and a loss
of consistency balances foreground and background. 47.56M parameters with VGG-16, 162.38M with ResNet-50.

Pang, Zhao, Zhang, Lu, "Multi-scale Interactive Network for Salient Object Detection", CVPR 2020, and the authors'
public code (MIT). Published: both networks, the loss, ImageNet's mean and deviation and a start from its weights. The
state dict has the order and shapes of the released one. The benchmark's table doesn't say which backbone it has or how
it was trained: VGG-16, which the released configuration names, and a third of the other's size.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.backbones import encoder
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible
from models.losses.region import RegionLoss

SMALLEST = 1e-6


def consistency_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """(false positives + false negatives) / (predicted + true area), soft, over all pixels of the batch (CEL).

    Both float32 (N, 1, H, W) in [0, 1] -> a scalar in [0, 1].
    """
    error = probability * (1 - mask) + mask * (1 - probability)
    return error.sum() / (probability.sum() + mask.sum() + SMALLEST)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear")


def _move(x: Tensor, steps: int) -> Tensor:
    """To the level that lies `steps` (-1, 0 or 1) coarser: halved by averaging or doubled by repetition."""
    return F.avg_pool2d(x, 2) if steps == 1 else _double(x) if steps == -1 else x


class AggregateInteraction(nn.Module):
    """One level of the encoder and its neighbours exchange features; the level's own is put out (the paper's AIM).

    inputs: channels of the two or three levels, fine to coarse. own: index of the level among them.
    """

    def __init__(self, inputs: tuple[int, ...], own: int, outputs: int):
        super().__init__()
        width, levels = min(inputs), range(len(inputs))
        inner = len(inputs) == 3
        self.own = own
        self.enter = nn.ModuleList(_conv(channels, width) for channels in inputs)
        self.enter_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in inputs)
        self.pairs = [(source, target) for source in levels for target in levels if abs(source - target) <= 1]
        self.exchange = nn.ModuleList(_conv(width, width) for _ in self.pairs)
        # the orders of registration are the released ones: a pair's coarse norm comes first, a triple's own level last
        self.normed = tuple(levels) if inner else (1, 0)
        self.exchange_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.normed)
        self.sources = (0, 2, 1) if inner else (0, 1)
        self.gather = nn.ModuleList(_conv(width, width) for _ in self.sources)
        self.gather_norm = nn.BatchNorm2d(width)
        self.leave = _conv(width, outputs)
        self.leave_norm = nn.BatchNorm2d(outputs)
        self.identity = nn.Conv2d(inputs[own], outputs, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Neighbouring features (N, C_i, ...), each half the size of the one before -> (N, outputs, ...) at the own
        level's size."""
        x = [norm(conv(level)).relu_() for conv, norm, level in zip(self.enter, self.enter_norms, levels)]
        sums: list[Tensor | int] = [0] * len(x)
        for (source, target), conv in zip(self.pairs, self.exchange):
            sums[target] = sums[target] + conv(_move(x[source], target - source))
        norms = dict(zip(self.normed, self.exchange_norms))
        x = [norms[level](total).relu_() for level, total in enumerate(sums)]
        gathered = sum(conv(_move(x[source], self.own - source)) for source, conv in zip(self.sources, self.gather))
        x = self.gather_norm(gathered).relu_()
        return (self.leave_norm(self.leave(x)) + self.identity(levels[self.own])).relu_()


class SelfInteraction(nn.Module):
    """A feature exchanges with itself at half the size and fewer channels (the paper's SIM)."""

    def __init__(self, high: int, low: int):
        super().__init__()
        self.enter_low, self.enter_high = _conv(high, low), _conv(high, high)
        self.enter_low_norm, self.enter_high_norm = nn.BatchNorm2d(low), nn.BatchNorm2d(high)
        self.high_to_high, self.high_to_low = _conv(high, high), _conv(high, low)
        self.low_to_high, self.low_to_low = _conv(low, high), _conv(low, low)
        self.low_norm, self.high_norm = nn.BatchNorm2d(low), nn.BatchNorm2d(high)
        self.gather_high, self.gather_low = _conv(high, high), _conv(low, high)
        self.gather_norm = nn.BatchNorm2d(high)

    def forward(self, x: Tensor) -> Tensor:
        """(N, high, H, W), sides of 2 and more -> the same shape; the input is added."""
        high = self.enter_high_norm(self.enter_high(x)).relu_()
        low = self.enter_low_norm(self.enter_low(F.avg_pool2d(x, 2))).relu_()
        both = self.high_to_high(high) + self.low_to_high(_enlarge(low, high))
        low = self.low_norm(self.low_to_low(low) + self.high_to_low(F.avg_pool2d(high, 2))).relu_()
        high = self.high_norm(both).relu_()
        return self.gather_norm(self.gather_high(high) + self.gather_low(_enlarge(low, high))).relu_() + x


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class MINet(Model):
    """`backbone`: "vgg16" (published default) or "resnet50". `width`: channels of the backbone's first level and of the
    decoder (64 published), a multiple of 4; every other width follows it. `backbone_weights`: "none", "imagenet"
    (published), or the path of torchvision's state dict. `objective`: "published", cross-entropy plus
    the weighted consistency loss, or "region", L_seg in their place. `consistency_weight`: of the consistency loss (1
    published)."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        backbone: Literal["vgg16", "resnet50"] = "vgg16",
        width: int = 64,
        backbone_weights: str = "none",
        objective: Literal["published", "region"] = "published",
        consistency_weight: float = 1.0,
    ):
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"width = {width}, expected a multiple of 4")
        if consistency_weight < 0:
            raise ValueError(f"consistency_weight = {consistency_weight}, expected at least 0")
        half = width // 2
        self.normalize = ImageNetNormalize()
        self.encoder = encoder(backbone, width, backbone_weights)
        self.at_full_size = backbone == "vgg16"  # ResNet's finest level lies at half of it
        self.stride = 16 if self.at_full_size else 32
        channels = self.encoder.channels
        finest = half if self.at_full_size else width
        # for each level: which ones take part, and which of them it is itself
        groups = [((0, 1), 0), ((0, 1, 2), 1), ((1, 2, 3), 1), ((2, 3, 4), 1), ((3, 4), 1)]
        self.groups = [taken for taken, _ in groups]
        self.aggregate = nn.ModuleList(
            AggregateInteraction(tuple(channels[i] for i in taken), own, width if level else finest)
            for level, (taken, own) in enumerate(groups)
        )
        # from here on coarsest first, as released
        self.interact = nn.ModuleList(SelfInteraction(channels, channels // 2) for channels in (*[width] * 4, finest))
        plain = 3 if self.at_full_size else 4
        self.up = nn.ModuleList([*(_up(width, width) for _ in range(plain)), _up(width, half), _up(half, half)])
        self.classifier = nn.Conv2d(half, 1, 1)
        self.objective, self.consistency_weight = objective, consistency_weight
        self.region_loss = RegionLoss()

    def _require_size(self, composite: Tensor) -> None:
        require_divisible(composite, self.stride)
        count, _, height, width = composite.shape
        smallest = 2 * self.stride
        if min(height, width) < smallest:
            raise ValueError(
                f"minet needs sides of at least {smallest} pixels with this backbone, got {height}x{width}"
            )
        # the coarsest level is halved once more; where that doesn't divide, it is rounded down
        if self.training and count * (height // smallest) * (width // smallest) < 2:
            raise ValueError(
                f"training on one image of {height}x{width} leaves batch normalization a single value per channel at "
                f"1/{smallest} of the size; give it a batch of 2 or a side of {2 * smallest}"
            )

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 16 and at least 32 (VGG-16), or divisible by 32 and at
        least 64 (ResNet-50) -> (N, 1, H, W). Raises ValueError for other sizes, and in training for one image of the
        smallest size."""
        composite = batch["composite"]
        self._require_size(composite)
        levels = self.encoder(self.normalize(composite))
        levels = [step([levels[i] for i in taken]) for step, taken in zip(self.aggregate, self.groups)]
        x = None
        for level, interact, up in zip(levels[::-1], self.interact, self.up):
            x = up(interact(level if x is None else level + _enlarge(x, level)))
        if not self.at_full_size:
            assert x is not None  # there are five levels
            x = self.up[-1](_enlarge(x, composite))
        return self.classifier(x)

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], of the sizes that `logits` takes -> probability (N, 1, H, W) of
        foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective on the mask; parts bce and consistency, or those of L_seg."""
        self.require_player(player)
        logits, mask = self.logits(batch).float(), batch["mask"].float()
        if self.objective == "region":
            return self.region_loss(logits, mask, logits=True)
        parts = {
            "bce": F.binary_cross_entropy_with_logits(logits, mask),
            "consistency": consistency_loss(logits.sigmoid(), mask),
        }
        total = parts["bce"] + self.consistency_weight * parts["consistency"]
        return total, {name: part.detach() for name, part in parts.items()}
