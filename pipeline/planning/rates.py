"""How fast this machine does each kind of work: a training step and a prediction of each method, the scoring of an image, the
start of a process. Each is timed for a second or so."""

import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import images, params
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import devices
from pipeline.params.schema import ModelBlock
from pipeline.running import memory
from pipeline.scoring import image_scores
from pipeline.tasks import TASKS

SMALL = 64
"""Side in pixels of the first trial of a network. Where a trial at its true size would take too long, its time there is taken to
grow with the number of pixels."""

PRETRAINED = ("backbone_weights", "perceptual_weights")
"""Hyperparameters that name a file of weights; what the weights are doesn't change the speed."""

ADAM_BYTES = 16
"""Bytes of a trained parameter: itself, its gradient, and Adam's two moments, in float32."""


@dataclass
class Rate:
    """One method at one image size. Times are of this machine; GFLOP count a multiply-add as two."""

    predict_seconds: float
    """Seconds of one thread per image predicted, reading and writing excluded."""
    predict_gflop: float
    parameters: int
    train_seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds per image trained, by `training.threads` threads."""
    train_gflop: dict[str, float] = field(default_factory=dict)
    train_bytes: int = 0
    """Memory of a training: parameters with their optimizer, and what a batch keeps for the backward pass."""
    basis: str = "measured"


def method(
    name: str,
    block: ModelBlock,
    task: str,
    side: int,
    batch_size: int,
    threads: int,
    seconds: float,
    items: list | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """Time a method for about `seconds`.

    items: real items of the task, (H, W) = (side, side), to time with; None for drawn ones, which also stand in for items
        that lack a picture that the network trains on.
    clock: what counts the seconds; time.process_time where one thread works and other programs share the cores.
    """
    memory.keep_freed()  # as a training on a CPU does
    model, note = _built(name, block)
    keys = _keys(task, model.uses_real_photographs)
    if not items or (block.training is not None and not set(keys) <= set(items[0])):
        items = _drawn(keys, side)
    rate = Rate(0.0, 0.0, sum(parameter.numel() for parameter in model.parameters()))
    phases = model.phases if block.training else ()
    each = seconds / (len(phases) + 1)
    smallest = min(SMALL, side)
    sides: list[int] = []

    def trial(
        run: Callable[[dict], None], images_at_once: int, layout: torch.memory_format
    ) -> tuple[float, float, int]:
        """Seconds and GFLOP per image, and bytes kept for the backward pass by a whole batch."""
        try:
            small = _batch(items, min(2, images_at_once), smallest, layout)
            counts = _counted(run, small)
            tried = smallest
        except (ValueError, RuntimeError):  # too small a picture for this network
            small = _batch(items, min(2, images_at_once), side, layout)
            counts = _counted(run, small)
            tried = side
        took = _timed(run, small, each / 4, clock)
        grown = (side / tried) ** 2
        count = min(2, images_at_once)
        if took / count * images_at_once * grown <= each / 2:
            took = _timed(run, _batch(items, images_at_once, side, layout), each / 2, clock)
            grown, count = 1.0, images_at_once
            sides.append(side)
        else:
            sides.append(tried)
        scale = (side / tried) ** 2 / min(2, images_at_once)
        return took / count * grown, counts[0] * scale / 1e9, int(counts[1] * scale * images_at_once)

    layout = torch.channels_last if block.training and block.training.channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    for phase in phases:
        assert block.training is not None  # else there are no phases
        with devices.threads(threads):
            seconds_each, gflop, kept = trial(_training(model, phase), block.training.batch_size, layout)
        rate.train_seconds[phase], rate.train_gflop[phase] = seconds_each, gflop
        rate.train_bytes = max(rate.train_bytes, ADAM_BYTES * rate.parameters + kept)
    model.eval().to(
        memory_format=torch.contiguous_format
    )  # as predictions are made, whatever the training's layout was
    with devices.threads(1), torch.no_grad():
        rate.predict_seconds, rate.predict_gflop, _ = trial(
            lambda batch: model(batch), batch_size, torch.contiguous_format
        )
    if min(sides) < side:
        rate.basis = f"measured at {min(sides)} px"
    rate.basis += note
    return rate


def _built(name: str, block: ModelBlock) -> tuple:
    try:
        return params.build_model(name, block.hyperparameters), ""
    except (UserError, ValueError):
        for keys in ((key,) for key in PRETRAINED):
            with contextlib.suppress(UserError, ValueError, TypeError):
                without = block.hyperparameters | dict.fromkeys(keys, "none")
                return params.build_model(name, without), f"; without its {keys[0]}, which aren't here"
        raise


def _training(model, phase: str) -> Callable[[dict], None]:
    """One step as a training does it: each player's forward and backward pass, and Adam."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.train()
    model.enter(phase)
    thawed = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    moved = {
        player: [parameter for parameter in model.parameters_of(player) if id(parameter) in thawed]
        for player in model.players
    }
    optimizers = {player: torch.optim.Adam(some, lr=1e-6) for player, some in moved.items() if some}

    def step(batch: dict) -> None:
        for player, optimizer in optimizers.items():
            for other in optimizers:
                for parameter in moved[other]:
                    parameter.requires_grad_(other == player)
            loss, _ = model.loss(player, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def _counted(run: Callable[[dict], None], batch: dict) -> tuple[int, int]:
    """Floating-point operations of a run, and bytes that it keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with FlopCounterMode(display=False) as counter:
            run(batch)
    return counter.get_total_flops(), sum(kept.values())


def _timed(run: Callable[[dict], None], batch: dict, seconds: float, clock: Callable[[], float]) -> float:
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 20):
        start = clock()
        run(batch)
        times.append(clock() - start)
    return min(times)  # what else the machine does only adds to it


def _drawn(keys: tuple[str, ...], side: int) -> list[dict[str, np.ndarray]]:
    """An item of noise with a square of a sixteenth of the picture."""
    rng, mask = np.random.default_rng(0), np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    picture, other = (rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(2))
    item = {"composite": picture, "real": other, "mask": mask, "image": other, "hole": mask}
    return [{key: item[key] for key in keys}]


def _batch(items: list, count: int, side: int, layout: torch.memory_format) -> dict[str, torch.Tensor]:
    batch = datasets.collate([items[number % len(items)] for number in range(count)])
    if next(iter(batch.values())).shape[-1] != side:
        batch = {key: torch.nn.functional.interpolate(value, size=(side, side)) for key, value in batch.items()}
    return {key: value.to(memory_format=layout) for key, value in batch.items()}


def _keys(task: str, real_photographs: bool) -> tuple[str, ...]:
    """The pictures of an item that a training reads."""
    if task == "inpainting":
        return ("image", "hole")
    return ("composite", "real", "mask") if task == "harmonization" or real_photographs else ("composite", "mask")


@dataclass(frozen=True)
class PerImage:
    """Seconds of one thread, and bytes, per image of a task, whatever the method."""

    read: float
    write: float
    score: float
    """Under seam-256 alone: further protocols come on top."""
    prediction_bytes: float


def per_image(task: str, dataset, count: int = 8) -> PerImage:
    """Time the reading of items, the saving of predictions and their scoring, on the first images of a test split."""
    numbers = range(min(count, len(dataset)))
    start = time.process_time()
    items = [dataset.item(number) for number in numbers]
    read = (time.process_time() - start) / len(items)
    pictures = [_prediction(task, item) for item in items]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        for number, picture in enumerate(pictures):
            images.write_png(Path(folder) / f"{number}.png", picture)
        write = (time.process_time() - start) / len(items)
        size = statistics.mean(file.stat().st_size for file in Path(folder).iterdir())
    start = time.process_time()
    for item, picture in zip(items, pictures):
        image_scores.score(task, picture, item)
    return PerImage(read, write, (time.process_time() - start) / len(items), size)


def _prediction(task: str, item: dict[str, np.ndarray]) -> np.ndarray:
    """Something like a prediction: the picture that a method of the task is given, or for a map its brightness."""
    picture = item[TASKS[task].picture]
    return picture if TASKS[task].region is not None else np.ascontiguousarray(picture[..., 0])


def starting() -> tuple[float, float]:
    """Seconds until a stage begins its work, with torch and without it."""
    return _import("pipeline.networks.loop"), _import("pipeline.scoring.evaluation")


def _import(module: str) -> float:
    return _processor_seconds([sys.executable, "-c", f"import {module}"])


def _processor_seconds(command: list[str]) -> float:
    """Of a process of one thread: what its wall time is where nothing else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def recording() -> float:
    """Seconds that a DVC process takes for itself to run one stage."""
    return _processor_seconds(["dvc", "status", "check"])
