"""Every method at sizes other than the one it is made for: it predicts, or says in words why it can't."""

import numpy as np
import pytest
import torch

import models
from models.base import Batch
from models.layers.input_size import NotDivisible
from tests.models import vector
from tests.models.training import assert_in_words


def pictures(task: str, height: int, width: int) -> Batch:
    """One picture."""
    return {key: value[:1] for key, value in vector.batch(task, height, width).items()}


def predicts(model: models.Model, batch: Batch) -> bool:
    """Whether the model predicts, and if so a picture of the batch's size; false after a refusal in words."""
    height, width = next(iter(batch.values())).shape[2:]
    try:
        with torch.no_grad():
            prediction = model(batch)
    except NotDivisible:
        raise
    except ValueError as refusal:
        assert_in_words(refusal)
        return False
    assert prediction.shape == (1, 1 if model.task == "localization" else 3, height, width)
    assert prediction.isfinite().all() and prediction.min() >= 0 and prediction.max() <= 1
    return True


@pytest.mark.slow
def test_odd_sizes_are_drawn_or_refused_with_the_multiple_that_works(case):
    model = case.fresh()
    by = 8
    for height, width in ((77, 51), (129, 64)):
        batch = pictures(model.task, height, width)
        try:
            predicts(model, batch)
        except NotDivisible as refusal:
            by = refusal.by
            side = height if height % by else width
            label = "height" if height % by else "width"
            assert f"{label} {side} is not divisible by {by}; pad to {-(-side // by) * by}" in str(refusal)
            # what commands.apply does with it
            pad = [(0, 0), (0, 0), (0, -height % by), (0, -width % by)]
            padded = {key: np.pad(value.numpy(), pad, mode="symmetric") for key, value in batch.items()}
            predicts(model, {key: torch.from_numpy(value) for key, value in padded.items()})
    # the smallest
    predicts(model, pictures(model.task, by, by))
