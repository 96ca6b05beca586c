"""F3Net: fusion, feedback and focus. Neighbouring levels are multiplied, the decoder runs twice, and the loss looks at
boundaries. 25.54M parameters.

Wei, Wang, Huang, "F3Net: Fusion, Feedback and Focus for Salient Object Detection", AAAI 2020, and the authors' public
code (MIT). Published: the network, its own mean and deviation of colours, the loss and its weights, a start from
ImageNet's ResNet-50. The state dict has the order and shapes of the released one. The benchmark's table doesn't say
how its F3Net was trained.

Paper and code differ in the loss. The paper weights the cross-entropy by how much a pixel differs from its
surroundings. The code asks for `reduce='none'`, which PyTorch takes for an average over the batch, so its
cross-entropy is unweighted. The default is the paper's form; `weighted_bce` = False is the code's.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.backbones import ResNet50
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_statistics
from models.losses.region import RegionLoss

# the released code's, there in units of 0 to 255
MEAN = tuple(value / 255 for value in (124.55, 118.90, 102.94))
STD = tuple(value / 255 for value in (56.77, 55.97, 57.50))
STRIDE = 32
WINDOW = 31  # side of the surroundings, in pixels


def structure_loss(logits: Tensor, mask: Tensor, weighted_bce: bool = True) -> Tensor:
    """The position-aware loss of one map: weighted cross-entropy + weighted IoU, averaged over the batch.

    logits and mask (N, 1, H, W); mask in [0, 1]. A pixel's weight is 1 + 5 |mean of the mask in the 31x31 pixels
    around it - the mask there|, from 1 far from any boundary to 6; beyond the border the mask is 0. The IoU's
    numerator and denominator are each raised by 1. Computed in float32. `weighted_bce` False: plain cross-entropy.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, mask = logits.float(), mask.float()
        # along columns, then along rows: 62 sums a pixel in the place of 961. Without the channel, because torch takes one channel
        # in channels_last for many and goes through it one by one.
        columns = F.avg_pool2d(mask[:, 0], (WINDOW, 1), stride=1, padding=(WINDOW // 2, 0))
        surroundings = F.avg_pool2d(columns, (1, WINDOW), stride=1, padding=(0, WINDOW // 2))[:, None]
        weight = 1 + 5 * (surroundings - mask).abs()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        if weighted_bce:
            cross_entropy = (weight * cross_entropy).sum((2, 3)) / weight.sum((2, 3))
        probability = logits.sigmoid()
        intersection = (weight * probability * mask).sum((2, 3))
        union = (weight * (probability + mask)).sum((2, 3)) - intersection
        return cross_entropy.mean() + (1 - (intersection + 1) / (union + 1)).mean()


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class CrossFeature(nn.Module):
    """Two levels keep what both agree on: their product, given back to each (the paper's CFM)."""

    def __init__(self, channels: int):
        super().__init__()
        self.left, self.down = (nn.ModuleList(_conv(channels, channels, 3) for _ in range(4)) for _ in range(2))

    def forward(self, left: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """left (N, C, H, W) and the coarser down (N, C, h, w) -> both refined, (N, C, H, W)."""
        left, down = self.left[0](left), self.down[0](_resize(down, left))
        product = self.left[1](left) * self.down[1](down)
        left = self.left[3](self.left[2](product) + left)
        down = self.down[3](self.down[2](product) + down)
        return left, down


def _resize(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[2:]
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")


class Decoder(nn.Module):
    """Three cross features from the coarsest level to the finest."""

    def __init__(self, channels: int):
        super().__init__()
        self.steps = nn.ModuleList(CrossFeature(channels) for _ in range(3))

    def forward(self, levels: list[Tensor], feedback: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Four features (N, C, ...), fine to coarse, at 1/4 to 1/32 of the size; `feedback` (N, C, H/4, W/4) is added
        to each of them -> the four refined features, fine to coarse, and the decoded one (N, C, H/4, W/4)."""
        if feedback is not None:
            levels = [level + _resize(feedback, level) for level in levels]
        refined, down = [levels[3]], levels[3]
        for step, level in zip(self.steps, levels[2::-1]):
            left, down = step(level, down)
            refined.insert(0, left)
        return refined, down


class F3Net(Model):
    """`width`: channels of the ResNet-50's stem (64 published; its levels have 4 to 32 times as many). `channels`: of
    the decoders (64 published). `backbone_weights`: "none", "imagenet" (published; ResNet-50), or the path of that
    state dict. `freeze_stem`: keep the backbone's first convolution and norm at their starting weights, as the released
    training does (its running statistics still move). `objective`: "published", the loss of the paper, or "region",
    L_seg in its place on the same maps. `weighted_bce`: weight the cross-entropy as the paper has it, or not, as in the
    released code."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        channels: int = 64,
        backbone_weights: str = "none",
        freeze_stem: bool = False,
        objective: Literal["published", "region"] = "published",
        weighted_bce: bool = True,
    ):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels = {channels}, expected at least 1")
        self.normalize = ImageNetNormalize(MEAN, STD)
        self.backbone = ResNet50(width, backbone_weights)
        self.squeeze = nn.ModuleList(  # coarsest first, as released
            _conv(inputs, channels, 1) for inputs in self.backbone.channels[:0:-1]
        )
        self.first, self.second = Decoder(channels), Decoder(channels)
        self.first_head, self.second_head = (nn.Conv2d(channels, 1, 3, padding=1) for _ in range(2))
        self.side_heads = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for _ in range(4))  # finest first
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("backbone."):  # as the released code starts it
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                assert module.bias is not None  # Conv2d's default
                nn.init.zeros_(module.bias)
        self.freeze_stem = freeze_stem
        self.objective, self.weighted_bce = objective, weighted_bce
        self.region_loss = RegionLoss()

    def enter(self, phase: str) -> None:
        super().enter(phase)
        for module in (self.backbone.conv1, self.backbone.bn1):
            module.requires_grad_(not self.freeze_stem)

    def _decode(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The features decoded by the first and the second pass, and the four levels that the second refined."""
        composite = batch["composite"]
        if self.training:
            require_statistics(composite, STRIDE)
        levels = self.backbone(self.normalize(composite))[1:]
        levels = [squeeze(level) for squeeze, level in zip(self.squeeze, levels[::-1])][::-1]
        levels, first = self.first(levels)
        levels, second = self.second(levels, first)
        return first, second, levels

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], any size -> probability (N, 1, H, W) of foreground.

        Raises ValueError in training for one image of 32x32 pixels or less."""
        _, second, _ = self._decode(batch)
        logits = F.interpolate(self.second_head(second), batch["composite"].shape[2:], mode="bilinear")
        return logits.float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(first + second) / 2 + the four levels' maps, fine to coarse, by 1/2, 1/4, 1/8 and 1/16, all at full size;
        parts first, second, sides."""
        self.require_player(player)
        first, second, levels = self._decode(batch)
        mask = batch["mask"]

        def of(head: nn.Module, feature: Tensor) -> Tensor:
            logits = F.interpolate(head(feature), mask.shape[2:], mode="bilinear")
            if self.objective == "region":
                return self.region_loss(logits, mask, logits=True)[0]
            return structure_loss(logits, mask, self.weighted_bce)

        first, second = of(self.first_head, first), of(self.second_head, second)
        sides = sum(
            of(head, level) / 2**power for power, (head, level) in enumerate(zip(self.side_heads, levels), start=1)
        )
        parts = {"first": first, "second": second, "sides": sides}
        return (first + second) / 2 + sides, {name: part.detach() for name, part in parts.items()}
