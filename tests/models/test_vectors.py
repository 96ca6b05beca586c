"""Every method keeps to its vector and to the contract of models/base.py."""

import numpy as np
import pytest
import torch

import models
from tests.models import vector

GIVEN = {
    "localization": ["composite"],
    "harmonization": ["composite", "mask"],
    "inpainting": ["image", "hole"],
}  # at test time


def test_keeps_its_answer(case):
    model = case.fresh()
    assert sum(parameter.numel() for parameter in model.parameters()) == case.n_parameters
    np.testing.assert_allclose(vector.answer(model, case.size), case.answer, atol=5e-4)


def test_contract(case):
    model, size = case.fresh(), case.size
    assert model.task in models.TASKS
    batch = vector.batch(model.task, size)
    given = {key: batch[key] for key in GIVEN[model.task]}
    with torch.no_grad():
        prediction = model(given)
        alone = model({key: value[1:] for key, value in given.items()})
        maps = model.maps(given)
    assert prediction.shape == (2, 1 if model.task == "localization" else 3, size, size)
    assert prediction.dtype == torch.float32 and prediction.min() >= 0 and prediction.max() <= 1
    torch.testing.assert_close(alone[0], prediction[1], atol=5e-4, rtol=0)
    assert all(drawing.shape == (2, 3, size, size) for drawing in maps.values())
    assert all(drawing.min() >= 0 and drawing.max() <= 1 for drawing in maps.values())
    if model.task == "inpainting":
        painted = torch.where(batch["hole"] > 0, torch.nan, batch["image"])
        with torch.no_grad():
            torch.testing.assert_close(model({"image": painted, "hole": batch["hole"]}), prediction, atol=1e-5, rtol=0)
    assert {id(parameter) for parameter in model.predictor_parameters()} <= {id(p) for p in model.parameters()}
    for player in model.players:
        assert model.parameters_of(player)


def test_samples_of_one_input(case):
    """A stochastic method keeps the laws that models.base states; any other says in words that it has no samples."""
    model = case.fresh()
    batch = vector.batch(model.task, case.size)
    with torch.no_grad():
        if not model.stochastic:
            with pytest.raises(TypeError, match="one prediction for an input; it has no samples"):
                model.samples(batch, 2)
            return
        prediction, samples = model(batch), model.samples(batch, 3)
        torch.manual_seed(1)
        fewer = model.samples({key: value.flip(0) for key, value in batch.items()}, 2).flip(1)
    assert samples.shape == (3, *prediction.shape) and samples.min() >= 0 and samples.max() <= 1
    torch.testing.assert_close(samples[0], prediction, atol=1e-5, rtol=0)
    torch.testing.assert_close(fewer, samples[:2], atol=1e-5, rtol=0)
    assert (samples[0] - samples[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="0 samples asked for"):
        model.samples(batch, 0)
