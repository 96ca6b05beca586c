"""Chance map: the same probability everywhere.

Nothing is looked at and nothing is trained. All pixels tie, so the average precision of an image is its
foreground share; a probability above 0.5 calls every pixel foreground.
"""

from torch import Tensor

from models.base import Batch, Model


class ConstantMap(Model):
    """`probability`: in [0, 1]; above 0.5 (the default, our choice) F1 and IoU are those of "all foreground"."""

    task = "localization"

    def __init__(self, probability: float = 1.0):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability = {probability}, expected a number from 0 to 1")
        self.probability = float(probability)

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) -> (N, 1, H, W), filled with `probability`."""
        count, _, height, width = batch["composite"].shape
        return batch["composite"].new_full((count, 1, height, width), self.probability)
