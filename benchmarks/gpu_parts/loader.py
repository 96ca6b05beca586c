"""Pictures from files, as a training is fed with them, to see how long it waits for them.

The pictures are drawn. Where the packages of pipeline/data are there, they are decoded, cropped and shrunk by that code; else by
Pillow; without it they are arrays of numpy's that are only read and cropped.
"""

import json
import os
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

COUNT, HEIGHT, WIDTH = 48, 480, 640
CROP = types.SimpleNamespace(low=0.5, high=1.0)
"""Area share of a crop, the inpainters' of presets/paper.yaml: of a picture that is cropped nothing is kept from epoch to epoch."""

MOST_WORKERS, AHEAD = 8, 4
"""Worker processes, and batches that each has ready, as pipeline/networks/loop.py has them."""


@dataclass(frozen=True)
class Fed:
    batches: Iterable[dict[str, torch.Tensor]]
    kind: str
    """what makes the pictures, in words"""
    ahead: int
    """batches that are ready before the first step"""


@dataclass(frozen=True)
class Account:
    steps: int
    seconds: float
    waited: float
    """of the seconds, those spent waiting for a batch"""


def account(
    batches: Iterator,
    step: Callable[[dict], object],
    seconds: float,
    ahead: int,
    clock: Callable[[], float] = time.monotonic,
) -> Account:
    """Step for about `seconds` and count the waiting.

    The first `ahead` batches, which the loader had ready, don't count, unless they take half of the seconds. `step` must end
    when its work is done, not when it is queued."""
    began = clock()
    for _ in range(ahead):
        step(next(batches))
        if clock() - began > seconds / 2:
            break
    steps, waited, start = 0, 0.0, clock()
    while steps == 0 or clock() - began < seconds:
        asked = clock()
        batch = next(batches)
        waited += clock() - asked
        step(batch)
        steps += 1
    return Account(steps, max(clock() - start, 1e-9), waited)


def fed(task: str, size: int, batch: int, device: str, scratch: str) -> Fed:
    """Batches without end for a task. scratch: a folder, in which the pictures are drawn once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(MOST_WORKERS, cores - 1) if device == "cuda" else 0
    dataset, kind, collate = _dataset(task, size, Path(scratch))
    batches: DataLoader = DataLoader(
        dataset,
        batch_sampler=_Endless(batch),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device == "cuda",
        prefetch_factor=AHEAD if workers else None,
    )
    return Fed(batches, f"{kind}, {workers} worker processes", workers * AHEAD)


class _Endless:
    """Batches of numbers 0, 1, 2 ..., without end."""

    def __init__(self, batch: int):
        self.batch = batch

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        while True:
            yield list(range(start, start + self.batch))
            start += self.batch


def _dataset(task: str, size: int, scratch: Path) -> tuple[Dataset, str, Callable | None]:
    sort = f"{WIDTH}x{HEIGHT} pixels"
    try:
        import PIL.Image  # noqa: F401  # what follows needs it too
    except ModuleNotFoundError:
        return _Arrays(_drawn(scratch, encoded=False), size), f"arrays of {sort}, cropped by numpy (no Pillow)", None
    files = _drawn(scratch, encoded=True)
    try:
        import pandas as pd

        from pipeline.data import datasets, kept
    except ModuleNotFoundError as error:
        lacking = (error.name or str(error)).split(".")[0]
        return _Decoded(files, size), f"JPEG of {sort}, decoded and cropped by Pillow (no {lacking})", None
    if task == "inpainting":
        rows = pd.DataFrame([{"image_id": str(number), "image": file["image"]} for number, file in enumerate(files)])
        items: datasets.Holes | datasets.Composites = datasets.Holes(
            rows, pd.DataFrame([{"mask": file["mask"]} for file in files]), size
        )
    else:
        composites = [
            {"pair_id": str(number), "composite": file["image"], "mask": file["mask"], "real": file["real"]}
            for number, file in enumerate(files)
        ]
        items = datasets.Composites(pd.DataFrame(composites), size)
    items.decoded = kept.Latest()  # as for a set that doesn't fit into memory
    augmentation = types.SimpleNamespace(flip=True, crop=CROP)
    return (
        _Items(items, augmentation),
        f"JPEG of {sort}, decoded and augmented by pipeline/data",
        datasets.collate,
    )


class _Items(Dataset):
    """Items of pipeline/data/datasets.py, augmented anew at each number."""

    def __init__(self, items, augmentation):
        self.items, self.augmentation = items, augmentation

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return self.items.augmented(number % len(self.items), self.augmentation, "benchmark", number)


class _Pictures(Dataset):
    """Both tasks' items, from the same crop of each picture: float32 (3, size, size) and (1, size, size) in [0, 1]."""

    def __init__(self, files: list[dict[str, str]], size: int):
        self.files, self.size = files, size

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(number)
        side = round(HEIGHT * np.sqrt(rng.uniform(CROP.low, CROP.high)))
        top, left = rng.integers(HEIGHT - side + 1), rng.integers(WIDTH - side + 1)
        file = self.files[number % len(self.files)]
        arrays = {key: self.read(file[key], int(top), int(left), side) for key in ("image", "real", "mask")}
        pixels = {
            key: torch.from_numpy(np.ascontiguousarray(array.reshape(self.size, self.size, -1).transpose(2, 0, 1)))
            for key, array in arrays.items()
        }
        tensors = {key: value.float() / 255 for key, value in pixels.items()}
        tensors["mask"] = tensors["mask"].round()
        return tensors | {"composite": tensors["image"], "hole": tensors["mask"]}

    def read(self, file: str, top: int, left: int, side: int) -> np.ndarray:
        """The crop at (size, size), uint8."""
        raise NotImplementedError


class _Decoded(_Pictures):
    def read(self, file: str, top: int, left: int, side: int) -> np.ndarray:
        from PIL import Image

        with Image.open(file) as picture:
            box = (left, top, left + side, top + side)
            return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))


class _Arrays(_Pictures):
    def read(self, file: str, top: int, left: int, side: int) -> np.ndarray:
        picks = np.linspace(0, side - 1, self.size).round().astype(int)
        return np.load(file)[top + picks[:, None], left + picks[None, :]]


def _drawn(scratch: Path, encoded: bool) -> list[dict[str, str]]:
    """Files of COUNT pictures (image, real) and masks, drawn unless they are there: JPEG and PNG, or arrays of numpy's."""
    folder = scratch / ("encoded" if encoded else "arrays")
    known = folder / "files.json"  # written last
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for number in range(COUNT):
            rng = np.random.default_rng(number)
            # patches of one colour with some noise: about as many bytes as a photograph of this size has
            coarse = rng.integers(0, 200, (HEIGHT // 16, WIDTH // 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
            image = coarse + rng.integers(0, 12, coarse.shape, np.uint8)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[HEIGHT // 4 : HEIGHT // 2, WIDTH // 4 : WIDTH // 2] = 255
            files.append(
                {
                    key: _write(folder / f"{key}{number}", array, encoded)
                    for key, array in (("image", image), ("real", image[::-1]), ("mask", mask))
                }
            )
        known.write_text(json.dumps(files))
    return json.loads(known.read_text())


def _write(path: Path, array: np.ndarray, encoded: bool) -> str:
    if not encoded:
        np.save(path.with_suffix(".npy"), array)
        return str(path.with_suffix(".npy"))
    from PIL import Image

    if array.ndim == 2:
        file = path.with_suffix(".png")
        Image.fromarray(array).save(file)
    else:
        file = path.with_suffix(".jpg")
        Image.fromarray(array).save(file, quality=95)
    return str(file)
