import numpy as np
import pytest

from models.layers.array_fill import fill_hole

IMAGE = np.full((2, 3, 3), 0.25, np.float32)
HOLE = np.array([[False, True, False], [False, False, True]])


def test_a_hole_is_shown_cleared_and_what_fills_it_is_clipped():
    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        assert image.dtype == np.float32 and hole.dtype == bool
        assert np.array_equal(image, np.where(HOLE[..., None], 0, IMAGE))
        return np.where(hole[..., None], [5.0, 0.5, -1.0], -2.0)

    result = fill_hole(IMAGE, HOLE, fill)
    assert result.dtype == np.float32
    assert np.array_equal(result, np.where(HOLE[..., None], np.float32([1, 0.5, 0]), 0))
    assert (IMAGE == 0.25).all(), "the image that was given is left alone"


def test_without_a_hole_or_a_valid_pixel_nothing_is_asked():
    def fill(image, hole):
        raise AssertionError("called")

    assert np.array_equal(fill_hole(IMAGE, np.zeros_like(HOLE), fill), IMAGE)
    with pytest.raises(ValueError, match="^it is all hole: there is no valid pixel to fill it from$"):
        fill_hole(IMAGE, np.ones_like(HOLE), fill)
