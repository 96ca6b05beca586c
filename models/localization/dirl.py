"""DIRL: inharmonious region localization by bi-directional feature integration, mask-guided dual attention and a
global-context guided decoder, 53.47M parameters.

Liang, Niu, Zhang, "Inharmonious Region Localization", ICME 2021. Everything here is published, in the paper or in the
public code. The public code counts one convolution that it never uses, and so do we, frozen: the parameter count and
the order of a published state dict's tensors then agree. Attention maps are supervised by the mask (the authors'
training script; attention_weight = 0 is the public code's `vanilla` mode).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model, sum_of
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible, require_statistics
from models.layers.resnet_unet import STRIDE, ResNetEncoder, channels_of
from models.losses.region import RegionLoss


class LinearConv(nn.Module):
    """3x3 convolution and batch normalization, no activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = False):
        super().__init__()
        self.norm = nn.BatchNorm2d(outputs)  # registered first, as in the public code
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class PreactivatedConv(LinearConv):
    """ReLU, 3x3 convolution, batch normalization."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(inputs, outputs, stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


class PairIntegration(nn.Module):
    """Bi-directional feature integration at either end of the encoder: a level and its one neighbour."""

    def __init__(self, low: int, high: int, outputs: int, at_high: bool):
        super().__init__()
        self.at_high = at_high
        self.top_down = PreactivatedConv(high, low)
        self.bottom_up = PreactivatedConv(low, high, stride=2)
        if at_high:
            self.from_low = PreactivatedConv(2 * low, outputs, stride=2)
            self.from_high = PreactivatedConv(2 * high, outputs)
        else:
            self.from_high = PreactivatedConv(2 * high, outputs)
            self.from_low = PreactivatedConv(2 * low, outputs)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, l, H, W), high (N, h, H/2, W/2) -> (N, outputs, ...) at high's size if `at_high`, else low's."""
        lows = torch.cat([low + self.top_down(_double(high)), low], dim=1)
        highs = torch.cat([high, high + self.bottom_up(low)], dim=1)
        return self.from_high(highs if self.at_high else _double(highs)) + self.from_low(lows)


class TripleIntegration(nn.Module):
    """Bi-directional feature integration at an inner level: a level and both neighbours, top-down and bottom-up."""

    def __init__(self, low: int, middle: int, high: int, outputs: int):
        super().__init__()
        self.high_to_middle = PreactivatedConv(high, middle)
        self.middle_to_low = PreactivatedConv(middle, low)
        self.middle_to_high = PreactivatedConv(middle, high, stride=2)
        self.low_to_middle = PreactivatedConv(low, middle, stride=2)
        self.from_low = PreactivatedConv(2 * low, outputs, stride=2)
        self.from_middle = PreactivatedConv(2 * middle, outputs)
        self.from_high = PreactivatedConv(2 * high, outputs)

    def forward(self, low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
        """Three neighbouring levels, each half the size of the one before -> (N, outputs, ...) at middle's size."""
        middle_down = middle + self.high_to_middle(_double(high))
        low_down = low + self.middle_to_low(_double(middle_down))
        middle_up = middle + self.low_to_middle(low)
        high_up = high + self.middle_to_high(middle_up)
        return (
            self.from_low(torch.cat([low_down, low], dim=1))
            + self.from_middle(torch.cat([middle_down, middle_up], dim=1))
            + self.from_high(_double(torch.cat([high, high_up], dim=1)))
        )


class FeatureIntegration(nn.Module):
    """The five levels of the encoder, each fused with its neighbours into `outputs` channels."""

    def __init__(self, channels: tuple[int, ...], outputs: int):
        super().__init__()
        c0, c1, c2, c3, c4 = channels
        self.level0 = PairIntegration(c0, c1, outputs, at_high=False)
        self.level1 = TripleIntegration(c0, c1, c2, outputs)
        self.level2 = TripleIntegration(c1, c2, c3, outputs)
        self.level3 = TripleIntegration(c2, c3, c4, outputs)
        self.level4 = PairIntegration(c3, c4, outputs, at_high=True)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        return [
            self.level0(x[0], x[1]),
            self.level1(x[0], x[1], x[2]),
            self.level2(x[1], x[2], x[3]),
            self.level3(x[2], x[3], x[4]),
            self.level4(x[3], x[4]),
        ]


class ChannelAttention(nn.Module):
    """Efficient channel attention: each channel scaled by a gate that looks at its two neighbours' means."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()  # (N, 1, C)
        return x * gate.transpose(1, 2).unsqueeze(-1)


class DualAttention(nn.Module):
    """Mask-guided dual attention: over channels, then over pixels by a map that the mask supervises."""

    def __init__(self, channels: int):
        super().__init__()
        self.channel = ChannelAttention()
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, momentum=0.01),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 7, padding=3, bias=False),
            nn.BatchNorm2d(1, momentum=0.01),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the attended feature of the same shape, and the attention map (N, 1, H, W) in [0, 1]."""
        x = self.channel(x)
        attention = self.spatial(x).sigmoid()
        return x * attention + x, attention


def _double_aligned(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class GuidedBlock(nn.Module):
    """One step of the decoder: the deepest feature, carried along as `bottom`, guides what comes `up`. The product
    with the skip is its only non-linearity."""

    def __init__(self, channels: int):
        super().__init__()
        self.from_up = LinearConv(channels, channels)
        self.from_bottom = LinearConv(channels, channels)
        self.fuse = LinearConv(2 * channels, channels)

    def forward(self, skip: Tensor, up: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
        """up and bottom (N, C, H/2, W/2), skip (N, C, H, W) -> the next up and bottom, (N, C, H, W)."""
        bottom = self.from_bottom(_double_aligned(bottom))
        up = self.from_up(_double_aligned(up)) * skip
        return self.fuse(torch.cat([up, bottom], dim=1)), bottom


class GuidedDecoder(nn.Module):
    """Global-context guided decoder over levels 3, 2 and 1; registered finest first, as in the public code."""

    def __init__(self, channels: int):
        super().__init__()
        self.block1 = GuidedBlock(channels)
        self.unused = LinearConv(channels, channels).requires_grad_(False)
        self.head = nn.Conv2d(channels, 1, 1)
        self.block2 = GuidedBlock(channels)
        self.block3 = GuidedBlock(channels)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Five features at 1, 1/2 ... 1/16 of the size; the finest isn't used -> logits (N, 1, H, W)."""
        up, bottom = self.block3(x[3], x[4], x[4])
        up, bottom = self.block2(x[2], up, bottom)
        up, _ = self.block1(x[1], up, bottom)
        return self.head(_double_aligned(up))


class DIRL(Model):
    """`width`: channels of the encoder at full resolution (64 published); `channels`: of every later feature (32
    published). `backbone_weights`: "none", "imagenet" (published; ResNet-34), or the path of that state dict.
    `attention_weight`: of the attention maps' loss beside the final mask's (1 published). `bce_weight`, `ssim_weight`,
    `iou_weight`: the terms of L_seg."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        channels: int = 32,
        backbone_weights: str = "none",
        attention_weight: float = 1.0,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if attention_weight < 0:
            raise ValueError(f"attention_weight = {attention_weight}, expected at least 0")
        self.normalize = ImageNetNormalize()
        self.encoder = ResNetEncoder(width, backbone_weights)
        self.integration = FeatureIntegration(channels_of(width), channels)
        self.attention = nn.ModuleList(DualAttention(channels) for _ in channels_of(width))
        self.decoder = GuidedDecoder(channels)
        self.attention_weight = attention_weight
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def _predict(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training:
            require_statistics(composite, STRIDE)
        levels = self.integration(self.encoder(self.normalize(composite)))
        attended = [attend(level) for attend, level in zip(self.attention, levels)]
        return self.decoder([level for level, _ in attended]), [attention for _, attention in attended]

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 16 -> probability (N, 1, H, W) of foreground.

        Raises ValueError for other sizes, and in training for one image of 16x16."""
        return self._predict(batch)[0].float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the final mask plus `attention_weight` times the sum of L_seg over the five attention maps,
        each brought to full size; parts final, attention."""
        self.require_player(player)
        mask = batch["mask"]
        logits, maps = self._predict(batch)
        final, _ = self.region_loss(logits, mask, logits=True)
        parts = {"final": final.detach()}
        if not self.attention_weight:
            return final, parts
        attention = sum_of(
            self.region_loss(F.interpolate(attention.float(), mask.shape[2:], mode="bilinear"), mask)[0]
            for attention in maps
        )
        return final + self.attention_weight * attention, parts | {"attention": attention.detach()}
