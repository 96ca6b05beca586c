"""Pictures that a method made elsewhere, taken in as if inference had made them here.

A folder of files is matched to the images of the test splits by name: the file of the image `c5_1_1` is called
`c5_1_1.png`, or has another picture suffix, and lies anywhere below the folder. Where the folder has a subfolder that is
named after a split, that split's files lie there. Files without a picture suffix (and hidden ones) are passed over.

A file holds the picture as the method drew it, at one of three sizes: image_size squared; the size of the original; or
another square, whose side the parameter `outputs_side` states. The size of the original is that of the composite's file,
and in inpainting that of the photograph or of its centre square. What isn't of image_size is resized, by default with the
filter of the protocol seam-256 (Pillow's bilinear, antialiased). Colours are read as all pictures are
(pipeline/images.py); a probability map is grey with 8 or 16 bits, or a NumPy array (.npy) of numbers in [0, 1] or
unsigned integers of their whole range, and is rounded to 8 bits after it was resized, as a network's map is.

What is scored is composed as everywhere: pixels outside the mask or the hole are taken from the input. How many of them
the method had changed is counted in the size that its picture was made in.
"""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.data.sources.base import PICTURE_SUFFIXES
from pipeline.errors import UserError
from pipeline.scoring import index
from pipeline.scoring.evaluation import TOUCHED
from pipeline.tasks import TASKS, share_touched

ARRAY = ".npy"

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

AS_SCORED, AS_ORIGINAL, AS_STATED = "image_size", "original", "outputs_side"

COLUMNS = {
    "image_id": str,
    "prediction": str,
    "sha256": str,
    "file": str,
    "file_sha256": str,
    "format": str,
    "size": str,
    "made_at": str,
    TOUCHED: float,
}
"""Columns of predictions.parquet. file, file_sha256, format, size ("640x480"): of the file as it was given. made_at:
image_size, original or outputs_side. background_touched: share of the pixels outside the region that differ from the input's
in the size that the file has; missing in localization, which has no region."""


@dataclass(frozen=True)
class Reading:
    """How a folder's files are to be understood."""

    task: str
    folder: Path
    side: int | None = None
    """Side in pixels of files that have neither image_size nor the size of the originals."""
    resize_filter: str = "bilinear"


def take_in(
    reading: Reading,
    data: list[Path],
    size: int,
    splits: list[str],
    out: Path,
    *,
    options: dict,
    spread: Callable[..., Iterable],
) -> tuple[dict[str, dict], str]:
    """Write each split's predictions and predictions.parquet into `out`, one folder per split.

    data: folders as in datasets.for_testing, absolute, and options its further arguments. size: side in pixels that is
    scored. splits: "test", real sets, and such as "test@512". spread: a map over the images, in order
    (pipeline.running.parallel.spread with `describe` left open).

    Returns what the index states of each split (index.of_split), and the origin in words. Raises UserError in one
    line, with counts and the first three names: images without a file, files without an image, images with two files,
    files that can't be read, have another size, or aren't what the task asks for.
    """
    sets = {split: datasets.for_testing(reading.task, data, size, split, **options) for split in splits}
    files = find(reading, sets, left_out=_left_out(reading.task, data, size, splits, options))
    stated, tables_of_splits = {}, []
    for split, dataset in sets.items():
        dataset.decoded = datasets.Latest()
        (out / split).mkdir(parents=True)
        work = functools.partial(
            _taken, reading=reading, dataset=dataset, files=files[split], out=(out / split).absolute()
        )
        rows: list[dict] = []
        refused: list[str] = []
        for row in spread(work, range(len(dataset)), describe=f"take in {split}"):
            (refused if isinstance(row, str) else rows).append(row)
            if refused and len(rows) + len(refused) == len(dataset):  # before the progress says that all is done
                raise UserError(
                    f"{reading.folder}: {_count(len(refused), 'file')} can't be used: {_first_three(refused, '; ')}"
                )
        table, manifest = (
            tables.frame(rows, COLUMNS).sort_values("image_id", ignore_index=True),
            out / split / "predictions.parquet",
        )
        tables.write(manifest, table)
        stated[split] = index.of_split(reading.task, manifest, table, dataset)
        tables_of_splits.append(table)
    return stated, origin(pd.concat(tables_of_splits, ignore_index=True), reading)


def origin(table: pd.DataFrame, reading: Reading) -> str:
    """In words for tables, from the rows of predictions.parquet: which formats, and what was resized how."""
    formats = ", ".join(
        f"{count} {name}"
        for name, count in sorted(Counter(table["format"]).items(), key=lambda entry: (-entry[1], entry[0]))
    )
    sizes = Counter(table["made_at"])
    words = {AS_ORIGINAL: "from the original's size", AS_STATED: f"from {reading.side}x{reading.side}"}
    resized = [f"{sizes[key]} resized {reading.resize_filter} {text}" for key, text in words.items() if sizes[key]]
    return f"outputs made elsewhere: {'; '.join([formats, *resized])}"


def find(
    reading: Reading, sets: dict[str, datasets.Composites | datasets.Holes], left_out: dict[str, set[str]]
) -> dict[str, list[Path]]:
    """The file of every image of every split, in the order of its ids, found by names alone.

    left_out: ids of images that a split has and the task leaves out; files of theirs are no surplus.
    """
    folder = reading.folder
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder of outputs"
            if not folder.exists()
            else f"{folder} is a file; outputs are a folder of files"
        )
    suffixes = PICTURE_SUFFIXES + ((ARRAY,) if TASKS[reading.task].region is None else ())
    own = {split: (folder / split).is_dir() for split in sets}
    listed = {split: _listed(folder / split, folder, suffixes) for split in sets if own[split]}
    common = _listed(folder, folder, suffixes, without=[folder / split for split in listed])
    # one folder may hold several splits; a file there is a surplus when it belongs to none of them
    sharing = [split for split in sets if not own[split]]
    known = {split: set(sets[split].ids) | left_out[split] for split in sets}
    known_in_common = set().union(*(known[split] for split in sharing))
    problems, files = [], {}
    for split, dataset in sets.items():
        by_name = listed[split] if own[split] else common
        surplus = sorted(set(by_name) - (known[split] if own[split] else known_in_common))
        missing = [name for name in dataset.ids if name not in by_name]
        doubled = [name for name in dataset.ids if len(by_name.get(name, ())) > 1]
        where = f"{folder / split if own[split] else folder}: {split}: "
        parts = []
        if missing:
            parts.append(f"{len(missing)} of {_count(len(dataset), 'image')} without a file: {_first_three(missing)}")
        if doubled:
            parts.append(
                f"{_count(len(doubled), 'image')} with more than one file: {_first_three([' and '.join(str(file.relative_to(folder)) for file in by_name[name][:2]) for name in doubled])}"
            )
        if surplus and (own[split] or split == sharing[0]):
            parts.append(
                f"{_count(len(surplus), 'file')} of no image of the split: {_first_three([str(by_name[name][0].relative_to(folder)) for name in surplus])}"
            )
        if parts:
            problems.append(where + "; ".join(parts))
        else:
            files[split] = [by_name[name][0] for name in dataset.ids]
    if sets and not sharing and common:
        problems.append(
            f"{folder}: {_count(len(common), 'file')} in no split's subfolder: {_first_three([str(files[0].relative_to(folder)) for _, files in sorted(common.items())])}"
        )
    if problems:
        raise UserError("; ".join(problems))
    return files


def _listed(top: Path, folder: Path, suffixes: tuple[str, ...], without: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """Files below a folder by their name without the suffix, those below `without` and hidden ones left out."""
    by_stem: dict[str, list[Path]] = {}
    passed = {str(path) for path in without}
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.join(parent, name) not in passed
        )
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                relative = os.path.relpath(os.path.join(parent, name), folder)
                by_stem.setdefault(stem, []).append(images.inside(folder, Path(relative).as_posix()))
    return by_stem


def _left_out(task: str, data: list[Path], size: int, splits: list[str], options: dict) -> dict[str, set[str]]:
    """Ids that a split has beside those that are tested: foregrounds that are too large, pictures too small for a side."""
    whole = (
        {split: datasets.for_testing(task, data, size, split.partition("@")[0]) for split in splits}
        if options or any(map(datasets.side_of, splits))
        else {}
    )
    return {split: set(whole[split].ids) if split in whole else set() for split in splits}


def _taken(number: int, *, reading: Reading, dataset, files: list[Path], out: Path) -> dict | str:
    """Write one image's prediction; its row of predictions.parquet, or why its file can't be used."""
    name, file = dataset.ids[number], files[number]
    try:
        content, form = _read(file, reading.task)
        height, width = content.shape[:2]
        content, made_at = _placed(content, dataset, number, reading, file)
        touched = np.nan
        if TASKS[reading.task].region is not None:
            touched = share_touched(reading.task, content, dataset.item_at(number, content.shape[:2]))
        prediction = _resized(content, dataset.size, reading.resize_filter) if dataset.size else content
        if prediction.dtype != np.uint8:
            prediction = images.to_uint8(prediction[None])
    except images.BadImage as error:
        return f"{error.path.name}: {error.reason}"
    target = out / f"{name}.png"
    images.write_png(target, prediction, effort=1)
    return {
        "image_id": name, "prediction": target.name, "sha256": _sha256(target), "file": file.relative_to(reading.folder).as_posix(),
        "file_sha256": _sha256(file), "format": form, "size": f"{width}x{height}", "made_at": made_at, TOUCHED: touched,
    }  # fmt: skip


def _read(file: Path, task: str) -> tuple[np.ndarray, str]:
    """A file's content and its format: uint8 RGB (H, W, 3); in localization float32 (H, W) in [0, 1]."""
    if TASKS[task].region is not None:
        picture = images.read(file, max_pixels=images.PILLOW_LIMIT)
        return picture.pixels, picture.format
    if file.suffix.lower() == ARRAY:
        return _read_array(file), "NumPy"
    return images.read_map(file)


def _read_array(file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise images.BadImage(file, f"not a NumPy array without objects ({error})") from None
    if not isinstance(array, np.ndarray):
        raise images.BadImage(file, "several arrays, expected one")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or 0 in array.shape:
        raise images.BadImage(file, f"an array of shape {array.shape}, expected (height, width)")
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype in (np.uint8, np.uint16):
        return (array / np.float64(np.iinfo(array.dtype).max)).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise images.BadImage(
            file, f"numbers of type {array.dtype}, expected floats in [0, 1], or unsigned integers of 8 or 16 bits"
        )
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise images.BadImage(file, f"values in [{array.min():g}, {array.max():g}], expected probabilities in [0, 1]")
    return array.astype(np.float32)


def _placed(content: np.ndarray, dataset, number: int, reading: Reading, file: Path) -> tuple[np.ndarray, str]:
    """The content as the image lies in it, and at which size it was made; of a whole photograph its centre square."""
    shape, scored = content.shape[:2], (dataset.size, dataset.size)
    original = dataset.original_size(number)
    of_original = AS_ORIGINAL if dataset.size else AS_SCORED
    if shape == scored:
        return content, AS_SCORED
    if shape == original:
        return dataset.framed(content), of_original
    square = dataset.framed(np.empty((*original, 0), np.uint8)).shape[:2]
    if shape == square:
        return content, of_original
    if dataset.size is None:  # what was made smaller is no prediction at the original's size
        whole = f" or {original[1]}x{original[0]} (the original)" if square != original else ""
        raise images.BadImage(
            file,
            f"is {shape[1]}x{shape[0]}, expected {square[1]}x{square[0]}{whole} in {datasets.at_side(datasets.ORIGINAL)}",
        )
    if reading.side is not None and shape == (reading.side, reading.side):
        return content, AS_STATED
    allowed = [f"{dataset.size}x{dataset.size}", f"{original[1]}x{original[0]} (the original)"]
    allowed += [f"{square[1]}x{square[0]} (its centre square)"] if square != original else []
    allowed += [f"{reading.side}x{reading.side}"] if reading.side is not None else []
    hint = "" if reading.side is not None else "; another side is stated as outputs_side"
    raise images.BadImage(file, f"{shape[1]}x{shape[0]}, expected {' or '.join(allowed)}{hint}")


def _resized(content: np.ndarray, size: int, resize_filter: str) -> np.ndarray:
    """uint8 RGB (H, W, 3) to (size, size, 3), or float32 (H, W) to (size, size)."""
    if content.shape[:2] == (size, size):
        return content
    return np.asarray(Image.fromarray(content).resize((size, size), FILTERS[resize_filter]))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first_three(names: list[str], between: str = ", ") -> str:
    return between.join(names[:3]) + (" ..." if len(names) > 3 else "")
