"""Stages of DVC's graph side by side: each is started once what it needs is recorded, with a share of cores and GPUs of its own.

`dvc repro` runs one stage at a time. Here each stage is run by a DVC process of its own, `dvc --wait-for-lock repro --single-item`,
which reads its inputs only after the DVC processes of all stages before it have ended, and so have written the lock file. The end
state is that of `dvc repro`: the same outputs and the same lock files, byte for byte.

How many threads a stage has never depends on what runs beside it where its result depends on it: a training asks for
`training.threads` cores, and waits until they are free.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from pipeline import params
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.running import cluster, run_folders, supervisor

LOGS = Path(run_folders.RUNS) / "logs"
"""A file for each stage: what it and its DVC said when it was run last."""

SPEAK_SECONDS = 15.0
"""Seconds between the lines that say where the running stages are."""

MARK = "SEAMBENCH_DRIVER"
"""What the environment of every started stage holds: the driver that started it."""

SPREADING = ("synthesize", "irregular_masks", "evaluate", "infer", "detect")
"""Stages whose work is spread over as many cores as they are given; their results don't depend on how many."""


@dataclasses.dataclass
class Stage:
    """One stage of the graph. `name` is its address as `dvc repro` takes it, `upstream` holds the names of stages whose
    outputs it reads, `stale` says that DVC would run it as things stand."""

    name: str
    command: str
    upstream: frozenset[str]
    stale: bool

    @property
    def kind(self) -> str:
        """ "train" for `python -m stages.train unet`; empty for a command that is none of this project's stages."""
        named = re.search(r"-m stages\.(\w+)", self.command)
        return named[1] if named else ""

    @property
    def log(self) -> Path:
        return LOGS / f"{re.sub(r'[^A-Za-z0-9@._-]+', '-', self.name.rpartition(':')[2])}.log"


def read_graph(with_state: bool = True) -> tuple[list[Stage], dict[str, list[str]]]:
    """What `dvc repro` would go through, in its order; and the stages that each lock file names, in its order. Without
    their state, which takes hashing the data, all count as stale."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo() as repo, repo.lock:
            graph = get_active_graph(repo.index.graph)
            steps = plan_repro(graph, collect_stages(repo, ["dvc.yaml"]))
            stages = []
            for step in steps:
                upstream = frozenset(dependency.addressing for dependency in graph.successors(step))
                command = step.cmd if isinstance(step.cmd, str) else " && ".join(step.cmd or [])
                stages.append(Stage(step.addressing, command, upstream, not with_state or bool(step.status())))
    except DvcException as error:
        raise UserError(f"dvc: {' '.join(str(error).split())}") from None
    return stages, {lock: _recorded(Path(lock)) for lock in ("dvc.lock", "models/dvc.lock")}


def to_run(stages: list[Stage]) -> list[Stage]:
    """The stages that are stale or may become so: what reads, at first or at second hand, an output of a stale stage."""
    chosen: dict[str, Stage] = {}
    for stage in stages:  # in an order in which what is upstream comes first
        if stage.stale or stage.upstream & chosen.keys():
            chosen[stage.name] = stage
    return list(chosen.values())


# -- shares of the machine


@dataclasses.dataclass(frozen=True)
class Share:
    """What a stage takes: cores, parts of a GPU for each of its workers, and how many such workers it has."""

    cpus: int
    gpu_parts: int = 0
    gpu: float = 0.0

    @property
    def gpus(self) -> float:
        return self.gpu_parts * self.gpu


def demand(stage: Stage, parameters: params.Params, gpus: int) -> Share:
    """The least that a stage needs, on a machine or cluster with so many GPUs."""
    training = parameters.training
    on_gpu = training.device == "gpu" or (training.device == "auto" and gpus >= training.workers)
    if stage.kind == "train":
        if on_gpu:
            return Share(training.workers, training.workers, cluster.gpu_share())
        return Share(training.threads if training.workers == 1 else training.workers)
    if stage.kind in ("infer", "detect") and on_gpu and "--weights" in stage.command:
        return Share(1, 1, cluster.gpu_share())
    return Share(1)


class Machine:
    """Cores and GPUs, and what of them is free. GPUs are numbered, so that a part is always part of one."""

    def __init__(self, cpus: int, gpus: int):
        self.cpus, self.free_cpus = cpus, cpus
        self.free_gpus = [1.0] * gpus

    def take(self, least: Share, spreads: bool, others: int) -> "Taken | None":
        """Take a share, or None while too little is free. Work that spreads takes its part of all free cores, when `others`
        more stages may be started at once. What is larger than the machine is given all of it."""
        cpus = min(least.cpus, self.cpus)
        if cpus > self.free_cpus:
            return None
        devices: list[int] = []
        free = list(self.free_gpus)
        for _ in range(least.gpu_parts):
            number = max(
                range(len(free)), key=lambda device: (free[device] >= least.gpu - 1e-9, -free[device]), default=None
            )
            if number is None or free[number] < least.gpu - 1e-9:
                return None
            free[number] -= least.gpu
            devices.append(number)
        if spreads:
            cpus = max(cpus, self.free_cpus // (1 + others))
        self.free_cpus -= cpus
        self.free_gpus = free
        return Taken(cpus, devices, least.gpu)

    def give_back(self, taken: "Taken") -> None:
        self.free_cpus += taken.cpus
        for number in taken.devices:
            self.free_gpus[number] += taken.gpu


@dataclasses.dataclass(frozen=True)
class Taken:
    cpus: int
    devices: list[int]
    gpu: float

    def environment(self) -> dict[str, str]:
        """What a stage with this share has in its environment. With Ray its workers are placed by Ray, else by number."""
        chosen = {"SEAMBENCH_CPUS": str(self.cpus), "OMP_NUM_THREADS": str(self.cpus)}
        if self.devices:
            chosen["SEAMBENCH_GPU_WORKERS"] = str(len(self.devices))
            if cluster.plain():
                visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
                chosen["CUDA_VISIBLE_DEVICES"] = ",".join(
                    visible[device] if visible else str(device) for device in dict.fromkeys(self.devices)
                )
        return chosen

    def __str__(self) -> str:
        gpus = f", {len(self.devices) * self.gpu:g} GPU" if self.devices else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"


def machine(parameters: params.Params, environment: dict[str, str]) -> Machine:
    """What the stages may share: of the cluster that they are about to join, else of this machine."""
    if environment.get("RAY_ADDRESS") and not cluster.plain():
        code = "import json; from pipeline.running import cluster\nwith cluster.session(): print(json.dumps([cluster.cores(), cluster.gpus()]))"
    elif parameters.training.device != "cpu":
        code = "import json, torch; from pipeline.running import cluster; print(json.dumps([cluster.cpus(), torch.cuda.device_count()]))"
    else:
        return Machine(cluster.cpus(), 0)
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(run_folders.ROOT)},
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        raise UserError((asked.stderr.strip().splitlines() or ["the cluster's resources can't be read"])[-1])
    return Machine(*json.loads(asked.stdout.splitlines()[-1]))


def needs_cluster(parameters: params.Params) -> bool:
    """Whether one Ray head for the whole run is worth its start. On CPUs, where nothing has to be placed and the data are those
    of this repository, the few stages that Ray pays for start it by themselves."""
    small = all(source.kind == "bundled" for source in parameters.sources.values())
    return not cluster.plain() and (parameters.training.device != "cpu" or parameters.training.workers > 1 or not small)


# -- the run


class Run:
    """Stages on their way. `step` starts what can be started and takes note of what has ended."""

    def __init__(
        self,
        stages: list[Stage],
        shares: Machine,
        parameters: params.Params,
        jobs: int,
        keep_going: bool,
        environment: dict[str, str],
        head_pid: int | None = None,
    ):
        self.shares, self.parameters, self.jobs, self.keep_going, self.environment = (
            shares,
            parameters,
            jobs,
            keep_going,
            environment,
        )
        self.head_pid = head_pid
        self.waiting = {stage.name: stage for stage in stages}
        self.running: dict[str, tuple[Stage, subprocess.Popen, Taken, float]] = {}
        self.failed: list[Stage] = []
        self.skipped: list[Stage] = []
        self.total, self.spoken = len(stages), time.monotonic()
        gpus = len(shares.free_gpus)
        for stage in stages:
            least = demand(stage, parameters, gpus)
            if not Machine(shares.cpus, gpus).take(least, False, 0):
                raise UserError(
                    f"{stage.name}: training.workers = {least.gpu_parts} on GPUs, of which {gpus} are here; set training.device: cpu, fewer workers, or run where they are"
                )

    def step(self) -> bool:
        """Whether anything is left to be waited for."""
        for name, (stage, process, taken, started) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            self.shares.give_back(taken)
            if process.returncode:
                self.failed.append(stage)
                self._skip(stage)
                if process.returncode < 0:
                    self._end_orphans()
            done = self.total - len(self.waiting) - len(self.running) - len(self.skipped)
            outcome = "failed" if process.returncode else "done"
            say(
                f"[{done}/{self.total}] {outcome} {stage.name} in {time.monotonic() - started:.0f} s"
                + (f": {reason(stage)}" if process.returncode else "")
            )
        if self.keep_going or not self.failed:
            self._start()
        elif not self.running:
            self.skipped += self.waiting.values()
            self.waiting.clear()
        if time.monotonic() - self.spoken > SPEAK_SECONDS:
            self.spoken = time.monotonic()
            for stage, _, _, started in self.running.values():
                say(f"  {stage.name} {self.spoken - started:.0f} s: {last_line(stage.log)}")
        return bool(self.running)

    def ready(self) -> list[Stage]:
        """Stages all of whose upstream is recorded, trainings first: they take longest, and what follows waits for them."""
        pending = self.waiting.keys() | self.running.keys()
        return sorted(
            (stage for stage in self.waiting.values() if not stage.upstream & pending),
            key=lambda stage: stage.kind != "train",
        )

    def _start(self) -> None:
        ready = self.ready()
        for number, stage in enumerate(ready):
            free = self.jobs - len(self.running)
            if free <= 0:
                return
            least = demand(stage, self.parameters, len(self.shares.free_gpus))
            taken = self.shares.take(least, stage.kind in SPREADING, min(free, len(ready) - number) - 1)
            if taken is None:
                continue
            del self.waiting[stage.name]
            say(f"start {stage.name} ({taken})")
            self.running[stage.name] = (
                stage,
                launch(stage, self.environment | taken.environment()),
                taken,
                time.monotonic(),
            )

    def _end_orphans(self) -> None:
        """Kill the stage of a DVC that was killed itself: nobody would record what it makes. It is this process's child now."""
        known = {process.pid for _, process, _, _ in self.running.values()}
        for orphan in psutil.Process().children():
            if orphan.pid not in known and orphan.pid != self.head_pid:
                cluster.kill_tree(orphan.pid)

    def _skip(self, failed: Stage) -> None:
        gone = {failed.name}
        for stage in list(self.waiting.values()):
            if stage.upstream & gone:
                gone.add(stage.name)
                self.skipped.append(self.waiting.pop(stage.name))


def launch(stage: Stage, environment: dict[str, str]) -> subprocess.Popen:
    """Start DVC on one stage, all that it says in the stage's log."""
    stage.log.parent.mkdir(parents=True, exist_ok=True)
    with open(stage.log, "wb") as log:
        return subprocess.Popen(
            ["dvc", "--wait-for-lock", "repro", "--single-item", stage.name],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def run(
    stages: list[Stage],
    parameters: params.Params,
    jobs: int,
    keep_going: bool,
    environment: dict[str, str],
    signals: supervisor.Signals,
    head=None,
) -> int:
    """Run these stages, at most `jobs` at a time; the exit code. At a signal the stages end in their own way."""
    environment = environment | {MARK: _mark(os.getpid())}
    head_pid = head.process.pid if head is not None else None
    course = Run(stages, machine(parameters, environment), parameters, jobs, keep_going, environment, head_pid)
    try:
        while course.step():
            time.sleep(0.1)
            if signals.number is not None:
                _end(course, signals, signals.number)
                LOG.error(f"ended by {signal.Signals(signals.number).name}; finished work is kept")
                return 128 + signals.number
            if head is not None and (why := head.ended()):
                _end(course, signals, signal.SIGTERM)
                raise UserError(
                    f"Ray's head ended ({why}); start again, and finished work is kept; its logs are in {head.folder}"
                )
    finally:
        for _, process, _, _ in course.running.values():
            cluster.kill_tree(process.pid)
    if not course.failed:
        return 0
    for stage in course.failed:
        LOG.error(f"{stage.name} failed: {reason(stage)} (all of it: {stage.log})")
    if course.skipped:
        hint = "" if keep_going else "; KEEP_GOING=1 goes on with what doesn't depend on a failure"
        LOG.error(f"not run: {', '.join(stage.name for stage in course.skipped)}{hint}")
    return 1


def _end(course: Run, signals: supervisor.Signals, number: int) -> None:
    """Pass a signal on to all that runs, and wait until it has ended."""
    passed_on = {process.pid: supervisor.PassedOn(process.pid, number) for _, process, _, _ in course.running.values()}
    for _, process, _, _ in list(course.running.values()):
        while process.poll() is None:
            for passed in passed_on.values():
                passed.go_on()
            if signals.again or passed_on[process.pid].overdue():
                cluster.kill_tree(process.pid)
            time.sleep(0.1)


def say(line: str) -> None:
    LOG.info(line)


def last_line(log: Path) -> str:
    """What a stage said last, of its log's last 4 kB."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:200] if lines else "nothing said yet"


def reason(stage: Stage) -> str:
    """Why a stage failed, by its log: the line in which the stage says so, else a traceback's last, else DVC's first."""
    lines = stage.log.read_text(errors="replace").replace("\r", "\n").splitlines()
    own = [line for line in lines if stage.kind and line.startswith(f"{stage.kind}: ")]
    raised = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b", line)]
    by_dvc = [line for line in lines if line.startswith("ERROR: ")]
    return (own or raised[-1:] or by_dvc or lines[-1:] or ["it said nothing"])[0]


# -- what a driver that was killed has left running


def _mark(pid: int) -> str:
    """A driver, told apart from a later process of the same number, and its project."""
    return f"{pid}:{psutil.Process(pid).create_time():.2f}:{Path.cwd()}"


def end_leftovers() -> None:
    """Kill the stages, and their DVC processes, that a driver of this project started which is gone itself (`kill -9`). They
    would go on, and hold DVC's locks; what they have finished is taken up again."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            mark = process.environ().get(MARK, "")
            if mark.endswith(f":{Path.cwd()}") and not _is_there(mark):
                say(f"{MARK}: a driver that was killed left process {process.pid}; ended")
                cluster.kill_tree(process.pid)


def _is_there(mark: str) -> bool:
    try:
        return _mark(int(mark.split(":")[0])) == mark
    except psutil.NoSuchProcess:
        return False


# -- lock files


def order_locks(stages: Iterable[Stage], before: dict[str, list[str]]) -> None:
    """Put the entries of the lock files in the order in which `dvc repro` would have left them: those that were there before
    stay where they were, new ones follow in the order of the graph. DVC writes each where its stage ended."""
    from dvc.utils.serialize import modify_yaml

    order = [stage.name.rpartition(":")[2] for stage in stages]
    for lock, names in before.items():
        here = _recorded(Path(lock))
        wanted = [name for name in names if name in here]
        wanted += [name for name in order if name in here and name not in wanted]
        wanted += [name for name in here if name not in wanted]
        if here != wanted:
            with modify_yaml(lock) as content:
                content["stages"] = {name: content["stages"][name] for name in wanted}


def _recorded(lock: Path) -> list[str]:
    """Names of the stages in a lock file, in its order, by its lines: reading it as YAML takes seconds."""
    if not lock.exists():
        return []
    names, inside = [], False
    for line in lock.read_text().splitlines():
        if not line.startswith(" "):
            inside = line == "stages:"
        elif inside and (named := re.match(r"  (\S[^:]*):$", line)):
            names.append(named[1].strip("'\""))
    return names
