import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from pipeline.metrics.inpainting import METRICS, score


def scene(seed, size=(60, 66), hole=None):
    """A filled image that differs from the photograph inside `hole` = (rows, columns), or everywhere."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    prediction = real.copy()
    region = prediction[hole] if hole else prediction
    region[:] = np.clip(region.astype(int) + rng.integers(-50, 51, region.shape), 0, 255)
    return prediction, real


HOLES = [None, np.s_[20:40, 10:30], np.s_[:4, :4], np.s_[55:, 60:], np.s_[0:2, 0:66]]


@pytest.mark.parametrize("hole", HOLES)
def test_equals_scikit_image(hole):
    prediction, real = scene(0, hole=hole)
    x, y = real / 255, prediction / 255
    expected = {
        "ssim": structural_similarity(
            x, y, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        ),
        "psnr": peak_signal_noise_ratio(x, y, data_range=1),
        "l1": np.abs(x - y).mean(),
        "ssim_ec": structural_similarity(rgb2gray(x), rgb2gray(y), data_range=1, win_size=51),
    }
    scores = score(prediction, real)
    assert tuple(scores) == METRICS
    assert scores == pytest.approx(expected, abs=1e-9)


def test_equals_torchmetrics():
    prediction, real = scene(1)
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255 for image in (prediction, real))
    _, whole = structural_similarity_index_measure(x, y, data_range=1.0, sigma=1.5, return_full_image=True)
    expected = whole[..., 5:-5, 5:-5].mean().item()  # scikit-image's mean leaves out the border, torchmetrics' doesn't
    assert score(prediction, real)["ssim"] == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    real, prediction = np.full((12, 12, 3), 51, np.uint8), np.full((12, 12, 3), 51, np.uint8)
    prediction[:6] = 102  # half of the pixels are off by a fifth of the range
    scores = score(prediction, real)
    assert scores["l1"] == pytest.approx(0.1)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(0.02))


def test_identical_images():
    _, real = scene(2)
    assert score(real.copy(), real) == {"ssim": 1, "psnr": 100, "l1": 0, "ssim_ec": 1}


def test_constant_images():
    black, white = np.zeros((51, 51, 3), np.uint8), np.full((51, 51, 3), 255, np.uint8)
    scores = score(black, white)
    c1 = 0.01**2
    assert scores["psnr"] == 0 and scores["l1"] == 1
    assert scores["ssim"] == pytest.approx(c1 / (1 + c1), abs=1e-12)
    assert scores["ssim_ec"] == pytest.approx(c1 / (1 + c1), abs=1e-12)


def test_small_images():
    """EdgeConnect's 51-pixel window is excluded below its size; the 11-pixel window is a condition."""
    scores = score(*scene(3, (50, 200)))
    assert math.isnan(scores["ssim_ec"]) and all(math.isfinite(scores[key]) for key in ("ssim", "psnr", "l1"))
    assert math.isfinite(score(*scene(3, (51, 51)))["ssim_ec"])
    assert math.isfinite(score(*scene(3, (11, 11)))["ssim"])
    with pytest.raises(ValueError, match="have a side of 10, SSIM needs at least 11"):
        score(*scene(3, (10, 64)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(HOLES))
def test_laws(seed, hole):
    prediction, real = scene(seed, hole=hole)
    scores = score(prediction, real)
    assert score(real, prediction) == pytest.approx(scores, abs=1e-9)
    assert score(prediction[::-1], real[::-1]) == pytest.approx(scores, abs=1e-9)
    # |d| <= 1 gives MSE <= L1, and Jensen's inequality gives L1^2 <= MSE
    mse = 10 ** (-scores["psnr"] / 10)
    assert scores["l1"] ** 2 <= mse * (1 + 1e-9) and mse <= scores["l1"] * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(0, 155))
def test_constant_error(error, level):
    real = np.full((11, 11, 3), level, np.uint8)
    scores = score(real + np.uint8(error), real)
    assert scores["l1"] == pytest.approx(error / 255)
    assert scores["psnr"] == pytest.approx(20 * math.log10(255 / error))


IMAGE = np.zeros((12, 13, 3), np.uint8)


@pytest.mark.parametrize(
    ("prediction", "real", "message"),
    [
        (IMAGE / 255, IMAGE, "prediction has dtype float64, expected uint8"),
        (IMAGE, IMAGE[:, :12], "prediction is 13x12, real is 12x12"),
        (IMAGE, IMAGE[..., :1], r"real has shape \(12, 13, 1\)"),
    ],
)
def test_bad_input_is_one_clear_line(prediction, real, message):
    with pytest.raises(ValueError, match=message):
        score(prediction, real)
