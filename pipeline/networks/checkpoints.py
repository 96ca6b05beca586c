"""Checkpoints of an unfinished training: the last two are kept, and a damaged one is set aside.

A checkpoint holds tensors, numbers and strings alone, so that nothing in the file can run when it is read.
"""

import os
import pickle
import zipfile
from pathlib import Path

import torch

from pipeline import atomic

SECONDS_BETWEEN = float(os.environ.get("SEAMBENCH_CHECKPOINT_SECONDS", 60))
"""Seconds between checkpoints within an epoch. How often one is written changes no result."""

NEWEST, BEFORE = "checkpoint.pt", "checkpoint-before.pt"


def save(folder: Path, state: dict) -> None:
    """Write the newest checkpoint of a run folder; the newest so far becomes the one before."""
    newest = folder / NEWEST
    with atomic.file(newest) as path:
        # into an open file: where torch opens it itself, a full disk is an error that names neither disk nor file
        with open(path, "wb") as file:
            torch.save(state, file)
        if newest.exists():
            os.replace(newest, folder / BEFORE)


def load(folder: Path, device: torch.device) -> tuple[dict | None, list[str]]:
    """The newest checkpoint that can be read, or None, and a line to print for each that can't.

    A damaged file gets the suffix `.damaged`, so that it is out of the way and can still be looked at.
    """
    said: list[str] = []
    for name in (NEWEST, BEFORE):
        file = folder / name
        if not file.exists():
            continue
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load doesn't compare its entries with their CRC-32
                if (entry := archive.testzip()) is not None:
                    raise ValueError(f"its entry {entry} was altered")
            state = torch.load(file, map_location=device, weights_only=True)
            if not isinstance(state, dict) or not state.keys() >= KEYS:
                raise ValueError("it lacks " + ", ".join(sorted(KEYS - set(state if isinstance(state, dict) else ()))))
            return state, said
        except (
            RuntimeError,
            EOFError,
            ValueError,
            KeyError,
            OSError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            os.replace(file, file.with_name(f"{name}.damaged"))
            why = (
                "it holds more than tensors, numbers and text"
                if isinstance(error, pickle.UnpicklingError)
                else str(error).splitlines()[0]
            )
            said.append(f"{file} is damaged ({why[:100]}): set aside as {name}.damaged")
    return None, said


KEYS = {"model", "optimizers", "position", "history", "sums", "best"}
"""What a checkpoint holds."""
