"""Data sets of a few pictures, and trainings that take a fraction of a second with networks of a few hundred parameters."""

import functools
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from models.base import Model
from pipeline import images, seeds, tables
from pipeline.errors import UserError
from pipeline.networks.loop import Job
from pipeline.params import schema

SIZE = 16


def random_picture(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def subset(root: Path, rows: list[dict]) -> Path:
    """A sub-dataset on disk, every picture random. A row needs pair_id, split and foreground_ratio; the mask is that share
    of the picture, on its left."""
    table = []
    for number, row in enumerate(rows):
        name = row["pair_id"]
        mask = np.zeros((40, 60), bool)
        mask[:, : round(60 * row["foreground_ratio"])] = True
        files = {
            "composite": f"composite_images/{name}.png",
            "mask": f"masks/{name}.png",
            "real": f"real_images/{name}.png",
        }
        images.write_png(root / files["composite"], random_picture(number))
        images.write_png(root / files["mask"], mask)
        images.write_png(root / files["real"], random_picture(100 + number))
        about = {"category": "cat", "transfer": "xiao", "simulated": False, "source_image": name.split("_")[0]}
        table.append({"subset": root.name} | files | about | row)
    tables.write(root / "pairs.parquet", pd.DataFrame(table))
    return root


class Pictures:
    """Harmonization items of SIZE x SIZE pixels: a smooth picture whose lower half was made brighter."""

    def __init__(self, split: str, count: int, unreadable: str | None = None):
        self.ids, self.unreadable = [f"{split}{number:02d}" for number in range(count)], unreadable

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> dict[str, np.ndarray]:
        if self.ids[index] == self.unreadable:
            raise UserError(f"{self.unreadable}.png: can't be decoded")
        colour = seeds.rng("colour", self.ids[index]).integers(40, 160, 3)
        real = (colour + np.linspace(0, 40, SIZE)[:, None, None] + np.zeros((SIZE, SIZE, 3))).astype(np.uint8)
        mask = np.zeros((SIZE, SIZE), bool)
        mask[SIZE // 2 :] = True
        return {"composite": np.where(mask[..., None], real + np.uint8(50), real), "mask": mask, "real": real}

    def augmented(self, index: int, augmentation, *seed) -> dict[str, np.ndarray]:
        step = -1 if augmentation.flip and seeds.rng(*seed).random() < 0.5 else 1
        return {key: np.ascontiguousarray(value[::step]) for key, value in self.item(index).items()}


class Network(Model):
    """One player, one phase, with what a resumed run could get wrong: batch statistics and dropout."""

    task = "harmonization"
    players = ("network",)

    def __init__(self, norm: bool = True, dropout: float = 0.2, poison: str | None = None, victim: str | None = None):
        super().__init__()
        middle = [nn.BatchNorm2d(6)] if norm else []
        self.body = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(6, 3, 1)
        )
        self.poison, self.victim = poison, victim

    def forward(self, batch):
        if self.poison == "size":
            raise ValueError("height 16 is not divisible by 32; pad to 32")
        drawn = (batch["composite"] + self.body(torch.cat([batch["composite"], batch["mask"]], 1))).clamp(0, 1)
        return drawn * torch.nan if self.poison == "validation" and not self.training else drawn

    def loss(self, player, batch):
        pixel = functional.mse_loss(self(batch), batch["real"])
        if self.poison == "second worker" and torch.distributed.get_rank() == 1:
            pixel = pixel * torch.nan
        if self.victim and torch.distributed.get_rank() == 1:
            self._die_once(Path(self.victim))
        return 100 * pixel, {"pixel": pixel.detach()}

    def _die_once(self, marker: Path) -> None:
        """Kill this process at its fourth step, the first time that it comes so far."""
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 4 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Adversarial(Network):
    """Two players that take turns, two phases; the discriminator rests in the first."""

    players = ("discriminator", "generator")
    phases = ("warm", "joint")

    def __init__(self, **options):
        super().__init__(**options)
        self.critic = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(6, 1, 3))

    def parameters_of(self, player):
        return {"discriminator": list(self.critic.parameters()), "generator": list(self.body.parameters())}[player]

    def enter(self, phase):
        super().enter(phase)
        self.critic.requires_grad_(phase == "joint")

    def loss(self, player, batch):
        drawn = self(batch)
        if player == "discriminator":
            fake, real = self.critic(drawn.detach()), self.critic(batch["real"])
            value = functional.softplus(fake).mean() + functional.softplus(-real).mean()
            return value, {"fake": fake.mean().detach()}
        pixel, fool = functional.mse_loss(drawn, batch["real"]), functional.softplus(-self.critic(drawn)).mean()
        return 100 * pixel + 0.1 * fool, {"pixel": pixel.detach(), "fool": fool.detach()}


def pictures(train: int = 12, val: int = 4, unreadable: str | None = None) -> tuple[Pictures, Pictures]:
    return Pictures("t", train, unreadable), Pictures("v", val)


def job(folder: Path, network=Network, data=None, shared=None, options=None, **own) -> Job:
    """A training of 2 epochs of 3 steps (in a second phase: 2 more)."""
    training = {"device": "cpu", "precision": "fp32", "workers": 1, "threads": 1, "validation_images": 4} | (
        shared or {}
    )
    optimization = {"optimizer": "adam", "learning_rate": 0.01, "schedule": {"name": "cosine"}} | own.pop(
        "optimization", {}
    )
    block = {
        "epochs": 2,
        "batch_size": 4,
        "augmentation": {"flip": True, "crop": None},
        "optimization": optimization,
    } | own
    if network is Adversarial:
        block = {"phases": {"joint": {"epochs": 2, "learning_rate": 0.005}}} | block
    return Job(
        name="tiny",
        seed=3,
        shared=schema.Training(**training),
        own=schema.ModelTraining(**block),
        build_model=functools.partial(network, **(options or {})),
        build_data=functools.partial(pictures, **(data or {})),
        folder=Path(folder),
    )
