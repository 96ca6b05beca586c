"""A method on arrays, and the torch module that is made of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.array_model import ArrayModel
from models.arrays import ArrayMethod, Item

ROOT = Path(__file__).resolve().parents[2]


class Turned(ArrayMethod):
    """The hole upside down in red, on the picture with its first row in black."""

    task = "inpainting"

    def draw(self, item: Item) -> np.ndarray:
        image, hole = item["image"], item["hole"]
        assert (image.dtype, hole.dtype) == (np.float32, bool) and image.shape == (*hole.shape, 3)
        if hole.all():
            raise ValueError("nothing is left")
        drawn = image.copy()
        drawn[0] = 0
        drawn[hole[::-1]] = (1, 0, 0)
        return drawn


class Red(ArrayMethod):
    task = "localization"

    def draw(self, item: Item) -> np.ndarray:
        return item["composite"][..., 0]


def test_a_batch_is_drawn_picture_by_picture():
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(2, 1, 4, 5)
    hole[0, 0, 3, 1], hole[1, 0, 2, 4] = 1, 0.6
    drawn = ArrayModel(Turned())({"image": image, "hole": hole})
    expected = image.clone()
    expected[:, :, 0] = 0
    red = torch.tensor([1.0, 0.0, 0.0])
    expected[0, :, 0, 1], expected[1, :, 1, 4] = red, red
    assert torch.equal(drawn, expected) and drawn.dtype == torch.float32


def test_a_map_has_one_channel():
    composite = torch.rand(2, 3, 4, 5)
    assert torch.equal(ArrayModel(Red())({"composite": composite}), composite[:, :1])


@pytest.mark.parametrize("method, key, channels", [(Red(), "composite", 1), (Turned(), "image", 3)])
def test_a_batch_without_pictures_has_no_predictions(method, key, channels):
    assert ArrayModel(method)({key: torch.zeros(0, 3, 4, 5, dtype=torch.float16)}).shape == (0, channels, 4, 5)


@pytest.mark.parametrize("name", [name for name in models.names() if issubclass(models.class_of(name), ArrayMethod)])
def test_arrays_that_cannot_be_written_to_are_enough(name):
    method, rng = models.build(name), np.random.default_rng(0)
    region = np.zeros((40, 50), bool)
    region[10:35, 10:40] = True
    picture, mask = {"inpainting": ("image", "hole")}.get(method.task, ("composite", "mask"))
    item = {picture: rng.random((40, 50, 3), np.float32), mask: region}
    drawn = method.draw({key: array.copy() for key, array in item.items()})
    for array in item.values():
        array.setflags(write=False)
    assert np.array_equal(method.draw(item), drawn) and drawn.dtype == np.float32


def test_a_refusal_says_which_picture_of_the_batch():
    batch = {"image": torch.zeros(2, 3, 4, 4), "hole": torch.zeros(2, 1, 4, 4)}
    batch["hole"][1] = 1
    with pytest.raises(ValueError, match="^image 1 of the batch: nothing is left$"):
        ArrayModel(Turned())(batch)


def test_a_method_is_made_a_module_once_and_a_network_is_one():
    method = models.build("telea", radius=5)
    assert isinstance(method, ArrayMethod) and method.radius == 5
    assert method.parameters() == method.predictor_parameters() == []
    model = models.as_model(method)
    assert isinstance(model, models.Model) and models.as_model(model) is model and model.task == "inpainting"
    network = models.build("unet", width=4, backbone_weights="none")
    assert isinstance(network, models.Model) and models.as_model(network) is network


def test_a_method_that_draws_nothing_says_so():
    with pytest.raises(TypeError, match="^ArrayMethod has no draw$"):
        ArrayMethod().draw({})


def test_building_and_drawing_take_no_torch():
    code = """
import sys, numpy, models
composite, mask = numpy.zeros((8, 8, 3), numpy.float32), numpy.eye(8, dtype=bool)
models.build("poisson").draw({"composite": composite, "mask": mask})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
