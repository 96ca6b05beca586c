import numpy as np
import pytest

from pipeline.color_transfer import reinhard, spaces

pytestmark = pytest.mark.filterwarnings("error")

RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LMS_TO_RGB = np.array([[4.4687, -3.5887, 0.1196], [-1.2197, 2.3831, -0.1626], [0.0585, -0.2611, 1.2057]])


def lalphabeta(pixels):
    """The published formulas, decimal logarithms: (N, 3) -> l, alpha, beta (N, 3)."""
    large, medium, small = np.log10(RGB_TO_LMS @ (pixels.T / 255))
    return np.stack(
        [(large + medium + small) / 3**0.5, (large + medium - 2 * small) / 6**0.5, (large - medium) / 2**0.5], axis=1
    )


def plain(pixels, reference):
    """The whole transfer in a plain reading; no black colours."""
    target, wanted = lalphabeta(pixels), lalphabeta(reference)
    ratio = wanted.std(axis=0, ddof=1) / target.std(axis=0, ddof=1)
    lightness, alpha, beta = ((target - target.mean(axis=0)) * ratio + wanted.mean(axis=0)).T
    logarithms = np.stack(
        [
            lightness / 3**0.5 + alpha / 6**0.5 + beta / 2**0.5,
            lightness / 3**0.5 + alpha / 6**0.5 - beta / 2**0.5,
            lightness / 3**0.5 - 2 * alpha / 6**0.5,
        ]
    )
    return 255 * (LMS_TO_RGB @ 10**logarithms).T


def region(seed, count=3000, center=(120, 100, 80), spread=20):
    colors = np.random.default_rng(seed).normal(center, spread, (count, 3))
    return np.clip(np.rint(colors), 1, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_plain_reading(seed):
    target, reference = region(seed), region(seed + 100, 2000, (90, 110, 140), 30)
    expected = plain(target, reference)
    exact = reinhard.recolor(target, reference, exact=True)
    np.testing.assert_array_equal(exact, np.clip(np.floor(expected + 0.5), 0, 255))
    fast = reinhard.recolor(target, reference)
    assert np.abs(fast - np.clip(expected, 0, 255)).max() <= 0.501
    assert (fast != exact).mean() < 1e-3


def test_statistics_of_two_colors_by_hand():
    # white and grey 128: l differs by log(255 / 128) in each of L, M and S, alpha and beta not at all
    mean, deviation, black = reinhard.statistics(np.array([[255] * 3, [128] * 3], np.uint8), np.float64)
    apart = 3**0.5 * np.log(255 / 128)
    np.testing.assert_allclose(deviation, [apart / 2**0.5, 0, 0], atol=1e-7)
    np.testing.assert_allclose(mean[0], np.log([0.9996, 0.9993, 0.9973]).sum() / 3**0.5 - apart / 2, atol=1e-12)
    assert not black


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("block", [64, 65536])
def test_statistics_equal_numpys(monkeypatch, dtype, tolerance, block):
    pixels = region(3, 1000)
    pixels[100:400] = 0
    for module in (spaces, reinhard):
        monkeypatch.setattr(module, "BLOCK", block)
    mean, deviation, black = reinhard.statistics(pixels, dtype)
    values = lalphabeta(pixels[(pixels > 0).any(axis=1)]) * np.log(10)
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=tolerance)
    np.testing.assert_allclose(deviation, values.std(axis=0, ddof=1), atol=tolerance)
    assert black


def test_result_has_the_means_and_deviations_of_the_reference():
    target, reference = region(1, spread=12), region(2, center=(150, 130, 110), spread=15)
    result = reinhard.recolor(target, reference)
    assert result.min() > 0 and result.max() < 255  # nothing clipped
    np.testing.assert_allclose(lalphabeta(result).mean(axis=0), lalphabeta(reference).mean(axis=0), atol=2e-4)
    np.testing.assert_allclose(lalphabeta(result).std(axis=0), lalphabeta(reference).std(axis=0), rtol=0.01)


def test_blocks_make_no_difference(monkeypatch):
    target, reference = region(1), region(2, center=(60, 70, 90))
    target[50:200] = 0
    whole = reinhard.recolor(target, reference, exact=True)
    for module in (spaces, reinhard):
        monkeypatch.setattr(module, "BLOCK", 100)
    np.testing.assert_array_equal(reinhard.recolor(target, reference, exact=True), whole)


@pytest.mark.parametrize("exact", [False, True])
def test_self_transfer_is_the_identity(exact):
    pixels = np.random.default_rng(0).integers(0, 256, (20000, 3), dtype=np.uint8)
    pixels[:50] = 0
    np.testing.assert_array_equal(reinhard.recolor(pixels, pixels, exact), pixels)


def test_constant_region_takes_the_mean_of_the_reference():
    target = np.full((30, 3), (200, 40, 90), np.uint8)
    reference = np.full((20, 3), (30, 180, 60), np.uint8)
    np.testing.assert_array_equal(reinhard.recolor(target, reference), np.full((30, 3), (30, 180, 60)))


def test_constant_reference_takes_away_all_spread():
    result = reinhard.recolor(region(0), np.full((20, 3), (30, 180, 60), np.uint8))
    np.testing.assert_array_equal(np.unique(result, axis=0), [[30, 180, 60]])


def test_grey_region_is_shifted_in_color_and_scaled_in_lightness():
    # alpha and beta of grey don't vary: their ratio is 1, whatever the reference
    grey = np.repeat(np.arange(40, 120, dtype=np.uint8)[:, None], 3, axis=1)
    values = lalphabeta(reinhard.recolor(grey, region(5)))
    assert values[:, 1:].std(axis=0).max() < 0.01
    assert values[:, 0].std(ddof=1) == pytest.approx(lalphabeta(region(5))[:, 0].std(ddof=1), rel=0.02)


def test_black_stays_black_and_does_not_count():
    target, reference = region(1, 500), region(2, 500)
    black = np.zeros((77, 3), np.uint8)
    expected = reinhard.recolor(target, reference)
    result = reinhard.recolor(np.concatenate([black, target]), np.concatenate([reference, black]))
    np.testing.assert_array_equal(result[77:], expected)
    assert not result[:77].any()


def test_all_black_regions_change_nothing():
    black = np.zeros((20, 3), np.uint8)
    np.testing.assert_array_equal(reinhard.recolor(black, region(0, 20)), black)
    np.testing.assert_array_equal(reinhard.recolor(region(0, 20), black), region(0, 20))


@pytest.mark.parametrize("exact", [False, True])
def test_an_outlier_under_a_steep_ratio_stays_finite(exact):
    # l of the one white pixel among 100,000 is 300 deviations away, to which the reference gives 4.8 each: e^800 and
    # more in L, M and S, whose differences would be infinite
    target = np.full((100_000, 3), 100, np.uint8)
    target[5] = 255
    reference = np.repeat(np.array([[1, 1, 1], [255, 255, 255]], np.uint8), 10, axis=0)
    result = reinhard.recolor(target, reference, exact)
    rest = np.delete(result, 5, axis=0)
    assert (rest == rest[0]).all()
    assert result[5].tolist() == [255, 255, 255]
