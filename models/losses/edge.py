"""Edges of masks as targets, and a cross-entropy for maps of which they are a small part."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_edge(mask: Tensor, size: int = 5) -> Tensor:
    """Morphological gradient of a mask (N, 1, H, W) in [0, 1]: dilation minus erosion by a square of `size` pixels,
    odd.

    A step from 0 to 1 becomes a band of size - 1 pixels. The picture's border is no edge.
    """
    half = size // 2
    dilation = F.max_pool2d(mask, size, 1, half)
    erosion = -F.max_pool2d(-mask, size, 1, half)
    return dilation - erosion


def balanced_bce(logits: Tensor, target: Tensor, most: float = 20.0) -> Tensor:
    """Mean binary cross-entropy in which positive pixels weigh as much as (negatives / positives) of the batch,
    `most` at most. logits, target: (N, 1, H, W), target in [0, 1]. Computed in float32 also under autocast."""
    with torch.autocast(logits.device.type, enabled=False):
        target = target.float()
        positives = target.sum()
        weight = ((target.numel() - positives) / positives.clamp(min=1e-6)).clamp(max=most)
        return F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=weight)
