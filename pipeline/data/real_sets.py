"""Real composites, and iHarmony4 itself, as further test sets: data/real/<name>/.

    pairs.parquet       one row per composite, with the columns of our own sub-datasets that say something here
    rejected.parquet    what could not be used, and why
    overlaps.parquet    of iHarmony4: how far the test list is unseen (pipeline/data/sources/iharmony4.py, `overlaps`)
    checks.json         of iHarmony4: composites used, refused, and masks stored in colour, which are used
    composites/ masks/ reals/    of other sets: the pictures, each at its own size and without loss

Composites to be scored have the set's name as their split; lines of iHarmony4's training lists stay in "train". Its
pictures are not copied: the table names them where they lie, with their sha256.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from pipeline import atomic, images, mask_rule, tables
from pipeline.data.sources import iharmony4, real
from pipeline.data.sources.base import REJECTED
from pipeline.data.sources.known_files import KnownFiles
from pipeline.errors import UserError

PAIR_COLUMNS = iharmony4.PAIRS | {"simulated": bool, "composite_sha256": str, "mask_sha256": str, "real_sha256": str}
"""`real` and `real_sha256` are missing where a composite has no ground truth."""


def build(
    out: Path,
    *,
    name: str,
    kind: str,
    path: Path,
    max_pixels: int,
    max_rejected: float,
    choice: mask_rule.Choice = mask_rule.Choice(),
    known: KnownFiles | None = None,
    parallel_map: Callable[[Callable, list], Iterable] = map,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check the set that lies at `path` and write its folder `out`.

    kind
        "iharmony4": a folder in iHarmony4's layout with its lists; "pairs": one of the layouts of
        pipeline/data/sources/real.py (DIH99, RealHM, any two folders of composites and masks)
    max_rejected
        share of the composites, 0..1, that may be unusable
    choice
        which value or channel of the masks is in; masks of iHarmony4 that are read by a choice are written into `out`
    known, parallel_map
        of iHarmony4, see `iharmony4.read`
    progress
        of other sets: called with (done, total) after each composite

    Raises UserError where the folder has none of the layouts, too many composites are unusable, none is to be
    scored, or two have one name.
    """
    limits = {"max_pixels": max_pixels, "max_rejected": max_rejected, "choice": choice}
    with atomic.folder(out) as folder:
        if kind == "iharmony4":
            rows = _listed(folder, out, name, path, limits | {"known": known, "parallel_map": parallel_map})
        else:
            rows = _taken_in(folder, name, path, limits | {"progress": progress})
        pairs = tables.frame(rows, PAIR_COLUMNS).sort_values(["split", "pair_id"], ignore_index=True)
        scored = pairs.loc[pairs["split"] == name, "pair_id"]
        if scored.empty:
            raise UserError(f"{path}: none of its lists names a composite to test on")
        if scored.duplicated().any():
            raise UserError(f"{path}: two composites are called {scored[scored.duplicated()].iloc[0]}")
        tables.write(folder / "pairs.parquet", pairs)


def _listed(folder: Path, out: Path, name: str, path: Path, limits: dict) -> list[dict]:
    checked = iharmony4.read(path, **limits)
    tables.write(folder / "rejected.parquet", tables.frame(checked.rejected, REJECTED))
    tables.write(folder / "overlaps.parquet", pd.DataFrame(checked.overlaps))
    counts = {"composites": len(checked.rows), "rejected": len(checked.rejected), "colour_masks": checked.colour_masks}
    (folder / "checks.json").write_text(json.dumps(counts) + "\n")
    root = as_written(checked.root, path, out)
    for row in checked.rows:
        row |= where_it_lies(row, root, checked.sha256) | own_mask(
            row, checked.root, folder, limits["choice"], limits["max_pixels"]
        )
        row |= {"split": name if row["split"] == "test" else row["split"], "simulated": False}
    return checked.rows


def own_mask(row: dict, root: Path, folder: Path, choice: mask_rule.Choice, max_pixels: int) -> dict[str, str]:
    """Where masks of iHarmony4 are read by a choice: the row's mask written to `folder` as one that needs none, and the columns
    that name it there; nothing without a choice."""
    if choice == mask_rule.Choice():
        return {}
    file = f"{row['subset']}/{row['mask']}"
    name = f"masks/{Path(file).with_suffix('.png').as_posix().replace('/masks/', '/')}"
    if not (folder / name).is_file():
        images.write_png(folder / name, images.read_mask(root / file, choice=choice, max_pixels=max_pixels))
    return {"mask": name, "mask_sha256": _sha256(folder / name)}


def as_written(root: Path, path: Path, out: Path) -> Path:
    """`root`, the folder that lists name their files from, as a table in `out` names it: relative where the parameter `path`
    is, so that the table doesn't depend on where this repository lies."""
    return root if path.is_absolute() else Path(os.path.relpath(root, out))


def where_it_lies(row: dict, root: Path, sha256: dict[str, str]) -> dict[str, str]:
    """The file columns of one of iHarmony4's rows, below `root`, and their sha256."""
    files = {key: f"{row['subset']}/{row[key]}" for key in ("composite", "mask", "real")}
    return {key: (root / file).as_posix() for key, file in files.items()} | {
        f"{key}_sha256": sha256[file] for key, file in files.items()
    }


def _taken_in(folder: Path, name: str, path: Path, limits: dict) -> list[dict]:
    items, rejected = real.read(path)
    real.ingest(items, rejected, folder, source=name, **limits)
    composites = tables.read(folder / "composites.parquet")
    return [
        {
            "pair_id": row.image_id, "subset": name, "split": name, "composite": row.composite, "mask": row.mask,
            "real": truth, "category": "", "foreground_ratio": row.foreground_ratio, "source_image": row.image_id,
            "reference_image": "", "transfer": "unknown", "seed": 0, "simulated": False,
            "composite_sha256": _sha256(folder / row.composite), "mask_sha256": _sha256(folder / row.mask),
            "real_sha256": _sha256(folder / truth) if truth else None,
        }
        for row, truth in zip(composites.itertuples(), composites["real"].astype(object).where(composites["real"].notna(), None))
    ]  # fmt: skip


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
