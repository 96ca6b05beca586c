"""One training loop for every network, run by Ray Train (pipeline/networks/ray_train.py) or in a plain process.

The loop knows a `models.base.Model` by its contract only: players take turns within a step, phases follow each
other. Everything random belongs to (seed, phase, epoch, step), so a run that was killed and taken up again ends
with the same weights as one that was not.

Checkpoints live in a run folder outside DVC's outs, because DVC empties those before a stage runs. The folder's
name holds a hash of all that the result depends on: the same training goes on, an edited one starts anew.
"""

import contextlib
import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from models.base import Model
from pipeline import atomic, images, seeds
from pipeline.data import datasets
from pipeline.errors import ParameterError, UserError
from pipeline.logs import LOG
from pipeline.networks import checkpoints, devices, mirror, watching
from pipeline.networks.devices import bfloat16_cost
from pipeline.networks.meter import Meter
from pipeline.networks.requirements import phases, require_trainable
from pipeline.networks.schedule import make_optimizer, schedule_factor
from pipeline.networks.weights import load_weights, save_weights
from pipeline.params.schema import ModelTraining, Training
from pipeline.running import cluster, memory
from pipeline.scoring import image_scores
from pipeline.tasks import METRICS, TASKS, compose

COMPILED: dict[str, Any] = {"dynamic": False, "options": {"fallback_random": True}}
"""How torch.compile is asked to work: for batches of one size, and with eager's random numbers, so that dropout is the same."""

KEPT_WITH_PHASE_END = ("best.safetensors", "training.log")
"""Files of a run folder that belong to the end of a phase, beside its checkpoint."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One network's training, complete. `shared` is what all networks share, `own` the network's training block."""

    name: str
    seed: int
    shared: Training
    own: ModelTraining
    build_model: Callable[[], Model]
    build_data: Callable[[], tuple]  # () -> (training set, validation set) of pipeline/data/datasets.py
    folder: Path
    start_from: Path | None = None
    """Weights that training begins with; None for random ones."""
    phase_ends: tuple[Path, ...] = ()
    """A folder for each phase but the last, in their order, where its end is kept. Its name belongs to what that end depends
    on, so that a training whose later phases are others finds it there."""
    samples_every: int = 0
    """Epochs between sample pictures (pipeline/networks/watching.py); 0 for none."""


def train_plain(job: Job) -> None:
    """Train in this process, without Ray, by one worker: on a GPU that it sees, or by `training.threads` threads of the CPU."""
    if job.shared.workers != 1:
        raise ParameterError(
            f"training.workers = {job.shared.workers}: a training in one process has 1; set it to 1, or train with Ray (SEAMBENCH_RAY=on)"
        )
    if job.shared.device == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "training.device = 'gpu' and this process sees no GPU; set training.device: cpu or run where one is"
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    with devices.threads(job.shared.threads):
        Loop(job, "gpu" if job.shared.device != "cpu" and torch.cuda.is_available() else "cpu", rank=0, world=1).run()


def publish(job: Job, out: Path) -> None:
    """Copy what a finished training leaves to `out`: weights.safetensors (the best or the last, as the parameter
    `keep` says), last.safetensors, history.parquet, history.csv, training.json, training.log."""
    best = job.folder / "best.safetensors"
    chosen = best if job.own.keep == "best" and best.exists() else job.folder / "last.safetensors"
    with atomic.folder(out) as folder:
        shutil.copyfile(chosen, folder / "weights.safetensors")
        for name in ("last.safetensors", "history.parquet", "history.csv", "training.json", "training.log"):
            shutil.copyfile(job.folder / name, folder / name)


class Player(nn.Module):
    """A player's loss as a forward, which is what DistributedDataParallel can wrap."""

    def __init__(self, model: Model, player: str):
        super().__init__()
        self.model, self.player = model, player

    def forward(self, batch: dict):
        return self.model.loss(self.player, batch)


class Order:
    """Batches of (phase, epoch, number) of one epoch, from a step on; this rank's share of each global batch. Every image
    has as many numbers as it has draws: `number` modulo the number of images is the image."""

    def __init__(self, loop: "Loop"):
        self.loop, self.phase, self.epoch, self.start = loop, 0, 0, 0

    def __iter__(self):
        loop = self.loop
        order = seeds.rng(loop.job.seed, loop.job.name, "order", self.phase, self.epoch).permutation(loop.epoch_images)
        size = loop.batch_size
        for step in range(self.start, loop.steps_per_epoch):
            part = order[step * size : (step + 1) * size]
            yield [(self.phase, self.epoch, int(number)) for number in part[loop.rank :: loop.world]]

    def __len__(self) -> int:
        return self.loop.steps_per_epoch - self.start


class Augmented(Dataset):
    """The training set as DataLoader asks for it."""

    def __init__(self, dataset, job: Job):
        self.dataset, self.job = dataset, job

    def __getitem__(self, key: tuple[int, int, int]):
        phase, epoch, number = key
        draw, index = divmod(number, len(self.dataset))
        name = self.dataset.ids[index]
        # the first draw is that of a training with one draw an epoch
        seed = (self.job.seed, "augment", phase, epoch, name, *([draw] if draw else []))
        return self.dataset.augmented(index, self.job.own.augmentation, *seed), name


class Loop:
    def __init__(self, job: Job, device: str, rank: int, world: int, report: Callable[[dict], None] | None = None):
        self.job, self.rank, self.world, self.report = job, rank, world, report
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        if self.device.type == "cpu":
            memory.keep_freed()
        self.autocast = job.shared.precision == "bf16"
        if rank == 0 and self.autocast and self.device.type == "cpu" and (cost := bfloat16_cost()) > 1:
            self._say(
                f"{job.name}: training.precision is bf16, in which this CPU's products take {cost:.1f} times as long as in fp32"
            )
        torch.manual_seed(seeds.derive(job.seed, job.name, "weights"))
        self.memory_format = torch.channels_last if job.own.channels_last else torch.contiguous_format
        self.model = job.build_model()
        if job.start_from is not None and (drawn := load_weights(self.model, job.start_from)) and rank == 0:
            self._say(
                f"{job.name}: {job.start_from} has no {drawn[0]} ({len(drawn)} entries in all); what it lacks begins at random"
            )
        self.model = self.model.to(self.device).to(memory_format=self.memory_format)
        require_trainable(job.name, job.own, world, self.model, on_cpu=self.device.type == "cpu")
        self.thawed = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.training_set, self.validation_set = job.build_data()
        self.batch_size = job.own.batch_size
        self.epoch_images = len(self.training_set) * job.own.draws
        if self.epoch_images < self.batch_size:
            often = f" drawn {job.own.draws} times an epoch" if job.own.draws > 1 else ""
            raise UserError(
                f"{job.name}: {len(self.training_set)} training images{often}, fewer than models.{job.name}.training.batch_size = {self.batch_size}"
            )
        # the last, smaller batch is dropped, so that batch statistics always see the same number of images
        self.steps_per_epoch = min(self.epoch_images // self.batch_size, job.own.max_steps_per_epoch or 2**62)
        self.phases = phases(job.name, job.own, self.model.phases)
        self.order = Order(self)
        workers = min(8, max(cluster.cpus() // world - 1, 0)) if self.device.type == "cuda" else 0
        self.loader: DataLoader = DataLoader(
            Augmented(self.training_set, job),
            batch_sampler=self.order,
            collate_fn=collate_with_ids,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,  # what they have decoded is kept from epoch to epoch
        )
        # where the training stands: all that a checkpoint keeps beside weights and optimizers
        self.phase = self.epoch = self.step = 0
        self.history: list[dict] = []
        self.sums: dict[str, float] = {}
        self.best: float | None = None

    # -- the course of a training

    def run(self) -> None:
        saved = self._load()
        if self.rank == 0:
            self._begin_watch()
        steps_left = self._steps_left()
        meter = Meter(self.job.name, steps_left, self.batch_size, shown=self.rank == 0)
        for self.phase in range(self.phase, len(self.phases)):
            name, epochs, learning_rate = self.phases[self.phase]
            for parameter in self.thawed:
                parameter.requires_grad_(True)
            self.model.train()
            self.model.enter(name)
            self._prepare(learning_rate)
            if saved:
                for player, optimizer in self.optimizers.items():
                    optimizer.load_state_dict(saved["optimizers"][player])
                saved = None
            for self.epoch in range(self.epoch, epochs):
                self._train_epoch(name, epochs, meter)
                self._finish_epoch(name, epochs, meter)
            self.epoch = 0
        if self.rank == 0:
            self._finish(meter)
            self.watch.close()
        self._barrier()

    def _steps_left(self) -> int:
        return (
            sum(epochs for _, epochs, _ in self.phases[self.phase :]) * self.steps_per_epoch
            - self.epoch * self.steps_per_epoch
            - self.step
        )

    def _prepare(self, learning_rate: float) -> None:
        """Optimizers and, with several workers, gradient exchange, for what this phase leaves to be trained."""
        self.optimizers, self.losses, self.trained = {}, {}, {}
        thawed = {id(parameter) for parameter in self.model.parameters() if parameter.requires_grad}
        for player in self.model.players:
            moved = [parameter for parameter in self.model.parameters_of(player) if id(parameter) in thawed]
            if not moved:
                continue
            override = self.job.own.players.get(player)
            scale = override.learning_rate / self.job.own.optimization.learning_rate if override else 1.0
            self.trained[player] = moved
            self.optimizers[player] = make_optimizer(self.job.own.optimization, moved, learning_rate * scale)
        for player in self.trained:
            self._only(player)
            whole = Player(self.model, player)
            if self.job.own.compile:
                whole.compile(**COMPILED)  # in place: the model, its names and its predictions know nothing of it
            self.losses[player] = (
                DistributedDataParallel(whole, find_unused_parameters=True) if self.world > 1 else whole
            )

    def _only(self, player: str) -> None:
        """Gradients for this player's parameters alone."""
        for parameters in self.trained.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        for parameter in self.trained[player]:
            parameter.requires_grad_(True)

    def _train_epoch(self, phase: str, epochs: int, meter: Meter) -> None:
        total = epochs * self.steps_per_epoch
        self.order.phase, self.order.epoch, self.order.start = self.phase, self.epoch, self.step
        meter.waiting()
        for batch, ids in self.loader:
            meter.arrived()
            torch.manual_seed(
                seeds.derive(self.job.seed, self.job.name, "step", self.phase, self.epoch, self.step, self.rank)
            )
            batch = {key: self._placed(value) for key, value in batch.items()}
            factor = schedule_factor(
                self.job.own.optimization.schedule, (self.epoch * self.steps_per_epoch + self.step) / total
            )
            for player, optimizer in self.optimizers.items():
                self._turn(player, optimizer, factor, batch, ids, phase)
            self.step += 1
            if meter.stepped() > checkpoints.SECONDS_BETWEEN and self.rank == 0:
                self._save()
                meter.saved()
            meter.waiting()

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        """A part of a batch on this loop's device, images in its memory format."""
        memory_format = self.memory_format if value.dim() == 4 else torch.preserve_format
        return value.to(self.device, memory_format=memory_format, non_blocking=True)

    def _turn(self, player: str, optimizer, factor: float, batch: dict, ids: list[str], phase: str) -> None:
        if len(self.optimizers) > 1:
            self._only(player)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with devices.compiling(self.job.name) if self.job.own.compile else contextlib.nullcontext():
            with self._told(ids), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                loss, parts = self.losses[player](batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if self.job.own.optimization.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained[player], self.job.own.optimization.clip_norm)
        optimizer.step()
        # read last: a GPU works through what is queued, and until here nothing waits for it
        means = self._mean_over_ranks({"loss": loss, **parts})
        if not math.isfinite(means["loss"]):
            shares = [share for share in self._from_all_ranks((loss.item(), ids)) if not math.isfinite(share[0])]
            which = (
                f"loss is {shares[0][0]}, batch {', '.join(shares[0][1])}"
                if shares
                else f"mean loss is {means['loss']}"
            )
            raise UserError(
                f"training {self.job.name}: {player} in phase {phase}, epoch {self.epoch + 1}, step {self.step + 1}: {which}"
            )
        prefix = f"{player}_" if len(self.optimizers) > 1 else ""
        for key, mean in means.items():
            self.sums[prefix + key] = self.sums.get(prefix + key, 0.0) + mean

    def _finish_epoch(self, phase: str, epochs: int, meter: Meter) -> None:
        row = {
            "model": self.job.name,
            "phase": phase,
            "epoch": self.epoch + 1,
            "step": sum(epoch_row["steps"] for epoch_row in self.history) + self.step,
        }
        row["steps"] = self.step
        row["learning_rate"] = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        row |= {key: value / self.step for key, value in self.sums.items()}
        last = self.phase + 1 == len(self.phases) and self.epoch + 1 == epochs
        if (self.epoch + 1) % self.job.own.validate_every == 0 or last:
            row |= self._validate()
        self.history.append(row)
        self.step, self.sums = 0, {}
        if self.rank == 0:
            self._keep_best(row)
            self._say(meter.line(row, epochs, self._steps_left() - self.steps_per_epoch))
        # the checkpoint says where the next epoch begins
        self.epoch += 1
        if self.rank == 0:
            self._save()
            if self.epoch == epochs and self.phase < len(self.job.phase_ends):
                self._keep_phase_end(self.job.phase_ends[self.phase])
            self.watch.epoch(self._table(), self._samples())
            meter.saved()
        self.epoch -= 1
        if self.report is not None:
            self.report({"epoch": row["epoch"], "loss": row.get("loss", 0.0)})

    def _keep_best(self, row: dict) -> None:
        metric = TASKS[self.model.task].leading
        score = row.get(f"validation_{metric}")
        if score is None or math.isnan(score):
            return
        better = METRICS[metric].higher_is_better
        if self.best is None or (score > self.best if better else score < self.best):
            self.best = score
            save_weights(self.model, self.job.folder / "best.safetensors")

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean metrics over the validation images, each rank scoring its share with the same weights."""
        if self.world > 1:
            for buffer in self.model.buffers():
                distributed.broadcast(buffer, 0)
        self.model.eval()
        mine = datasets.evenly(len(self.validation_set), self.job.shared.validation_images)[self.rank :: self.world]
        rows = []
        for start in range(0, len(mine), self.batch_size):
            items = [self.validation_set.item(index) for index in mine[start : start + self.batch_size]]
            ids = self.validation_set.ids[mine[start]], self.validation_set.ids[mine[start + len(items) - 1]]
            predictions = self._predicted(items, ids)
            if not np.isfinite(predictions).all():
                raise UserError(
                    f"training {self.job.name}: epoch {self.epoch + 1}: a validation prediction of {ids[0]} .. {ids[1]} is not finite"
                )
            for prediction, item in zip(predictions, items):
                rows.append(image_scores.score(self.model.task, images.to_uint8(prediction), item))
        rows = [row for rank_rows in self._from_all_ranks(rows) for row in rank_rows]
        self.model.train()
        self.model.enter(self.phases[self.phase][0])
        # NaN marks an image that a metric is undefined for; as in summaries it is left out of that metric's mean
        means = pd.DataFrame(rows)[list(TASKS[self.model.task].metrics)].mean()
        return {f"validation_{key}": float(mean) for key, mean in means.items()}

    def _predicted(self, items: list[datasets.Item], ids) -> np.ndarray:
        """Predictions of a few images, float32 (N, C, H, W) in [0, 1]; the model must be in evaluation mode."""
        batch = {key: self._placed(value) for key, value in datasets.collate(items).items()}
        with self._told(ids), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.model(batch).float().cpu().numpy()

    # -- what can be looked at

    def _begin_watch(self) -> None:
        trained = sum(row["steps"] for row in self.history)
        if not (self.job.folder / watching.COURSE).exists() and not watching.has_tensorboard():
            self._say(
                f"{self.job.name}: no event files for TensorBoard, the package tensorboard isn't installed",
                logging.DEBUG,
            )
        if self.job.own.compile:
            self._say(
                f"{self.job.name}: torch.compile compiles each player's step at its first use, which may take minutes"
            )
        self.watch = watching.Watch(self.job.folder, self.model.task, self.phases, trained)

    @torch.no_grad()
    def _samples(self) -> Iterator[watching.Sample]:
        """A few validation images and what is predicted of them, after every `samples_every`th epoch and the last. The
        training goes on as if nothing had been predicted: random generators and modes are put back."""
        done, every = len(self.history), self.job.samples_every
        if not every or (done % every and done < sum(epochs for _, epochs, _ in self.phases)):
            return
        training = [module for module in self.model.modules() if module.training]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self.model.eval()
            for index in datasets.evenly(len(self.validation_set), watching.IMAGES):
                item, image_id = self.validation_set.item(index), self.validation_set.ids[index]
                prediction = np.nan_to_num(self._predicted([item], (image_id,))[0])
                yield image_id, item, compose(self.model.task, images.to_uint8(prediction), item)
        for module in training:
            module.training = True

    @contextlib.contextmanager
    def _told(self, ids):
        """What a network refuses (ValueError: a size it can't take, say) is the parameters' fault, told in one line."""
        try:
            yield
        except ValueError as error:
            raise UserError(f"training {self.job.name}: the network refuses the batch of {ids[0]}: {error}") from error

    # -- several workers

    def _from_all_ranks(self, mine) -> list:
        gathered = [mine] * self.world
        if self.world > 1:
            distributed.all_gather_object(gathered, mine)
        return gathered

    def _mean_over_ranks(self, parts: dict[str, torch.Tensor]) -> dict[str, float]:
        """Loss and parts of the global batch. A loss that isn't finite on one rank isn't on any, so all stop together."""
        values = torch.stack([part.detach().float() for part in parts.values()])
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        return dict(zip(parts, values.tolist()))

    def _barrier(self) -> None:
        if self.world > 1:
            distributed.barrier()

    # -- checkpoints

    def _save(self) -> None:
        optimizers = {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()}
        checkpoints.save(self.job.folder, self._state(optimizers))
        mirror.push(self.job.folder)

    def _state(self, optimizers: dict) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizers": optimizers,
            "position": [self.phase, self.epoch, self.step],
            "history": self.history,
            "sums": self.sums,
            "best": self.best,
        }

    def _keep_phase_end(self, folder: Path) -> None:
        """The checkpoint of a phase's end, without optimizers, of which the next phase makes new ones. It is written last:
        where it stands, what belongs to it is whole."""
        if (folder / checkpoints.NEWEST).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT_WITH_PHASE_END:
            (folder / name).unlink(missing_ok=True)
            if (self.job.folder / name).exists():
                shutil.copyfile(self.job.folder / name, folder / name)
        checkpoints.save(folder, self._state({}))

    def _latest_phase_end(self) -> dict | None:
        """The end of the latest phase that another training with the same beginning has kept."""
        for folder in reversed(self.job.phase_ends):
            saved, said = checkpoints.load(folder, self.device)
            if self.rank == 0:
                for line in said:
                    self._say(line)
            if saved is None:
                continue
            if self.rank == 0:
                for name in KEPT_WITH_PHASE_END:
                    if (folder / name).exists():
                        shutil.copyfile(folder / name, self.job.folder / name)
                self._say(
                    f"{self.job.name}: phase {self.phases[saved['position'][0]][0]} was trained before, with the same settings, and is taken from there"
                )
            return saved
        return None

    def _load(self) -> dict | None:
        """Take up the checkpoint of the run folder, if there is one."""
        saved, said = checkpoints.load(self.job.folder, self.device)
        if self.rank == 0:
            for line in said:
                self._say(line)
        if saved is None:
            saved = self._latest_phase_end()
        if saved is None:
            return None
        self.model.load_state_dict(saved["model"])
        self.phase, self.epoch, self.step = saved["position"]
        self.history, self.sums, self.best = saved["history"], saved["sums"], saved["best"]
        at_end_of_phase = self.phase < len(self.phases) and self.epoch >= self.phases[self.phase][1]
        if at_end_of_phase:
            self.phase, self.epoch = self.phase + 1, 0
            return None
        if self.rank == 0:
            self._say(
                f"{self.job.name}: going on from phase {self.phases[self.phase][0]}, epoch {self.epoch + 1}, step {self.step + 1}"
            )
        return saved

    def _say(self, text: str, level: int = logging.INFO) -> None:
        LOG.log(level, text)
        with open(self.job.folder / "training.log", "a") as log:
            log.write(text + "\n")

    def _table(self) -> pd.DataFrame:
        """The history as it is published, a row per epoch."""
        return pd.DataFrame(self.history).drop(columns="steps", errors="ignore")

    def _finish(self, meter: Meter) -> None:
        save_weights(self.model, self.job.folder / "last.safetensors")
        frame = self._table()
        with atomic.file(self.job.folder / "history.parquet") as path:
            frame.to_parquet(path, index=False)
        watching.write_history(self.job.folder, frame)
        (self.job.folder / "training.log").touch()
        account, summary = self.job.folder / "training.json", meter.summary(self.device, self.world)
        if meter.steps or not account.exists():  # a run that was finished before keeps its own account
            with atomic.file(account) as path:
                path.write_text(json.dumps(summary, indent=1) + "\n")


def collate_with_ids(named_items: list) -> tuple[dict, list[str]]:
    """A batch, and the ids that a message can name."""
    return datasets.collate([item for item, _ in named_items]), [name for _, name in named_items]
