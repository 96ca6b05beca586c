"""Normalization layers of the harmonization networks: instance normalization, and RAIN by region.

Ling et al., "Region-aware Adaptive Instance Normalization for Image Harmonization", CVPR 2021 (RainNet).
RAIN normalizes each channel by its mean and standard deviation over a region. Sums are divided by the region's area +
1e-5, and the deviation is sqrt(variance + 1e-5), as in the released code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-5


class InstanceNorm(nn.GroupNorm):
    """nn.InstanceNorm2d without parameters: (N, C, H, W), each channel of each image to mean 0 and variance 1.

    As group normalization with one channel a group, which is the same formula and takes well under half the time of
    torch's instance normalization on a CPU.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, eps=EPS, affine=False)


def mask_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The mask at a feature's size: (N, 1, h, w), float32, 0 or 1, by nearest neighbour; cut at 0.5."""
    if tuple(mask.shape[2:]) != tuple(size):
        mask = F.interpolate(mask, size=list(size), mode="nearest")
    return (mask.detach() > 0.5).float()


class RAIN(nn.Module):
    """Normalize the background by its own statistics and give the foreground the background's.

    background: (x - mean_b) / sigma_b * (1 + gamma_b) + beta_b
    foreground: ((x - mean_f) / sigma_f * sigma_b + mean_b) * (1 + gamma_f) + beta_f
    Mean and variance are sums over the region divided by area + 1e-5, per image and channel; sigma is
    sqrt(variance + 1e-5); gamma and beta are per channel, 0 at the start.

    A plain reading makes some thirty passes over the features and keeps most of what it makes for the gradient. Here
    output and gradient are one affine map per region, and only the features, centred, are kept.

    Departure: where a mask leaves no background at this size, the published layer draws the foreground together to
    about 0. Here the foreground of such an image keeps its own statistics.
    """

    takes_mask = True

    def __init__(self, channels: int):
        super().__init__()
        self.foreground_gamma = nn.Parameter(torch.zeros(channels))
        self.foreground_beta = nn.Parameter(torch.zeros(channels))
        self.background_gamma = nn.Parameter(torch.zeros(channels))
        self.background_beta = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w) in the features' dtype; computed in float32.

        features: (N, C, h, w). mask: (N, 1, H, W) of any size, above 0.5 = foreground; no gradient flows through it.
        """
        mask = mask_at(mask, features.shape[2:])
        affine = self.foreground_gamma, self.foreground_beta, self.background_gamma, self.background_beta
        return _Rain.apply(features, mask, *(parameter.view(-1, 1, 1) for parameter in affine))


class _Rain(torch.autograd.Function):
    """Subscripts f and b: foreground and background, r: where the foreground takes its statistics from (b, or f where
    there is no b). Statistics are (N, C, 1, 1), parameters (C, 1, 1)."""

    @staticmethod
    def forward(
        ctx, x: Tensor, mask: Tensor, gamma_f: Tensor, beta_f: Tensor, gamma_b: Tensor, beta_b: Tensor
    ) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        inside, outside = mask.to(dtype), 1 - mask.to(dtype)
        out = torch.empty_like(x, dtype=dtype)  # scratch until the last lines
        area_f, area_b = inside.sum((2, 3), keepdim=True) + EPS, outside.sum((2, 3), keepdim=True) + EPS
        sum_f, sum_b = _sums(x, inside, outside, out)
        mean_f, mean_b = sum_f / area_f, sum_b / area_b
        centred = torch.addcmul(x.to(dtype), inside, mean_f, value=-1).addcmul_(outside, mean_b, value=-1)
        square_f, square_b = _sums(centred, inside, outside, out, centred)
        sigma_f, sigma_b = (square_f / area_f + EPS).sqrt(), (square_b / area_b + EPS).sqrt()
        empty = area_b < 0.5
        mean_r, sigma_r = torch.where(empty, mean_f, mean_b), torch.where(empty, sigma_f, sigma_b)

        torch.mul(outside, (1 + gamma_b) / sigma_b, out=out).addcmul_(inside, (1 + gamma_f) * sigma_r / sigma_f)
        out.mul_(centred).addcmul_(inside, (1 + gamma_f) * mean_r + beta_f).addcmul_(outside, beta_b)
        statistics = area_f, area_b, mean_f, mean_b, sigma_f, sigma_b
        ctx.save_for_backward(centred.to(x.dtype), inside, outside, empty, *statistics, gamma_f, gamma_b)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        centred, inside, outside, empty, *statistics, gamma_f, gamma_b = ctx.saved_tensors
        area_f, area_b, mean_f, mean_b, sigma_f, sigma_b = statistics
        scratch = torch.empty_like(centred, dtype=inside.dtype)
        sum_f, sum_b = _sums(grad, inside, outside, scratch)
        product_f, product_b = _sums(grad, inside, outside, scratch, centred)
        mean_r, sigma_r = torch.where(empty, mean_f, mean_b), torch.where(empty, sigma_f, sigma_b)
        scale_f, scale_b = (1 + gamma_f) * sigma_r / sigma_f, (1 + gamma_b) / sigma_b
        grad_gamma_f = (product_f * sigma_r / sigma_f + sum_f * mean_r).sum(0)
        grad_gamma_b = (product_b / sigma_b).sum(0)

        to_sigma_f, to_sigma_b = -product_f * scale_f / sigma_f, -product_b * scale_b / sigma_b
        to_mean_f, to_mean_b = -sum_f * scale_f, -sum_b * scale_b
        to_sigma_r, to_mean_r = product_f * (1 + gamma_f) / sigma_f, sum_f * (1 + gamma_f)
        to_sigma_f, to_sigma_b = to_sigma_f + empty * to_sigma_r, to_sigma_b + ~empty * to_sigma_r
        to_mean_f, to_mean_b = to_mean_f + empty * to_mean_r, to_mean_b + ~empty * to_mean_r

        # d sigma / dx = (centred - EPS mean / area) / (sigma area), d mean / dx = 1 / area; the term in EPS is there
        # because a sum divided by area + EPS is not quite the mean, and matters in regions of a few pixels
        spread_f, spread_b = to_sigma_f / (sigma_f * area_f), to_sigma_b / (sigma_b * area_b)
        level_f = (to_mean_f - EPS * mean_f * spread_f) / area_f
        level_b = (to_mean_b - EPS * mean_b * spread_b) / area_b
        out = torch.mul(outside, scale_b, out=torch.empty_like(scratch)).addcmul_(inside, scale_f).mul_(grad)
        torch.mul(outside, spread_b, out=scratch).addcmul_(inside, spread_f)
        out.addcmul_(scratch, centred).addcmul_(inside, level_f).addcmul_(outside, level_b)
        return out.to(centred.dtype), None, grad_gamma_f, sum_f.sum(0), grad_gamma_b, sum_b.sum(0)


def _sums(
    x: Tensor, inside: Tensor, outside: Tensor, scratch: Tensor, times: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of x, or of x * times, over foreground and background: twice (N, C, 1, 1). Overwrites `scratch`.

    Not as a matrix product, which would be faster, since reduced precision allowed for matrix products (TF32, bfloat16)
    must not reach statistics; nor as total minus foreground, which loses a small background to rounding.
    """
    sums = []
    for region in (inside, outside):
        torch.mul(x, region, out=scratch)
        if times is not None:
            scratch.mul_(times)
        sums.append(scratch.sum((2, 3), keepdim=True))
    return sums[0], sums[1]
