"""Hole filling by array libraries, which take one image at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fill_each(image: Tensor, hole: Tensor, fill: Fill) -> Tensor:
    """Fill the holes of a batch, image by image.

    image: (N, 3, H, W) float in [0, 1]; it is 0 in the hole before `fill` sees it. hole: (N, 1, H, W), 1 = hole.
    fill: takes float32 (H, W, 3) in [0, 1] and bool (H, W), True = hole; returns (H, W, 3), clipped here to [0, 1].
    An image without a hole is returned as it is. Raises ValueError for an image without a valid pixel.
    """
    hole = hole > 0.5
    filled = torch.where(hole, torch.zeros_like(image), image)
    for index in range(len(image)):
        one_hole = hole[index, 0].cpu().numpy()
        if one_hole.all():
            raise ValueError(f"image {index} of the batch is all hole: there is no valid pixel to fill it from")
        if one_hole.any():
            array = np.ascontiguousarray(filled[index].permute(1, 2, 0).float().cpu().numpy())
            result = torch.from_numpy(np.ascontiguousarray(fill(array, one_hole), dtype=np.float32))
            filled[index] = result.permute(2, 0, 1).clamp(0, 1).to(filled)
    return filled
