"""Enlarging a map of parameters strip by strip, so that memory doesn't grow with the picture."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def resized_strips(maps: Tensor, size: tuple[int, int], rows: int) -> Iterator[tuple[slice, Tensor]]:
    """The maps (N, C, h, w), resized bicubically to `size` = (H, W), in strips of at most `rows` rows from top to
    bottom.

    Yields the rows that a strip covers as a slice, and the strip (N, C, rows, W). Together the strips equal
    F.interpolate(maps, size, mode="bicubic", align_corners=False) up to rounding: bicubic resizing works on columns and
    rows independently, so the columns are resized once for all rows, and each strip weighs the few rows that it lies
    between.
    """
    height, width = size
    wide = F.interpolate(maps, (maps.shape[2], width), mode="bicubic", align_corners=False)
    # row y of `weights` says how much each row of the map counts in row y of the result
    unit = torch.eye(maps.shape[2], device=maps.device, dtype=maps.dtype)[None, :, :, None]
    weights = F.interpolate(unit, (height, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T
    for top in range(0, height, rows):
        covered = slice(top, min(top + rows, height))
        part = weights[covered]
        used = part.any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        yield covered, part[:, first:last] @ wide[:, :, first:last]
