"""Chance map: the same probability everywhere.

Nothing is looked at and nothing is trained. All pixels tie, so the average precision of an image is its
foreground share; a probability above 0.5 calls every pixel foreground.
"""

import numpy as np

from models.arrays import ArrayMethod, Item


class ConstantMap(ArrayMethod):
    """`probability`: in [0, 1]; above 0.5 (the default, our choice) F1 and IoU are those of "all foreground"."""

    task = "localization"

    def __init__(self, probability: float = 1.0):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability = {probability}, expected a number from 0 to 1")
        self.probability = float(probability)

    def draw(self, item: Item) -> np.ndarray:
        """composite (H, W, 3) -> (H, W), filled with `probability`."""
        return np.full(item["composite"].shape[:2], self.probability, np.float32)
