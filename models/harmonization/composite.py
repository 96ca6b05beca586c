"""The composite as it is: what every harmonization method has to beat."""

from torch import Tensor

from models.base import Batch, Model


class Composite(Model):
    task = "harmonization"

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the input, untouched."""
        return batch["composite"]
