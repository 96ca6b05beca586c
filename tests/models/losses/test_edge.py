import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.losses.edge import balanced_bce, mask_edge


def test_edge_is_scipys_morphological_gradient():
    mask = np.zeros((1, 1, 20, 24), np.float32)
    mask[..., :9, 5:17] = 1
    mask[..., 14, 20] = 0.5
    for size in (3, 5):
        expected = ndimage.morphological_gradient(mask[0, 0], size=(size, size), mode="nearest")
        np.testing.assert_allclose(mask_edge(torch.from_numpy(mask), size)[0, 0].numpy(), expected)


def test_a_full_or_an_empty_mask_has_no_edge():
    assert not mask_edge(torch.ones(1, 1, 8, 8)).any() and not mask_edge(torch.zeros(1, 1, 8, 8)).any()


@pytest.mark.parametrize("positives, weight", [(4, 3), (1, 15), (0, 20), (16, 0)])
def test_balanced_cross_entropy_by_hand(positives, weight):
    """16 pixels, all with probability 1/4."""
    target = torch.zeros(1, 1, 4, 4)
    target.view(-1)[:positives] = 1
    logits = torch.full((1, 1, 4, 4), math.log(1 / 3))
    expected = (weight * positives * math.log(4) + (16 - positives) * math.log(4 / 3)) / 16
    assert balanced_bce(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_the_weight_has_a_limit():
    target = torch.zeros(1, 1, 10, 10)
    target[0, 0, 0, 0] = 1
    expected = (20 * math.log(2) + 99 * math.log(2)) / 100
    assert balanced_bce(torch.zeros(1, 1, 10, 10), target).item() == pytest.approx(expected)
