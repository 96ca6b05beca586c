import numpy as np
import pytest

import models
from pipeline.scoring import image_scores
from pipeline.tasks import METRICS, TASKS


def item() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[8:40, 4:30] = True
    pictures = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("composite", "real", "image")}
    return pictures | {"mask": mask, "hole": mask}


def test_the_tasks_are_those_of_the_networks():
    assert tuple(TASKS) == models.TASKS
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_metric_that_a_task_computes_has_a_record_and_every_named_metric_is_computed(task):
    picture = item()[task.picture]
    computed = set(image_scores.score(task.name, picture[..., 0] if task.region is None else picture, item()))
    assert computed <= set(METRICS)
    named = {*task.metrics, task.leading, task.shown_first, *task.shown_beside, *task.charted, *task.seam_metrics}
    assert named | {*task.at_own_threshold} <= computed
    assert task.leading in task.metrics and task.shown_first in task.metrics and set(task.charted) <= set(task.metrics)


def test_no_record_is_of_a_metric_that_nobody_computes():
    computed = set()
    for task in TASKS.values():
        picture = item()[task.picture]
        computed |= set(image_scores.score(task.name, picture[..., 0] if task.region is None else picture, item()))
    weighed = {
        metric for task in TASKS.values() for metric in task.perceptual
    }  # these need weights: tests/pipeline/scoring/test_perceptual.py
    assert not computed & weighed and computed | weighed == set(METRICS)


def test_errors_are_better_when_lower_and_likeness_when_higher():
    """Of each metric's best possible prediction and a worse one, the record's direction prefers the best."""
    given = item()
    worse = 255 - given["real"]
    for task, best in (("harmonization", given["real"]), ("inpainting", given["image"])):
        worse = 255 - best
        first, second = (image_scores.score(task, drawn, given) for drawn in (best, worse))
        for name in first:
            if np.isfinite(first[name]):
                assert (first[name] > second[name]) == METRICS[name].higher_is_better, name
    detected = np.where(given["mask"], 255, 0).astype(np.uint8)
    first, second = (image_scores.score("localization", drawn, given, 0.5) for drawn in (detected, 255 - detected))
    for name in first:
        assert (first[name] > second[name]) == METRICS[name].higher_is_better, name
