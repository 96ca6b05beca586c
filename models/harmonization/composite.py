"""The composite as it is: what every harmonization method has to beat."""

import numpy as np

from models.arrays import ArrayMethod, Item


class Composite(ArrayMethod):
    task = "harmonization"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: the input, untouched."""
        return item["composite"]
