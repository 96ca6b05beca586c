"""What a person can look at while a network trains: history.csv, sample pictures, event files of TensorBoard.

All of it lies in the run folder of the training, beside its checkpoints:

    course.json         what is trained by which process, and how many epochs its phases have
    history.csv         a row for each epoch so far; replaced as a whole after each, so that no reader meets half a row
    samples/<image>/    input.png, truth.png and, every `training.samples_every` epochs, epoch0003.png: what was predicted
    tensorboard/        losses, validation metrics and samples as TensorBoard reads them, where the package is installed

The training itself reads none of it and ends with the same bytes without it. No stage has it as an output, since how often
samples are drawn is no part of a result.
"""

import importlib.util
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from pipeline import atomic, images
from pipeline.data.datasets import Item
from pipeline.errors import UserError
from pipeline.tasks import TASKS, shown_input

COURSE, HISTORY, SAMPLES, EVENTS = "course.json", "history.csv", "samples", "tensorboard"

IMAGES = 4
"""Validation images that samples are drawn of, evenly over the set."""

Sample = tuple[str, Item, np.ndarray]
"""Name of a validation image, the image itself, and what was predicted of it: uint8 (H, W, 3), or (H, W) in localization."""


class Watch:
    """Writes what can be looked at, in the one process of a training that writes files."""

    def __init__(self, folder: Path, task: str, phases: list[tuple[str, int, float]], trained: int):
        """phases: name, epochs and learning rate of each. trained: steps that were done before this process began."""
        self.folder, self.task, self.trained = folder, TASKS[task], trained
        self.epochs = sum(epochs for _, epochs, _ in phases)
        self.writer = None
        course = {
            "task": task,
            "phases": [[name, epochs] for name, epochs, _ in phases],
            "host": socket.gethostname(),
            "process": os.getpid(),
            "process_began": psutil.Process().create_time(),
        }
        with atomic.file(folder / COURSE) as path:
            path.write_text(json.dumps(course, indent=1) + "\n")

    def epoch(self, history: pd.DataFrame, samples: Iterable[Sample]) -> None:
        """Add what the latest epoch left. history: a row per epoch so far."""
        write_history(self.folder, history)
        row, strips = history.iloc[-1], {}
        for image_id, item, prediction in samples:
            start, truth = shown_input(self.task.name, item), item[self.task.truth]
            folder = self.folder / SAMPLES / image_id
            for name, picture in (("input", start), ("truth", truth), (f"epoch{len(history):04}", prediction)):
                images.write_png(folder / f"{name}.png", picture)
            strips[image_id] = np.concatenate([_rgb(picture) for picture in (start, prediction, truth)], axis=1)
        if (writer := self._writer()) is None:
            return
        for key, value in row.items():
            if key not in ("epoch", "step") and isinstance(value, float) and np.isfinite(value):
                writer.add_scalar(key, value, int(row["step"]))
        for image_id, strip in strips.items():
            writer.add_image(f"samples/{image_id}", strip, int(row["step"]), dataformats="HWC")
        writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _writer(self):
        """TensorBoard's writer, made at its first use; None where the package isn't installed."""
        if self.writer is None and has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            # events of steps that a killed run had done after its last checkpoint are taken back
            self.writer = SummaryWriter(str(self.folder / EVENTS), purge_step=self.trained + 1)
        return self.writer


def has_tensorboard() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


def write_history(folder: Path, history: pd.DataFrame) -> None:
    with atomic.file(folder / HISTORY) as path:
        history.to_csv(path, index=False)


def _rgb(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


# -- read by whoever looks


class Course:
    """How far the training of a run folder has come. Raises UserError naming a file that isn't as a training writes it."""

    def __init__(self, folder: Path):
        self.folder = folder
        file = folder / COURSE
        try:
            course = json.loads(file.read_text())
            self.task = TASKS[course["task"]].name
            self.epochs = sum(int(epochs) for _, epochs in course["phases"])
            self.host, self.process, self.began = course["host"], course["process"], course["process_began"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not the course of a training ({type(error).__name__}: {error})") from None
        try:
            self.history = pd.read_csv(folder / HISTORY)
        except (FileNotFoundError, pd.errors.EmptyDataError):  # before the first epoch has ended
            self.history = pd.DataFrame()

    @property
    def done(self) -> int:
        """Epochs that have ended."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        return self.done >= self.epochs and (self.folder / "training.json").is_file()

    @property
    def running(self) -> bool | None:
        """Whether its process is at work; None where that is on another machine and can't be known."""
        if self.finished:
            return False
        if self.host != socket.gethostname():
            return None
        try:
            return psutil.Process(self.process).create_time() == self.began
        except psutil.NoSuchProcess:
            return False

    def samples(self) -> dict[str, dict[int, Path]]:
        """Name of a validation image -> number of an epoch -> the picture that was predicted then. Pictures of epochs that a
        killed run had done after its last checkpoint count again once they are done again."""
        return {
            folder.name: {
                number: file
                for file in sorted(folder.glob("epoch*.png"))
                if (number := int(file.stem.removeprefix("epoch"))) <= self.done
            }
            for folder in sorted((self.folder / SAMPLES).glob("*"))
            if folder.is_dir()
        }
