"""The discriminators of DoveNet and RainNet: a global one, and one that verifies that two regions share a domain.

Cong et al., "DoveNet", CVPR 2020; RainNet's supplementary, eqs 2-5; layers as in the released code of both.
"""

from collections.abc import Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.layers.normalization import InstanceNorm
from models.layers.partial_conv import PartialConv2d

KERNEL = 3


class Stage(nn.Module):
    """One level of both trunks: `conv` and `norm` read the whole image, `local_conv` and `local_norm` one region."""

    conv: nn.Module
    norm: nn.Module | None
    local_conv: nn.Module
    local_norm: nn.Module | None

    def __init__(self, in_channels: int, out_channels: int, stride: int, bias: bool, norm: type | None, order: tuple):
        super().__init__()
        shape = in_channels, out_channels, KERNEL, stride
        # over a whole image and without padding, a partial convolution is a convolution
        parts = {
            "conv": spectral_norm(nn.Conv2d(*shape, bias=bias)),
            "norm": norm(out_channels) if norm else None,
            "local_conv": spectral_norm(PartialConv2d(*shape, bias=bias)),
            "local_norm": norm(out_channels) if norm else None,
        }
        for name in order:
            self.add_module(name, parts[name])


class DomainVerificationDiscriminator(nn.Module):
    """Scores of an image as a whole and of how well its foreground and background go together.

    Each trunk: `depth` 3x3 convolutions without padding, stride 2 but for the last, width to 8 * width channels,
    spectral normalization on all, a norm after all but the first and last, leaky ReLU. The global score is a 1x1
    convolution of the first trunk; the second reads foreground and background apart, by partial convolutions, into l_f
    and l_b.

    `items_apart`: whether an image's scores are the same in any batch, as with instance normalization.

    depth: 7 at 256 pixels, where it leaves one value; log2(size) - 1 at other sizes is our choice. More remain where
    the image is larger; the scores are then maps, to be averaged.
    norm: "instance" (RainNet's script) or "batch" (DoveNet's released weights).
    verification: "learned" puts two 1x1 convolutions with spectral normalization and a linear head on l_f * l_b, as the
    released codes do; "inner_product" is l_f . l_b, as RainNet's eq. 5 says.
    """

    def __init__(
        self,
        depth: int = 7,
        width: int = 64,
        norm: Literal["instance", "batch"] = "instance",
        verification: Literal["learned", "inner_product"] = "learned",
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(f"discriminator depth = {depth}, expected 2 or more")
        layer, self.verification = {"instance": InstanceNorm, "batch": nn.BatchNorm2d}[norm], verification
        self.items_apart = norm == "instance"
        self.stages, before = nn.ModuleList(), 3
        for level in range(depth):
            channels, inner = width * min(2**level, 8), 0 < level < depth - 1
            stride, bias = 1 if level == depth - 1 else 2, level == 0 or norm == "instance"
            self.stages.append(Stage(before, channels, stride, bias, layer if inner else None, _registered(level)))
            before = channels
        if verification == "learned":
            self.verify = nn.Sequential(
                spectral_norm(nn.Conv2d(before, before, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(before, before, 1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, 1, 1),
            )
        self.judge = nn.Conv2d(before, 1, 1)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Global and verification score, both (N, 1, h, w), unbounded; 1x1 where depth = log2(size) - 1.

        image: (N, 3, H, W) in [-1, 1]. mask: (N, 1, H, W), 0 or 1, 1 = foreground.
        """
        whole = image
        for stage in self._stages():
            whole = self._finish(stage.conv(whole), stage.norm, stage)
        if self.items_apart:  # one reading of weights for both regions
            both = self._region(torch.cat([image, image]), torch.cat([mask, 1 - mask]))
            foreground, background = both.chunk(2)
        else:  # each region has the statistics of its own batch
            foreground, background = self._region(image, mask), self._region(image, 1 - mask)
        product = foreground * background
        verified = self.verify(product) if self.verification == "learned" else product.sum(1, keepdim=True)
        return self.judge(whole), verified

    def _stages(self) -> Iterator[Stage]:
        return cast("Iterator[Stage]", iter(self.stages))

    def _region(self, image: Tensor, mask: Tensor) -> Tensor:
        features = image
        for stage in self._stages():
            features, mask = stage.local_conv(features, mask)
            features = self._finish(features, stage.local_norm, stage)
        return features

    def _finish(self, features: Tensor, norm: nn.Module | None, stage: Stage) -> Tensor:
        if norm is not None:
            features = norm(features)
        return features if stage is self.stages[-1] else F.leaky_relu(features, 0.2)


def _registered(level: int) -> tuple[str, str, str, str]:
    """The order within a level of the released code, which matters to state dicts with batch normalization."""
    if level < 3:
        return "conv", "norm", "local_conv", "local_norm"
    if level == 3:
        return "norm", "conv", "local_conv", "local_norm"
    return "conv", "local_conv", "norm", "local_norm"
