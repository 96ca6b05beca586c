import numpy as np
import torch
from scipy import ndimage

from models.losses.edge import edge_target


def test_it_is_scipys_morphological_gradient():
    mask = np.random.default_rng(0).random((24, 17)) > 0.9
    mask[6:14, 3:12] = True
    expected = ndimage.morphological_gradient(mask.astype(float), size=5, mode="nearest")
    np.testing.assert_array_equal(edge_target(torch.from_numpy(mask)[None, None].float())[0, 0], expected)


def test_an_edge_is_two_pixels_on_either_side_and_the_pictures_border_is_none():
    mask = torch.zeros(1, 1, 9, 12)
    mask[..., 6:] = 1
    assert edge_target(mask)[0, 0, 4].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert not edge_target(torch.ones(1, 1, 6, 6)).any()
