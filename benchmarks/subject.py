"""A network whose speed is measured: built at its published size, stepped as a training steps it, timed.

What benchmarks.networks (CPU) and benchmarks.gpu (GPU) have in common. Needs torch, and of a network's file what that imports.
"""

import contextlib
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import models
from models.base import Batch, Model
from pipeline.running import memory

PHASES = {"edgeconnect": ("edge", "inpaint")}
"""Phases that are timed; of other networks it is the first."""

COMPILED: dict[str, Any] = {"dynamic": False, "options": {"fallback_random": True}}
"""How a training asks torch.compile to work: COMPILED of pipeline/networks/loop.py, a file that needs many packages."""


class Subject:
    """A network with Adam for each player, in one precision and memory format, in one of its phases.

    phase: one of the network's; None for its first.
    half: bfloat16 by autocast. compiled: by torch.compile, each player's loss and the prediction.
    capturable: whether its step may become a CUDA graph.

    The model is changed in place: it should be new, or a copy.
    """

    def __init__(
        self,
        model: Model,
        phase: str | None = None,
        half: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        capturable: bool = False,
    ):
        self.half, self.compiled = half, compiled
        self.phase = phase or model.phases[0]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.device = next(model.parameters()).device
        if self.device.type == "cpu":
            memory.keep_freed()  # as a training does
        self.training()
        thawed = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        moved = {player: [p for p in model.parameters_of(player) if id(p) in thawed] for player in model.players}
        self.moved = {player: parameters for player, parameters in moved.items() if parameters}
        self.optimizers = {
            player: torch.optim.Adam(parameters, lr=1e-4, fused=True, capturable=capturable)
            for player, parameters in self.moved.items()
        }
        self.losses: dict[str, Callable] = {
            player: functools.partial(_loss, model, player) for player in self.optimizers
        }
        self.forward: Callable = functools.partial(_prediction, model)
        if compiled:
            self.losses = {player: torch.compile(loss, **COMPILED) for player, loss in self.losses.items()}
            self.forward = torch.compile(self.forward, **COMPILED)

    def training(self) -> None:
        self.model.train()
        self.model.enter(self.phase)

    def placed(self, batch: Batch) -> Batch:
        """The batch on the network's device, in its memory format."""
        return {
            key: value.to(self.device, memory_format=self.memory_format, non_blocking=True)
            for key, value in batch.items()
        }

    def step(self, batch: Batch, read: bool = True) -> list[Tensor]:
        """A training step: each player's forward and backward pass and Adam. Returns the players' losses.

        read: wait for each loss, as a training does, which reports it and checks that it is finite.
        """
        losses = []
        for player, optimizer in self.optimizers.items():
            if len(self.optimizers) > 1:
                for other, parameters in self.moved.items():
                    for parameter in parameters:
                        parameter.requires_grad_(other == player)
            with self.precision():
                loss, _ = self.losses[player](batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if read:
                losses[-1].item()
        return losses

    def predict(self, batch: Batch) -> Tensor:
        """A prediction; the model must be in evaluation mode."""
        with torch.no_grad(), self.precision():
            return self.forward(batch)

    def precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()


def _loss(model: Model, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return model.loss(player, batch)


def _prediction(model: Model, batch: Batch) -> Tensor:
    return model(batch)


def elapsed(device: torch.device, run: Callable[[], object], repeats: int = 1) -> float:
    """Seconds that one `run` takes, from `repeats` in a row: on a GPU by events in its stream, once what was queued before is done."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def won_back(compiling: float, eager: float, compiled: float) -> int | None:
    """The number of steps after which a first step of `compiling` seconds is won back, at `eager` and `compiled` seconds a step;
    None where a step saves nothing."""
    return round((compiling - compiled) / (eager - compiled)) if compiled < eager else None


def unpretrained(name: str) -> dict[str, str]:
    """Hyperparameters that keep a network from asking for pretrained weights: "none" for each that names a file of weights."""
    accepted = inspect.signature(models.class_of(name).__init__).parameters
    return {
        key: "none" for key, parameter in accepted.items() if key.endswith("_weights") and parameter.annotation is str
    }


def build(name: str) -> Model:
    """A network at its published size, without pretrained weights.

    Raises ValueError for an unknown name, ModuleNotFoundError where a package that it needs is missing."""
    return models.create(name, **unpretrained(name))


def pictures(count: int, side: int, device: str, seed: int = 0) -> Batch:
    """A batch for any task: noise (count, 3, side, side), and as mask a square of a quarter of the side."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    noise = [torch.rand(count, 3, side, side, generator=generator) for _ in range(2)]
    batch = {"composite": noise[0], "real": noise[1], "mask": mask, "image": noise[1], "hole": mask}
    return {key: value.to(device) for key, value in batch.items()}
