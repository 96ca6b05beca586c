import cv2
import numpy as np
import pytest
from skimage.color import deltaE_cie76, rgb2lab

from pipeline.data.composites import filters
from pipeline.data.composites.filters import Change, change, refusal, refusal_of_object
from tests.pipeline.data.composites.making import picture, rendering

FILTERS = rendering(
    colour_difference={"low": 3, "high": 40}, max_clipped=0.3, max_hue_rotation=60, min_pixels=500
).filters
ALL = np.ones((2, 2), bool)


def patch(*colours):
    return np.array(colours, np.uint8).reshape(2, 2, 3)


# ---- measures, by hand


def test_black_to_white_is_a_colour_difference_of_100():
    # L* of black is 0 and of white 100, both without chroma
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert change(black, white, ALL).colour_difference == pytest.approx(100, abs=1e-3)
    assert change(black, black, ALL) == Change(0.0, 0.0, 0.0)


def test_only_the_mask_counts():
    black = np.zeros((2, 2, 3), np.uint8)
    half = black.copy()
    half[0] = 255
    assert change(black, half, np.array([[True, True], [False, False]])).colour_difference == pytest.approx(
        100, abs=1e-3
    )
    assert change(black, half, ALL).colour_difference == pytest.approx(50, abs=1e-3)


def test_colour_difference_is_scikit_images():
    before, after = picture(1), picture(2)
    mask = np.zeros(before.shape[:2], bool)
    mask[10:40, 20:50] = True
    expected = deltaE_cie76(rgb2lab(before), rgb2lab(after))[mask].mean()
    assert change(before, after, mask).colour_difference == pytest.approx(expected, rel=1e-3)


def test_clipped_counts_pixels_not_channels_and_only_new_ends():
    before = patch((10, 10, 10), (10, 10, 10), (0, 10, 10), (255, 255, 10))
    after = patch((0, 255, 10), (10, 10, 10), (0, 10, 10), (255, 0, 255))
    # first: two channels, one pixel; second: unchanged; third: was 0 before; fourth: 255 -> 0 was at an end, 10 -> 255 is new
    assert change(before, after, ALL).clipped == 2 / 4


def lab_colour(chroma, degrees, lightness=60):
    angle = np.radians(degrees)
    lab = np.array([[[lightness, chroma * np.cos(angle), chroma * np.sin(angle)]]], np.float32)
    return np.rint(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[0, 0] * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "start, end, turned", [(30, 70, 40), (350, 20, 30), (20, 350, 30), (20, 190, 170), (100, 100, 0)]
)
def test_hue_rotation_is_the_shorter_way_round(start, end, turned):
    before, after = lab_colour(30, start), lab_colour(30, end)
    measured = change(patch(*[before] * 4), patch(*[after] * 4), ALL)
    assert measured.hue_rotation == pytest.approx(
        turned, abs=1.5
    )  # 8-bit colours are up to a degree off at this chroma


def test_pixels_without_hue_do_not_turn():
    strong, turned, weak = lab_colour(30, 0), lab_colour(30, 90), lab_colour(filters.CHROMA - 4, 200)
    before, after = patch(strong, strong, weak, strong), patch(turned, weak, strong, strong)
    # only the first and the last pixel have a hue on both sides: 90 and 0 degrees
    assert change(before, after, ALL).hue_rotation == pytest.approx(45, abs=1.5)
    assert change(patch(*[weak] * 4), patch(*[strong] * 4), ALL).hue_rotation == 0


# ---- rules


@pytest.mark.parametrize(
    "measured, expected",
    [
        (Change(2.9, 0, 0), ("change too small", 2.9)),
        (Change(3.0, 0, 0), None),
        (Change(40.0, 0.3, 60.0), None),
        (Change(40.1, 0, 0), ("change too large", 40.1)),
        (Change(10, 0.31, 0), ("clipped", 0.31)),
        (Change(10, 0.3, 61), ("hue rotation", 61)),
        (Change(50, 0.9, 90), ("change too large", 50)),  # one rule a candidate, the first of them
    ],
)
def test_bounds_are_included(measured, expected):
    assert refusal(measured, FILTERS) == expected


@pytest.mark.parametrize(
    "ratio, pixels, expected",
    [
        (0.0099, 10**6, ("foreground ratio", 0.0099)),
        (0.01, 500, None),
        (0.8, 500, None),
        (0.81, 10**6, ("foreground ratio", 0.81)),
        (0.5, 499, ("too few pixels", 499.0)),
    ],
)
def test_objects_are_refused_by_share_and_size(ratio, pixels, expected):
    assert refusal_of_object(ratio, pixels, FILTERS) == expected
