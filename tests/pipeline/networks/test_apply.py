"""Networks that work at two sizes, on a picture of one's own; what every method has in common is in tests/commands/test_apply.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.harmonization.pct import PCT
from pipeline import images
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
