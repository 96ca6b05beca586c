"""Recolouring of a foreground by array libraries, which take one 8-bit image at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Recolor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def recolor_each(composite: Tensor, mask: Tensor, recolor: Recolor) -> Tensor:
    """Recolour the foregrounds of a batch, image by image: (N, 3, H, W), the composite outside the foreground.

    composite: (N, 3, H, W) float in [0, 1], rounded to 8 bits on its way in. mask: (N, 1, H, W), above 0.5 = foreground.
    recolor: takes uint8 RGB (H, W, 3) and bool (H, W), True = foreground; returns uint8 (n, 3), the new colours of the n
    foreground pixels in row order. An image without foreground or without background is returned as it is: there is
    nothing to match, or nothing to match it to.
    """
    result = composite.clone()
    levels = (composite.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    foreground = (mask[:, 0] > 0.5).cpu().numpy()
    for index, (image, inside) in enumerate(zip(levels, foreground)):
        if inside.any() and not inside.all():
            colors = torch.from_numpy(np.ascontiguousarray(recolor(np.ascontiguousarray(image), inside)))
            where = torch.from_numpy(inside).to(result.device)
            result[index][:, where] = (colors.T.to(result.device) / 255).to(result.dtype)
    return result
