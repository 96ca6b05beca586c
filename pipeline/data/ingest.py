"""A source's photographs and objects, checked and made uniform: data/sources/<source>/.

    images/<image_id>.jpg                  upright 8-bit RGB
    masks/<image_id>_<instance_id>.png     8-bit, 255 = the object
    photographs.parquet  instances.parquet  rejected.parquet

A JPEG that is 8-bit RGB, upright and not shrunk keeps its bytes; any other photograph is written as JPEG of
quality 95 with full colour resolution (4:4:4).
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline import atomic, images, tables
from pipeline.data.sources.base import (
    REJECTED,
    SPLITS,
    Instance,
    Photograph,
    refuse_duplicates,
    refuse_too_many,
    rejected_instance,
    rejected_photograph,
)
from pipeline.errors import ParameterError, UserError
from pipeline.seeds import share

PHOTOGRAPHS = {
    "image_id": str, "split": str, "group": str, "rendition": str, "image": str, "width": int, "height": int,
    "source": str, "original": str, "kept": str, "sha256": str,
}  # fmt: skip
INSTANCES = {
    "instance_id": str, "image_id": str, "category": str, "supercategory": str, "split": str, "mask": str,
    "image": str, "width": int, "height": int, "foreground_ratio": float, "area": int,
    "mask_sha256": str,
}  # fmt: skip


def split_by_hash(groups: Sequence[str], seed: int, val_share: float, test_share: float) -> dict[str, str]:
    """The split of each group. Groups stand in the order of a hash of (seed, group); the first are test, the next
    val, the rest train, each share of the number of groups rounded to the nearest (halves up)."""
    ordered = sorted(set(groups), key=lambda group: (share(seed, group), group))
    n_test, n_val = (int(len(ordered) * part + 0.5) for part in (test_share, val_share))
    names = ["test"] * n_test + ["val"] * n_val
    return {group: names[place] if place < len(names) else "train" for place, group in enumerate(ordered)}


def _own_splits(source: str, photographs: Sequence[Photograph]) -> dict[str, str] | None:
    """The split of each group as the source gives it; None where it gives none at all."""
    without = [photograph for photograph in photographs if photograph.split is None]
    if len(without) == len(photographs):
        return None
    if without:
        raise UserError(
            f"{source}: {len(without)} of {len(photographs)} photographs have no split "
            f"(first: {without[0].file.name}); a source gives a split to all of them or to none"
        )
    splits: dict[str, str] = {}
    for photograph in photographs:
        assert photograph.split is not None  # see above
        first = splits.setdefault(photograph.group, photograph.split)
        if first != photograph.split:
            raise UserError(
                f"{source}: {photograph.file.name} is in {photograph.split}, others of its group "
                f"{photograph.group} are in {first}; photographs of one group must not cross splits"
            )
    return splits


def _splits(source: str, photographs: Sequence[Photograph], seed: int, val_share: float, test_share: float) -> dict:
    own = _own_splits(source, photographs)
    splits = own
    if splits is None:
        splits = split_by_hash([photograph.group for photograph in photographs], seed, val_share, test_share)
    for split in SPLITS:
        if split not in splits.values():
            shares = f"{len(splits)} groups, val_share {val_share}, test_share {test_share}"
            how = "the source's own splits" if own is not None else shares
            raise UserError(f"{source}: no usable photograph is in {split} ({how})")
    return splits


def _store_photograph(photograph: Photograph, file: Path, longest_side, min_side: int, max_pixels: int):
    """Write the photograph to `file`; its size before and after, (height, width), and what was done to it.
    Raises BadImage."""
    picture = images.read(photograph.file, max_pixels=max_pixels)
    height, width = before = picture.pixels.shape[:2]
    if min(before) < min_side:
        raise images.BadImage(photograph.file, f"{width}x{height}, the shorter side must be {min_side} at least")
    if longest_side is None or max(before) <= longest_side:
        after = before
    else:
        after = tuple(max(1, round(side * longest_side / max(before))) for side in before)
    if picture.format == "JPEG" and not picture.conversions and after == before:
        shutil.copyfile(photograph.file, file)
        return before, after, "as is"
    kept = [*picture.conversions]
    if picture.format != "JPEG":
        kept.insert(0, f"{picture.format} to JPEG")
    if after != before:
        kept.append(f"shrunk from {width}x{height}")
    images.write_jpeg(file, images.resize(picture.pixels, after))
    return before, after, "; ".join(kept)


def _store_instance(instance: Instance, photograph: Photograph, file: Path, before: tuple, after: tuple) -> int:
    """Write the mask to `file`; its area in pixels. Raises UserError for a mask that can't be drawn, has another
    size than the photograph, or is empty."""
    mask = instance.mask()
    images.refuse_other_size(photograph.file, mask.shape, before)
    mask = images.resize(mask, after, kind="mask")
    if not mask.any():
        raise images.BadImage(photograph.file, "empty mask")
    images.write_png(file, mask)
    return int(mask.sum())


def _reason(error: UserError, path: Path) -> str:
    """Why, without the place of the source on this machine: tables of one source are equal wherever it lies."""
    if not isinstance(error, images.BadImage):
        return str(error)
    return error.reason if error.path == path else f"{error.path.name}: {error.reason}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _take(photograph: Photograph, folder: Path, source: str, longest_side, min_side: int, max_pixels: int):
    """Store one photograph and its masks; (its row or None, rows of its instances, rejected rows), splits left out."""
    image, original = f"images/{photograph.image_id}.jpg", photograph.file.name
    try:
        before, after, kept = _store_photograph(photograph, folder / image, longest_side, min_side, max_pixels)
    except UserError as error:
        return None, [], [rejected_photograph(original, photograph.image_id, _reason(error, photograph.file))]
    height, width = after
    shared = {"image_id": photograph.image_id, "image": image, "width": width, "height": height}
    row = shared | {
        "group": photograph.group, "rendition": photograph.rendition, "source": source,
        "original": original, "kept": kept, "sha256": _sha256(folder / image),
    }  # fmt: skip
    instances, rejected = [], []
    for instance in photograph.instances:
        name = f"{photograph.image_id}_{instance.instance_id}"
        try:
            area = _store_instance(instance, photograph, folder / f"masks/{name}.png", before, after)
        except UserError as error:
            rejected.append(rejected_instance(original, name, _reason(error, photograph.file)))
            continue
        instances.append(shared | {
            "instance_id": instance.instance_id, "category": instance.category,
            "supercategory": instance.supercategory, "mask": f"masks/{name}.png",
            "foreground_ratio": area / (width * height), "area": area,
            "mask_sha256": _sha256(folder / f"masks/{name}.png"),
        })  # fmt: skip
    return row, instances, rejected


def ingest(
    photographs: Sequence[Photograph],
    rejected: Sequence[Mapping],
    out: Path,
    *,
    source: str,
    seed: int,
    val_share: float,
    test_share: float,
    longest_side: int | None,
    min_side: int,
    max_pixels: int,
    max_rejected: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a source's folder `out`: pictures, masks and the three tables described at the head of this file.

    photographs, rejected
        What the source's `read` returned. More rows join `rejected`: photographs that can't be decoded, have more
        than `max_pixels` pixels or a shorter side below `min_side` (as they came), and objects whose mask can't be
        drawn, has another size or is empty. A photograph without a usable object stays.
    longest_side
        Larger photographs are shrunk to it (bilinear, antialiased; masks nearest); None keeps all sizes.
    seed, val_share, test_share
        Splits where the source has none of its own, see `split_by_hash`: shares of the usable groups.
    max_rejected
        Share of the source's photographs, 0..1, that may be rejected.
    progress
        Called with (done, total) after each photograph.

    Paths in the tables are relative to `out`. One photograph is in memory at a time. Raises UserError, leaving
    `out` as it was, if more than `max_rejected` of the photographs are rejected, if no usable object is left, if
    a split would stay empty, if ids repeat, or if the source's own splits are incomplete or cross a group.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ParameterError(f"val_share {val_share} and test_share {test_share} leave no photograph for training")
    refuse_duplicates(photographs)
    rejected = [dict(row) for row in rejected]
    total = len(photographs) + sum(row["item"].startswith("photograph") for row in rejected)
    if not total:
        raise UserError(f"{source}: no photograph in it")
    refuse_too_many(source, rejected, total, max_rejected)

    usable, photograph_rows, instance_rows = [], [], []
    with atomic.folder(out) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for done, photograph in enumerate(sorted(photographs, key=lambda each: each.image_id), start=1):
            row, instances, refused = _take(photograph, folder, source, longest_side, min_side, max_pixels)
            rejected += refused
            if row is None:
                refuse_too_many(source, rejected, total, max_rejected)
            else:
                usable.append(photograph)
                photograph_rows.append(row)
                instance_rows += instances
            if progress is not None:
                progress(done, len(photographs))
        if not instance_rows:
            reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
            raise UserError(f"{source}: no usable instance left" + (f", first reasons: {reasons}" if reasons else ""))
        splits = _splits(source, usable, seed, val_share, test_share)
        split_of = {photograph.image_id: splits[photograph.group] for photograph in usable}
        for row in (*photograph_rows, *instance_rows):
            row["split"] = split_of[row["image_id"]]
        tables.write(folder / "photographs.parquet", tables.frame(photograph_rows, PHOTOGRAPHS))
        tables.write(folder / "instances.parquet", tables.frame(instance_rows, INSTANCES))
        tables.write(folder / "rejected.parquet", tables.frame(rejected, REJECTED))
