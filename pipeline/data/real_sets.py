"""Real composites, and iHarmony4 itself, as further test sets: data/real/<name>/.

    pairs.parquet       one row per composite, with the columns of our own sub-datasets that say something here
    rejected.parquet    what could not be used, and why
    overlaps.parquet    of iHarmony4: how far the test list is unseen (pipeline/data/sources/iharmony4.py, `overlaps`)
    checks.json         of iHarmony4: composites used, refused, and masks stored in colour, which are used
    composites/ masks/ reals/    of other sets: the pictures, each at its own size and without loss

Composites to be scored have the set's name as their split; lines of iHarmony4's training lists stay in "train". Its
pictures are not copied: the table names them where they lie, with their sha256.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline import atomic, images, mask_rule, tables
from pipeline.data.sources import iharmony4, real
from pipeline.data.sources.base import REJECTED
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
    progress
        called with (done, total) after each composite

    Raises UserError where the folder has none of the layouts, too many composites are unusable, none is to be
    scored, or two have one name.
    """
    limits = {"max_pixels": max_pixels, "max_rejected": max_rejected, "choice": choice, "progress": progress}
    with atomic.folder(out) as folder:
        if kind == "iharmony4":
            rows = _listed(folder, out, name, path, limits)
        else:
            rows = _taken_in(folder, name, path, limits)
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
    # relative where the parameter is, so that the table doesn't depend on where this repository lies
    root = checked.root if path.is_absolute() else Path(os.path.relpath(checked.root, out))
    sha256 = functools.cache(_sha256)
    for row in checked.rows:
        within = Path(row["subset"])
        row |= {f"{key}_sha256": sha256(checked.root / within / row[key]) for key in ("composite", "mask", "real")}
        own_mask = _by_choice(checked.root / within / row["mask"], folder, f"masks/{within}", limits)
        row |= {key: (root / within / row[key]).as_posix() for key in ("composite", "mask", "real")}
        if own_mask is not None:
            row |= {"mask": own_mask, "mask_sha256": sha256(folder / own_mask)}
        row |= {"split": name if row["split"] == "test" else row["split"], "simulated": False}
    return checked.rows


def _by_choice(file: Path, folder: Path, within: str, limits: dict) -> str | None:
    """Write the mask that a choice makes of a file as one that needs none; its name below `folder`, None without a choice."""
    if limits["choice"] == mask_rule.Choice():
        return None
    name = f"{within}/{file.stem}.png"
    if not (folder / name).is_file():
        images.write_png(folder / name, images.read_mask(file, choice=limits["choice"], max_pixels=limits["max_pixels"]))
    return name


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
