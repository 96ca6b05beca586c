"""Recolouring of a foreground by array libraries, which take 8-bit images."""

from collections.abc import Callable

import numpy as np

Recolor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def recolor_foreground(composite: np.ndarray, mask: np.ndarray, recolor: Recolor) -> np.ndarray:
    """The composite (H, W, 3) with its foreground recoloured, float32 in [0, 1]; outside it is the composite.

    composite: float32 (H, W, 3) in [0, 1], rounded to 8 bits on its way in. mask: bool (H, W), True = foreground.
    recolor: takes uint8 RGB (H, W, 3) and the mask; returns uint8 (n, 3), the new colours of the n foreground pixels in row
    order. An image without foreground or without background is returned as it is: there is nothing to match, or nothing to
    match it to.
    """
    if not mask.any() or mask.all():
        return composite
    levels = np.rint(composite.clip(0, 1) * 255).astype(np.uint8)
    result = composite.copy()
    result[mask] = recolor(levels, mask) / np.float32(255)
    return result
