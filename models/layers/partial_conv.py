"""Partial convolution: a convolution that reads only valid pixels and says which of its outputs are valid.

Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018, eqs 1-2, as in NVIDIA's
published layer (eqs 1-2 of RFR-Net are the same). That layer carries one mask per channel; here every source that
was concatenated into the input brings one single-channel mask, which gives the same numbers (the masks of a source's
channels never differ) for a small part of the work.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import sum_of

SUMS_OF_TAPS = [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
"""Which of three taps (rows) meet in each of the four taps (columns) of a transposed convolution over a source that is enlarged
twofold: an output pixel sees a source pixel through two taps that lie side by side, or through an outer one alone."""


class PartialConv2d(nn.Conv2d):
    """Convolution over valid inputs, scaled up for what is missing.

    For a window with s = sum over sources of channels x valid pixels, of S = all channels x kernel area:
    output = W (x m) S / s + b and new mask 1 where s > 0; output and new mask 0 elsewhere. Zero padding counts as
    missing, so that outputs at the border are scaled up too (paper and published layer agree).

    `in_channels` is a tuple where the input is a concatenation: the channels of each source, in order.
    Weight and bias are those of nn.Conv2d, under the same names and with the same initial values.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, ...],
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ):
        self.sources = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        super().__init__(sum(self.sources), out_channels, kernel_size, stride, padding, dilation, bias=bias)

    def forward(  # type: ignore[override]  # masks go in and out beside the features
        self, features: Tensor, masks: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features (N, C_out, h, w) and their mask (N, 1, h, w; 1 = valid).

        features: (N, sum of in_channels, H, W), any values where the mask is 0.
        masks: one mask (N, 1, H, W; 0 or 1, 1 = valid) for all channels, or one per source.
        No gradient flows through the masks. Raises ValueError where masks and sources do not match.
        """
        masks = self._one_per_source(features.shape, masks)
        scale, new_mask = self._scale(masks)
        features = _keep(features, masks, self.sources)
        out = F.conv2d(features, self.weight, None, self.stride, self.padding, self.dilation)
        return self._scaled(out, scale, new_mask), new_mask

    def over_enlarged(self, below: Tensor, beside: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `forward` gives for two sources, the first of which is enlarged twofold to nearest neighbours.

        below: (N, C_1, H / 2, W / 2), before it is enlarged. beside: (N, C_2, H, W). masks: that of each, at its own size.
        For kernels of 3 x 3 at stride 1 with padding 1; raises ValueError for others.

        Four pixels of the enlarged source are one of `below`, so that weights meet at it and can be summed beforehand: a
        transposed convolution of 4 x 4 taps with 16 products for each pixel of `below` takes the place of 36. Only rounding
        differs.
        """
        if (self.kernel_size, self.stride, self.padding, self.dilation) != ((3, 3), (1, 1), (1, 1), (1, 1)):
            raise ValueError("an enlarged source needs a kernel of 3 x 3 at stride 1 with padding 1")
        sides = (2 * below.shape[2], 2 * below.shape[3])
        enlarged = F.interpolate(masks[0], scale_factor=2)
        both = self._one_per_source((len(below), below.shape[1] + beside.shape[1], *sides), [enlarged, masks[1]])
        scale, new_mask = self._scale(both)
        of_below, of_beside = self.weight.split(self.sources, dim=1)
        sums = torch.tensor(SUMS_OF_TAPS, dtype=self.weight.dtype, device=self.weight.device)
        kernel = (of_below.flatten(2) @ torch.kron(sums, sums)).unflatten(2, (4, 4)).transpose(0, 1)
        out = F.conv_transpose2d(below * masks[0].to(below.dtype), kernel, stride=2, padding=1)
        out = out + F.conv2d(beside * masks[1].to(beside.dtype), of_beside, padding=1)
        return self._scaled(out, scale, new_mask), new_mask

    @torch.no_grad()
    def grow(self, masks: Tensor | Sequence[Tensor]) -> Tensor:
        """The mask alone (N, 1, h, w): what `forward` would return beside its features."""
        masks = [masks] * len(self.sources) if isinstance(masks, Tensor) else masks
        return self._valid_inputs(masks).clamp(0, 1)

    @torch.no_grad()
    def _scale(self, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """S / s of every window, 0 where s is 0, and the new mask; both (N, 1, h, w)."""
        valid = self._valid_inputs(masks)
        new_mask = valid.clamp(0, 1)
        return sum(self.sources) * self.kernel_size[0] * self.kernel_size[1] / (valid + 1e-8) * new_mask, new_mask

    def _scaled(self, out: Tensor, scale: Tensor, new_mask: Tensor) -> Tensor:
        out = out * scale.to(out.dtype)
        return out if self.bias is None else (out + self.bias.view(-1, 1, 1)) * new_mask.to(out.dtype)

    def _one_per_source(self, shape: Sequence[int], masks: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The mask of each source. shape: (N, C, H, W) of all sources together."""
        masks = [masks] * len(self.sources) if isinstance(masks, Tensor) else list(masks)
        if shape[1] != self.in_channels:
            raise ValueError(f"partial convolution takes {self.in_channels} channels, got {shape[1]}")
        if len(masks) != len(self.sources):
            raise ValueError(f"partial convolution over {len(self.sources)} sources got {len(masks)} masks")
        wanted = (shape[0], 1, *shape[2:])
        for mask in masks:
            if mask.shape != wanted:
                raise ValueError(f"partial convolution takes masks of shape {wanted}, got {tuple(mask.shape)}")
        return [mask.detach() for mask in masks]

    def _valid_inputs(self, masks: Sequence[Tensor]) -> Tensor:
        """s of every window (N, 1, h, w). Plain sums along rows and columns are exact for masks of 0 and 1, while a
        convolution with ones may take a Winograd path whose rounding turns an empty window into a valid one."""
        assert not isinstance(self.padding, str)  # the constructor takes a number
        total = sum_of(channels * mask.float() for channels, mask in zip(self.sources, masks))
        for axis in (2, 3):
            geometry = (self.padding, self.stride, self.dilation, self.kernel_size)
            pad, step, gap, taps = (pair[axis - 2] for pair in geometry)
            total = F.pad(total, (0, 0, pad, pad) if axis == 2 else (pad, pad, 0, 0))
            last = total.shape[axis] - gap * (taps - 1)
            windows = [total.narrow(axis, gap * tap, last) for tap in range(taps)]
            total = sum_of(window[:, :, ::step] if axis == 2 else window[..., ::step] for window in windows)
        return total


def _keep(features: Tensor, masks: list[Tensor], sources: tuple[int, ...]) -> Tensor:
    if all(mask is masks[0] for mask in masks):
        return features * masks[0].to(features.dtype)
    parts = features.split(sources, dim=1)
    return torch.cat([part * mask.to(features.dtype) for part, mask in zip(parts, masks)], dim=1)
