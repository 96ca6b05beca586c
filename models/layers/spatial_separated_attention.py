"""Spatial-separated attention (S2AM): background, mixed and spliced features weighed by channel, each in its place.

Cun and Pun, "Improving the Harmony of the Composite Image by Spatial-Separated Attention Module", IEEE TIP 2020; layers
as in the released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTION = 16
BLUR = 5


class ChannelGate(nn.Module):
    """x * sigmoid(FC(relu(FC([average pool, max pool])))), 2c -> max(least, c / 16) -> c."""

    def __init__(self, channels: int, least: int = 1):
        super().__init__()
        hidden = max(least, channels // REDUCTION)
        self.weigh = nn.Sequential(
            nn.Linear(2 * channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return features * self.weigh(pooled)[:, :, None, None]


class Learner(nn.Sequential):
    """Twice convolution 3x3, batch normalization, ELU: c -> 2c -> c."""

    def __init__(self, channels: int):
        super().__init__(
            nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ELU(inplace=True),
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ELU(inplace=True),
        )


class Blur(nn.Module):
    """Gaussian of 5x5 over one channel, reflecting at the border.

    The released kernel is exp(-(d / 2)^2) for its nominal sigma of 1, that is an effective sigma of sqrt(2).
    """

    weight: Tensor

    def __init__(self):
        super().__init__()
        taps = torch.exp(-(((torch.arange(BLUR) - BLUR // 2) / 2.0) ** 2))
        kernel = torch.outer(taps, taps)
        self.register_buffer("weight", (kernel / kernel.sum()).view(1, 1, BLUR, BLUR))

    def forward(self, mask: Tensor) -> Tensor:
        return F.conv2d(F.pad(mask, (BLUR // 2,) * 4, mode="reflect"), self.weight)


class SpatialSeparatedAttention(nn.Module):
    """g_b(x) * blur(1 - M') + (L(g_s(x)) + g_m(x)) * blur(M'), with channel gates g and the learner L."""

    takes_mask = True

    def __init__(self, channels: int):
        super().__init__()
        self.learn = Learner(channels)
        self.background = ChannelGate(channels)
        self.mixed = ChannelGate(channels)
        self.spliced = ChannelGate(channels)
        self.blur = Blur()

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w), as the features.

        mask: (N, 1, H, W), 0 or 1, 1 = foreground, H and W the same multiple of h and w. Where they are larger, M' is
        the rounded mean of each cell's first 2x2 pixels. Raises ValueError for features smaller than 3x3, which the
        blur of the mask can't reflect.
        """
        height, width = features.shape[2:]
        if min(height, width) <= BLUR // 2:
            raise ValueError(f"spatial-separated attention on features of {height}x{width}, expected 3x3 or more")
        if mask.shape[2] != height:
            mask = F.avg_pool2d(mask, 2, stride=mask.shape[2] // height).round()
        inside = self.blur(mask)
        # the kernel sums to one, so that blurring 1 - M' leaves this
        outside = 1 - inside
        spliced = self.learn(self.spliced(features)) + self.mixed(features)
        return self.background(features) * outside + spliced * inside
