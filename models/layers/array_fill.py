"""Hole filling by array libraries."""

from collections.abc import Callable

import numpy as np

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fill_hole(image: np.ndarray, hole: np.ndarray, fill: Fill) -> np.ndarray:
    """The image (H, W, 3) with its hole filled, float32 in [0, 1].

    image: float32 (H, W, 3) in [0, 1]; it is 0 in the hole before `fill` sees it. hole: bool (H, W), True = hole.
    fill: takes float32 (H, W, 3) in [0, 1] and the hole; returns (H, W, 3), clipped here to [0, 1].
    An image without a hole is returned as it is. Raises ValueError for one without a valid pixel.
    """
    if hole.all():
        raise ValueError("it is all hole: there is no valid pixel to fill it from")
    if not hole.any():
        return image
    known = np.where(hole[..., None], np.float32(0), image)
    return np.clip(np.asarray(fill(known, hole), np.float32), 0, 1)
