import numpy as np
import pytest
from sklearn.metrics import f1_score

from pipeline.scoring import thresholds


def maps(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        mask = np.zeros((16, 16), bool)
        mask[: rng.integers(3, 12), : rng.integers(3, 12)] = True
        made.append((np.clip(rng.normal(40 + 30 * mask, 15), 0, 255).astype(np.uint8), mask))
    return made


def test_by_hand():
    mask = np.array([[True, True, False, False]])
    levels = np.array([[90, 30, 60, 10]], np.uint8)
    # at level 9 and below all four are in: precision 1/2, F1 2/3; from 10 on three: 2/3 and 1, F1 4/5;
    # from 30 on two: 1/2 and 1/2; from 60 on one: 1 and 1/2, F1 2/3. Best: 10 to 29, whose middle is 19
    assert thresholds.choose([(levels, mask)]) == (19 / 255, "best mean F1 (0.800) on 1 validation image")


def test_it_is_the_best_of_all_levels_by_scikit_learn():
    given = maps(0, 4)
    means = [
        np.mean([f1_score(mask.ravel(), levels.ravel() > level, zero_division=0.0) for levels, mask in given])
        for level in range(256)
    ]
    value, origin = thresholds.choose(given)
    assert means[round(value * 255)] == pytest.approx(max(means), abs=1e-12)
    assert origin == f"best mean F1 ({max(means):.3f}) on 4 validation images"


def test_one_threshold_for_all_images_and_those_without_foreground_have_no_say():
    empty = (np.full((16, 16), 200, np.uint8), np.zeros((16, 16), bool))
    given = maps(1, 3)
    assert thresholds.choose([*given, empty]) == thresholds.choose(given)
    assert thresholds.choose([empty]) == thresholds.NOTHING_TO_CHOOSE_ON
    assert thresholds.choose([]).value is None
