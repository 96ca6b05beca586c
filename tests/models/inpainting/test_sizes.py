"""Every inpainter at sizes other than the one it is trained at: it draws the picture, or says in words why it can't."""

import json

import numpy as np
import pytest
import torch

import models
from models.layers.input_size import NotDivisible
from tests.models import vector

SIDES_MULTIPLE_OF = {"pconv": 32, "gatedconv": 8, "edgeconnect": 4, "rfr": 16, "pic": 32, "prvs": 16, "csa": 32}  # of the tiny networks here
TOO_SMALL = {
    "edgeconnect": ((8, 64), "edgeconnect takes sides of 12 pixels or more, got \\(8, 64\\)"),
    "pic": ((32, 32), "pic: 32x32 pixels leave instance normalization a single value"),
}


def tiny(name):
    hyperparameters = json.loads(str(np.load(vector.FOLDER / f"{name}.npz")["hyperparameters"]))
    return vector.build(name, hyperparameters)


def batch_of(height, width):
    rng = np.random.default_rng(3)
    hole = torch.zeros(1, 1, height, width)
    hole[..., height // 3 : 2 * height // 3, width // 4 : width // 2] = 1
    return {"image": torch.from_numpy(rng.random((1, 3, height, width), dtype=np.float32)), "hole": hole}


def assert_drawn(model, batch):
    with torch.no_grad():
        out = model(batch)
    assert out.shape == batch["image"].shape and torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("size", [(32, 64), (96, 64), (128, 160)])
@pytest.mark.parametrize("name", models.names("inpainting"))
def test_draws_at_even_sizes(name, size):
    if name not in SIDES_MULTIPLE_OF and tiny(name).players:
        pytest.fail(f"{name} is new: say in SIDES_MULTIPLE_OF which sizes it takes")
    assert_drawn(tiny(name), batch_of(*size))


@pytest.mark.parametrize("size", [(77, 51), (33, 95), (129, 64), (100, 99)])
@pytest.mark.parametrize("name", models.names("inpainting"))
def test_odd_sizes_work_or_are_refused_with_the_multiple_that_works(name, size):
    model, batch = tiny(name), batch_of(*size)
    by = SIDES_MULTIPLE_OF.get(name, 1)
    if by == 1:
        assert_drawn(model, batch)
        return
    wanted = [(label, side, -(-side // by) * by) for label, side in zip(("height", "width"), size) if side % by]
    label, side, more = wanted[0]
    with pytest.raises(NotDivisible, match=f"{label} {side} is not divisible by {by}; pad to {more}") as refused:
        model(batch)
    # what commands.apply does with it
    pad = [(0, 0), (0, 0), *((0, -side % refused.value.by) for side in size)]
    padded = {key: np.pad(value.numpy(), pad, mode="symmetric") for key, value in batch.items()}
    assert_drawn(model, {key: torch.from_numpy(value) for key, value in padded.items()})


@pytest.mark.parametrize("name", SIDES_MULTIPLE_OF)
def test_the_smallest_size(name):
    model, by = tiny(name), SIDES_MULTIPLE_OF[name]
    size, words = TOO_SMALL.get(name, ((by, by), None))
    if words is None:
        assert_drawn(model, batch_of(*size))
        return
    with pytest.raises(ValueError, match=words):
        model(batch_of(*size))


@pytest.mark.parametrize("name", SIDES_MULTIPLE_OF)
def test_trains_at_a_size_that_is_not_square(name):
    model, batch = tiny(name).train(), {key: value.repeat(2, 1, 1, 1) for key, value in batch_of(96, 128).items()}
    for player in model.players:
        assert torch.isfinite(model.loss(player, batch)[0])
