import cv2
import numpy as np
import pytest
import torch
from skimage.color import rgb2hsv, rgb2xyz

import models
from models.harmonization import xue
from tests.models.harmonization.test_untrained import batch, disc, texture


def test_robertsons_method_on_illuminants_with_a_known_temperature():
    """CIE A: 2856 K, D65: 6504 K (a little off the black body), black body of 5000 K: u, v by hand from published x, y."""
    for x, y, kelvin in ((0.44757, 0.40745, 2856), (0.31271, 0.32902, 6504), (0.34510, 0.35161, 5000)):
        u, v = (np.array([number / (-2 * x + 12 * y + 3)], np.float32) for number in (4 * x, 6 * y))
        mired, tint = xue.temperature(u, v)
        assert 1e6 / mired[0] == pytest.approx(kelvin, rel=0.005)
        black_u, black_v, along_u, along_v = xue._isotherm(mired)
        np.testing.assert_allclose([black_u + tint * along_u, black_v + tint * along_v], [u, v], atol=2e-4)


def test_tone_curve():
    bright = np.linspace(0, 1, 101, dtype=np.float32)
    np.testing.assert_allclose(xue.tone_curve(bright, 0.3, 0.5), bright, atol=1e-6)
    for bend in (0.4, 0.6):
        # a point of the upper half's Bezier curve by its parameter t
        t, curve = 0.3, xue.tone_curve(bright, 0.3, bend)
        x, y = (2 * t * (1 - t) * control + t**2 for control in (bend, 1 - bend))
        assert xue.tone_curve(np.array([0.3 + 0.7 * x], np.float32), 0.3, bend)[0] == pytest.approx(
            0.3 + 0.7 * y, abs=1e-5
        )
        assert (
            curve[0] == pytest.approx(0, abs=1e-6)
            and curve[30] == pytest.approx(0.3)
            and curve[100] == pytest.approx(1)
        )
        assert (np.diff(curve) > 0).all()


def test_top_contrast_by_hand():
    values = np.concatenate([np.full(3000, 0.2), [0.9, 0.8, 0.7], np.full(500, 0.05)])
    # 3003 values count: int(1 + 3003 / 1024) = 3 of them are the top
    assert xue.top_contrast(values) == pytest.approx(0.8)
    assert xue.top_contrast(np.full(10, 0.05)) == 0.10


def colours(seed: int, factor=(1.0, 1.0, 1.0)) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(0.15, 0.5, (4000, 3)) * factor).astype(np.float32)


def test_means_agree_after_each_step():
    measured, background = np.ones(4000, bool), colours(0)
    darker, warmer = colours(1) * np.float32(0.5), colours(1, (1.3, 1.0, 0.6))

    def log_luminance(linear: np.ndarray) -> float:
        return np.log2(rgb2xyz_linear(linear)[:, 1]).mean()

    matched = xue.match_luminance(darker, measured, background)
    assert log_luminance(matched) == pytest.approx(log_luminance(background), abs=1e-4)
    mired = [
        xue.temperature(*xue._chromaticity(picture))[0].mean()
        for picture in (background, warmer, xue.match_temperature(warmer, measured, background))
    ]
    assert mired[1] - mired[0] > 40 and abs(mired[2] - mired[0]) < 5
    kept = rgb2xyz_linear(xue.match_temperature(warmer, measured, background))[:, 1]
    np.testing.assert_allclose(np.median(np.abs(kept - rgb2xyz_linear(warmer)[:, 1])), 0, atol=1e-4)
    grey = colours(1).mean(1, keepdims=True) + 0.1 * (colours(1) - colours(1).mean(1, keepdims=True))
    result = xue.match_saturation(grey.astype(np.float32), measured, background)
    saturation = [np.log2(rgb2hsv(picture)[:, 1]).mean() for picture in (background, grey, result)]
    assert saturation[0] - saturation[1] > 1 and saturation[2] == pytest.approx(saturation[0], abs=0.02)
    np.testing.assert_allclose(rgb2hsv(result)[:, 2], rgb2hsv(grey)[:, 2], atol=1e-5)


def rgb2xyz_linear(linear: np.ndarray) -> np.ndarray:
    """scikit-image's XYZ of linear RGB (n, 3)."""
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb2xyz(encoded[None])[0]


def test_takes_back_most_of_a_shift():
    real, mask = texture(0, 128), disc(60, 64, 24, 128)
    for shift in (np.array([0.15, 0.15, 0.15]), np.array([0.1, 0.0, -0.1]), np.array([-0.12, -0.12, -0.12])):
        given = batch([real + shift * mask[..., None]], [mask])
        result = models.create("xue")(given)[0].permute(1, 2, 0).numpy()
        before, after = (
            np.square(picture - real)[mask].mean()
            for picture in (given["composite"][0].permute(1, 2, 0).numpy(), result)
        )
        assert after < 0.5 * before


def test_contrast_moves_towards_the_backgrounds():
    real, mask = texture(0, 128), disc(60, 64, 24, 128)
    flat = real.copy()
    rough = np.random.default_rng(3).normal(0, 0.12, real.shape[:2])[..., None]
    flat[~mask] = np.clip(real + rough, 0.05, 0.95)[~mask]
    linear = xue._LINEAR[np.round(flat * 255).astype(np.uint8)]
    linear[mask] = xue.match_contrast(linear, mask, mask, ~mask)
    spread = [
        luminance[mask].std()
        for luminance in (xue.luminance(xue._LINEAR[np.round(flat * 255).astype(np.uint8)]), xue.luminance(linear))
    ]
    assert spread[1] > 1.03 * spread[0]


def test_what_is_left_alone():
    model = models.create("xue")
    image, small = texture(1), disc(32, 32, 12)
    assert small.sum() < 500
    given = batch([image, image, image], [small, np.zeros((64, 64), bool), np.ones((64, 64), bool)])
    assert torch.equal(model(given), given["composite"])
    dark = batch([image * 0], [disc(32, 32, 20)])
    assert torch.equal(model(dark), dark["composite"]), "of black neither colour nor contrast can be measured"


def test_items_apart_and_the_outside_untouched():
    model, given = (
        models.create("xue"),
        batch([texture(2, 96) * 0.7, texture(3, 96)], [disc(40, 40, 20, 96), disc(2, 90, 30, 96)]),
    )
    assert model.players == () and list(model.parameters()) == []
    result = model(given)
    alone = torch.cat([model({key: value[i : i + 1] for key, value in given.items()}) for i in range(2)])
    outside = (given["mask"] < 0.5).expand_as(result)
    assert torch.equal(result, alone) and torch.equal(result[outside], given["composite"][outside])
    assert result.min() >= 0 and result.max() <= 1 and not torch.equal(result, given["composite"])


def test_erosion_is_that_of_a_disk():
    region = np.zeros((60, 60), bool)
    region[10:50, 5:45] = True
    rows, columns = np.mgrid[-4:5, -4:5]
    kernel = (rows**2 + columns**2 <= 16).astype(np.uint8)
    assert np.array_equal(xue._eroded(region, 4.7), cv2.erode(region.astype(np.uint8), kernel) > 0)
