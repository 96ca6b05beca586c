"""One sub-dataset of composites in iHarmony4's layout, made by Ray tasks that stream to disk.

    <out>/composite_images/<real>_<object>_<k>.jpg   masks/<real>_<object>.png   real_images/<real>.jpg
    <out>/<subset>_train.txt  <subset>_test.txt      composite names; photographs kept for validation are in train
    <out>/pairs.parquet                              one row per composite, files relative to <out>
    <out>/rejected.parquet                           one row per candidate that a rule refused

What is finished waits in a staging folder, so an interrupted synthesis goes on where it stopped. The result is the same
for any number of workers.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import atomic, color_transfer, images, tables
from pipeline.data import renditions
from pipeline.data.composites import filters as rules
from pipeline.data.composites.lists import write_lists
from pipeline.data.composites.plan import Draw, Plan, Target
from pipeline.errors import UserError

PAIR_COLUMNS = {
    "pair_id": str, "subset": str, "split": str, "composite": str, "mask": str, "real": str, "category": str,
    "foreground_ratio": float, "source_image": str, "reference_image": str, "transfer": str, "seed": int,
    "reference_object": str, "simulated": bool, "attempt": int,
    "colour_difference": float, "clipped": float, "hue_rotation": float,
    "composite_sha256": str, "mask_sha256": str, "real_sha256": str, "jpeg": str,
}  # fmt: skip
REJECTED_COLUMNS = {
    "subset": str, "split": str, "source_image": str, "object": str, "category": str, "k": int, "attempt": int,
    "reference_image": str, "reference_object": str, "transfer": str, "simulated": bool, "rule": str, "value": float,
}  # fmt: skip
FOLDERS = {"composite": "composite_images", "mask": "masks", "real": "real_images"}
"""Columns of pairs.parquet that name files, and iHarmony4's folders for them."""


def build(
    out: Path,
    *,
    name: str,
    subset,
    rendering,
    source: Path,
    references: Path,
    seed: int,
    staging: Path,
    parallel_map: Callable[[Callable, Plan], Iterable],
) -> None:
    """Write the sub-dataset `name` to `out`.

    subset, rendering: schema.Subset and schema.Rendering
    source, references: folders that ingest wrote, of the photographs and of what lends the colours
    staging: folder for finished composites, kept when the work is interrupted
    parallel_map: a map over the plan's targets, in any order (pipeline.running.parallel.ordered_map, or the builtin one)

    Raises UserError when not one composite passes in the training or the test split.
    """
    plan = Plan(name, subset, rendering.methods, rendering.filters, source, references, seed)
    pairs, refused = _Rows(PAIR_COLUMNS), _Rows(REJECTED_COLUMNS)
    refused.add(plan.refused())
    for kind in ("done", *FOLDERS.values()):
        (staging / kind).mkdir(parents=True, exist_ok=True)
    work = functools.partial(_make, staging=staging.absolute(), rendering=rendering)
    for made, not_made in parallel_map(work, plan):
        pairs.add(made)
        refused.add(not_made)
    pairs = pairs.table(["pair_id"])
    refused = refused.table(["source_image", "object", "k", "attempt"])
    for split in ("train", "test"):
        if not (pairs["split"] == split).any():
            raise UserError(
                f"{name}: no {split} composite passed; of {source.name} {len(refused)} objects and candidates were refused"
                f"{_most_frequent(refused)}; widen composites.rendering.filters or give more photographs"
            )
    with atomic.folder(out) as folder:
        for column, kind in FOLDERS.items():
            (folder / kind).mkdir()
            for file in sorted(set(pairs[column])):
                _link(staging / file, folder / file)
        write_lists(folder, name, pairs)
        tables.write(folder / "pairs.parquet", pairs)
        tables.write(folder / "rejected.parquet", refused)
    shutil.rmtree(staging)


class _Rows:
    """Rows that come one by one, kept as blocks of a table: dicts would take ten times the memory."""

    def __init__(self, columns: Mapping[str, type], block: int = 1000):
        self.columns, self.block = columns, block
        self.waiting: list[Mapping] = []
        self.blocks: list[pd.DataFrame] = []

    def add(self, rows: Iterable[Mapping]) -> None:
        for row in rows:
            self.waiting.append(row)
            if len(self.waiting) == self.block:
                self._close_block()

    def table(self, order: list[str]) -> pd.DataFrame:
        self._close_block()
        return pd.concat(self.blocks).sort_values(order, ignore_index=True)

    def _close_block(self) -> None:
        self.blocks.append(tables.frame(self.waiting, self.columns))
        self.waiting = []


def _link(source: Path, target: Path) -> None:
    """Give a staged file its final name. A second name for the same bytes costs no disk and leaves the staging folder
    whole until `out` stands; where the file system has no such thing, or another one holds `out`, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _make(target: Target, *, staging: Path, rendering) -> tuple[list[dict], list[dict]]:
    """Make one object's composites in the staging folder; returns its rows of pairs and of rejected.

    An object that was finished before an interruption is read back instead.
    """
    done = staging / "done" / f"{target.real}_{target.object}.json"
    if done.exists():
        return tuple(json.loads(done.read_text()))
    real = _picture(target.image)
    mask = _mask(target.mask, real)
    files = {"mask": f"masks/{target.real}_{target.object}.png", "real": f"real_images/{target.real}.jpg"}
    about = {
        "subset": target.subset,
        "split": target.split,
        "source_image": target.image_id,
        "category": target.category,
    }
    rows: list[dict] = []
    rejected: list[dict] = []
    taken: set[tuple[str, str, str]] = set()
    for k, draws in enumerate(target.draws, start=1):
        if not draws:
            none = {
                "reference_image": "",
                "reference_object": "",
                "transfer": "",
                "simulated": False,
                "rule": "no reference",
                "value": math.nan,
            }
            rejected.append(about | {"object": target.object, "k": k, "attempt": 0} | none)
        for draw in draws:
            chosen = {
                "reference_image": draw.reference_image,
                "reference_object": draw.reference_object,
                "transfer": draw.transfer,
                "simulated": draw.simulated,
            }
            composite, refused = _composite(draw, real, mask, taken)
            measured = rules.change(real, composite, mask) if composite is not None else None
            rule = rules.refusal(measured, rendering.filters) if measured else (refused, math.nan)
            if rule:
                rejected.append(
                    about
                    | {"object": target.object, "k": k, "attempt": draw.attempt}
                    | chosen
                    | {"rule": rule[0], "value": rule[1]}
                )
                continue
            assert composite is not None and measured is not None  # else there is a rule
            taken.add((draw.reference_image, draw.reference_object, draw.transfer))
            name = f"{target.real}_{target.object}_{k}"
            file = f"composite_images/{name}.jpg"
            images.write_jpeg(staging / file, composite, rendering.jpeg_quality, rendering.jpeg_subsampling)
            rows.append(
                about | files | chosen | dataclasses.asdict(measured)
                | {"pair_id": name, "composite": file, "foreground_ratio": target.foreground_ratio, "seed": draw.seed,
                   "attempt": draw.attempt, "composite_sha256": _sha256(staging / file),
                   "mask_sha256": _sha256(target.mask), "real_sha256": _sha256(target.image),
                   "jpeg": f"{rendering.jpeg_quality} {rendering.jpeg_subsampling}"}
            )  # fmt: skip
            break
    if rows:
        for source, file in ((target.mask, files["mask"]), (target.image, files["real"])):
            with atomic.file(staging / file) as path:
                shutil.copyfile(source, path)
    with atomic.file(done) as path:
        path.write_text(json.dumps([rows, rejected]))
    return rows, rejected


def _composite(draw: Draw, real: np.ndarray, mask: np.ndarray, taken: set) -> tuple[np.ndarray | None, str]:
    """The composite of a draw, or None and why there is none."""
    if draw.simulated:
        other = renditions.BY_TRANSFER[draw.transfer](real, draw.seed)
        return np.where(mask[..., None], other, real), ""
    if (draw.reference_image, draw.reference_object, draw.transfer) in taken:
        return None, "drawn before"
    assert draw.image is not None  # only simulated ones have none
    other = _picture(draw.image)
    if draw.mask is None:
        return (np.where(mask[..., None], other, real), "") if other.shape == real.shape else (None, "sizes differ")
    reference_mask = _mask(draw.mask, other)
    refused = color_transfer.reason_to_refuse(mask, reference_mask)
    if refused:
        return None, refused
    return color_transfer.transfer(draw.transfer, real, other, mask, reference_mask, seed=draw.seed), ""


def _picture(file: Path) -> np.ndarray:
    # ingest has held its size against the source's own limit
    return images.read_rgb(file, max_pixels=images.PILLOW_LIMIT)


def _mask(file: Path, picture: np.ndarray) -> np.ndarray:
    return images.read_mask(file, size=picture.shape[:2], max_pixels=images.PILLOW_LIMIT)


def _most_frequent(refused: pd.DataFrame) -> str:
    counts = refused["rule"].value_counts().head(3)
    return f" ({', '.join(f'{rule}: {count}' for rule, count in counts.items())})" if len(counts) else ""


def _sha256(file: Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
