"""Mean fill: each channel's hole takes the mean of the image's valid pixels. The floor of every table."""

import numpy as np

from models.arrays import ArrayMethod, Item
from models.layers.array_fill import fill_hole


class MeanFill(ArrayMethod):
    task = "inpainting"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: the image with its hole filled. Raises ValueError for an image that is all hole."""

        def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
            return np.where(hole[..., None], image[~hole].mean(axis=0, dtype=np.float64), image)

        return fill_hole(item["image"], item["hole"], fill)
