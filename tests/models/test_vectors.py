"""Every method, found by its file, is held to what is asked of all: its vector, batches of one, saving and loading."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from tests.models import vector


@pytest.fixture(params=models.names())
def case(request):
    file = vector.FOLDER / f"{request.param}.npz"
    assert file.exists(), f"{request.param} has no test vector; `python -m tests.models.vector {request.param} '{{...}}'` writes it"
    stored = np.load(file)
    hyperparameters = json.loads(str(stored["hyperparameters"]))
    return vector.build(request.param, hyperparameters), int(stored["size"]), stored


def test_keeps_its_answer(case):
    model, size, stored = case
    assert sum(one.numel() for one in model.parameters()) == stored["n_parameters"]
    np.testing.assert_allclose(vector.answer(model, size), stored["answer"], atol=5e-4)


def test_contract(case):
    model, size, _ = case
    assert model.task in models.TASKS
    batch = vector.batch(model.task, size)
    given = {"localization": ["composite"], "harmonization": ["composite", "mask"], "inpainting": ["image", "hole"]}[model.task]
    with torch.no_grad():
        prediction = model({key: batch[key] for key in given})
        alone = model({key: batch[key][1:] for key in given})
    assert prediction.shape == (2, 1 if model.task == "localization" else 3, size, size)
    assert prediction.min() >= 0 and prediction.max() <= 1
    torch.testing.assert_close(alone[0], prediction[1], atol=5e-4, rtol=0)
    with torch.no_grad():
        maps = model.maps({key: batch[key] for key in given})
    assert all(drawing.shape == (2, 3, size, size) and drawing.min() >= 0 and drawing.max() <= 1 for drawing in maps.values())
    if model.task == "inpainting":
        painted = torch.where(batch["hole"] > 0, torch.rand_like(batch["image"]), batch["image"])
        with torch.no_grad():
            torch.testing.assert_close(model({"image": painted, "hole": batch["hole"]}), prediction, atol=1e-5, rtol=0)
    assert {id(one) for one in model.predictor_parameters()} <= {id(one) for one in model.parameters()}
    for player in model.players:
        assert model.parameters_of(player)


def test_samples_of_one_input(case):
    """A stochastic method keeps the laws that models.base states; any other says in words that it has no samples."""
    model, size, _ = case
    batch = vector.batch(model.task, size)
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


def test_survives_saving(case, tmp_path):
    model, size, stored = case
    if not model.state_dict():
        return
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
    other = models.create(model.__module__.rsplit(".", 1)[1], **json.loads(str(stored["hyperparameters"]))).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(vector.answer(other, size), vector.answer(model, size))
