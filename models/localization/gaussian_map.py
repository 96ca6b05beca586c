"""Chance map: a Gaussian in the middle of the picture.

Photographers put things in the middle, so a network must beat this before it has seen anything. The width is our
choice.
"""

import numpy as np

from models.arrays import ArrayMethod, Item


class GaussianMap(ArrayMethod):
    """exp(-((y / height)² + (x / width)²) / (2 sigma²)), y and x measured in pixels from the centre.

    `sigma`: a share of the side lengths; at 0.25 the region above 0.5 is an ellipse that covers
    2 ln 2 · pi · sigma² = 27% of the picture.
    """

    task = "localization"

    def __init__(self, sigma: float = 0.25):
        if not sigma > 0:
            raise ValueError(f"sigma = {sigma}, expected a share of the side length above 0")
        self.sigma = float(sigma)

    def draw(self, item: Item) -> np.ndarray:
        """composite (H, W, 3) -> (H, W) in [0, 1], the same map for every image."""
        down, across = (
            np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / self.sigma) ** 2).astype(np.float32)
            for n in item["composite"].shape[:2]
        )
        return np.outer(down, across)
