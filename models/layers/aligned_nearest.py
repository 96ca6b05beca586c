"""Nearest neighbours with aligned corners: what TensorFlow 1 does at `align_corners=True`, and torch offers nowhere.

The first and the last pixel of a side stay the first and the last. Halving a side of 8 takes pixels 0, 2, 5 and 7,
where torch's nearest mode takes 0, 2, 4 and 6.
"""

import torch
from torch import Tensor


def aligned_indices(before: int, after: int) -> list[int]:
    """Which pixels of a side of `before` pixels are kept in `after` pixels: round(i (before - 1) / (after - 1)).

    A half is rounded up. A side of one pixel takes pixel 0. It is computed in whole numbers, whose division is exact.
    """
    if after == 1:
        return [0]
    return [(2 * i * (before - 1) + after - 1) // (2 * (after - 1)) for i in range(after)]


def resize_aligned_nearest(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Features (N, C, H, W) -> (N, C, *size), each pixel a copy of one of the input's."""
    for dimension, after in ((2, size[0]), (3, size[1])):
        kept = torch.tensor(aligned_indices(features.shape[dimension], after), device=features.device)
        features = features.index_select(dimension, kept)
    return features
