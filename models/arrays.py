"""Methods without weights, which work on arrays: to import one, to build it and to draw with it takes no torch."""

import numpy as np

Item = dict[str, np.ndarray]
"""One picture of a batch (models/base.py).

localization, harmonization: composite float32 (H, W, 3) in [0, 1], mask bool (H, W; True = foreground)
inpainting:                  image float32 (H, W, 3) in [0, 1], hole bool (H, W; True = hole)
"""


class ArrayMethod:
    """A method of the benchmark with nothing to train, which takes one picture at a time.

    A subclass sets `task` and writes `draw`. The hyperparameters are the keyword arguments of the constructor, as those of
    `models.base.Model`. `models.create` gives the method as such a Model, for all that works on batches of tensors.
    """

    task: str
    stochastic = False
    uses_real_photographs = False

    def draw(self, item: Item) -> np.ndarray:
        """Prediction, float32 in [0, 1]: (H, W) for localization, (H, W, 3) otherwise, before it is pasted into the input.

        It reads what `Model.forward` reads and changes no array of the item. Raises ValueError, which says why and doesn't
        name the picture, where there is nothing to predict from."""
        raise TypeError(f"{type(self).__name__} has no draw")

    def parameters(self) -> list:
        """None, as there is nothing to train."""
        return []

    predictor_parameters = parameters
