"""Chance map: a Gaussian in the middle of the picture.

Photographers put things in the middle, so a network must beat this before it has seen anything. The width is our
choice.
"""

import torch
from torch import Tensor

from models.base import Batch, Model


class GaussianMap(Model):
    """exp(-((y / height)² + (x / width)²) / (2 sigma²)), y and x measured in pixels from the centre.

    `sigma`: a share of the side lengths; at 0.25 the region above 0.5 is an ellipse that covers
    2 ln 2 · pi · sigma² = 27% of the picture.
    """

    task = "localization"

    def __init__(self, sigma: float = 0.25):
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma = {sigma}, expected a share of the side length above 0")
        self.sigma = float(sigma)

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) -> (N, 1, H, W) in [0, 1], the same map for every image."""
        composite = batch["composite"]
        down, across = (
            torch.exp(-0.5 * (((torch.arange(n, device=composite.device) + 0.5) / n - 0.5) / self.sigma) ** 2)
            for n in composite.shape[2:]
        )
        return torch.outer(down, across).to(composite.dtype).expand(len(composite), 1, -1, -1).contiguous()
