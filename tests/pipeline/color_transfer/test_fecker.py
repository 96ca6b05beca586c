from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.color_transfer import fecker
from pipeline.color_transfer.spaces import RGB_TO_YCBCR, convert

pytestmark = pytest.mark.filterwarnings("error")

counts = st.lists(st.integers(0, 4), min_size=8, max_size=8).filter(any).map(np.array)


def region(seed, count=3000, low=20, high=236):
    return np.random.default_rng(seed).integers(low, high, (count, 3), dtype=np.uint8)


def test_level_map_by_hand():
    # H1 = 1/2 1/2 1 1, H2 = 0 1/2 1/2 1: level 0 reaches level 2, which is empty, and is moved down to 1
    target, reference = np.array([2, 0, 2, 0]), np.array([0, 1, 0, 1])
    assert fecker.level_map(target, reference)[[0, 2]].tolist() == [1, 3]
    assert fecker.level_map(target, reference, exact=True)[[0, 2]].tolist() == [2, 3]


def test_empty_levels_at_the_ends():
    # H2 = 0 1/2 1 1: the brightest target level reaches level 3, the darkest level 0, both empty
    target, reference = np.array([1, 4, 4, 1]), np.array([0, 1, 1, 0])
    assert fecker.level_map(target, reference).tolist() == [1, 1, 1, 2]
    assert fecker.level_map(target, reference, exact=True).tolist() == [-1, 1, 1, -1]


def test_ties_are_decided_by_integers():
    # thirds: in float64, three times 1/3 and six times 1/6 are not the same running sums
    target, reference = np.array([1, 1, 1, 0]), np.array([7, 7, 7, 0])
    assert fecker.level_map(target, reference)[:3].tolist() == [0, 1, 2]


def test_a_single_level_goes_to_the_median():
    # of five values 1 1 4 6 6 the median is 4; the rule in fractions would lead to 6
    target, reference = np.array([0, 0, 0, 7, 0, 0, 0]), np.array([0, 2, 0, 0, 1, 0, 2])
    assert fecker.level_map(target, reference)[3] == 4
    assert fecker.level_map(target, reference, exact=True)[3] == 6


def test_grey_stays_between_the_references_colors():
    # greys have Cb = Cr = 128 alone; at the top of both channels they would come out magenta
    grey = np.repeat(np.arange(60, 180, dtype=np.uint8)[:, None], 3, axis=1)
    reference = np.concatenate(
        [
            np.full((60, 3), (120, 100, 90), np.uint8),
            np.full((20, 3), (200, 40, 40), np.uint8),
            np.full((20, 3), (40, 40, 200), np.uint8),
        ]
    )
    result = fecker.recolor(grey, reference).astype(int)
    assert np.abs(result[:, 0] - result[:, 2]).max() <= 40 and np.abs(result[:, 0] - result[:, 1]).max() <= 30


@given(counts.filter(lambda target: np.count_nonzero(target) > 1), counts)
def test_level_map_equals_the_rule_in_fractions(target, reference):
    share = [Fraction(int(target[: v + 1].sum()), int(target.sum())) for v in range(8)]
    reference_share = [Fraction(int(reference[: u + 1].sum()), int(reference.sum())) for u in range(8)]
    occupied = [u for u in range(8) if reference[u]]
    expected = []
    for v in range(8):
        reached = max([u for u in range(8) if reference_share[u] <= share[v]], default=0)
        expected.append(max([u for u in occupied if u <= reached], default=occupied[0]))
    assert fecker.level_map(target, reference).tolist() == expected


@given(counts)
def test_level_map_to_itself_is_the_identity(target):
    held = np.flatnonzero(target)
    assert fecker.level_map(target, target)[held].tolist() == held.tolist()


@given(counts, counts)
def test_level_map_keeps_the_order_and_stays_in_the_reference(target, reference):
    levels = fecker.level_map(target, reference)
    assert (np.diff(levels) >= 0).all()
    assert reference[levels].all()


def test_self_transfer_is_the_identity_up_to_ycbcr():
    pixels = region(0, 20000, 0, 256)
    result = fecker.recolor(pixels, pixels).astype(int)
    assert np.abs(result - pixels).max() <= 2
    np.testing.assert_array_equal(result, fecker.through_ycbcr(pixels))


def test_histograms_follow_the_reference():
    target, reference = region(1, low=60, high=120), region(2, 4000, 90, 200)
    result = convert(fecker.recolor(target, reference), RGB_TO_YCBCR)
    wanted = convert(reference, RGB_TO_YCBCR)
    for channel in range(3):
        share, wanted_share = (
            np.cumsum(np.bincount(pixels[:, channel], minlength=256)) / len(pixels) for pixels in (result, wanted)
        )
        # one level of the target may stand for many of the reference, and chroma of 8-bit RGB is rounded again
        assert np.abs(share - wanted_share).max() < 0.08


def test_constant_regions():
    blue, orange = np.full((20, 3), (30, 60, 200), np.uint8), np.full((20, 3), (220, 130, 40), np.uint8)
    assert np.abs(fecker.recolor(blue, orange).astype(int) - orange).max() <= 2
    (result,) = np.unique(fecker.recolor(blue, region(0)), axis=0)
    assert (
        np.abs(result - np.median(region(0), axis=0)).max() < 6
    )  # the medians of Y, Cb and Cr: nearly those of R, G and B


def test_specks_of_the_released_code():
    # all greys have Cb = Cr = 128: H1 reaches 1 there, which leads to the empty level 240 and from it to 0, as the
    # brightest Y to 235 and 0. In RGB, by hand: 1.1644 (-16) - (0.3918 + 0.8130) (-128) = 135.6, and less than 0
    target = np.repeat(np.arange(50, 150, dtype=np.uint8)[:, None], 3, axis=1)
    assert fecker.recolor(target, target // 2, exact=True)[-1].tolist() == [0, 136, 0]
    assert np.abs(fecker.recolor(target, target // 2)[-1].astype(int) - 74).max() <= 2
