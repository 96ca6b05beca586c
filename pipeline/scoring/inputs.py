"""What a method that runs elsewhere is given: the inputs of one test split as PNG files, without the truth.

    composites/<image_id>.png   localization, harmonization: the composite
    masks/<image_id>.png        harmonization: the foreground, inpainting: the hole; white = in
    images/<image_id>.png       inpainting: the photograph, black in the hole
    manifest.csv                one row per image: image_id, the files, height, width, their sha256
    README.md                   what to give back

Every picture is what a network here would see (pipeline/data/datasets.py), or the same at the original's size.
"""

import copy
import csv
import functools
import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipeline import images
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.tasks import TASKS

FOLDERS = {"composite": "composites", "image": "images", "mask": "masks", "hole": "masks"}
"""By key of an item."""

GIVE_BACK = {
    "localization": "A probability map for each composite: high where the region lies that was pasted in. A grey picture of 8 or 16 bits "
    "(black = 0, white = 1), or a NumPy array (.npy) of numbers in [0, 1], of shape (height, width).",
    "harmonization": "The composite with its foreground (white in the mask) fitted to the background, as a picture in colour, 8 bits a channel. "
    "Outside the mask the composite itself is scored, whatever the picture holds there; how many of those pixels it changed is told.",
    "inpainting": "The picture with its hole (white in the mask) filled, in colour, 8 bits a channel. Outside the hole the input itself is "
    "scored, whatever the picture holds there; how many of those pixels it changed is told.",
}

PAGE = """\
# Inputs for {task}, split {split}

{n} images at {size}. `manifest.csv` lists them: `image_id`, files, height and width in pixels, and the SHA-256 of each file.

{given}

## What to give back

{give_back}

One file for each of the {n} images, none more, called after its `image_id`: `{example}.png` for the first one. Subfolders are allowed.
PNG keeps every value; JPEG is allowed, and tables tell it. The size may be that of these inputs, {scored}x{scored}, or that of the
originals; another square is stated with `--side`. What isn't {scored}x{scored} is resized to it, bilinear unless `--filter` says otherwise.

    python -m commands.score {task} FOLDER --name NAME --split {split}

scores the folder there and then. To have it in every table and picture, name it in params.yaml and run `python -m commands.graph` and
`make repro`:

    models:
      NAME: {{task: {task}, outputs: FOLDER}}
"""

GIVEN = {
    "localization": "`composites/` holds the pictures.",
    "harmonization": "`composites/` holds the pictures and `masks/` their foregrounds, white = foreground.",
    "inpainting": "`images/` holds the pictures, black in the hole, and `masks/` the holes, white = hole.",
}


def write(
    task: str,
    dataset: datasets.Composites | datasets.Holes,
    split: str,
    out: Path,
    *,
    original: bool,
    spread: Callable[..., Iterable],
) -> int:
    """Write a split's inputs into the folder `out`; returns the number of images.

    original: at the size of the original (in inpainting that of the photograph's centre square), in place of the set's.
    spread: a map over the images, in order, that takes `describe` (pipeline.running.parallel.spread).
    """
    dataset = copy.copy(dataset)
    dataset.decoded = datasets.Latest()
    if not len(dataset):
        raise UserError(f"the split {split} has no image")
    keys = [key for key in (TASKS[task].picture, TASKS[task].region) if key]
    for key in keys:
        (out / FOLDERS[key]).mkdir(parents=True)
    work = functools.partial(_write_one, dataset=dataset, keys=keys, out=out.absolute(), original=original)
    rows = list(spread(work, range(len(dataset)), describe=f"hand out {split}"))
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    (out / "manifest.csv").write_text(text.getvalue())
    size = "their original size" if original else f"{dataset.size}x{dataset.size} pixels"
    page = PAGE.format(
        task=task,
        split=split,
        n=len(rows),
        size=size,
        given=GIVEN[task],
        give_back=GIVE_BACK[task],
        example=rows[0]["image_id"],
        scored=dataset.size,
    )
    (out / "README.md").write_text(page)
    return len(rows)


def _write_one(number: int, *, dataset, keys: list[str], out: Path, original: bool) -> dict:
    name = dataset.ids[number]
    item = dataset.item_at(number, _original(dataset, number)) if original else dataset.item(number)
    if "hole" in keys:  # what is asked for must not be seen
        item = item | {"image": np.where(item["hole"][..., None], np.uint8(0), item["image"])}
    row = {"image_id": name, "height": item[keys[0]].shape[0], "width": item[keys[0]].shape[1]}
    for key in keys:
        file = Path(FOLDERS[key]) / f"{name}.png"
        images.write_png(out / file, item[key], effort=1)
        row |= {key: file.as_posix(), f"{key}_sha256": hashlib.sha256((out / file).read_bytes()).hexdigest()}
    return row


def _original(dataset, number: int) -> tuple[int, int]:
    """(height, width) of the item at its original size."""
    return dataset.framed(np.empty((*dataset.original_size(number), 0), np.uint8)).shape[:2]
