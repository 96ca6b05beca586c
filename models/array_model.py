"""A method that works on arrays, as a torch module."""

import numpy as np
import torch
from torch import Tensor

from models.arrays import ArrayMethod
from models.base import Batch, Model


class ArrayModel(Model):
    """`method` on batches of tensors, picture by picture on the CPU, whatever device the batch is on."""

    def __init__(self, method: ArrayMethod):
        super().__init__()
        self.method, self.task = method, method.task

    def forward(self, batch: Batch) -> Tensor:
        """As `Model.forward`. Raises the method's ValueError with the picture's number in the batch before it."""
        arrays = {key: value.detach().float().permute(0, 2, 3, 1).cpu().numpy() for key, value in batch.items()}
        like, drawn = next(iter(batch.values())), []
        if not len(like):
            return like.new_empty(0, 1 if self.task == "localization" else 3, *like.shape[2:])
        for index in range(len(like)):
            item = {
                key: value[index, ..., 0] > 0.5 if value.shape[3] == 1 else np.ascontiguousarray(value[index])
                for key, value in arrays.items()
            }
            try:
                drawing = self.method.draw(item)
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            drawn.append(torch.from_numpy(np.atleast_3d(drawing)).permute(2, 0, 1))
        return torch.stack(drawn).to(like)
