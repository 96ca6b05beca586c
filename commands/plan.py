"""What a run of params.yaml costs, before it starts: core-hours, GPU-hours, disk, memory per stage, and wall time by JOBS.

Rates are measured here, each network for about a second, in --seconds in all. Images are counted in the data; before there are
any, --train-images and --test-images say how many each task has. What makes the data is not planned: it is minutes where a
training is hours. Interval estimates and the report are counted by their start alone.

For GPUs the arithmetic of each network is divided by the peak of --gpu-kind (pipeline/planning/gpus.csv names the data sheets)
times --share-of-peak. That share is an assumption, not a measurement: networks differ in it by several times.
"""

import argparse
import csv
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import command, params
from pipeline.data import datasets
from pipeline.errors import ParameterError, UserError
from pipeline.logs import LOG
from pipeline.networks.requirements import phases
from pipeline.planning import rates, schedule
from pipeline.planning.schedule import Cost
from pipeline.running import cluster, jobs
from pipeline.scoring import protocols

GPUS = Path(__file__).resolve().parents[1] / "pipeline/planning/gpus.csv"
PROCESS_BYTES = 600e6
"""Resident memory of a Python process that has loaded torch, before it holds any data (measured on Linux)."""


@dataclass(frozen=True)
class Gpu:
    kind: str
    memory: float
    flops: float
    """Of the wanted precision, already times the share of the peak."""


class Planner:
    """Costs of stages, from rates that are measured when a stage of their kind is first met."""

    def __init__(self, parameters: params.Params, arguments, gpu: Gpu | None):
        self.parameters, self.arguments, self.gpu = parameters, arguments, gpu
        self.heavy_start, self.light_start = rates.starting()
        self.recording = rates.recording()
        self.rates: dict[str, rates.Rate] = {}
        self.of_task: dict[str, rates.PerImage] = {}
        self.tested: dict[str, int] = {}
        self.methods: dict[str, int] = {}
        count = len(parameters.models)
        self.seconds_each = arguments.seconds / max(1, count)

    def cost(self, stage: jobs.Stage) -> Cost | None:
        """None for a stage that makes data."""
        words = shlex.split(stage.command)
        share = jobs.demand(stage, self.parameters, self.arguments.gpus)
        fixed = self.recording + self.light_start
        if stage.kind in ("train", "infer", "detect"):
            name = words[words.index(f"stages.{stage.kind}") + 1]
            data = _values(words, "--data")
            if stage.kind == "train":
                return self._train(stage, share, name, data)
            return self._infer(stage, share, name, data, words)
        if stage.kind == "evaluate":
            task = words[words.index("stages.evaluate") + 1]
            of_image = self.of_task.get(task)
            if of_image is None:
                return Cost(stage, share, fixed)
            named = getattr(self.parameters.evaluation.protocols, task)
            times = len(protocols.chosen(task, named))  # a protocol costs about what seam-256 does
            each = of_image.read + self.methods[task] * (of_image.read + of_image.score) * times
            return Cost(stage, share, fixed, self.tested[task] * each, PROCESS_BYTES, 0.0, "measured")
        if stage.kind in ("published", "report", "detectability"):
            return Cost(stage, share, fixed, memory=PROCESS_BYTES / 2)
        return None

    def _train(self, stage: jobs.Stage, share: jobs.Share, name: str, data: list[Path]) -> Cost:
        block, task, shared = self.parameters.models[name], params.task_of(name), self.parameters.training
        assert block.training is not None  # else it had no such stage
        training, validation = self._training_images(task, data)
        batch = block.training.batch_size
        steps = min(training * block.training.draws // batch, block.training.max_steps_per_epoch or 2**62)
        rate, of_image = self._rate(name, task, data), self._of_task(task, data)
        seconds, flops, epochs_in_all = 0.0, 0.0, 0
        known = tuple(rate.train_seconds)
        for phase, epochs, _ in phases(name, block.training, known):
            seconds += epochs * steps * batch * rate.train_seconds[phase]
            flops += epochs * steps * batch * rate.train_gflop[phase] * 1e9
            epochs_in_all += epochs
        validated = min(validation, shared.validation_images) * math.ceil(epochs_in_all / block.training.validate_every)
        flops += validated * rate.predict_gflop * 1e9
        work = seconds + validated * (rate.predict_seconds / share.cpus + of_image.read)
        work = flops / self.gpu.flops / shared.workers if share.gpu_parts and self.gpu else work / shared.workers
        # weights in float32, and beside them the checkpoint that a killed training goes on from
        disk = rate.parameters * (4 + 12)
        # a checkpoint is written at the end of each phase; what a batch keeps lies in the GPU's memory there
        memory = (PROCESS_BYTES + (0 if share.gpu_parts else rate.train_bytes)) * shared.workers
        basis = rate.basis if not share.gpu_parts else "arithmetic"
        return Cost(stage, share, self.recording + self.heavy_start + work, 0.0, memory, disk, basis)

    def _infer(self, stage: jobs.Stage, share: jobs.Share, name: str, data: list[Path], words: list[str]) -> Cost:
        task, block = params.task_of(name), self.parameters.models[name]
        count = self._test_images(task, data)
        rate, of_image = self._rate(name, task, data), self._of_task(task, data)
        size = self.parameters.image_size
        pixels = 1 + sum((side / size) ** 2 for side in self.parameters.inference.resolutions)
        if stage.kind == "infer":
            self.tested[task], self.methods[task] = count, self.methods.get(task, 0) + 1
        else:  # a localizer looks at the real picture too
            count *= 1 + len(_values(words, "--harmonized"))
        # without weights there is no torch
        drawn_by_torch = "--weights" in words
        fixed = self.recording + (self.heavy_start if drawn_by_torch else self.light_start)
        each = (of_image.read + of_image.write) * pixels
        disk = count * pixels * of_image.prediction_bytes if stage.kind == "infer" else 0.0
        memory = (PROCESS_BYTES if drawn_by_torch else PROCESS_BYTES / 2) + 4 * rate.parameters
        if share.gpu_parts and self.gpu:
            gpu_seconds = count * pixels * rate.predict_gflop * 1e9 / self.gpu.flops
            # one worker reads, predicts and writes in turns
            return Cost(stage, share, fixed + gpu_seconds + count * each, 0.0, memory, disk, "arithmetic")
        work = count * (each + rate.predict_seconds * pixels)
        return Cost(stage, share, fixed, work, memory, disk, rate.basis if block.outputs is None else "")

    def _rate(self, name: str, task: str, data: list[Path]) -> rates.Rate:
        if name not in self.rates:
            LOG.info(f"measuring {name}")
            block, size = self.parameters.models[name], self.parameters.image_size
            dataset = self._dataset(task, data)
            batch = self.parameters.inference.batch_size
            items = (
                [dataset.item(number) for number in range(min(batch, len(dataset)))] if dataset is not None else None
            )
            threads = self.parameters.training.threads if self.parameters.training.workers == 1 else 1
            self.rates[name] = rates.method(name, block, task, size, batch, threads, self.seconds_each, items)
        return self.rates[name]

    def _of_task(self, task: str, data: list[Path]) -> rates.PerImage:
        if task not in self.of_task:
            dataset = self._dataset(task, data)
            size = self.parameters.image_size
            # without data: nothing is known of files; a picture of noise compresses to its own size
            none = rates.PerImage(0.0, 0.0, 0.0, float(size**2 * (1 if task == "localization" else 3)))
            self.of_task[task] = none if dataset is None else rates.per_image(task, dataset)
        return self.of_task[task]

    def _options(self, task: str) -> dict:
        block = self.parameters.localization
        return {"max_foreground": block.max_foreground} if task == "localization" and block is not None else {}

    def _dataset(self, task: str, data: list[Path]):
        if self.arguments.test_images is not None:
            return None
        split = datasets.test_splits(task, data)[0]
        return datasets.for_testing(task, data, self.parameters.image_size, split, **self._options(task))

    def _test_images(self, task: str, data: list[Path]) -> int:
        if self.arguments.test_images is not None:
            return self.arguments.test_images
        return sum(
            len(datasets.for_testing(task, data, self.parameters.image_size, split, **self._options(task)))
            for split in datasets.test_splits(task, data)
        )

    def _training_images(self, task: str, data: list[Path]) -> tuple[int, int]:
        if self.arguments.train_images is not None:
            return self.arguments.train_images, self.parameters.training.validation_images
        options = self._options(task)
        if task == "inpainting" and self.parameters.inpainting is not None:
            options = {"mask_augmentation": self.parameters.inpainting.mask_augmentation}
        training, validation = datasets.for_training(task, data, self.parameters.image_size, **options)
        return len(training), len(validation)


def main(arguments) -> None:
    parameters = params.load()
    if (arguments.train_images is None) != (arguments.test_images is None):
        raise ParameterError("--train-images and --test-images: give both, or neither to count the data's")
    gpu = _gpu(arguments, parameters)
    parameters = parameters.model_copy(
        update={"training": parameters.training.model_copy(update={"device": "gpu" if arguments.gpus else "cpu"})}
    )
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    stages = jobs.read_graph(with_state=False)[0]
    planner = Planner(parameters, arguments, gpu)
    try:
        costs = [cost for stage in stages if (cost := planner.cost(stage))]
    except (UserError, FileNotFoundError) as error:
        if arguments.test_images is None and not all(Path(path).exists() for path in _data_of(stages)):
            missing = next(path for path in _data_of(stages) if not Path(path).exists())
            raise UserError(
                f"{missing} isn't there yet, in which images would be counted; give --train-images and --test-images, or make it by `dvc repro models/dvc.yaml:lists`"
            ) from error
        raise
    show(costs, stages, planner, arguments)


def show(costs: list[Cost], stages: list[jobs.Stage], planner: Planner, arguments) -> None:
    console = Console(width=120 if not sys.stdout.isatty() else None)
    table = Table("stage", "core-h", "GPU-h", "memory", "disk", "from", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for cost in costs:
        table.add_row(*_row(cost.stage.name.rpartition(":")[2], [cost], cost.memory, cost.basis))
    table.add_row(*_row("in all", costs, max(cost.memory for cost in costs), ""), style="bold")
    console.print(table)
    not_planned = sorted({stage.kind for stage in stages} - {cost.stage.kind for cost in costs})
    console.print(f"not planned, for they make the data: {', '.join(not_planned)}")
    console.print("DVC's cache holds a copy of all outputs, unless its cache.type is a kind of link.")
    walls = Table("cores", "GPUs", "JOBS", "wall time", "peak memory", "limited by", box=None)
    sizes = [(arguments.cores, arguments.gpus)]
    if arguments.gpus:  # what more of them would give, with as many cores for each
        each = max(1, arguments.cores // arguments.gpus)
        sizes += [(count * each, count) for count in (1, 8, 64) if count != arguments.gpus]
    for cores, gpus in sorted(sizes):
        wanted = arguments.jobs or sorted({1, 2, 4, 8, max(1, gpus)})
        for at_once in wanted:
            course = schedule.simulate(costs, cores, gpus, at_once)
            limit = course.limit if at_once > 1 else "one stage at a time"
            walls.add_row(
                str(cores), str(gpus), str(at_once), _time(course.seconds), f"{course.memory / 2**30:.1f} GiB", limit
            )
    console.print(walls)


def _row(name: str, costs: list[Cost], memory: float, basis: str) -> list[str]:
    cores, gpus = sum(cost.core_seconds for cost in costs), sum(cost.gpu_seconds for cost in costs)
    disk = sum(cost.disk for cost in costs)
    return [
        name, f"{cores / 3600:.3f}", f"{gpus / 3600:.3f}", f"{memory / 2**30:.2f} GiB", f"{disk / 2**20:.0f} MiB", basis,
    ]  # fmt: skip


def _time(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"  # fmt: skip


def _values(words: list[str], option: str) -> list[Path]:
    """What follows an option on a command line, up to the next one."""
    rest = words[words.index(option) + 1 :]
    end = next((number for number, word in enumerate(rest) if word.startswith("--")), len(rest))
    return [Path(word) for word in rest[:end]]


def _data_of(stages: list[jobs.Stage]) -> list[Path]:
    return [
        path
        for stage in stages
        if stage.kind in ("train", "infer")
        for path in _values(shlex.split(stage.command), "--data")
    ]


def _gpu(arguments, parameters: params.Params) -> Gpu | None:
    if not arguments.gpus:
        return None
    with open(GPUS, newline="") as file:
        known = {row["kind"]: row for row in csv.DictReader(file)}
    if arguments.gpu_kind not in known:
        raise ParameterError(
            f"--gpu-kind {arguments.gpu_kind}: expected one of {', '.join(known)}, which {GPUS.name} holds"
        )
    if not 0 < arguments.share_of_peak <= 1:
        raise ParameterError(f"--share-of-peak {arguments.share_of_peak}: expected a number above 0 and at most 1")
    row = known[arguments.gpu_kind]
    peak = float(row["bf16_tflops" if parameters.training.precision == "bf16" else "fp32_tflops"]) * 1e12
    return Gpu(arguments.gpu_kind, float(row["memory_gib"]) * 2**30, peak * arguments.share_of_peak)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cores", type=int, default=cluster.cpus(), help="cores of the machine or cluster (all here)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the machine or cluster")
    parser.add_argument("--gpu-kind", default="h100", help="a row of pipeline/planning/gpus.csv")
    parser.add_argument(
        "--share-of-peak", type=float, default=0.25, help="what networks reach of a GPU's peak; an assumption (0.25)"
    )
    parser.add_argument("--jobs", type=int, nargs="+", help="stages at once, as make repro JOBS=n (1 2 4 8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for measuring all networks (60)")
    parser.add_argument("--train-images", type=int, help="training images of each task, where the data aren't made yet")
    parser.add_argument("--test-images", type=int, help="test images of each task, where the data aren't made yet")
    command.run(main, parser.parse_args())
