import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline import images
from pipeline.errors import UserError
from pipeline.running import cluster, parallel

ROOT = Path(__file__).resolve().parents[3]


def slow_square(number: int) -> int:
    time.sleep(0.3 if number % 5 == 0 else 0.0)  # finished out of order
    return number * number


def refuse_seven(number: int) -> int:
    if number == 7:
        raise images.BadImage("7.png", "can't be decoded")
    return number


def break_at_three(number: int) -> int:
    return 1 // (number - 3)


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def session():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEAMBENCH_CPUS", "2")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster.session():
            yield


def test_little_work_stays_here_and_much_is_handed_on(monkeypatch, capsys):
    handed = []
    monkeypatch.setattr(
        parallel,
        "ordered_map",
        lambda function, items, first, **options: handed.append((first, options)) or map(function, items[first:]),
    )
    numbers = list(range(1, 12))  # 5 and 10 take 0.3 s
    assert (
        list(parallel.spread(slow_square, numbers, describe="squares", unit="numbers"))
        == [number * number for number in numbers]
        and not handed
    )
    assert "squares: 11/11 numbers" in capsys.readouterr().err
    monkeypatch.setattr(parallel, "TRIAL_SECONDS", 0.2)
    monkeypatch.setattr(parallel, "START_SECONDS", 0.15)
    monkeypatch.setenv("SEAMBENCH_CPUS", "2")
    assert list(parallel.spread(slow_square, numbers, describe="squares", unit="numbers", chunk=3)) == [
        number * number for number in numbers
    ]
    assert handed == [
        (5, {"describe": "squares", "unit": "numbers", "chunk": 3})
    ]  # 0.3 s for five: 0.36 s are left, of which two cores save half
    assert list(parallel.spread(slow_square, [], describe="none")) == []


def test_one_core_never_hands_work_on(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("SEAMBENCH_CPUS", "1")
    assert not parallel.pays(1, 10**6, 60.0)
    monkeypatch.setenv("SEAMBENCH_CPUS", "4")
    assert parallel.pays(1, 10**6, 60.0) and not parallel.pays(0, 10**6, 60.0)
    # 12 items of 1.2 s are left: four cores save three quarters of 14.4 s, two only half
    assert parallel.pays(1, 13, 1.2) and not parallel.pays(1, 12, 1.2)
    monkeypatch.setenv("SEAMBENCH_CPUS", "2")
    assert not parallel.pays(1, 13, 1.2)


def test_without_ray_a_pool_of_processes_does_the_same(monkeypatch):
    monkeypatch.setenv("SEAMBENCH_RAY", "off")
    monkeypatch.setenv("SEAMBENCH_CPUS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cluster, "session", None)
    assert list(parallel.ordered_map(slow_square, range(12), first=2, describe="squares", chunk=3)) == [
        number * number for number in range(2, 12)
    ]
    with pytest.raises(images.BadImage, match=r"^7\.png: can't be decoded$"):
        list(parallel.ordered_map(refuse_seven, range(9), describe="some", chunk=2))
    with pytest.raises(UserError, match="^deaths: a worker process died; is there memory enough"):
        list(parallel.ordered_map(die, [1], describe="deaths"))
    monkeypatch.setenv("SEAMBENCH_RAY", "no")
    with pytest.raises(UserError, match="SEAMBENCH_RAY = 'no': expected on, off or always"):
        list(parallel.ordered_map(slow_square, [1], describe="squares"))


def test_with_always_nothing_is_tried_in_this_process(monkeypatch):
    monkeypatch.setenv("SEAMBENCH_RAY", "always")
    assert parallel.pays(done=0, count=10, passed=0.0)
    monkeypatch.setenv("SEAMBENCH_RAY", "on")
    assert not parallel.pays(done=0, count=10, passed=0.0)


@pytest.mark.slow
def test_results_come_in_the_order_of_the_items(session, capsys):
    numbers = list(range(23))
    assert list(parallel.ordered_map(slow_square, numbers, describe="squares", unit="numbers", chunk=2)) == [
        number * number for number in numbers
    ]
    assert "squares: 23/23 numbers" in capsys.readouterr().err
    assert list(parallel.ordered_map(slow_square, [], describe="none")) == []


class Counted(Sequence):
    """Numbers that remember how far they were asked for, as a plan that makes its items when asked."""

    def __init__(self, count: int):
        self.numbers, self.asked = range(count), 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        self.asked = max(self.asked, index.stop if isinstance(index, slice) else index + 1)
        return list(self.numbers[index])


@pytest.mark.slow
def test_items_are_made_as_they_are_needed(session):
    items = Counted(1000)
    results = parallel.ordered_map(slow_square, items, describe="many", chunk=2)
    assert next(results) == 0 and items.asked == 2 * 2 * 2, "two chunks of two for each of two cores"
    results.close()


@pytest.mark.slow
def test_exceptions_come_through_as_they_were(session):
    results = parallel.ordered_map(refuse_seven, list(range(20)), describe="some", chunk=2)
    got = []
    with pytest.raises(images.BadImage, match=r"^7\.png: can't be decoded$") as caught:
        for result in results:
            got.append(result)
    assert got == list(range(6)) and caught.value.reason == "can't be decoded" and isinstance(caught.value, UserError)
    with pytest.raises(ZeroDivisionError):
        list(parallel.ordered_map(break_at_three, list(range(5)), describe="some"))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_chunk_done_again(session, tmp_path):
    markers = [str(tmp_path / str(number)) for number in range(3)]
    assert list(parallel.ordered_map(die_once, markers, describe="deaths", chunk=1)) == markers


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_in_one_line(session):
    with pytest.raises(UserError, match="^deaths: a worker process died 4 times at the same items") as caught:
        list(parallel.ordered_map(die, [1], describe="deaths"))
    assert "\n" not in str(caught.value)
