"""The order and the times in which stages would run: the driver's own rules (pipeline/running/jobs.py) with a clock that is
turned by hand."""

import heapq
from dataclasses import dataclass

from pipeline.running import jobs


@dataclass(frozen=True)
class Cost:
    """What one stage takes of a machine.

    share: its least share of cores and GPUs. fixed: seconds of wall time that no number of cores shortens. spread: core-seconds
    that are divided by the cores it is given; 0 for a stage that doesn't spread.
    """

    stage: jobs.Stage
    share: jobs.Share
    fixed: float
    spread: float = 0.0
    memory: float = 0.0
    """Bytes."""
    disk: float = 0.0
    """Bytes of outputs, without DVC's copy."""
    basis: str = ""

    @property
    def core_seconds(self) -> float:
        return self.fixed * self.share.cpus + self.spread

    @property
    def gpu_seconds(self) -> float:
        return self.fixed * self.share.gpus


@dataclass(frozen=True)
class Course:
    """seconds: wall time. memory: the highest sum of what runs at the same time. busy: the share of cores, and of GPUs, that work.
    chain: seconds of the longest chain of stages that wait for each other, which no machine shortens."""

    seconds: float
    memory: float
    busy_cpus: float
    busy_gpus: float
    chain: float

    @property
    def limit(self) -> str:
        """What a faster run would need more of."""
        if self.seconds < 1.05 * self.chain:
            return "the longest chain of stages"
        return "GPUs" if self.busy_gpus > max(self.busy_cpus, 0.7) else "cores" if self.busy_cpus > 0.7 else "JOBS"


def simulate(costs: list[Cost], cpus: int, gpus: int, at_once: int) -> Course:
    """Run the stages on a machine of so many cores and GPUs, at most `at_once` at a time."""
    machine = jobs.Machine(cpus, gpus)
    waiting = {cost.stage.name: cost for cost in costs}
    running: list[tuple[float, str, Cost, jobs.Taken]] = []
    now = memory = worked_cpus = worked_gpus = 0.0
    while waiting or running:
        pending = waiting.keys() | {name for _, name, _, _ in running}
        ready = sorted(
            (cost for cost in waiting.values() if not cost.stage.upstream & pending),
            key=lambda cost: cost.stage.kind != "train",
        )
        for number, cost in enumerate(ready):
            free = at_once - len(running)
            if free <= 0:
                break
            taken = machine.take(cost.share, cost.spread > 0, min(free, len(ready) - number) - 1)
            if taken is None:
                continue
            del waiting[cost.stage.name]
            seconds = cost.fixed + cost.spread / taken.cpus
            worked_cpus += cost.fixed * min(cost.share.cpus, cpus) + cost.spread
            worked_gpus += seconds * cost.share.gpus
            heapq.heappush(running, (now + seconds, cost.stage.name, cost, taken))
        if not running:
            raise ValueError(f"{next(iter(waiting))} doesn't fit a machine of {cpus} cores and {gpus} GPUs")
        memory = max(memory, sum(cost.memory for _, _, cost, _ in running))
        now, _, _, taken = heapq.heappop(running)
        machine.give_back(taken)
    return Course(
        now,
        memory,
        worked_cpus / max(now * cpus, 1e-9),
        worked_gpus / max(now * gpus, 1e-9) if gpus else 0.0,
        _chain(costs, cpus),
    )


def _chain(costs: list[Cost], cpus: int) -> float:
    ends: dict[str, float] = {}
    for cost in costs:  # what is upstream comes first
        before = max((ends[name] for name in cost.stage.upstream if name in ends), default=0.0)
        ends[cost.stage.name] = before + cost.fixed + cost.spread / cpus
    return max(ends.values(), default=0.0)
