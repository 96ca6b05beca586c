import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score

import models

METHODS = ("constant_map", "gaussian_map", "spectral_residual")


def composites(n=2, height=48, width=80, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_average_precision_of_a_constant_map_is_the_foreground_share():
    mask = np.zeros((16, 16), bool)
    mask[3:9, 2:7] = True
    prediction = models.create("constant_map")({"composite": composites(1, 16, 16)})
    assert average_precision_score(mask.ravel(), prediction.flatten()) == pytest.approx(30 / 256)


def test_gaussian_has_the_stated_width():
    prediction = models.create("gaussian_map", sigma=0.25)({"composite": composites(1, 400, 200)})[0, 0]
    assert (prediction > 0.5).float().mean() == pytest.approx(2 * np.log(2) * np.pi * 0.25**2, abs=1e-3)
    torch.testing.assert_close(prediction, prediction.flip(0, 1))


def numpy_spectral_residual(luminance):
    """The paper's five equations, written once more with NumPy and SciPy."""
    spectrum = np.fft.fft2(luminance)
    log_amplitude = np.log(np.abs(spectrum))
    residual = log_amplitude - ndimage.uniform_filter(log_amplitude, 3, mode="nearest")
    back = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    level = ndimage.gaussian_filter(back, 2.5, mode="constant", truncate=2)
    return (level - level.min()) / (level.max() - level.min())


def test_spectral_residual_against_numpy():
    composite = composites(1, 64, 64)
    luminance = np.tensordot([0.299, 0.587, 0.114], composite[0].double().numpy(), 1)
    prediction = models.create("spectral_residual")({"composite": composite})[0, 0].numpy()
    np.testing.assert_allclose(prediction, numpy_spectral_residual(luminance), atol=2e-4)


def test_spectral_residual_finds_the_odd_one_out():
    rows, columns = np.mgrid[:64, :64]
    picture = 0.5 + 0.25 * np.sin(rows / 2) * np.sin(columns / 2)
    picture[40:48, 12:20] = 0.9
    composite = torch.from_numpy(picture).float().expand(1, 3, 64, 64)
    prediction = models.create("spectral_residual")({"composite": composite})[0, 0]
    row, column = np.unravel_index(prediction.argmax(), prediction.shape)
    assert 36 <= row < 52 and 8 <= column < 24


def test_spectral_residual_of_a_flat_picture_is_empty():
    flat = torch.full((1, 3, 32, 32), 0.4)
    both = torch.cat([flat, composites(1, 32, 32)])
    prediction = models.create("spectral_residual")({"composite": both})
    assert prediction[0].max() == 0 and prediction[1].max() > 0.9


@pytest.mark.parametrize(
    "name, hyperparameters",
    [
        ("constant_map", {"probability": 1.5}),
        ("gaussian_map", {"sigma": 0.0}),
        ("spectral_residual", {"size": 4}),
        ("spectral_residual", {"sigma": -1.0}),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(name, hyperparameters):
    with pytest.raises(ValueError, match=next(iter(hyperparameters))):
        models.create(name, **hyperparameters)
