import numpy as np
import skimage.color
from hypothesis import given
from hypothesis import strategies as st

from pipeline.color_transfer import spaces

# 255 times the matrix of BT.601 in studio swing
THOUSANDTHS = np.array([[65481, 128553, 24966], [-37797, -74203, 112000], [112000, -93786, -18214]])


def random_colors(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3), dtype=np.uint8)


def test_primary_colors_in_ycbcr():
    # 16 + 65.481 = 81.481, 128 - 37.797 = 90.203, 128 + 112 = 240, and so on
    rgb = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [[16, 128, 128], [235, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]]
    assert spaces.convert(rgb, spaces.RGB_TO_YCBCR).tolist() == expected
    # the way back, by hand with the coefficients of BT.601: (81, 90, 240) has R = 1.1644 65 + 1.5960 112 = 254.4
    assert spaces.convert(np.array([[81, 90, 240]], np.uint8), spaces.YCBCR_TO_RGB).tolist() == [[254, 0, 0]]


@given(st.integers(0, 2**32 - 1))
def test_ycbcr_rounds_as_integers_do(seed):
    rgb = random_colors(200, seed)
    exact = rgb.astype(np.int64) @ THOUSANDTHS.T + np.array([16, 128, 128]) * 255000
    expected = (exact + 127500) // 255000
    np.testing.assert_array_equal(spaces.convert(rgb, spaces.RGB_TO_YCBCR), expected)


def test_exact_halves_in_ycbcr_go_up():
    # the three colours among a million whose Y, Cb or Cr ends on one half exactly
    rgb = random_colors(1_000_000)
    exact = rgb.astype(np.int64) @ THOUSANDTHS.T
    rows = (exact % 255000 == 127500).any(axis=1)
    assert rows.sum() == 3
    result = spaces.convert(rgb[rows], spaces.RGB_TO_YCBCR)
    expected = (exact[rows] + np.array([16, 128, 128]) * 255000 + 127500) // 255000
    np.testing.assert_array_equal(result, expected)


def test_ycbcr_agrees_with_scikit_image():
    rgb = random_colors(5000)
    ycbcr = spaces.convert(rgb, spaces.RGB_TO_YCBCR)
    assert np.abs(ycbcr - skimage.color.rgb2ycbcr(rgb)).max() <= 0.5 + 1e-9
    back = np.clip(255 * skimage.color.ycbcr2rgb(ycbcr.astype(float)), 0, 255)
    assert np.abs(spaces.convert(ycbcr, spaces.YCBCR_TO_RGB) - back).max() <= 0.5 + 1e-9


def test_affine_map_by_hand():
    colors = spaces.workspace().load(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    colors.transform(spaces.affine(np.array([[1, 0, 0], [0, 2, 0], [1, 1, 1]]), [0, 1, 0.5]))
    assert colors.values[0].tolist() == [[1, 5, 6.5], [4, 11, 15.5]]


def test_log_lms_there_and_back_is_the_identity():
    # the two matrices are inverse to 3e-5
    rgb = np.maximum(random_colors(5000), 1)
    result = np.empty_like(rgb)
    colors = spaces.workspace().load(rgb).transform(spaces.RGB_TO_LMS).log().exp().transform(spaces.LMS_TO_RGB)
    colors.store(result)
    np.testing.assert_array_equal(result, rgb)


def test_lms_of_white_by_hand():
    colors = spaces.workspace().load(np.full((1, 3), 255, np.uint8)).transform(spaces.RGB_TO_LMS)
    np.testing.assert_allclose(colors.values[0, 0], [0.9996, 0.9993, 0.9973], atol=1e-12)
    assert colors.load(np.zeros((1, 3), np.uint8)).transform(spaces.RGB_TO_LMS).log().values.max() < -48


def test_lalphabeta_matrix_is_orthonormal():
    matrix = spaces.LOG_LMS_TO_LALPHABETA
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-15)


def test_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(spaces, "BLOCK", 7)
    rows = np.arange(20)
    assert [len(rows[block]) for block in spaces.blocks(rows)] == [7, 7, 6]
    assert np.concatenate([rows[block] for block in spaces.blocks(rows)]).tolist() == rows.tolist()


def test_convert_is_the_same_block_by_block(monkeypatch):
    rgb = random_colors(1000)
    whole = spaces.convert(rgb, spaces.RGB_TO_YCBCR)
    monkeypatch.setattr(spaces, "BLOCK", 64)
    np.testing.assert_array_equal(spaces.convert(rgb, spaces.RGB_TO_YCBCR), whole)
