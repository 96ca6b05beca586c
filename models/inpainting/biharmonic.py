"""Biharmonic inpainting (Damelin and Hoang 2018, "On surface completion and image inpainting by biharmonic
functions"), as in scikit-image: one sparse linear system per image. It overshoots in large holes; the result is
clipped to [0, 1].
"""

from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from models.base import Batch, Model
from models.layers.array_fill import fill_each


class Biharmonic(Model):
    task = "inpainting"

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]. Raises ValueError for an image that is all hole."""

        def fill(image, hole):
            return inpaint_biharmonic(image, hole, split_into_regions=False, channel_axis=-1)

        return fill_each(batch["image"], batch["hole"], fill)
