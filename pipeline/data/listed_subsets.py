"""Sub-datasets of the real iHarmony4, trained on and tested as they lie: data/composites/<name>/.

    pairs.parquet       one row per composite; its pictures are named where they lie, with their sha256
    rejected.parquet    what could not be used, and what `disjoint` leaves out of training
    overlaps.parquet    how far the test list is unseen, as published (pipeline/data/sources/iharmony4.py, `overlaps`), and
                        `composites_left_out` of training
    checks.json         composites used, refused, and masks stored in colour, which are used
    masks/              masks that mask_value or mask_channel chose, as ordinary ones

iHarmony4 has no validation split: its photographs are drawn by the seed from the training list. A photograph, or in
Hday2night a camera, is never both trained on and validated on.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from pipeline import atomic, mask_rule, tables
from pipeline.data.real_sets import PAIR_COLUMNS, as_written, own_mask, where_it_lies
from pipeline.data.sources import iharmony4
from pipeline.data.sources.base import REJECTED, rejected_file
from pipeline.data.sources.known_files import KnownFiles
from pipeline.errors import UserError
from pipeline.seeds import share

Scene = tuple[str, str]
"""Sub-dataset and photograph, or in Hday2night camera: what must not cross training and validation."""


def build(
    out: Path,
    *,
    name: str,
    subset,
    seed: int,
    known: KnownFiles | None = None,
    parallel_map: Callable[[Callable, list], Iterable] = map,
) -> list[str]:
    """Check the sub-dataset `name` and write its folder `out`; returns lines for the person at the terminal.

    subset
        schema.ListedSubset
    known, parallel_map
        see `iharmony4.read`

    Raises UserError where the folder isn't in iHarmony4's layout, too many composites are unusable, no list names one to test
    on, `disjoint` leaves none to train on, or two have one name.
    """
    path = Path(subset.path)
    max_pixels, choice = int(subset.max_megapixels * 1e6), mask_rule.Choice(subset.mask_value, subset.mask_channel)
    checked = iharmony4.read(
        path,
        max_pixels=max_pixels,
        max_rejected=subset.max_rejected,
        choice=choice,
        known=known,
        parallel_map=parallel_map,
    )
    tested = {scene_of(row) for row in checked.rows if row["split"] == "test"}
    if not tested:
        raise UserError(f"{path}: none of its lists names a usable composite to test on")
    used, left_out = checked.rows, []
    if subset.disjoint:
        left_out = [row for row in checked.rows if row["split"] != "test" and scene_of(row) in tested]
        used = [row for row in checked.rows if row["split"] == "test" or scene_of(row) not in tested]
        if left_out and not any(row["split"] == "train" for row in used):
            raise UserError(
                f"{path}: disjoint leaves none of {len(left_out)} training composites; every photograph is in the test list too"
            )
    validated = validation_scenes(used, seed, subset.validation_share)
    alone = (path / "composite_images").is_dir()
    overlaps = [
        row | {"composites_left_out": sum(composite["subset"] == row["subset"] for composite in left_out)}
        for row in checked.overlaps
    ]
    rejected = checked.rejected + [
        rejected_file(f"{row['subset']}/{row['composite']}", "left out of training: its scene is in the test list too")
        for row in left_out
    ]
    with atomic.folder(out) as folder:
        root = as_written(checked.root, path, out)

        def complete(row: dict) -> dict:
            split = "val" if row["split"] == "train" and scene_of(row) in validated else row["split"]
            named = {"subset": name if alone else row["subset"], "split": split, "simulated": False}
            lies = where_it_lies(row, root, checked.sha256)
            return row | lies | own_mask(row, checked.root, folder, choice, max_pixels) | named

        pairs = tables.frame(map(complete, used), PAIR_COLUMNS)
        pairs = pairs.sort_values("pair_id", kind="stable", ignore_index=True)
        if (twice := pairs["pair_id"][pairs["pair_id"].duplicated()]).any():
            raise UserError(f"{path}: two composites are called {twice.iloc[0]}")
        tables.write(folder / "pairs.parquet", pairs)
        tables.write(folder / "rejected.parquet", tables.frame(rejected, REJECTED))
        of_table = {"subset": name} if alone else {}
        tables.write(folder / "overlaps.parquet", pd.DataFrame([row | of_table for row in overlaps]))
        counts = {"composites": len(pairs), "rejected": len(checked.rejected), "colour_masks": checked.colour_masks}
        (folder / "checks.json").write_text(json.dumps(counts) + "\n")
    return [line for row in overlaps if (line := _told(row))]


def scene_of(row: dict) -> Scene:
    """Sub-dataset and photograph of a row of `iharmony4.read`; the camera in Hday2night, whose frames show one scene."""
    return row["subset"], iharmony4.camera(row["subset"], row["source_image"])


def validation_scenes(rows: list[dict], seed: int, validation_share: float) -> set[Scene]:
    """The scenes of the training lists that are kept for validation: of each sub-dataset the share, at least one where there are
    two, those that come first by a hash of seed and name. None of a sub-dataset that has a validation list of its own."""
    listed = {row["subset"] for row in rows if row["split"] == "val"}
    scenes: dict[str, set[Scene]] = {}
    for row in rows:
        if row["split"] == "train" and row["subset"] not in listed:
            scenes.setdefault(row["subset"], set()).add(scene_of(row))
    chosen = set()
    for of_subset in scenes.values():
        count = min(max(1, round(validation_share * len(of_subset))), len(of_subset) - 1) if validation_share else 0
        chosen.update(sorted(of_subset, key=lambda scene: (share(seed, "validation", *scene), scene))[:count])
    return chosen


def _told(row: dict) -> str:
    """One line on how far a sub-dataset's test list is unseen; "" where its training list shares nothing with it."""
    parts = []
    if row["photographs_shared"]:
        parts.append(
            f"{row['photographs_shared']:,} of {row['photographs_test']:,} test photographs ({row['test_composites_of_shared_photographs']:,} composites)"
        )
    if row["cameras_shared"]:
        parts.append(f"{row['cameras_shared']} cameras ({row['test_composites_of_shared_cameras']:,} test composites)")
    if not parts:
        return ""
    left_out = (
        f"; {row['composites_left_out']:,} training composites are left out"
        if row["composites_left_out"]
        else "; `disjoint: true` leaves them out of training"
    )
    return f"{row['subset']}: the published training list has {' and '.join(parts)} in it too{left_out}"
