"""Mean fill: each channel's hole takes the mean of the image's valid pixels. The floor of every table."""

import torch
from torch import Tensor

from models.base import Batch, Model


class MeanFill(Model):
    task = "inpainting"

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the image with its hole filled. Raises ValueError for an image that is all hole."""
        image, hole = batch["image"], batch["hole"] > 0.5
        valid = (~hole).sum((2, 3), keepdim=True)
        if (valid == 0).any():
            index = int((valid.flatten() == 0).nonzero()[0])
            raise ValueError(f"image {index} of the batch is all hole: there is no valid pixel to fill it from")
        known = torch.where(hole, torch.zeros_like(image), image)
        return torch.where(hole, known.sum((2, 3), keepdim=True) / valid, known)
