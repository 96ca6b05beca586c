"""Pictures that were decoded before, kept within stated bounds of memory and disk, so that later epochs need not decode them.

What is kept is the very array that would be made again: whether anything is kept changes no result.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL
import psutil

from pipeline import images

MEMORY_SHARE, MOST_MEMORY = 16, 4 << 30
"""Decoded pictures take this part of the machine's memory, and at most so many bytes."""

DISK_SHARE, MOST_DISK = 4, 40 << 30
"""Shrunk items take this part of what is free on the disk, and at most so many bytes: all of iHarmony4's at 256 pixels are 30 GB."""


class Decoded:
    """Decoded pictures, kept up to a number of bytes: epochs after the first then cost no decoding.

    Without a `limit` it is a sixteenth of the machine's memory and at most 4 GiB, shared by a DataLoader's workers, each
    of which keeps its own.
    """

    def __init__(self, limit: int | None = None):
        self.free = limit
        self.kept: dict[str, np.ndarray] = {}

    def __call__(self, read, file: str, **options) -> np.ndarray:
        if (array := self.kept.get(file)) is None:
            # what made the file has held its size against a limit of params.yaml
            array = read(file, max_pixels=images.PILLOW_LIMIT, **options)
            self.keep(file, array)
        return array

    def keep(self, name: str, array: np.ndarray) -> bool:
        """Keep an array if it fits; whether it did."""
        if self.free is None:
            self.free = min(MOST_MEMORY, psutil.virtual_memory().total // MEMORY_SHARE) // _loader_workers()
        if array.nbytes > self.free:
            return False
        self.free -= array.nbytes
        self.kept[name] = array
        return True


class Latest:
    """The latest few decoded pictures, for a walk in order: neighbours are of the same photograph. Memory stays flat."""

    def __init__(self, count: int = 4):
        self.count = count
        self.kept: dict[str, np.ndarray] = {}

    def __call__(self, read, file: str, **options) -> np.ndarray:
        if (array := self.kept.pop(file, None)) is None:
            array = read(file, max_pixels=images.PILLOW_LIMIT, **options)
            if len(self.kept) == self.count:
                del self.kept[next(iter(self.kept))]  # the one that was asked for longest ago
        self.kept[file] = array
        return array


class Shrunk:
    """Training items at the side that they are trained at: in memory, and what doesn't fit there on disk, if a folder is given.

        <folder>/<rules>/<xx>/<hash>.npy    uint8 (side, side, channels), one item

    A photograph of 12 megapixels takes a fifth of a second to decode, many times what a GPU needs to train on it at 256 pixels.
    The hash stands for the item's files (name, size, time of change), so an edited picture is another item; `rules` for the
    code that reads pictures. All trainings share the folder. A file that a power failure cut short is made anew.

    disk_limit
        Bytes that the folder may hold, shared by a DataLoader's workers; without it a quarter of what is free on the disk
        and at most 40 GiB.
    """

    def __init__(self, folder: Path | None = None, memory_limit: int | None = None, disk_limit: int | None = None):
        self.memory, self.folder, self.disk_limit = Decoded(memory_limit), folder, disk_limit
        self.disk_free: int | None = None

    def __call__(self, files: Sequence[str], how: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that `make` makes of these files; `how` says in what way, where there are several."""
        name = f"{how} {files[0]}"
        if (array := self.memory.kept.get(name)) is not None:
            return array
        place = None
        if self.folder is not None:
            with contextlib.suppress(OSError, ValueError, EOFError):  # of a file that is missing `make` says so
                place = self._place(self.folder, files, how)
                return np.load(place, allow_pickle=False)
        array = make()
        if not self.memory.keep(name, array) and place is not None:
            self._write(place, array)
        return array

    @staticmethod
    def _place(folder: Path, files: Sequence[str], how: str) -> Path:
        states = [os.stat(file) for file in files]
        about = [(os.path.abspath(file), state.st_size, state.st_mtime_ns) for file, state in zip(files, states)]
        name = hashlib.sha256(repr((how, about)).encode()).hexdigest()[:32]
        return folder / _rules() / name[:2] / f"{name}.npy"

    def _write(self, place: Path, array: np.ndarray) -> None:
        if self.disk_free is None:
            self.disk_free = self._disk_share()
        if array.nbytes > self.disk_free:
            return
        unfinished = place.with_name(f"{place.stem}.{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
            os.replace(unfinished, place)
            self.disk_free -= array.nbytes
        except OSError:  # a full disk, or one that may only be read, costs speed and nothing else
            unfinished.unlink(missing_ok=True)
            self.disk_free = 0

    def _disk_share(self) -> int:
        """Bytes that this process may write: of the limit what no other file takes. What other code left is removed."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        for rules in self.folder.iterdir():
            if rules.name != _rules():
                shutil.rmtree(rules, ignore_errors=True)
        held = sum(file.stat().st_size for file in self.folder.rglob("*.npy"))
        free = shutil.disk_usage(self.folder).free
        limit = self.disk_limit if self.disk_limit is not None else min(MOST_DISK, (free + held) // DISK_SHARE)
        return max(0, min(limit - held, free)) // _loader_workers()


@functools.cache
def _rules() -> str:
    """Stands for what decodes pictures and shrinks them."""
    code = [(Path(__file__).parent / name).read_text() for name in ("../images.py", "../mask_rule.py", "datasets.py")]
    return hashlib.sha256("\n".join([*code, cv2.__version__, PIL.__version__]).encode()).hexdigest()[:16]


def _loader_workers() -> int:
    """Worker processes of the DataLoader that this process belongs to, else 1. Scoring, which reads the same sets, does
    without torch, and a process that hasn't loaded it is no such worker."""
    loaders = sys.modules.get("torch.utils.data")
    worker = loaders.get_worker_info() if loaders else None
    return worker.num_workers if worker else 1
