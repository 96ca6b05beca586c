import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.color_transfer import xiao

pytestmark = pytest.mark.filterwarnings("error")


def corners(center, spread):
    """The eight corners of a box: mean `center`, covariance diagonal with 8/7 spread^2."""
    signs = np.array(list(itertools.product([-1, 1], repeat=3)))
    return (np.array(center) + signs * np.array(spread)).astype(np.uint8)


def region(seed, count=2000):
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, 3)) @ generator.normal(size=(3, 3)) * 15 + generator.uniform(60, 190, 3)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def test_boxes_by_hand():
    # axes of equal rank meet: red 10 -> 5, green 20 -> 40, blue 40 -> 60, each around its mean
    target, reference = corners((100, 110, 120), (10, 20, 40)), corners((120, 90, 130), (5, 40, 60))
    np.testing.assert_array_equal(xiao.recolor(target, reference), reference)
    mirrored = xiao.recolor(target, reference, signs=(-1, 1, 1))  # the smallest axis of the target is red
    np.testing.assert_array_equal(mirrored, np.stack([240 - reference[:, 0], *reference.T[1:]], axis=1))


def test_statistics_equal_numpys():
    pixels = region(0)
    mean, covariance = xiao.statistics(pixels)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(pixels.T), rtol=1e-11)


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(itertools.product([-1, 1], repeat=3))))
def test_mean_and_covariance_of_the_reference_before_clipping(seed, signs):
    target, reference = region(seed), region(seed + 1, 1500)
    mapping = xiao.mapping(target, reference, signs, largest_stretch=np.inf)
    moved = target @ mapping[:, :3].T + mapping[:, 3]
    np.testing.assert_allclose(moved.mean(axis=0), reference.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(reference.T), atol=1e-6 * np.cov(reference.T).max())


@given(st.integers(0, 2**32 - 1))
def test_axes_are_not_mirrored(seed):
    target, reference = region(seed), region(seed + 1)
    mapping = xiao.mapping(target, reference)[:, :3]
    first, second = (np.linalg.eigh(np.cov(pixels.T))[1] for pixels in (target, reference))
    for own, partner in zip(first.T, second.T):
        # an eigenvector of the target goes to its partner's line, in the direction that is nearer to it
        image = mapping @ own
        assert abs(image @ partner) == pytest.approx(np.linalg.norm(image), rel=1e-6)
        assert image @ own >= -1e-9


def test_self_transfer_is_the_identity():
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 3), dtype=np.uint8)
    np.testing.assert_array_equal(xiao.recolor(pixels, pixels), pixels)


def test_constant_region_takes_the_mean_of_the_reference():
    target = np.full((30, 3), (200, 40, 90), np.uint8)
    np.testing.assert_array_equal(
        xiao.recolor(target, corners((100, 110, 120), (10, 20, 40))), np.full((30, 3), (100, 110, 120))
    )


def test_constant_reference_takes_away_all_spread():
    result = xiao.recolor(region(0), np.full((20, 3), (30, 180, 60), np.uint8))
    assert np.abs(result - np.array([30, 180, 60])).max() <= 1


def test_stretching_is_at_most_tenfold():
    target = corners((100, 100, 100), (1, 2, 4))
    reference = corners((100, 100, 100), (30, 60, 90))
    assert np.linalg.norm(xiao.mapping(target, reference)[:, :3], ord=2) == pytest.approx(10)
    np.testing.assert_array_equal(xiao.recolor(target, reference), corners((100, 100, 100), (10, 20, 40)))
    np.testing.assert_array_equal(xiao.recolor(target, reference, largest_stretch=np.inf), reference)


def test_covariance_without_full_rank():
    # grey colours vary along one axis only; they are spread along the reference's longest
    grey = np.repeat(np.arange(90, 110, dtype=np.uint8)[:, None], 3, axis=1)
    result = xiao.recolor(grey, region(1)).astype(float)
    assert np.linalg.matrix_rank(np.cov(result.T), tol=1) == 1
    np.testing.assert_allclose(result.mean(axis=0), region(1).mean(axis=0), atol=0.6)
