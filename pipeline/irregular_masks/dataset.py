"""A data set of masks on disk: PNG files by split and bucket, and masks.parquet (one row per mask)."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd

from pipeline import mask_rule, seeds
from pipeline.data.mask_transforms import fit_to_size
from pipeline.errors import UserError
from pipeline.irregular_masks.buckets import (
    BUCKETS,
    Ratio,
    bucket_name,
    bucket_of,
    pixel_bounds,
)
from pipeline.irregular_masks.folder import MaskFolder, read_folder
from pipeline.irregular_masks.generation import frame_width, generate
from pipeline.irregular_masks.recipes import recipe

Border = Literal["both", "with", "without"]
Map = Callable[[Callable, Sequence], Iterable]


class _Generated(NamedTuple):
    out: Path
    split: str
    ratio: Ratio
    index: int  # type: ignore[assignment]  # in the place of tuple.index, which nobody calls
    kind: str
    border: bool
    seed: int
    size: int


class _Loaded(NamedTuple):
    out: Path
    split: str
    bucket: str
    index: int  # type: ignore[assignment]  # in the place of tuple.index, which nobody calls
    folder: MaskFolder
    name: str
    seed: int
    size: int


class _Measured(NamedTuple):
    name: str
    bucket: str | None
    border: bool
    digest: str
    reason: str | None


def build(
    out: Path,
    *,
    kinds: Sequence[str],
    per_bucket: Mapping[str, int],
    buckets: Sequence[Ratio] = BUCKETS,
    size: int,
    border: Border,
    seed: int,
    parallel_map: Map = map,
) -> pd.DataFrame:
    """Generate masks into the folder `out` and return the rows of its masks.parquet.

    per_bucket: how many masks each split gets in each bucket, such as {"train": 20, "test": 10}. The kinds take turns,
        so that every bucket holds the same ones.
    border: may holes lie in the outer 50/512 of the side: "with" yes, "without" no, "both" by turns, each kind its own.
    parallel_map: like the built-in map, lazy or not, in order; the files and rows are the same whichever it is.

    Files: <split>/<bucket>/<index>.png, 8 bits, 255 = hole. Columns: mask_id, split, mask (path relative to `out`),
    hole_ratio (measured on the written file), hole_ratio_bucket, border, kind, seed, size, sha256. `generate(kind,
    size, size, bucket, seed, border=border)` makes a row's mask again; no seed serves twice, so the splits share no
    draw (but the regular kinds have few masks to draw). Raises ValueError before anything is written for an unknown
    kind or border, a negative count, an impossible size or bucket.
    """
    _check(border, per_bucket)
    if not kinds:
        raise ValueError("kinds is empty; expected at least one kind of mask")
    for kind in kinds:
        recipe(kind)
    items = []
    for split, count in per_bucket.items():
        for low, high in buckets:
            for index in range(count):
                cycle, place = divmod(index, len(kinds))
                may_touch = (cycle + place) % 2 == 0 if border == "both" else border == "with"
                ratio = float(low), float(high)
                drawn = seeds.derive(operator.index(seed), "irregular_masks", split, bucket_name(ratio), index)
                items.append(_Generated(Path(out), split, ratio, index, kinds[place], may_touch, drawn, size))
    for ratio, may_touch in sorted({(item.ratio, item.border) for item in items}):
        inner = size if may_touch else size - 2 * frame_width(size)
        pixel_bounds(ratio, size, size, inner * inner)
    return _written(out, parallel_map(_make_generated, items))


def build_from_folder(
    out: Path,
    folder: Path,
    *,
    polarity: Literal["detect", "white", "black"] = "detect",
    choice: mask_rule.Choice = mask_rule.Choice(),
    per_bucket: Mapping[str, int],
    buckets: Sequence[Ratio] = BUCKETS,
    size: int,
    border: Border,
    seed: int,
    parallel_map: Map = map,
) -> pd.DataFrame:
    """Take masks from an existing folder into `out`, as `build` lays them out, and return their rows.

    Each mask is fitted to size x size (nearest, no hole vanishes), measured, and put into the bucket it lies in; which
    ones serve which split is drawn by the seed and the file's name. Kind is "folder"; `border` says whether the hole
    reaches into the outer 50/512 of the side, and border="without" takes only those that don't. Two more columns:
    polarity ("white" or "black" is the hole in the source) and source_mask (its name in the folder).

    rejected.parquet (mask, reason) names what was left out: unreadable, constant, outside the buckets, touching the
    border, the same picture as an earlier one, or more than its bucket needs; attrs["rejected"] counts them by reason.
    Raises UserError for a folder without usable masks and for a bucket with fewer than are asked for.
    """
    _check(border, per_bucket)
    source = read_folder(folder, polarity, choice)
    buckets = [(float(low), float(high)) for low, high in buckets]
    reader = replace(source, names=())  # each item is pickled, and should not carry the whole list
    to_measure = [(reader, name, size, tuple(buckets), border == "without") for name in source.names]
    measured = list(parallel_map(_measure, to_measure))
    rejected = {measurement.name: measurement.reason for measurement in measured if measurement.reason}
    first_of: dict[str, str] = {}
    usable: dict[str, list[str]] = {bucket_name(bucket): [] for bucket in buckets}
    for measurement in measured:
        if measurement.reason is None:
            if first_of.setdefault(measurement.digest, measurement.name) != measurement.name:
                rejected[measurement.name] = f"same picture as {first_of[measurement.digest]}"
            else:
                assert measurement.bucket is not None  # a mask outside the buckets has a reason
                usable[measurement.bucket].append(measurement.name)
    items, needed = [], sum(per_bucket.values())
    for bucket, names in usable.items():
        if len(names) < needed:
            asked = ", ".join(f"{split} {count}" for split, count in per_bucket.items())
            available = f"{len(names)} masks in bucket {bucket}, {needed} asked for ({asked})"
            raise UserError(f"{folder}: {available}; lower per_bucket or leave the bucket out")
        shuffled = iter(sorted(names, key=lambda name: seeds.derive(operator.index(seed), "irregular_masks", name)))
        for split, count in per_bucket.items():
            for index in range(count):
                items.append(_Loaded(Path(out), split, bucket, index, reader, next(shuffled), seed, size))
        rejected |= dict.fromkeys(shuffled, f"not needed: bucket {bucket} is full")
    items.sort(key=lambda item: list(per_bucket).index(item.split))
    table = pd.DataFrame(sorted(rejected.items()), columns=["mask", "reason"])
    Path(out).mkdir(parents=True, exist_ok=True)
    table.to_parquet(Path(out) / "rejected.parquet", index=False)
    rows = _written(out, parallel_map(_make_loaded, items))
    rules = table["reason"].str.replace(r"^same picture as.*", "same picture as another", regex=True)
    rows.attrs["rejected"] = rules.value_counts().to_dict()
    return rows


def _check(border: str, per_bucket: Mapping[str, int]) -> None:
    if border not in ("both", "with", "without"):
        raise ValueError(f"border {border!r}; expected both, with or without")
    if any(count < 0 for count in per_bucket.values()) or not sum(per_bucket.values()):
        raise ValueError(f"per_bucket {dict(per_bucket)} asks for no masks or a negative number")


def _make_generated(item: _Generated) -> dict:
    hole = generate(item.kind, item.size, item.size, item.ratio, item.seed, border=item.border)
    row = _save(item.out, item.split, bucket_name(item.ratio), item.index, hole)
    return row | {"border": item.border, "kind": item.kind, "seed": item.seed, "size": item.size}


def _make_loaded(item: _Loaded) -> dict:
    hole = fit_to_size(item.folder.read(item.name), item.size, item.size)
    row = _save(item.out, item.split, item.bucket, item.index, hole)
    row |= {"border": _touches_frame(hole), "kind": "folder", "seed": item.seed, "size": item.size}
    return row | {"polarity": item.folder.polarity, "source_mask": item.name}


def _measure(item: tuple[MaskFolder, str, int, tuple[Ratio, ...], bool]) -> _Measured:
    folder, name, size, buckets, inside_only = item
    try:
        hole = fit_to_size(folder.read(name), size, size)
    except UserError as error:
        return _Measured(name, None, False, "", str(error).removeprefix(f"{folder.path / name}: "))
    bucket, touches, reason = bucket_of(float(hole.mean()), buckets), _touches_frame(hole), None
    if bucket is None:
        reason = f"outside the buckets at {size}x{size}"
    elif touches and inside_only:
        reason = "hole touches the border frame"
    return _Measured(name, bucket, touches, hashlib.sha256(np.packbits(hole).data).hexdigest(), reason)


def _touches_frame(hole: np.ndarray) -> bool:
    frame = frame_width(hole.shape[0])
    return bool(hole.sum() > hole[frame:-frame, frame:-frame].sum())


def _save(out: Path, split: str, bucket: str, index: int, hole: np.ndarray) -> dict:
    """Write one mask; what is measured is the written file, decoded again."""
    name = f"{split}/{bucket}/{index:05d}.png"
    _, encoded = cv2.imencode(".png", hole.astype(np.uint8) * 255)
    data = encoded.tobytes()
    written = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    assert written is not None  # it was encoded just before
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(data)
    return {
        "mask_id": f"{split}_{bucket}_{index:05d}",
        "split": split,
        "mask": name,
        "hole_ratio": cv2.countNonZero(written) / written.size,
        "hole_ratio_bucket": bucket,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _written(out: Path, rows: Iterable[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    first = ["mask_id", "split", "mask", "hole_ratio", "hole_ratio_bucket", "border", "kind", "seed", "size", "sha256"]
    frame = frame[first + [column for column in frame if column not in first]]
    frame.to_parquet(Path(out) / "masks.parquet", index=False)
    return frame
