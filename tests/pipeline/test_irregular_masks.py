"""Masks in exact buckets, whatever the kind; folders of masks; the data set on disk; the pairing with images."""

import hashlib
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import seeds
from pipeline.data.mask_transforms import augment, fit_to_size
from pipeline.errors import UserError
from pipeline.irregular_masks import (
    BUCKETS,
    KINDS,
    REGULAR_KINDS,
    bucket_of,
    draw,
    generate,
)
from pipeline.irregular_masks.assignment import assign
from pipeline.irregular_masks.buckets import exactly, fit, fit_to_ratio, pixel_bounds
from pipeline.irregular_masks.dataset import build, build_from_folder
from pipeline.irregular_masks.folder import MAX_PIXELS, read_folder
from pipeline.irregular_masks.pieces import Stroke, Walk, paint
from pipeline.irregular_masks.recipes import Canvas, recipe

ALL_KINDS = KINDS + REGULAR_KINDS
SAMPLE = Path(__file__).resolve().parents[2] / "../shared/data/inpainting_sample"


# generate


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_fills_every_bucket(kind):
    for (low, high), border, seed in itertools.product(BUCKETS, (True, False), range(3)):
        mask = generate(kind, 96, 128, ratio=(low, high), seed=seed, border=border)
        assert mask.dtype == bool and mask.shape == (96, 128)
        assert low <= mask.mean() < high and mask.any()
        if not border:  # 50/512 of 96 and of 128, rounded up: 10 and 13
            assert mask[10:-10, 13:-13].sum() == mask.sum()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(ALL_KINDS), height=st.integers(1, 70), width=st.integers(1, 70), border=st.booleans(),
    ends=st.tuples(st.integers(0, 100), st.integers(0, 100)), seed=st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_the_ratio_holds_or_is_refused(kind, height, width, border, ends, seed):
    low, high = ends[0] / 100, ends[1] / 100
    try:
        mask = generate(kind, height, width, (low, high), seed, border=border)
    except ValueError as error:
        inner = 1.0
        if not border:
            inner = np.prod([1 - 2 * np.ceil(side * 50 / 512) / side for side in (height, width)])
        pixels = height * width
        possible = [n for n in range(1, round(inner * pixels) + 1) if low <= n / pixels < high]
        assert low >= high or inner <= 0 or not possible, error
    else:
        assert mask.shape == (height, width) and low <= mask.mean() < high and mask.any()


def test_a_target_share_is_spread_evenly_over_the_bucket():
    """Drawing until the lower end is reached would put the mean there (12.7, step 1)."""
    for kind in KINDS:
        shares = [generate(kind, 128, 128, (0.3, 0.4), seed).mean() for seed in range(40)]
        assert abs(np.mean(shares) - 0.35) < 0.02, kind
        assert min(shares) < 0.33 and max(shares) > 0.37, kind


def test_arguments_alone_decide_the_mask():
    for kind in KINDS:
        masks = [generate(kind, 64, 64, (0.2, 0.3), seed) for seed in range(6)]
        assert len({mask.tobytes() for mask in masks}) == 6, kind
        again = generate(kind, np.int64(64), 64, ratio=[np.float64(0.2), 0.3], seed=np.int64(5), border=True)
        np.testing.assert_array_equal(again, masks[5])
    np.testing.assert_array_equal(generate("pic", 32, 32, (0, 1), 1), generate("pic", 32, 32, (0.0, 1.0), 1))


def test_the_same_bytes_on_every_machine():
    """Written by: python -c "from tests.pipeline.test_irregular_masks import digest; print(digest())"
    with OpenCV 5.0.0 and NumPy 2.4."""
    assert digest() == "9708291b33016edc"


def digest() -> str:
    hashed = hashlib.sha256()
    for kind, (low, high), border in itertools.product(ALL_KINDS, BUCKETS, (True, False)):
        hashed.update(np.packbits(generate(kind, 80, 112, (low, high), 7, border=border)).tobytes())
    return hashed.hexdigest()[:16]


def test_holes_may_touch_the_border_by_default():
    touching = 0
    for seed in range(20):
        mask = generate("strokes", 64, 64, (0.3, 0.4), seed)
        touching += mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    assert touching > 15


@pytest.mark.parametrize("ratio, line", [
    ((0.3, 0.2), r"ratio \(0\.3, 0\.2\) must satisfy 0 <= low < high <= 1"),
    ((0.2, 0.2), "must satisfy"),
    ((-0.1, 0.2), "must satisfy"),
    ((0.5, 1.1), "must satisfy"),
    ((float("nan"), 0.2), "must satisfy"),
    (0.3, "is not a pair"),
    ((0.1,), "is not a pair"),
    (("a", "b"), "is not a pair"),
    ((0.1001, 0.1002), "impossible on 32x32: a hole is 1 to 1024 whole pixels"),
    ((0.0, 0.0009), "impossible"),
])  # fmt: skip
def test_impossible_ratios_are_refused_in_one_line(ratio, line):
    with pytest.raises(ValueError, match=line) as error:
        generate("strokes", 32, 32, ratio)
    assert "\n" not in str(error.value)


def test_a_ratio_that_the_free_frame_leaves_no_room_for():
    with pytest.raises(
        ValueError, match="of which 42436 lie inside the frame that border=False keeps free"
    ):  # 206 * 206
        generate("strokes", 256, 256, (0.65, 0.7), border=False)
    with pytest.raises(ValueError, match="no pixel inside the frame of 1 and 7"):
        generate("strokes", 2, 64, (0.1, 0.2), border=False)


def test_unknown_kinds_and_empty_masks_are_refused():
    with pytest.raises(ValueError, match="unknown mask kind 'scribble'; expected one of random_walk, strokes, .*half"):
        generate("scribble", 64, 64, (0.1, 0.2))
    with pytest.raises(ValueError, match="0x64 has no pixels"):
        generate("strokes", 0, 64, (0.1, 0.2))


# draw: what was measured on the published generators at 256 pixels: the mean hole share, its
# 5% and 95% quantiles, and the median radius of the largest disc inside the hole


@pytest.mark.parametrize("kind, mean, low, high, radius", [
    ("random_walk", 0.20, 0.15, 0.24, 14),
    ("strokes", 0.53, 0.11, 0.84, 38),
    ("brush", 0.15, 0.04, 0.29, 29),
    ("brush_box", 0.31, 0.21, 0.44, 54),
    ("lama_train", 0.32, 0.07, 0.66, 54),
    ("lama_thin", 0.29, 0.07, 0.48, 15),
    ("lama_medium", 0.22, 0.02, 0.40, 32),
    ("lama_thick", 0.36, 0.07, 0.72, 58),
    ("pic", 0.52, 0.30, 0.70, 24),
])  # fmt: skip
def test_free_draws_have_the_published_generators_shares(kind, mean, low, high, radius):
    rng = np.random.default_rng(11)
    masks = [draw(kind, 256, 256, rng) for _ in range(150)]
    shares = [mask.mean() for mask in masks]
    assert abs(np.mean(shares) - mean) < 0.05
    np.testing.assert_allclose(np.quantile(shares, [0.05, 0.95]), [low, high], atol=0.07)
    holes = [mask.astype(np.uint8) for mask in masks if not mask.all()]
    radii = [cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max() for hole in holes]
    assert abs(np.median(radii) - radius) < 0.15 * radius


def test_the_regular_holes_as_published():
    rng = np.random.default_rng(0)
    box = np.zeros((64, 64), bool)
    box[16:48, 16:48] = True
    np.testing.assert_array_equal(draw("center_box", 64, 64, rng), box)
    for _ in range(5):
        mask = draw("random_box", 64, 64, rng)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == 32 * 32 and np.ptp(rows) == np.ptp(columns) == 31
    halves = {draw("half", 8, 8, rng).tobytes() for _ in range(40)}
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    assert halves == {half.tobytes() for half in (left, ~left, left.T, ~left.T)}


def test_prvs_draws_fifteen_parts_and_rfr_up_to_fifteen():
    rng = np.random.default_rng(2)
    assert np.mean([draw("strokes_prvs", 64, 64, rng).mean() for _ in range(60)]) > 0.7
    assert 0.4 < np.mean([draw("strokes", 64, 64, rng).mean() for _ in range(60)]) < 0.65


def test_lengths_scale_with_the_canvas():
    means = []
    for side in (96, 384):
        means.append(np.mean([draw("brush", side, side, np.random.default_rng(seed)).mean() for seed in range(60)]))
    assert abs(means[0] - means[1]) < 0.03


def test_draws_above_a_largest_share_are_drawn_again():
    rng = np.random.default_rng(4)
    assert max(draw("strokes", 64, 64, rng, max_ratio=0.6).mean() for _ in range(40)) <= 0.6
    with pytest.raises(ValueError, match=r"center_box: 200 draws on 64x64 gave no hole share in \(0, 0\.2\]"):
        draw("center_box", 64, 64, rng, max_ratio=0.2)


def test_draws_without_border_keep_the_frame_free():
    rng = np.random.default_rng(5)
    for kind in ALL_KINDS:
        mask = draw(kind, 128, 128, rng, border=False)
        assert mask.any() and mask.sum() == mask[13:-13, 13:-13].sum()  # 12.5 rounded up


# recipes and pieces


def test_the_random_walk_moves_by_one_pixel_and_waits_only_at_the_border():
    height, width = 9, 13
    first, second = itertools.islice(recipe("random_walk")(np.random.default_rng(0), Canvas(height, width, 1.0)), 2)
    path = np.concatenate([first.pixels, second.pixels])
    y, x = np.divmod(path, width)
    steps = np.abs(np.diff(y)) + np.abs(np.diff(x))
    assert set(steps) == {0, 1}
    waits = np.flatnonzero(steps == 0)
    assert len(waits) and all(y[i] in (0, height - 1) or x[i] in (0, width - 1) for i in waits)
    inside = np.flatnonzero((y[:-1] > 0) & (y[:-1] < height - 1) & (x[:-1] > 0) & (x[:-1] < width - 1))
    assert len(inside) and (steps[inside] == 1).all()


def test_the_random_walk_has_as_many_steps_as_pixels():
    pieces = recipe("random_walk")(np.random.default_rng(0), Canvas(20, 30, 1.0))
    assert sum(len(piece.pixels) for piece in itertools.takewhile(lambda piece: piece is not None, pieces)) == 600


def test_a_walk_stops_when_there_is_no_more_room():
    hole = np.zeros((2, 4), np.uint8)
    hole[0, 1] = 1
    paint(hole, Walk(np.array([1, 2, 2, 1, 2, 3, 7, 6])), room=2)
    np.testing.assert_array_equal(hole, [[0, 1, 1, 1], [0, 0, 0, 0]])


def test_strokes_have_round_caps():
    hole = np.zeros((80, 120), np.uint8)
    paint(hole, Stroke(((30, 40), (90, 40)), 20), room=0)
    assert hole[:, 60].sum() == 21 and hole[40].sum() == 60 + 21
    assert hole.sum() == pytest.approx(60 * 21 + np.pi * 10**2, rel=0.02)
    disc = np.zeros((80, 120), np.uint8)
    paint(disc, Stroke(((60, 40), (60, 40)), 20), room=0)
    assert disc.sum() == pytest.approx(np.pi * 10**2, rel=0.02)
    curve = np.zeros((80, 120), np.uint8)
    paint(curve, Stroke(np.array([[30, 40], [50, 40], [90, 40]], np.int32), 20), room=0)
    np.testing.assert_array_equal(curve, hole)


# buckets


@pytest.mark.parametrize("ratio, name", [
    (1e-9, "0-10"), (0.0999, "0-10"), (0.1, "10-20"), (0.2999, "20-30"), (0.3, "30-40"), (0.5, "50-60"), (0.5999, "50-60"),
    (0.6, None), (1.0, None), (0.0, None),
])  # fmt: skip
def test_bucket_of(ratio, name):
    assert bucket_of(ratio) == name


def test_buckets_of_other_bounds():
    assert bucket_of(0.06, [(0.01, 0.05), (0.05, 0.125)]) == "5-12.5"


@settings(max_examples=200, deadline=None)
@given(pixels=st.integers(1, 400), ends=st.tuples(st.integers(0, 60), st.integers(0, 60)), parts=st.integers(1, 60))
def test_pixel_bounds_are_those_of_the_division(pixels, ends, parts):
    low, high = min(ends[0] / parts, 1.0), min(ends[1] / parts, 1.0)
    if low >= high:
        return
    possible = [n for n in range(1, pixels + 1) if low <= n / pixels < high]
    if possible:
        assert pixel_bounds((low, high), 1, pixels) == (possible[0], possible[-1])
    else:
        with pytest.raises(ValueError, match="impossible"):
            pixel_bounds((low, high), 1, pixels)


def square(side: int, canvas: int = 32) -> np.ndarray:
    hole = np.zeros((canvas, canvas), np.uint8)
    hole[4 : 4 + side, 4 : 4 + side] = 1
    return hole


def test_fit_erodes_and_dilates_step_by_step():
    assert fit(square(20), 300, 330, 324).sum() == 18 * 18  # one step takes a pixel from each side
    np.testing.assert_array_equal(fit(square(20), 390, 400, 395), square(20))
    grown = fit(square(10), 120, 144, 130)  # a 3x3 ellipse is a cross: 10 pixels to each side, no corners
    assert grown.sum() == 100 + 4 * 10 + 0 and grown[3, 4] and not grown[3, 3]


def test_exactly_releases_the_outermost_pixels():
    inner = exactly(square(10), 36)  # two rings of 36 and 28 go
    np.testing.assert_array_equal(np.argwhere(inner).min(0), [6, 6])
    np.testing.assert_array_equal(np.argwhere(inner).max(0), [11, 11])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 24), width=st.integers(1, 24), share=st.floats(0, 1))
def test_exactly_counts_and_stays_nested(seed, height, width, share):
    rng = np.random.default_rng(seed)
    hole = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    target = round(share * hole.size)
    result = exactly(hole, target)
    assert result.sum() == target
    assert (result <= hole).all() if target <= hole.sum() else (result >= hole).all()


def test_exactly_shrinks_a_hole_that_fills_the_canvas():
    result = exactly(np.ones((6, 6), np.uint8), 16)
    np.testing.assert_array_equal(result[1:5, 1:5], 1)


def test_fit_to_ratio():
    mask = square(10, 64).astype(bool)  # 2.4%
    assert 0.3 <= fit_to_ratio(mask, (0.3, 0.4)).mean() < 0.4
    np.testing.assert_array_equal(fit_to_ratio(mask, (0.0, 0.1)), mask)
    shrunk = fit_to_ratio(~mask, (0.1, 0.2), seed=3)
    assert 0.1 <= shrunk.mean() < 0.2 and not (shrunk & mask).any()
    with pytest.raises(ValueError, match="no hole"):
        fit_to_ratio(np.zeros((8, 8), bool), (0.1, 0.2))


# transforms


def test_flips_move_pixels_and_change_none():
    mask = np.zeros((5, 7), bool)
    mask[1, 2] = True
    places = {tuple(np.argwhere(augment(mask, seed, rotations=False))[0]) for seed in range(40)}
    assert places == {(1, 2), (1, 4), (3, 2), (3, 4)}


def test_rotations_turn_squarely_or_by_ten_to_forty_five_degrees():
    mask = np.zeros((65, 65), bool)
    mask[31:34, 8:57] = True  # a horizontal bar through the centre
    angles = []
    for seed in range(60):
        y, x = np.nonzero(augment(mask, seed, flips=False))
        longest = np.linalg.eigh(np.cov([x, y])).eigenvectors[:, -1]
        angles.append(abs(np.degrees(np.arctan2(longest[1], longest[0]))))
    turned = np.array([min(angle, 180 - angle) for angle in angles])
    quarter = (turned < 2) | (turned > 88)
    assert 15 < quarter.sum() < 45
    assert (turned[~quarter] > 8).all() and (turned[~quarter] < 47).all()


def test_rotations_keep_the_shape_of_oblong_masks():
    mask = np.zeros((20, 50), bool)
    mask[2:5, 3:40] = True
    assert all(augment(mask, seed, dilation=5, crop=True).shape == (20, 50) for seed in range(30))


def test_dilation_only_adds_and_by_no_more_than_its_radius():
    mask = square(6, 40).astype(bool)
    sizes = set()
    for seed in range(40):
        grown = augment(mask, seed, flips=False, rotations=False, dilation=9)
        assert (grown >= mask).all() and grown.sum() <= 14 * 14
        sizes.add(int(grown.sum()))
    assert len(sizes) > 4
    with pytest.raises(ValueError, match="dilation -1 is negative"):
        augment(mask, 0, dilation=-1)


def test_crops_enlarge():
    mask = square(16, 48).astype(bool)
    assert (
        np.mean([augment(mask, seed, flips=False, rotations=False, crop=True).sum() for seed in range(60)]) > 1.1 * 256
    )


def test_augmented_masks_are_repeatable_and_never_empty():
    corner = np.zeros((32, 32), bool)
    corner[0, 0] = True  # most rotations and crops would lose it
    for seed in range(60):
        varied = augment(corner, seed, crop=True)
        assert varied.any() and varied.dtype == bool
        np.testing.assert_array_equal(varied, augment(corner, seed, crop=True))
    assert corner.sum() == 1 and augment(corner, 1, flips=False, rotations=False).sum() == 1


def test_fit_to_size_is_nearest_at_pixel_centres():
    mask = np.random.default_rng(0).random((12, 20)) < 0.5
    enlarged = fit_to_size(mask, 24, 60)
    np.testing.assert_array_equal(enlarged, np.repeat(np.repeat(mask, 2, 0), 3, 1))
    blocks = np.repeat(np.repeat(mask, 8, 0), 8, 1)
    expected = np.asarray(Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(fit_to_size(blocks, 64, 64), expected)
    np.testing.assert_array_equal(fit_to_size(mask, 12, 20), mask)


def test_thin_holes_do_not_vanish():
    mask = np.zeros((64, 64), bool)
    mask[20, 5:60] = True  # hit by no centre at a quarter of the size (2, 6, 10, ...)
    mask[40:56, 40:56] = True
    small = fit_to_size(mask, 16, 16)
    assert small[5, 1:15].all() and small[5].sum() == 14
    assert small[10:14, 10:14].all() and small.sum() == 14 + 16


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_every_hole_is_still_there_at_any_size(seed, size):
    mask = np.random.default_rng(seed).random((24, 30)) < 0.05
    fitted = fit_to_size(mask, *size)
    for y, x in np.argwhere(mask):
        if mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum() == 1:  # a hole of one pixel
            rows = slice(y * size[0] // 24, -(-(y + 1) * size[0] // 24))
            columns = slice(x * size[1] // 30, -(-(x + 1) * size[1] // 30))
            assert fitted[rows, columns].any()
    with pytest.raises(ValueError, match="no pixels"):
        fit_to_size(mask, 0, 4)


# folders


def write(folder: Path, name: str, values: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


def hole_in(side: int = 40, high: int = 10) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[:high] = True
    return mask


@pytest.mark.parametrize("polarity", ["white", "black"])
def test_polarity_is_detected(tmp_path, polarity):
    for index in range(5):
        hole = hole_in(high=4 + 3 * index)
        write(tmp_path, f"{index}.png", np.where(hole == (polarity == "white"), 255, 0).astype(np.uint8))
    masks = read_folder(tmp_path)
    assert (masks.polarity, masks.detected, len(masks)) == (polarity, True, 5)
    np.testing.assert_array_equal(masks.read("2.png"), hole_in(high=10))


def test_polarity_that_cannot_be_told_is_asked_for(tmp_path):
    write(tmp_path, "a.png", hole_in(high=20).astype(np.uint8) * 255)
    with pytest.raises(UserError, match=r"half white, half black \(median 50% white\); set the polarity"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, "black").read("a.png").sum() == 800


def test_half_and_half_masks_are_told_by_the_largest_hole(tmp_path):
    for high in (10, 18, 20, 22):  # 25% to 55% white: as holes they are usual, but black would cover up to 75%
        write(tmp_path / "white", f"{high}.png", hole_in(high=high).astype(np.uint8) * 255)
        write(tmp_path / "black", f"{high}.png", (~hole_in(high=high)).astype(np.uint8) * 255)
    assert read_folder(tmp_path / "white").polarity == "white"
    assert read_folder(tmp_path / "black").polarity == "black"


def test_a_doubtful_polarity_is_warned_of(tmp_path, capsys):
    write(tmp_path, "a.png", hole_in(high=8).astype(np.uint8) * 255)
    read_folder(tmp_path, "black")
    assert "with polarity 'black' the median hole covers 80%" in capsys.readouterr().err


def test_masks_of_every_format_are_thresholded(tmp_path):
    hole = hole_in()
    soft = np.where(hole, 140, 110).astype(np.uint8)
    rgba = np.dstack([soft, soft, soft, np.where(hole, 0, 255).astype(np.uint8)])
    write(tmp_path, "sub folder/grey ü.png", soft)
    write(tmp_path, "rgba.png", rgba)
    write(tmp_path, "sixteen.png", np.where(hole, 40000, 20000).astype(np.uint16))
    write(tmp_path, "zero_one.png", hole.astype(np.uint8))
    write(tmp_path, "one_bit.png", hole)
    write(tmp_path, "lossy.JPG", hole.astype(np.uint8) * 255)
    (tmp_path / "notes.txt").write_text("not a mask")
    masks = read_folder(tmp_path)
    assert masks.names == (
        "lossy.JPG",
        "one_bit.png",
        "rgba.png",
        "sixteen.png",
        "sub folder/grey ü.png",
        "zero_one.png",
    )
    for name in masks.names:
        np.testing.assert_array_equal(masks.read(name), hole, err_msg=name)


def test_bad_masks_are_named(tmp_path):
    write(tmp_path, "fine.png", hole_in().astype(np.uint8) * 255)
    write(tmp_path, "black.png", np.zeros((8, 8), np.uint8))
    write(tmp_path, "white.png", np.full((8, 8), 255, np.uint8))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "fine.png").read_bytes()[:60])
    masks = read_folder(tmp_path)
    reasons = {
        "black.png": "all black",
        "white.png": "all white",
        "empty.png": "0 bytes",
        "cut.png": "can't be decoded",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=f"{name}: .*{reason}") as error:
            masks.read(name)
        assert "\n" not in str(error.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    write(tmp_path, "fine.png", hole_in().astype(np.uint8) * 255)
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    # Only the header is left: decoding it would fail in other words.
    (tmp_path / "huge.png").write_bytes((tmp_path / "huge.png").read_bytes()[:60])
    with pytest.raises(UserError, match="huge.png: 8001x8001 is 64016001 pixels, the limit is 64000000"):
        read_folder(tmp_path).read("huge.png")


def test_folders_that_hold_no_masks(tmp_path):
    with pytest.raises(UserError, match="no such folder of masks"):
        read_folder(tmp_path / "missing")
    with pytest.raises(UserError, match="no mask in this folder"):
        read_folder(tmp_path)
    write(tmp_path, "black.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="none of the 1 masks looked at can be used; the first: .*black.png"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="polarity 'grey'; expected"):
        read_folder(tmp_path, "grey")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the shared data are not here")
def test_the_published_examples():
    """../shared/data/README.md: white is the hole, 17% to 55% of the image."""
    folders = [read_folder(folder) for folder in sorted(SAMPLE.glob("*/masks"))]
    shares = [folder.read(name).mean() for folder in folders for name in folder.names]
    assert len(shares) == 16 and {folder.polarity for folder in folders} == {"white"}
    assert min(shares) > 0.16 and max(shares) < 0.56


# the data set


def threaded(function, items):
    """A map that works out of order, returns in order, and pickles what it is given, as for other processes."""
    sent = [pickle.dumps((function, item)) for item in items]
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(unpickled_call, sent))


def unpickled_call(sent):
    function, item = pickle.loads(sent)
    return function(item)


THREE = {"kinds": ["strokes", "brush", "random_walk"], "size": 64, "border": "both", "seed": 5}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("masks")
    return out, build(out, per_bucket={"train": 7, "test": 6}, **THREE)


def test_build_writes_what_the_table_says(built):
    out, rows = built
    assert ", ".join(rows) == "mask_id, split, mask, hole_ratio, hole_ratio_bucket, border, kind, seed, size, sha256"
    assert len(rows) == 6 * 13 and rows["mask_id"].is_unique
    pd.testing.assert_frame_equal(pd.read_parquet(out / "masks.parquet"), rows)
    assert {str(file.relative_to(out)) for file in out.rglob("*.png")} == set(rows["mask"])
    bounds = {bucket_of(low + 0.01): (low, high) for low, high in BUCKETS}
    for row in rows.itertuples():
        data = (out / row.mask).read_bytes()
        pixels = np.asarray(Image.open(out / row.mask))
        assert row.mask == f"{row.split}/{row.hole_ratio_bucket}/{row.mask_id.split('_')[-1]}.png"
        assert hashlib.sha256(data).hexdigest() == row.sha256
        assert pixels.dtype == np.uint8 and set(np.unique(pixels)) == {0, 255} and pixels.shape == (64, 64)
        assert row.hole_ratio == (pixels == 255).mean() and bucket_of(row.hole_ratio) == row.hole_ratio_bucket
        made = generate(row.kind, row.size, row.size, bounds[row.hole_ratio_bucket], row.seed, border=row.border)
        np.testing.assert_array_equal(pixels == 255, made)


def test_build_gives_every_bucket_the_same_kinds_and_borders(built):
    _, rows = built
    for _, bucket in rows.groupby(["split", "hole_ratio_bucket"]):
        assert bucket["kind"].tolist() == (THREE["kinds"] * 3)[: len(bucket)]
        assert set(zip(bucket["kind"][:6], bucket["border"][:6])) == set(
            itertools.product(THREE["kinds"], [True, False])
        )


@pytest.mark.parametrize("kinds", [["brush"], ["brush", "pic"], ["brush", "pic", "half"]])
def test_build_gives_every_kind_both_borders(tmp_path, kinds):
    counts = {"test": 2 * len(kinds)}
    rows = build(tmp_path, kinds=kinds, per_bucket=counts, buckets=[(0.2, 0.3)], size=32, border="both", seed=1)
    assert sorted(zip(rows["kind"], rows["border"])) == sorted(itertools.product(kinds, [False, True]))


def test_build_keeps_the_splits_apart(built):
    _, rows = built
    assert rows["seed"].is_unique
    assert rows["sha256"].is_unique


def test_build_is_the_same_with_any_map(built, tmp_path):
    out, rows = built
    again = build(tmp_path, per_bucket={"train": 7, "test": 6}, parallel_map=threaded, **THREE)
    pd.testing.assert_frame_equal(again, rows)
    assert (tmp_path / "masks.parquet").read_bytes() == (out / "masks.parquet").read_bytes()


def test_a_larger_data_set_begins_with_the_smaller_one(built, tmp_path):
    _, rows = built
    more = build(tmp_path, per_bucket={"train": 9}, buckets=BUCKETS[2:4], **THREE)
    common = more.merge(rows, on=["mask_id", "sha256"])
    assert len(common) == 2 * 7


@pytest.mark.parametrize("wrong, line", [
    ({"kinds": []}, "kinds is empty"),
    ({"kinds": ["brush", "nothing"]}, "unknown mask kind 'nothing'"),
    ({"border": "maybe"}, "border 'maybe'; expected both, with or without"),
    ({"per_bucket": {"train": -1, "test": 3}}, "a negative number"),
    ({"per_bucket": {}}, "asks for no masks"),
    ({"buckets": [(0.2, 0.1)]}, "must satisfy"),
    ({"buckets": [(0.7, 0.8)], "border": "without"}, "frame that border=False keeps free"),
    ({"size": 0}, "0x0 has no pixels"),
])  # fmt: skip
def test_build_refuses_before_it_writes(tmp_path, wrong, line):
    arguments = {"kinds": ["brush"], "per_bucket": {"test": 1}, "size": 64, "border": "with", "seed": 0}
    with pytest.raises(ValueError, match=line):
        build(tmp_path / "masks", **(arguments | wrong))
    assert not (tmp_path / "masks").exists()


@pytest.fixture
def source(tmp_path):
    """White holes of 2 to 21 rows of 40, and five masks that can't serve."""
    folder = tmp_path / "source"
    for high in range(2, 22):
        write(folder, f"{high:02d}.png", hole_in(high=high).astype(np.uint8) * 255)
    write(folder, "inside.png", np.pad(hole_in(20, 20), 10).astype(np.uint8) * 255)
    write(folder, "copy.png", hole_in(high=5).astype(np.uint8) * 255)
    write(folder, "large.png", hole_in(high=30).astype(np.uint8) * 255)
    write(folder, "black.png", np.zeros((8, 8), np.uint8))
    (folder / "torn.png").write_bytes(b"no picture")
    return folder


def from_folder(out, folder, **changes):
    arguments = {
        "per_bucket": {"train": 2, "test": 1},
        "buckets": BUCKETS[1:4],
        "size": 40,
        "border": "both",
        "seed": 3,
    }
    return build_from_folder(out, folder, **(arguments | changes))


def test_a_folder_is_sorted_into_buckets_by_measurement(source, tmp_path):
    rows = from_folder(tmp_path / "out", source)
    assert rows.groupby(["hole_ratio_bucket", "split"]).size().to_dict() == {
        (bucket, split): count for bucket in ("10-20", "20-30", "30-40") for split, count in (("train", 2), ("test", 1))
    }
    assert set(rows["kind"]) == {"folder"} and set(rows["polarity"]) == {"white"} and rows["source_mask"].is_unique
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "masks.parquet"), rows, check_like=False)
    for row in rows.itertuples():
        assert row.hole_ratio_bucket == bucket_of(row.hole_ratio)
        assert row.hole_ratio == (0.25 if row.source_mask == "inside.png" else int(row.source_mask[:2]) / 40)
        assert row.border == (row.source_mask != "inside.png")
        written, original = (
            np.asarray(Image.open(file)) for file in (tmp_path / "out" / row.mask, source / row.source_mask)
        )
        np.testing.assert_array_equal(written, original)


def test_what_a_folder_could_not_give_is_recorded(source, tmp_path):
    rows = from_folder(tmp_path / "out", source)
    rejected = pd.read_parquet(tmp_path / "out" / "rejected.parquet").set_index("mask")["reason"]
    assert set(rejected.index) | set(rows["source_mask"]) == {file.name for file in source.iterdir()}
    assert not set(rejected.index) & set(rows["source_mask"])
    assert rejected["large.png"] == "outside the buckets at 40x40"
    assert rejected["black.png"] == "the mask is all black; it needs hole and valid pixels"
    assert rejected["torn.png"].startswith("not a picture in one of the formats")
    assert rejected["copy.png"] == "same picture as 05.png"
    assert sum(rows.attrs["rejected"].values()) == len(rejected)
    assert rows.attrs["rejected"]["same picture as another"] == 1


def test_a_folder_gives_the_same_with_any_map(source, tmp_path):
    first, second = from_folder(tmp_path / "a", source), from_folder(tmp_path / "b", source, parallel_map=threaded)
    pd.testing.assert_frame_equal(first, second)
    other = from_folder(tmp_path / "c", source, seed=4)
    assert other["source_mask"].tolist() != first["source_mask"].tolist()


def test_a_folder_without_border_holes(source, tmp_path):
    with pytest.raises(UserError, match=r"0 masks in bucket 10-20, 3 asked for \(train 2, test 1\); lower per_bucket"):
        from_folder(tmp_path / "out", source, border="without")
    rows = from_folder(tmp_path / "out", source, border="without", buckets=[(0.2, 0.3)], per_bucket={"test": 1})
    assert rows["source_mask"].tolist() == ["inside.png"] and not rows["border"].any()


# pairing


@pytest.fixture
def masks():
    buckets = ("0-10", "10-20", "50-60")
    return pd.DataFrame(
        [
            (f"{bucket}_{index}", "test", f"test/{bucket}/{index}.png", 0.1, bucket)
            for bucket in buckets
            for index in range(8)
        ],
        columns=["mask_id", "split", "mask", "hole_ratio", "hole_ratio_bucket"],
    )


def test_every_image_gets_one_mask_of_every_bucket(masks):
    pairs = assign(["b", "a"], masks, seed=1)
    assert list(pairs) == ["image_id", "hole_ratio_bucket", "mask_id", "mask", "hole_ratio"]
    asked = itertools.product("ba", ("0-10", "10-20", "50-60"))
    assert list(zip(pairs["image_id"], pairs["hole_ratio_bucket"])) == list(asked)
    for row in pairs.itertuples():
        assert row.mask_id.startswith(row.hole_ratio_bucket) and row.mask.startswith(f"test/{row.hole_ratio_bucket}/")


def test_a_pair_depends_on_the_image_and_the_seed_alone(masks):
    everything = assign(map(str, range(200)), masks, seed=1)
    alone = assign(["17"], masks.sample(frac=1, random_state=0), seed=1)
    pd.testing.assert_frame_equal(alone, everything[everything["image_id"] == "17"].reset_index(drop=True))
    other = assign(map(str, range(200)), masks, seed=2)
    assert (other["mask_id"] != everything["mask_id"]).mean() > 0.7
    used = everything.groupby("mask_id").size()
    assert len(used) == 24 and used.max() < 60  # 25 on average


@pytest.mark.parametrize("ids, change, line", [
    (["a", "b", "a"], lambda frame: frame, "image id 'a' is given twice"),
    (["a"], lambda frame: frame[:0], "no masks to assign"),
    (["a"], lambda frame: frame.assign(split=["train", "test"] * 12), "splits test, train together"),
    (["a"], lambda frame: pd.concat([frame, frame[:1]]), "mask id '0-10_0' is given twice"),
])  # fmt: skip
def test_assign_refuses(masks, ids, change, line):
    with pytest.raises(ValueError, match=line):
        assign(ids, change(masks), seed=0)


def test_seeds_name_the_kind():
    """The same seed gives unrelated masks for two kinds of one law."""
    assert seeds.derive(1, "strokes") != seeds.derive(1, "strokes_prvs")
    assert not np.array_equal(
        generate("strokes", 64, 64, (0.2, 0.3), 1), generate("strokes_prvs", 64, 64, (0.2, 0.3), 1)
    )
