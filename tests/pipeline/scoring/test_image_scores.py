import numpy as np
import pytest

from pipeline import images, tasks
from pipeline.metrics import harmonization, inpainting, localization
from pipeline.scoring import image_scores


def test_predictions_are_rounded_to_the_nearest_level_and_kept_in_range():
    drawn = np.array([[[0.0, 1.0, 0.5, 0.499 / 255, 0.501 / 255, -0.3, 1.7, 254.4 / 255]]], dtype=np.float32)
    assert images.to_uint8(drawn).tolist() == [[0, 255, 128, 0, 1, 0, 255, 254]]


def test_channels_come_last_and_a_single_one_is_dropped():
    drawn = np.stack([np.full((2, 3), level, np.float32) for level in (0.0, 0.2, 1.0)])
    assert images.to_uint8(drawn).shape == (2, 3, 3) and images.to_uint8(drawn)[1, 2].tolist() == [0, 51, 255]
    assert images.to_uint8(drawn[:1]).shape == (2, 3)


def test_every_8_bit_level_survives_the_way_through_a_network_output():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(images.to_uint8((levels[None] / np.float32(255)).astype(np.float32)), levels)


@pytest.fixture
def item() -> dict:
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), bool)
    mask[8:20, 4:30] = True
    pictures = {name: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in ("composite", "real", "image")}
    return pictures | {"mask": mask, "hole": mask}


@pytest.mark.parametrize(
    "task, region, given", [("harmonization", "mask", "composite"), ("inpainting", "hole", "image")]
)
def test_nothing_outside_the_region_is_changed(item, task, region, given):
    drawn = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    composed = tasks.compose(task, drawn, item)
    assert composed.dtype == np.uint8
    assert np.array_equal(composed[~item[region]], item[given][~item[region]])
    assert np.array_equal(composed[item[region]], drawn[item[region]])


def test_scores_are_the_metrics_of_what_is_composed(item):
    drawn = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    composed = np.where(item["mask"][..., None], drawn, item["composite"])
    assert image_scores.score("harmonization", drawn, item) == harmonization.score(composed, item["real"], item["mask"])
    composed = np.where(item["hole"][..., None], drawn, item["image"])
    assert image_scores.score("inpainting", drawn, item) == inpainting.score(composed, item["image"])
    grey = drawn[..., 0]
    expected = localization.score(grey / 255.0, item["mask"], 0.25)
    assert image_scores.score("localization", grey, item, 0.25) == expected


def test_what_a_network_draws_outside_its_region_is_not_scored(item):
    drawn = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    other = drawn.copy()
    other[~item["mask"]] = 0
    for task in ("harmonization", "inpainting"):
        assert image_scores.score(task, drawn, item) == image_scores.score(task, other, item)


def test_without_ground_truth_there_is_nothing_to_score(item):
    del item["real"]
    assert image_scores.score("harmonization", item["composite"], item) == {}
