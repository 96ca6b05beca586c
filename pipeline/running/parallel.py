"""One map over many small items, in order, with memory that stays flat: in this process, on a Ray cluster, or by a pool of processes."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.running import cluster

RETRIES = 3
"""How often a task is run again whose worker process died."""

START_SECONDS = 10.0
"""What handing work to a cluster costs before anything of it is done: starting Ray and loading torch in each worker."""

TRIAL_SECONDS = 1.0
"""How long work is done in this process before it is judged."""


def pays(done: int, count: int, passed: float) -> bool:
    """Whether the rest of `count` items is done earlier by a cluster, after this process did `done` of them in `passed`
    seconds: what several cores would save must be more than START_SECONDS. With SEAMBENCH_RAY=always it is not asked."""
    if cluster.always():
        return True
    if not done or passed < TRIAL_SECONDS:
        return False
    # the cores of a cluster that runs elsewhere aren't known before it is joined
    unknown = "RAY_ADDRESS" in os.environ and "SEAMBENCH_CPUS" not in os.environ and not cluster.plain()
    saved = 1.0 if unknown else 1.0 - 1.0 / cluster.cpus()
    return passed / done * (count - done) * saved > START_SECONDS


def spread(function: Callable, items: Sequence, *, describe: str, unit: str = "images", chunk: int = 4) -> Iterator:
    """`ordered_map` for work of unknown size: begins in this process, and hands the rest to the cluster once the rate so
    far says that this pays. The results are the same either way."""
    done, started = 0, time.monotonic()
    with Progress(describe, len(items), unit) as progress:
        while done < len(items) and not pays(done, len(items), time.monotonic() - started):
            yield function(items[done])
            done += 1
            progress.add()
    if done < len(items):
        yield from ordered_map(function, items, first=done, describe=describe, unit=unit, chunk=chunk)


def ordered_map(
    function: Callable, items: Sequence, *, describe: str, unit: str = "images", chunk: int = 4, first: int = 0
) -> Iterator:
    """Yield `function(item)` for each item from number `first` on, in the order of the items.

    The function and its items are pickled, so the function stands at module level. At most two chunks per core
    are under way at a time. A task whose worker process dies is run again by Ray, and a UserError is raised when that
    happens again and again; an exception that the function raises is raised here as it was. In plain mode
    (SEAMBENCH_RAY=off) a pool of processes does the same, and a process that dies ends the map with a UserError.
    """
    # a plan makes its items when it is asked for them
    parts = (items[start : start + chunk] for start in range(first, len(items), chunk))
    with Progress(describe, len(items) - first, unit) as progress:
        for results in (_pooled if cluster.plain() else _by_ray)(function, parts, describe):
            for result in results:
                progress.add()
                yield result


def _by_ray(function: Callable, parts: Iterator[Sequence], describe: str) -> Iterator[list]:
    import ray

    with cluster.session(), cluster.waiting(describe) as heard:

        @ray.remote(num_cpus=1, max_retries=RETRIES)
        def work(part):
            return _on_one_thread(function, part)

        under_way: deque[Any] = deque()
        at_once = 2 * cluster.cores()
        try:
            while True:
                while len(under_way) < at_once and (part := next(parts, None)) is not None:
                    under_way.append(work.remote(part))
                if not under_way:
                    return
                results = ray.get(under_way.popleft())
                heard()
                yield results
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            raise UserError(
                f"{describe}: a worker process died {1 + RETRIES} times at the same items; is there memory enough?"
            ) from None
        finally:
            for waiting in under_way:  # after an error, or when the caller wants no more of it
                ray.cancel(waiting)


def _pooled(function: Callable, parts: Iterator[Sequence], describe: str) -> Iterator[list]:
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    cores = cluster.cpus()
    # spawned, because forking a process that has threads may leave a lock held for ever
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        under_way: deque[Future] = deque()
        try:
            while True:
                while len(under_way) < 2 * cores and (part := next(parts, None)) is not None:
                    under_way.append(pool.submit(_on_one_thread, function, part))
                if not under_way:
                    return
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise UserError(f"{describe}: a worker process died; is there memory enough?") from None
        finally:
            for waiting in under_way:
                waiting.cancel()


def _on_one_thread(function: Callable, part: Sequence) -> list:
    import cv2

    cv2.setNumThreads(1)
    return [function(item) for item in part]
