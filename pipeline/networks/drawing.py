"""What a network draws of items: a batch of one size, several samples of each, or a picture at its own size."""

import numpy as np
import torch

from models.base import Model
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import devices, full_size
from pipeline.tasks import TASKS


class Network:
    """A network on its device, in evaluation mode, one thread wide on a CPU. device: cpu or gpu.

    Raises UserError where the device is a GPU and this process sees none.
    """

    def __init__(self, model: Model, device: str, samples: int = 1, full_size: bool = False):
        if device == "gpu" and not torch.cuda.is_available():
            raise UserError(
                "training.device = 'gpu' and this process sees no GPU; set training.device: cpu or run where one is"
            )
        self.samples, self.full_size = samples, full_size
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        self.model = model.to(self.device).eval()

    @torch.no_grad()
    def __call__(self, items: list[datasets.Item]) -> np.ndarray:
        """(samples, N, C, H, W), expected in [0, 1]. Raises ValueError where the network refuses the items."""
        with devices.threads(1):
            if self.full_size:
                (item,), task = items, TASKS[self.model.task]
                given = {key: item[key] for key in (task.picture, task.region) if key}
                return full_size.draw(self.model, given, self.device)[0][None].float().cpu().numpy()
            batch = {key: value.to(self.device) for key, value in datasets.collate(items).items()}
            drawn = self.model.samples(batch, self.samples) if self.samples > 1 else self.model(batch)[None]
            return drawn.float().cpu().numpy()
