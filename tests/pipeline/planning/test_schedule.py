import pytest

from pipeline.planning.schedule import Cost, simulate
from pipeline.running.jobs import Share, Stage

GPU = Share(1, 1, 1.0)


def cost(
    name: str, fixed: float, *upstream: str, share: Share = Share(1), spread: float = 0.0, kind: str = "x"
) -> Cost:
    return Cost(Stage(name, f"python -m stages.{kind}", frozenset(upstream), True), share, fixed, spread, memory=1.0)


DIAMOND = [cost("a", 10), cost("b", 10), cost("c", 5, "a", "b")]


@pytest.mark.parametrize("cpus, at_once, seconds", [(1, 1, 25), (2, 1, 25), (1, 2, 25), (2, 2, 15), (64, 8, 15)])
def test_stages_wait_for_cores_for_turns_and_for_what_they_read(cpus, at_once, seconds):
    course = simulate(DIAMOND, cpus, 0, at_once)
    assert course.seconds == seconds and course.chain == 15
    assert course.memory == (2 if seconds == 15 else 1)
    assert course.busy_cpus == pytest.approx(25 / (cpus * seconds))


def test_work_that_spreads_is_shortened_by_cores_and_its_start_is_not():
    assert simulate([cost("a", 3, spread=20)], 4, 0, 1).seconds == 8
    # two of them have half of the cores each
    assert simulate([cost("a", 3, spread=20), cost("b", 3, spread=20)], 4, 0, 2).seconds == 13


def test_four_trainings_take_turns_on_two_gpus_and_share_one_by_halves():
    four = [cost(name, 10, share=GPU, kind="train") for name in "abcd"]
    course = simulate(four, 8, 2, 8)
    assert (course.seconds, course.busy_gpus, course.limit) == (20, 1.0, "GPUs")
    halves = [cost(name, 10, share=Share(1, 1, 0.5), kind="train") for name in "abcd"]
    assert simulate(halves, 8, 2, 8).seconds == 10
    assert simulate(four, 8, 64, 64).limit == "the longest chain of stages"


def test_trainings_begin_first():
    # were the short one first, the training of two cores would wait for it: 15
    stages = [cost("a", 4), cost("t", 10, share=Share(2), kind="train"), cost("i", 1, "t")]
    assert simulate(stages, 2, 0, 2).seconds == 14


def test_a_stage_that_fits_no_machine_is_named():
    with pytest.raises(ValueError, match="a doesn't fit a machine of 4 cores and 0 GPUs"):
        simulate([cost("a", 1, share=GPU)], 4, 0, 1)
