import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from torch import from_numpy
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_f1_score,
    binary_jaccard_index,
)

from pipeline.metrics import localization
from pipeline.metrics.localization import METRICS, average_precision, score, stretch


def scene(seed, size=(24, 30), kind="continuous", dtype=np.float32):
    """A map that follows its mask with much noise; `kind` says how many values repeat."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=bool)
    top, left = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
    mask[top : top + rng.integers(2, 20), left : left + rng.integers(2, 20)] = True
    probability = np.clip(rng.normal(0.4, 0.25, size) + 0.2 * mask, 0, 1)
    probability = {
        "continuous": probability,
        "8-bit": np.rint(probability * 255) / 255,
        "coarse": np.rint(probability * 3) / 3.5,
        "constant": np.full(size, 0.7),
    }[kind]
    return probability.astype(dtype), mask


def test_by_hand():
    probability = np.array([[0.9, 0.8], [0.4, 0.2]])
    mask = np.array([[True, False], [True, False]])
    # from high to low: hit, miss, hit, miss: precision 1/1 at the first hit and 2/3 at the second
    # upside down: miss, hit, miss, hit: 1/2 and 2/4
    # above 0.5: one hit, one false alarm, one miss; stretched by (p - 0.2) / 0.7: 1, 0.86, 0.29, 0, the same two
    expected = dict.fromkeys(METRICS, 0.5) | {
        "ap": (1 + 2 / 3) / 2,
        "ap_inverted": 0.5,
        "iou": 1 / 3,
        "iou_minmax": 1 / 3,
        # of the four pairs of a pixel inside and one outside, 0.4 against 0.8 alone is the wrong way round
        "auc": 3 / 4,
        # above 0.3: two hits, one false alarm
        "f1_val": 4 / 5,
        "iou_val": 2 / 3,
    }
    assert score(probability, mask, 0.3) == pytest.approx(expected, abs=1e-15)
    without = score(probability, mask)
    assert np.isnan([without["f1_val"], without["iou_val"]]).all() and without["auc"] == 3 / 4
    assert tuple(score(probability, mask)) == METRICS


@pytest.mark.parametrize("kind", ["continuous", "8-bit", "coarse", "constant"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equals_scikit_learn(kind, dtype):
    for seed in range(2):
        probability, mask = scene(seed, kind=kind, dtype=dtype)
        truth, detected = mask.ravel(), probability.ravel() > 0.5
        stretched = stretch(probability).ravel() > 0.5
        expected = {
            "ap": average_precision_score(truth, probability.ravel()),
            "ap_inverted": average_precision_score(truth, -probability.ravel()),
            "f1": f1_score(truth, detected),
            "iou": jaccard_score(truth, detected),
            "precision": precision_score(truth, detected, zero_division=0),
            "recall": recall_score(truth, detected),
            "f1_minmax": f1_score(truth, stretched),
            "iou_minmax": jaccard_score(truth, stretched),
            "precision_minmax": precision_score(truth, stretched, zero_division=0),
            "recall_minmax": recall_score(truth, stretched),
            "auc": roc_auc_score(truth, probability.ravel()),
            "f1_val": f1_score(truth, probability.ravel() > 0.3),
            "iou_val": jaccard_score(truth, probability.ravel() > 0.3),
        }
        assert score(probability, mask, 0.3) == pytest.approx(expected, abs=1e-12)


def test_equals_torchmetrics():
    probability, mask = scene(7, dtype=np.float64)
    values, truth = from_numpy(probability), from_numpy(mask.astype(int))
    scores = score(probability, mask)
    assert scores["ap"] == pytest.approx(binary_average_precision(values, truth).item(), abs=1e-6)
    assert scores["f1"] == pytest.approx(binary_f1_score(values, truth).item(), abs=1e-6)
    assert scores["iou"] == pytest.approx(binary_jaccard_index(values, truth).item(), abs=1e-6)


def test_counting_and_sorting_agree():
    probability, mask = scene(3, kind="8-bit", dtype=np.float64)
    assert localization.eight_bit_levels(probability) is not None
    halved = probability / 2  # the same order, no longer levels / 255
    assert localization.eight_bit_levels(halved) is None
    assert average_precision(halved, mask) == pytest.approx(average_precision(probability, mask), abs=1e-15)


def test_perfect_and_inverted_map():
    _, mask = scene(1)
    perfect, inverted = (
        score(probability, mask, 0.5) for probability in (mask.astype(np.float32), 1 - mask.astype(np.float32))
    )
    assert (
        inverted["ap"] == perfect["ap_inverted"] == pytest.approx(mask.mean())
    )  # all foreground comes last: precision is its share
    assert perfect["ap"] == inverted["ap_inverted"] == 1
    rest = [key for key in METRICS if key not in ("ap", "ap_inverted")]
    assert all(perfect[key] == 1 and inverted[key] == 0 for key in rest)


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 0.6, 1.0])
def test_constant_map_has_the_foreground_share_as_ap(value):
    _, mask = scene(2)
    share = mask.mean()
    scores = score(np.full(mask.shape, value, dtype=np.float32), mask)
    positive = value > 0.5  # strictly: 0.5 itself is background
    assert scores["ap"] == pytest.approx(share) and scores["ap_inverted"] == pytest.approx(share)
    assert scores["f1"] == pytest.approx(2 * share / (1 + share) if positive else 0)
    assert scores["iou"] == pytest.approx(share if positive else 0)
    assert scores["recall"] == positive
    assert scores["f1_minmax"] == scores["iou_minmax"] == scores["precision_minmax"] == 0


def test_foreground_share_zero_is_excluded_and_one_is_perfect():
    probability, _ = scene(4)
    nothing = score(probability, np.zeros(probability.shape, dtype=bool))
    assert tuple(nothing) == METRICS and all(np.isnan(value) for value in nothing.values())
    assert score(probability, np.ones(probability.shape, dtype=bool))["ap"] == 1
    assert score(np.zeros((3, 3)), np.ones((3, 3), dtype=bool))["f1"] == 0


def test_stretching_reproduces_the_specification():
    """Three synthetic maps, worked out by hand."""
    _, mask = scene(5, (64, 64))
    timid = np.where(mask, 0.30, 0.05).astype(np.float32)
    assert score(timid, mask)["iou"] == 0 and score(timid, mask)["iou_minmax"] == 1

    noise = (0.2 + np.random.default_rng(0).uniform(-0.01, 0.01, mask.shape)).astype(np.float32)
    scores = score(noise, mask)
    share = mask.mean()
    assert scores["f1"] == 0
    assert scores["f1_minmax"] == pytest.approx(2 * 0.5 * share / (0.5 + share), abs=0.02)  # half of the pixels fire

    flat = score(np.full(mask.shape, 0.6, dtype=np.float32), mask)
    assert flat["recall"] == 1 and flat["recall_minmax"] == 0


def test_narrow_range_is_only_shifted():
    assert stretch(np.array([[0.500, 0.509]])).max() == pytest.approx(0.009)
    assert stretch(np.array([[0.500, 0.511]])).max() == 1


maps = st.integers(0, 2**32 - 1).map(
    lambda seed: scene(seed, (8, 9), ["continuous", "8-bit", "coarse"][seed % 3], np.float64)
)


@settings(max_examples=50, deadline=None)
@given(maps, st.sampled_from([np.sqrt, np.square, lambda p: p / 3 + 0.1, lambda p: np.log1p(p)]))
def test_ap_is_invariant_to_monotone_maps(drawn, monotone):
    probability, mask = drawn
    values = np.unique(probability)
    if np.unique(monotone(values)).size == values.size:
        assert average_precision(monotone(probability), mask) == pytest.approx(
            average_precision(probability, mask), abs=1e-12
        )


@settings(max_examples=50, deadline=None)
@given(maps, st.randoms(use_true_random=False))
def test_order_of_pixels_does_not_matter(drawn, random):
    probability, mask = drawn
    order = list(range(mask.size))
    random.shuffle(order)
    shuffled = score(probability.ravel()[order].reshape(mask.shape), mask.ravel()[order].reshape(mask.shape), 0.3)
    assert shuffled == pytest.approx(score(probability, mask, 0.3), abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(maps)
def test_laws_of_overlap(drawn):
    scores = score(*drawn, 0.3)
    for end in ("", "_minmax", "_val"):
        f1, iou = scores[f"f1{end}"], scores[f"iou{end}"]
        assert f1 == pytest.approx(2 * iou / (1 + iou))
    for end in ("", "_minmax"):
        iou = scores[f"iou{end}"]
        assert iou <= min(scores[f"precision{end}"], scores[f"recall{end}"]) + 1e-12
    undefined = {"auc"} if drawn[1].all() else set()
    assert {name for name, value in scores.items() if not 0 <= value <= 1} == undefined


def test_views_and_negative_zero():
    probability, mask = scene(8)
    probability[probability < 0.3] = 0
    expected = score(probability, mask, 0.4)
    assert score(np.asfortranarray(probability), np.asfortranarray(mask), 0.4) == expected
    assert score(np.where(probability == 0, -0.0, probability), mask, 0.4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probability", "mask", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.ones((4, 4), bool), "probability has dtype uint8, expected float"),
        (np.zeros((4, 4)), np.ones((4, 4), np.uint8), "mask has dtype uint8, expected bool"),
        (np.zeros((4, 4)), np.ones((4, 5), bool), "probability is 4x4, mask is 5x4"),
        (np.zeros((1, 4, 4)), np.ones((4, 4), bool), r"probability has shape \(1, 4, 4\)"),
        (np.zeros((0, 4)), np.ones((0, 4), bool), r"probability has shape \(0, 4\)"),
        (np.array([[0.5, np.nan]]), np.ones((1, 2), bool), "probability has 1 NaN of 2 values"),
        (np.array([[0.5, 1.5]]), np.ones((1, 2), bool), r"probability has values in \[0.5, 1.5\], expected \[0, 1\]"),
        (np.array([[-0.1, 0.5]]), np.ones((1, 2), bool), r"values in \[-0.1, 0.5\]"),
        (np.array([[0.5, np.inf]]), np.ones((1, 2), bool), r"values in \[0.5, inf\]"),
        ([[0.5]], np.ones((1, 1), bool), "probability is a list"),
    ],
)
def test_bad_input_is_one_clear_line(probability, mask, message):
    with pytest.raises(ValueError, match=message) as caught:
        score(probability, mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["continuous", "8-bit", "coarse", "constant"])
def test_area_under_roc_equals_scikit_learn(kind):
    for seed in range(5):
        probability, mask = scene(seed, kind=kind)
        expected = roc_auc_score(mask.ravel(), probability.ravel())
        assert localization.area_under_roc(probability, mask) == pytest.approx(expected, abs=1e-12)


def test_no_area_under_roc_without_background():
    probability, mask = scene(0)
    assert np.isnan(score(probability, np.ones_like(mask))["auc"])


@pytest.mark.parametrize("kind", ["8-bit", "coarse", "constant"])
def test_curves_equal_scikit_learn_at_every_threshold(kind):
    probability, mask = scene(3, kind=kind, dtype=np.float64)
    levels, truth = np.rint(probability * 255).astype(np.uint8), mask.ravel()
    curve = localization.curve(levels, mask)
    present = np.unique(levels)
    for level in {0, 254, 255, *present[:: max(1, len(present) // 8)], *np.maximum(present, 1)[-8:] - 1}:
        detected = levels.ravel() > level
        for name, other in (
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
            ("iou", jaccard_score),
        ):
            assert curve[name][level] == pytest.approx(other(truth, detected, zero_division=0.0), abs=1e-15)
        assert curve["false_positive_rate"][level] == pytest.approx(detected[~truth].mean(), abs=1e-15)
    # between two values that the pixels have nothing changes
    for level in set(range(255)) - set(present - 1):
        assert all(curve[name][level] == curve[name][level + 1] for name in curve)
    # scikit-learn's thresholds are values that the pixels have and its comparison is >=
    rates, hits, values = roc_curve(truth, levels.ravel(), drop_intermediate=False)
    for rate, hit, value in zip(rates[1:], hits[1:], values[1:].astype(int)):
        if value > 0:
            assert (curve["false_positive_rate"][value - 1], curve["recall"][value - 1]) == pytest.approx((rate, hit))


def test_a_mask_that_fills_the_image_has_no_false_positives():
    curve = localization.curve(np.full((4, 4), 9, np.uint8), np.ones((4, 4), bool))
    assert np.isnan(curve["false_positive_rate"]).all() and curve["f1"][8] == 1 and curve["f1"][9] == 0
