"""Optimizers, and learning rates over a phase."""

import math
from typing import Any

import torch
from torch import nn

from pipeline.params.schema import Optimization, Schedule


def schedule_factor(schedule: Schedule, progress: float) -> float:
    """What the learning rate is multiplied by at `progress` in [0, 1) through a phase."""
    if progress < schedule.warmup:
        return (progress + 1e-3) / (schedule.warmup + 1e-3)
    if schedule.name == "step":
        return schedule.factor ** sum(progress >= milestone for milestone in schedule.milestones)
    if schedule.name == "linear":
        return 1.0 if progress < schedule.start else (1.0 - progress) / (1.0 - schedule.start)
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (progress - schedule.warmup) / (1 - schedule.warmup)))
    return 1.0


def make_optimizer(
    settings: Optimization, parameters: list[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """Fused optimizer over `parameters`. Each group keeps its rate before the schedule as `initial_lr`."""
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": settings.weight_decay, "fused": True}
    made: torch.optim.Optimizer
    if settings.optimizer == "adam":
        made = torch.optim.Adam(parameters, betas=(settings.betas[0], settings.betas[1]), **common)
    elif settings.optimizer == "adamw":
        made = torch.optim.AdamW(parameters, betas=(settings.betas[0], settings.betas[1]), **common)
    else:
        made = torch.optim.SGD(parameters, momentum=settings.betas[0], **common)
    for group in made.param_groups:
        group["initial_lr"] = learning_rate
    return made
