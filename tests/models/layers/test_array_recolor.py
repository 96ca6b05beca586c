import numpy as np

from models.layers.array_recolor import recolor_foreground

COMPOSITE = np.broadcast_to(np.float32([0.1, 0.2, 0.3]), (2, 3, 3))
MASK = np.array([[False, True, False], [False, False, True]])


def test_colours_land_on_the_foreground_in_row_order():
    def recolor(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8 and image.shape == (2, 3, 3) and inside.dtype == bool
        assert image[0, 0].tolist() == [26, 51, 76]  # 255 times 0.1, 0.2 and 0.3, rounded (76.5 to even)
        return np.array([[255, 0, 0], [0, 51, 255]], np.uint8)

    result = recolor_foreground(COMPOSITE, MASK, recolor)
    assert result.dtype == np.float32
    assert result[0, 1].tolist() == [1, 0, 0]
    assert np.allclose(result[1, 2], [0, 0.2, 1])
    assert np.array_equal(result[~MASK], COMPOSITE[~MASK])


def test_without_foreground_or_background_nothing_is_asked():
    def recolor(image, inside):
        raise AssertionError("called")

    for mask in (np.zeros_like(MASK), np.ones_like(MASK)):
        assert np.array_equal(recolor_foreground(COMPOSITE, mask, recolor), COMPOSITE)
