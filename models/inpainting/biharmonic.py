"""Biharmonic inpainting (Damelin and Hoang 2018, "On surface completion and image inpainting by biharmonic
functions"), as in scikit-image: one sparse linear system per image. It overshoots in large holes; the result is
clipped to [0, 1].
"""

import numpy as np
from skimage.restoration import inpaint_biharmonic

from models.arrays import ArrayMethod, Item
from models.layers.array_fill import fill_hole


class Biharmonic(ArrayMethod):
    task = "inpainting"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]. Raises ValueError for an image that is all hole."""

        def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
            # a copy, as scikit-image refuses a mask that can't be written to, though it writes nothing there
            return inpaint_biharmonic(image, hole.copy(), split_into_regions=False, channel_axis=-1)

        return fill_hole(item["image"], item["hole"], fill)
