"""Contextual attention: a hole's features are rebuilt from patches of valid features.

Yu et al., "Generative Image Inpainting with Contextual Attention", CVPR 2018, as in the second version's released code
(DeepFill v2), for a whole batch at once and with one hole per image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.aligned_nearest import resize_aligned_nearest


def contextual_attention(features: Tensor, hole: Tensor, softmax_scale: float = 10.0) -> Tensor:
    """Features (N, C, H, W) of even size, hole (N, 1, H, W; 1 = hole) -> features rebuilt, of the same shape.

    Patches of 3x3 are compared at half size (nearest neighbours with aligned corners, as released: not quite every
    second pixel), sources normalized to length 1 (floor 1e-4); scores
    are summed along diagonals of the target-source map, so that neighbouring targets prefer neighbouring sources; a
    source whose patch touches the hole has no say; the softmax averages raw 4x4 patches of the full size, which overlap
    four times. An image without a valid source gives zeros.
    """
    size = features.shape[2:]
    with torch.autocast(features.device.type, enabled=False):  # a softmax of scale 10 has no digits to lose
        full = features.float()
        half = size[0] // 2, size[1] // 2
        small, small_hole = (resize_aligned_nearest(given, half) for given in (full, hole.float()))
        weights = _attention(small, small_hole, softmax_scale)
        raw = F.unfold(full, 4, stride=2, padding=1)  # (N, 16 C, sources)
        rebuilt = F.fold(raw @ weights.transpose(1, 2), size, 4, stride=2, padding=1) / 4
    return rebuilt.to(features.dtype)


def _attention(features: Tensor, hole: Tensor, softmax_scale: float) -> Tensor:
    """(N, targets, sources): rows sum to 1 over the valid sources plus what the softmax leaves on the others."""
    valid = 1 - F.max_pool2d(hole, 3, 1, 1).flatten(2)  # (N, 1, sources)
    patches = F.unfold(features, 3, padding=1)  # (N, 9 C, positions)
    sources = patches / patches.norm(dim=1, keepdim=True).clamp(min=1e-4)
    scores = fuse(patches.transpose(1, 2) @ sources, *features.shape[2:]) * valid
    return (scores * softmax_scale).softmax(dim=2) * valid


def fuse(scores: Tensor, height: int, width: int) -> Tensor:
    """Sum scores (N, targets, sources) over the three steps of the diagonal, first with positions in row-major order,
    then in column-major order. Beyond the map lie zeros; rows and columns run on into the next, as published."""
    for transposed in (False, True):
        if transposed:
            scores = _exchange(scores, height, width)
        padded = F.pad(scores, (1, 1, 1, 1))
        scores = padded[:, :-2, :-2] + scores + padded[:, 2:, 2:]
    return _exchange(scores, width, height)


def _exchange(scores: Tensor, height: int, width: int) -> Tensor:
    """Row-major positions to column-major ones, for targets and sources."""
    count = len(scores)
    grid = scores.view(count, height, width, height, width).permute(0, 2, 1, 4, 3)
    return grid.reshape(count, height * width, height * width)
