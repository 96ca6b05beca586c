"""A source's photographs and objects, checked and made uniform: data/sources/<source>/.

    images/<image_id>.jpg                  upright 8-bit RGB
    masks/<image_id>_<instance_id>.png     8-bit, 255 = the object
    photographs.parquet  instances.parquet  rejected.parquet
    copies.parquet                         photographs that equal or resemble an earlier one of another group

A JPEG that is 8-bit RGB, upright and not shrunk keeps its bytes; any other photograph is written as JPEG of
quality 95 with full colour resolution (4:4:4).
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline import atomic, images, tables
from pipeline.data import copies
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
COPIES = {"image_id": str, "copy_of": str, "kind": str, "split": str, "split_of_first": str}
"""kind: "equal" (the same decoded pixels) or "near"."""


def split_by_hash(groups: Sequence[str], seed: int, validation_share: float, test_share: float) -> dict[str, str]:
    """The split of each group. Groups stand in the order of a hash of (seed, group); the first are test, the next
    val, the rest train, each share of the number of groups rounded to the nearest (halves up)."""
    ordered = sorted(set(groups), key=lambda group: (share(seed, group), group))
    n_test, n_val = (int(len(ordered) * part + 0.5) for part in (test_share, validation_share))
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


def _splits(
    source: str,
    photographs: Sequence[Photograph],
    links: Sequence[copies.Link],
    seed: int,
    validation_share: float,
    test_share: float,
) -> dict:
    """The split of each group; groups that copies join get one split, but for those that the source itself splits."""
    splits = _own_splits(source, photographs)
    shares = "the source's own splits"
    if splits is None:
        joined = copies.joined([photograph.group for photograph in photographs], links)
        drawn = split_by_hash(list(joined.values()), seed, validation_share, test_share)
        splits = {group: drawn[first] for group, first in joined.items()}
        shares = f"{len(drawn)} groups, validation_share {validation_share}, test_share {test_share}"
    for split in SPLITS:
        if split not in splits.values():
            raise UserError(f"{source}: no usable photograph is in {split} ({shares})")
    return splits


def _store_photograph(photograph: Photograph, file: Path, longest_side, min_side: int, max_pixels: int):
    """Write the photograph to `file`; its size before and after, (height, width), what was done to it, and its fingerprint.
    Raises BadImage."""
    picture = images.read(photograph.file, max_pixels=max_pixels)
    height, width = before = picture.pixels.shape[:2]
    if min(before) < min_side:
        raise images.BadImage(photograph.file, f"{width}x{height}, the shorter side must be {min_side} at least")
    if longest_side is None or max(before) <= longest_side:
        after = before
    else:
        after = tuple(max(1, round(side * longest_side / max(before))) for side in before)
    of_content = copies.fingerprint(picture.pixels)
    if picture.format == "JPEG" and not picture.conversions and after == before:
        shutil.copyfile(photograph.file, file)
        return before, after, "as is", of_content
    kept = [*picture.conversions]
    if picture.format != "JPEG":
        kept.insert(0, f"{picture.format} to JPEG")
    if after != before:
        kept.append(f"shrunk from {width}x{height}")
    images.write_jpeg(file, images.resize(picture.pixels, after))
    return before, after, "; ".join(kept), of_content


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
    """Store one photograph and its masks; (its row or None, its fingerprint or None, rows of its instances, rejected rows),
    splits left out."""
    image, original = f"images/{photograph.image_id}.jpg", photograph.file.name
    try:
        before, after, kept, of_content = _store_photograph(
            photograph, folder / image, longest_side, min_side, max_pixels
        )
    except UserError as error:
        return None, None, [], [rejected_photograph(original, photograph.image_id, _reason(error, photograph.file))]
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
    return row, of_content, instances, rejected


def ingest(
    photographs: Sequence[Photograph],
    rejected: Sequence[Mapping],
    out: Path,
    *,
    source: str,
    seed: int,
    validation_share: float,
    test_share: float,
    longest_side: int | None,
    min_side: int,
    max_pixels: int,
    max_rejected: float,
    max_rejected_objects: float = 1.0,
    near_copies: bool = True,
    needs_objects: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a source's folder `out`: pictures, masks and the three tables described at the head of this file.

    photographs, rejected
        What the source's `read` returned. More rows join `rejected`: photographs that can't be decoded, have more
        than `max_pixels` pixels or a shorter side below `min_side` (as they came), and objects whose mask can't be
        drawn, has another size or is empty. A photograph without a usable object stays.
    longest_side
        Larger photographs are shrunk to it (bilinear, antialiased; masks nearest); None keeps all sizes.
    seed, validation_share, test_share
        Splits where the source has none of its own, see `split_by_hash`: shares of the usable groups.
    max_rejected
        Share of the source's photographs, 0..1, that may be rejected.
    max_rejected_objects
        Share of the objects of its usable photographs, 0..1, that may be rejected.
    near_copies
        Photographs that resemble each other (pipeline/data/copies.py) share a split, as those of equal pixels always do.
        Where the source has splits of its own these stay, and a line says how many copies cross them.
    needs_objects
        Refuse a source without any usable object, of which no composite can be made.
    progress
        Called with (done, total) after each photograph.

    Returns lines for the person at the terminal: objects left out, copies, photographs that come out nearly black.

    Paths in the tables are relative to `out`. One photograph is in memory at a time. Raises UserError, leaving
    `out` as it was, if more than `max_rejected` of the photographs or `max_rejected_objects` of the
    objects are rejected, if no usable object is left, if
    a split would stay empty, if ids repeat, or if the source's own splits are incomplete or cross a group.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise ParameterError(
            f"validation_share {validation_share} and test_share {test_share} leave no photograph for training"
        )
    refuse_duplicates(photographs)
    rejected = [dict(row) for row in rejected]
    total = len(photographs) + sum(row["item"].startswith("photograph") for row in rejected)
    if not total:
        raise UserError(f"{source}: no photograph in it")
    refuse_too_many(source, rejected, total, max_rejected)

    usable, prints, photograph_rows, instance_rows = [], [], [], []
    with atomic.folder(out) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for done, photograph in enumerate(sorted(photographs, key=lambda each: each.image_id), start=1):
            row, of_content, instances, refused = _take(photograph, folder, source, longest_side, min_side, max_pixels)
            rejected += refused
            if row is None:
                refuse_too_many(source, rejected, total, max_rejected)
            else:
                usable.append(photograph)
                prints.append(of_content)
                photograph_rows.append(row)
                instance_rows += instances
            if progress is not None:
                progress(done, len(photographs))
        if needs_objects and not instance_rows:
            reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
            raise UserError(f"{source}: no usable instance left" + (f", first reasons: {reasons}" if reasons else ""))
        lines = _lost_objects(source, rejected, len(instance_rows), max_rejected_objects)
        links = [
            link for link in copies.links(prints, near_copies) if usable[link.first].group != usable[link.second].group
        ]
        splits = _splits(source, usable, links, seed, validation_share, test_share)
        split_of = {photograph.image_id: splits[photograph.group] for photograph in usable}
        for row in (*photograph_rows, *instance_rows):
            row["split"] = split_of[row["image_id"]]
        tables.write(folder / "photographs.parquet", tables.frame(photograph_rows, PHOTOGRAPHS))
        tables.write(folder / "instances.parquet", tables.frame(instance_rows, INSTANCES))
        tables.write(folder / "rejected.parquet", tables.frame(rejected, REJECTED))
        copy_rows = _copy_rows(photograph_rows, links)
        tables.write(folder / "copies.parquet", tables.frame(copy_rows, COPIES))
    return lines + _told_copies(source, copy_rows, len(usable)) + _told_dark(source, photograph_rows)


def _lost_objects(source: str, rejected: Sequence[Mapping], n_used: int, limit: float) -> list[str]:
    """A line about objects left out, none without any. Raises UserError, with the line, if they are too many."""
    lost = [row for row in rejected if row["item"].startswith("instance")]
    if not lost:
        return []
    total = n_used + len(lost)
    of_reason: dict[str, list[str]] = {}
    for row in lost:
        of_reason.setdefault(row["reason"], []).append(f"{row['file']}, {row['item']}")
    reasons = "; ".join(
        f"{len(rows)} ({rows[0]}{', ...' if rows[1:] else ''}): {reason}"
        for reason, rows in list(of_reason.items())[:3]
    )
    line = f"{source}: {len(lost)} of {total} objects left out ({len(lost) / total:.1%}"
    if len(lost) > limit * total:
        raise UserError(f"{line}, the limit max_rejected_objects is {limit:.1%}): {reasons}")
    return [f"{line}; rejected.parquet names them): {reasons}"]


def _copy_rows(photographs: Sequence[Mapping], links: Sequence[copies.Link]) -> list[dict]:
    """A row per photograph that is a copy of an earlier one: of the first that it equals, or else resembles."""
    rows: dict[int, dict] = {}
    for link in sorted(links, key=lambda link: (link.second, link.kind != "equal", link.first)):
        copy, first = photographs[link.second], photographs[link.first]
        row = {
            "image_id": copy["image_id"],
            "copy_of": first["image_id"],
            "kind": link.kind,
            "split": copy["split"],
            "split_of_first": first["split"],
        }
        rows.setdefault(link.second, row)
    return list(rows.values())


def _told_copies(source: str, rows: Sequence[Mapping], total: int) -> list[str]:
    if not rows:
        return []
    near = sum(row["kind"] == "near" for row in rows)
    crossing = [row for row in rows if row["split"] != row["split_of_first"]]
    line = f"{source}: {len(rows)} of {total} photographs are copies of others ({len(rows) - near} equal, {near} near; copies.parquet names them)"
    if not crossing:
        return [f"{line}; copies stand in one split"]
    row = crossing[0]
    shown = f"{row['image_id']} in {row['split']}, {row['copy_of']} in {row['split_of_first']}"
    return [f"{line}; {len(crossing)} of them cross the source's own splits, first: {shown}"]


def _told_dark(source: str, rows: Sequence[Mapping]) -> list[str]:
    dark = [row["original"] for row in rows if images.NEARLY_BLACK in row["kept"]]
    if not dark:
        return []
    return [
        f"{source}: {len(dark)} of {len(rows)} photographs of 16 bits come out nearly black, first: {dark[0]}; {images.HOW_TO_DECLARE}"
    ]
