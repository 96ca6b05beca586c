import numpy as np
import torch

from models.layers.array_recolor import recolor_each


def test_colours_land_on_the_foreground_in_row_order():
    composite = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(2, 3, 2, 3).clone()
    mask = torch.zeros(2, 1, 2, 3)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 2] = 1

    def recolor(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8 and image.shape == (2, 3, 3) and inside.dtype == bool
        assert image[0, 0].tolist() == [26, 51, 76]  # 255 times 0.1, 0.2 and 0.3, rounded (76.5 to even)
        return np.array([[255, 0, 0], [0, 51, 255]], np.uint8)

    result = recolor_each(composite, mask, recolor)
    assert result[0, :, 0, 1].tolist() == [1, 0, 0]
    assert torch.allclose(result[0, :, 1, 2], torch.tensor([0, 0.2, 1]))
    untouched = mask.expand_as(result) < 0.5
    assert torch.equal(result[untouched], composite[untouched])


def test_without_foreground_or_background_nothing_is_asked():
    composite = torch.rand(2, 3, 4, 4)
    mask = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])

    def recolor(image, inside):
        raise AssertionError("called")

    result = recolor_each(composite, mask, recolor)
    assert torch.equal(result, composite) and result is not composite
