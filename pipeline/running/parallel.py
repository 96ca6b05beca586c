"""One map over many small items on a Ray cluster, in order, with memory that stays flat."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.running import cluster

RETRIES = 3
"""How often a task is run again whose worker process died."""

WORTHWHILE_SECONDS = 20.0
"""Work that would take a single process less than this isn't spread over a cluster: starting Ray and loading torch in
each worker takes 5 to 10 seconds."""

TRIAL_SECONDS = 1.0
"""How long `spread` works by itself before it judges."""


def spread(function: Callable, items: Sequence, *, describe: str, unit: str = "images", chunk: int = 4) -> Iterator:
    """`ordered_map` for work of unknown size: begins in this process, and hands the rest to the cluster once the rate so
    far says that more than WORTHWHILE_SECONDS of work are left. The results are the same either way."""
    done, started = 0, time.monotonic()
    with Progress(describe, len(items), unit) as progress:
        for item in items:
            passed = time.monotonic() - started
            if done and passed > TRIAL_SECONDS and passed / done * (len(items) - done) > WORTHWHILE_SECONDS:
                break
            yield function(item)
            done += 1
            progress.add()
    if done < len(items):
        yield from ordered_map(function, items[done:], describe=describe, unit=unit, chunk=chunk)


def ordered_map(
    function: Callable, items: Sequence, *, describe: str, unit: str = "images", chunk: int = 4
) -> Iterator:
    """Yield `function(item)` for each item, in the order of the items.

    The function and its items are pickled, so the function stands at module level. At most two chunks per core
    are under way at a time. A task whose worker process dies is run again by Ray, and a UserError is raised when that
    happens again and again; an exception that the function raises is raised here as it was.
    """
    import ray

    with cluster.session(), cluster.waiting(describe) as heard, Progress(describe, len(items), unit) as progress:

        @ray.remote(num_cpus=1, max_retries=RETRIES)
        def work(part):
            import cv2

            cv2.setNumThreads(1)
            return [function(item) for item in part]

        parts = (
            items[start : start + chunk] for start in range(0, len(items), chunk)
        )  # a plan makes its items when asked
        under_way: deque[ray.ObjectRef] = deque()
        at_once = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        try:
            while True:
                while len(under_way) < at_once and (part := next(parts, None)) is not None:
                    under_way.append(work.remote(part))
                if not under_way:
                    return
                results = ray.get(under_way.popleft())
                heard()
                for result in results:
                    progress.add()
                    yield result
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.WorkerCrashedError:
            raise UserError(
                f"{describe}: a worker process died {1 + RETRIES} times at the same items; is there memory enough?"
            ) from None
        finally:
            for waiting in under_way:  # after an error, or when the caller wants no more of it
                ray.cancel(waiting)
