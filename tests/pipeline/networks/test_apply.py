"""Networks that work at two sizes, and inpainters at sizes of all kinds, on a picture of one's own; what every method has in common is in tests/commands/test_apply.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from models.harmonization.pct import PCT
from pipeline import images
from pipeline.errors import UserError
from pipeline.networks import apply
from tests.pipeline.tiny import random_picture


@pytest.fixture
def network() -> PCT:
    torch.manual_seed(0)
    return PCT(size=16, width=8, layers=1, global_skip=True, perceptual_weights="none").eval()


def inside() -> np.ndarray:
    mask = np.zeros((45, 61), bool)
    mask[10:30, 5:40] = True
    return mask


def test_parameters_come_from_the_small_picture_and_are_applied_to_every_pixel(network):
    picture, mask = random_picture(0, 45, 61), inside()
    drawn, seen = apply.predict("harmonization", network, picture, mask)
    assert seen == (16, 16) and drawn.dtype == np.uint8 and drawn.shape == picture.shape

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1)[None].float()

    small = {
        "composite": tensor(images.resize(picture, (16, 16))) / 255,
        "mask": tensor(images.resize(mask, (16, 16), "mask")),
    }
    with torch.no_grad():
        parameters = F.interpolate(network.predict_parameters(small), (45, 61), mode="bicubic", align_corners=False)
        expected = network.apply_parameters(parameters, {"composite": tensor(picture) / 255, "mask": tensor(mask)})
    levels = (expected[0].permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(drawn - levels).max() <= 1 and (drawn[mask] != picture[mask]).any()
    assert np.array_equal(drawn[~mask], picture[~mask])


def test_its_small_size_is_its_own_whatever_the_longest_side(network):
    picture, mask = random_picture(1, 45, 61), inside()
    drawn = [apply.predict("harmonization", network, picture, mask, longest_side=side)[0] for side in (None, 20, 61)]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])


SMALL: dict[str, dict] = {
    "csa": {"width": 4, "levels": 4, "perceptual_weights": "none"},
    "edgeconnect": {"width": 4, "blocks": 1, "perceptual_weights": "none"},
    "gatedconv": {"width": 4},
    "pconv": {"levels": 3, "perceptual_weights": "none"},
    "pic": {"width": 2, "prior_blocks": 1},
    "prvs": {"width": 4, "levels": 3, "perceptual_weights": "none"},
    "rfr": {"width": 8, "iter_num": 1, "perceptual_weights": "none"},
}


@pytest.mark.parametrize("name", models.names("inpainting"))
def test_every_inpainter_draws_a_size_that_no_halving_divides(name):
    torch.manual_seed(0)
    model = models.create(name, **SMALL.get(name, {})).eval()
    picture, hole = random_picture(2, 75, 101), np.zeros((75, 101), bool)
    hole[20:50, 30:60] = True
    drawn, seen = apply.predict("inpainting", model, picture, hole)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    # the margin is less than one multiple: nothing is shrunk, and no more is added than the network asks for
    assert (0 <= seen[0] - 75 < 64) and (0 <= seen[1] - 101 < 64)
    if not model.players:
        assert seen == (75, 101), "a method without halvings needs no margin"
    # what a hole holds must not matter
    other = np.where(hole[..., None], 255 - picture, picture)
    assert np.array_equal(apply.predict("inpainting", model, other, hole)[0][hole], drawn[hole])


def test_a_size_that_an_inpainter_can_not_draw_is_refused_in_words():
    model = models.create("pic", **SMALL["pic"]).eval()
    hole = np.zeros((16, 16), bool)
    hole[4:8, 4:8] = True
    with pytest.raises(UserError, match=r"a.png: the network refuses 16x16 pixels: pic: .*; give one side 64 or more"):
        apply.predict("inpainting", model, random_picture(0, 16, 16), hole, name="a.png")
