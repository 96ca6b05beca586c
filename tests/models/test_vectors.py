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
    if model.task == "inpainting":
        painted = torch.where(batch["hole"] > 0, torch.rand_like(batch["image"]), batch["image"])
        with torch.no_grad():
            torch.testing.assert_close(model({"image": painted, "hole": batch["hole"]}), prediction, atol=1e-5, rtol=0)
    assert {id(one) for one in model.predictor_parameters()} <= {id(one) for one in model.parameters()}
    for player in model.players:
        assert model.parameters_of(player)


def test_survives_saving(case, tmp_path):
    model, size, stored = case
    if not model.state_dict():
        return
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
    other = models.create(model.__module__.rsplit(".", 1)[1], **json.loads(str(stored["hyperparameters"]))).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(vector.answer(other, size), vector.answer(model, size))
