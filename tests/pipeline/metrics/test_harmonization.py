import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr

from pipeline.metrics.harmonization import METRICS, score


def scene(seed, size=(30, 34), pasted=True):
    """A prediction that differs from the real image inside the mask, or everywhere."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=bool)
    mask[rng.integers(1, size[0]) :, : rng.integers(1, size[1])] = True
    drawn = np.clip(real.astype(int) + rng.integers(-50, 51, real.shape), 0, 255).astype(np.uint8)
    return np.where(mask[..., None], drawn, real) if pasted else drawn, real, mask


def test_by_hand():
    real = np.full((4, 4, 3), 100, np.uint8)
    prediction, mask = real.copy(), np.zeros((4, 4), bool)
    mask[:2, :2] = True
    prediction[mask] = (106, 100, 92)  # squared differences 36 + 0 + 64 in each of 4 foreground pixels
    scores = score(prediction, real, mask)
    assert tuple(scores) == METRICS
    assert scores["mse"] == 4 * 100 / 48
    assert scores["fmse"] == 100 / 3
    assert scores["psnr"] == pytest.approx(10 * math.log10(255**2 * 48 / 400))


@pytest.mark.parametrize("pasted", [True, False])
def test_equals_scikit_image_and_torchmetrics(pasted):
    prediction, real, mask = scene(0, pasted=pasted)
    scores = score(prediction, real, mask)
    assert scores["mse"] == pytest.approx(mean_squared_error(real, prediction), abs=1e-9)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(real, prediction, data_range=255), abs=1e-9)
    both = (torch.from_numpy(image.astype(np.float64)) for image in (prediction, real))
    assert scores["psnr"] == pytest.approx(torch_psnr(*both, data_range=255.0).item(), abs=1e-5)  # float32 logarithm
    assert scores["fmse"] == pytest.approx(mean_squared_error(real[mask], prediction[mask]), abs=1e-9)


@pytest.mark.parametrize("pasted", [True, False])
@pytest.mark.parametrize(("metric", "scale"), [("fssim", 255), ("fssim_iih", 1)])
def test_foreground_ssim_is_the_masked_mean_of_the_map(pasted, metric, scale):
    prediction, real, mask = scene(1, pasted=pasted)
    x, y = prediction.astype(np.float64), real.astype(np.float64)

    def mean(image):  # SciPy's filter: radius 5 at truncate 3.5, zeros outside
        return gaussian_filter(image, 1.5, truncate=3.5, mode="constant", axes=(0, 1))

    c1, c2 = (0.01 * scale) ** 2, (0.03 * scale) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    expected = np.mean([(similarity[..., c] * mask).sum() / mask.sum() for c in range(3)])
    scores = score(prediction, real, mask)
    assert scores[metric] == pytest.approx(expected, abs=1e-6)
    if metric == "fssim":
        assert scores["ssim"] == pytest.approx(similarity.mean(), abs=1e-9)


def test_identical_images():
    _, real, mask = scene(2)
    assert score(real.copy(), real, mask) == {
        "mse": 0, "fmse": 0, "psnr": 100, "ssim": 1, "fssim": 1, "fssim_iih": 1
    }  # fmt: skip


def test_psnr_of_one_grey_level_in_a_big_image_is_capped():
    """One level in one channel of 256x256 pixels would be 10 log10(255^2 * 196608) = 101.07 dB."""
    real = np.full((256, 256, 3), 128, np.uint8)
    prediction = real.copy()
    prediction[0, 0, 0] += 1
    assert score(prediction, real, np.ones((256, 256), bool))["psnr"] == 100


def test_foreground_share_zero_and_one():
    prediction, real, mask = scene(3, pasted=False)
    empty = score(prediction, real, np.zeros_like(mask))
    assert {key for key, value in empty.items() if math.isnan(value)} == {"fmse", "fssim", "fssim_iih"}
    full = score(prediction, real, np.ones_like(mask))
    assert full["fmse"] == pytest.approx(full["mse"], rel=1e-12)
    assert full["fssim"] == pytest.approx(full["ssim"], abs=1e-12)


def test_constant_prediction():
    """Black against white: the largest error there is, and finite everywhere."""
    black, white, mask = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 255, np.uint8), np.eye(12, dtype=bool)
    scores = score(black, white, mask)
    assert scores["mse"] == scores["fmse"] == 255**2 and scores["psnr"] == 0
    assert all(math.isfinite(value) for value in scores.values())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(0, 155))
def test_psnr_of_a_constant_error(error, level):
    real = np.full((5, 6, 3), level, np.uint8)
    scores = score(real + np.uint8(error), real, np.ones((5, 6), bool))
    assert scores["mse"] == error**2
    assert scores["psnr"] == pytest.approx(20 * math.log10(255 / error))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_laws(seed):
    prediction, real, mask = scene(seed, (13, 14))
    scores = score(prediction, real, mask)
    # with equal backgrounds all error lies in the foreground
    assert scores["fmse"] * mask.sum() == pytest.approx(scores["mse"] * mask.size)
    back = score(real, prediction, mask)
    assert back == pytest.approx(scores, abs=1e-9)
    flipped = score(prediction[::-1], real[::-1], mask[::-1])
    assert flipped == pytest.approx(scores, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_moving_towards_the_real_image_never_hurts(seed, step):
    prediction, real, mask = scene(seed, (13, 14))
    nearer = np.rint(prediction + step * (real.astype(float) - prediction)).astype(np.uint8)
    far, near = score(prediction, real, mask), score(nearer, real, mask)
    assert near["mse"] <= far["mse"] and near["fmse"] <= far["fmse"] and near["psnr"] >= far["psnr"]


IMAGE, MASK = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), bool)


@pytest.mark.parametrize(
    ("prediction", "real", "mask", "message"),
    [
        (IMAGE / 255, IMAGE, MASK, "prediction has dtype float64, expected uint8"),
        (IMAGE, IMAGE.astype(np.int64), MASK, "real has dtype int64"),
        (IMAGE, IMAGE, MASK.astype(np.uint8) * 255, "mask has dtype uint8, expected bool"),
        (IMAGE[:3], IMAGE, MASK, "prediction is 5x3, real is 5x4"),
        (IMAGE, IMAGE, MASK[:, :3], "prediction is 5x4, mask is 3x4"),
        (IMAGE[..., 0], IMAGE, MASK, r"prediction has shape \(4, 5\), expected RGB"),
        (IMAGE, np.zeros((4, 5, 4), np.uint8), MASK, r"real has shape \(4, 5, 4\)"),
        (None, IMAGE, MASK, "prediction is a NoneType"),
    ],
)
def test_bad_input_is_one_clear_line(prediction, real, mask, message):
    with pytest.raises(ValueError, match=message) as caught:
        score(prediction, real, mask)
    assert "\n" not in str(caught.value)
