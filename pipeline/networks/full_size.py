"""A network on one picture at the picture's own size, whatever that is.

Convolutional networks take any size that their halvings divide: a picture is mirrored outward to the next multiple, and the
margin is cut off what they draw. A network that works at two sizes (models/base.py) predicts its parameters at its own
small size and applies them to every pixel.
"""

import numpy as np
import torch

from models.base import Model
from models.layers.input_size import NotDivisible
from pipeline import images
from pipeline.data import datasets


def draw(model: Model, item: datasets.Item, device: torch.device) -> tuple[torch.Tensor, tuple[int, int]]:
    """The prediction (1, C, H, W) for one picture, and the (height, width) that the network saw, margin included.

    item: the picture (H, W, 3), and its mask or hole, as a dataset gives them. Raises ValueError where the network refuses
    the size.
    """
    if model.full_resolution:
        return _at_two_sizes(model, item)
    return _padded(model, {key: value.to(device) for key, value in datasets.collate([item]).items()})


def _at_two_sizes(model: Model, item: datasets.Item) -> tuple[torch.Tensor, tuple[int, int]]:
    """The prediction for one picture by a network that looks at it in its small size, and that size. The picture itself stays on
    the CPU: the network takes strips of it."""
    side = (model.parameter_size, model.parameter_size)
    small = {key: images.resize(value, side, "mask" if value.dtype == bool else "image") for key, value in item.items()}
    return model.harmonize_at(datasets.collate([small]), datasets.collate([item])), side


def _padded(model: Model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, tuple[int, int]]:
    """The prediction for a batch of one, its picture mirrored outward where the network asks for a multiple; and the size seen."""
    height, width = next(iter(batch.values())).shape[-2:]
    try:
        return model(batch), (height, width)
    except NotDivisible as asked:
        assert asked.by is not None  # require_divisible says it
        by = asked.by
    more = [(0, -height % by), (0, -width % by)]
    padded = {
        key: torch.from_numpy(np.pad(value.cpu().numpy(), [(0, 0), (0, 0), *more], mode="symmetric")).to(value)
        for key, value in batch.items()
    }
    return model(padded)[..., :height, :width], (height + more[0][1], width + more[1][1])
