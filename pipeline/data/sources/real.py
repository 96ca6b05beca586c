"""Real composites, made by people: folders of composites and masks, with or without a harmonized truth.

    pairs of folders       <composites>/X.png, <masks>/X.png and, where there is a truth, <reals>/X.png, by equal
                           stems; a list.txt with a composite's file name per line, if there is one, says which
    DIH99                  image/ mask/ list.txt: such a pair
    RealHM                 anywhere below the folder X_mask.jpg, X.jpg (the pasted foreground on its canvas),
                           X_fore.jpg (the background, in spite of its name) and X_gt.jpg; the composite is
                           X * mask + X_fore * (1 - mask) with the soft mask, rounded to 8 bits

RealHM's roles are read from its authors' demo, so they are likely, not sure. Sizes stay as they are.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import atomic, images, mask_rule, reading, tables
from pipeline.data.sources.base import (
    REJECTED,
    files,
    folder,
    identifier,
    refuse_too_many,
    rejected_file,
    rejected_photograph,
)
from pipeline.errors import UserError

COMPOSITE_FOLDERS = ("composite_images", "composites", "composite", "images", "image")
MASK_FOLDERS = ("masks", "mask")
REAL_FOLDERS = ("real_images", "reals", "real", "targets", "target", "gt")

COMPOSITES = {
    "image_id": str, "composite": str, "mask": str, "real": str, "width": int, "height": int,
    "foreground_ratio": float, "source": str, "original": str, "kept": str,
}  # fmt: skip


@dataclass(frozen=True)
class RealComposite:
    """One composite by its files. With a `background`, `composite` holds only the pasted foreground (RealHM);
    `real` is None without a truth; `original` names it within its folder."""

    image_id: str
    original: str
    composite: Path
    mask: Path
    real: Path | None = None
    background: Path | None = None


def _by_stem(path: Path) -> tuple[dict[str, Path], list[dict]]:
    pictures, others = files(path)
    stems: dict[str, Path] = {}
    for file in pictures:
        if stems.setdefault(file.stem, file) != file:
            raise UserError(f"{path}: {stems[file.stem].name} and {file.name} have the same name")
    return stems, [rejected_file(f"{path.name}/{file.name}", "not a picture file that is read") for file in others]


def _first(path: Path, names: Iterable[str]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _listed(path: Path, composites: Path, stems: Mapping[str, Path]) -> tuple[list[Path], list[dict]]:
    """The composites that list.txt names (all of them without such a file), and rows for lines it can't serve."""
    lines = path / "list.txt"
    if not lines.exists():
        return list(stems.values()), []
    chosen: list[Path] = []
    rejected = []
    names = reading.lines(lines)
    if not names:
        raise UserError(f"{lines}: is empty: no composite is listed; without the file all are taken")
    for name in names:
        try:
            file = images.inside(composites, name)
        except UserError as error:
            rejected.append(rejected_photograph(name, "", str(error)))
            continue
        if not file.is_file():
            rejected.append(rejected_photograph(name, "", "in list.txt, but there is no such file"))
        elif file in chosen:
            rejected.append(rejected_photograph(name, "", "listed twice in list.txt"))
        else:
            chosen.append(file)
    return chosen, rejected


def _pairs(path: Path, composites: Path, masks: Path) -> tuple[list[RealComposite], list[dict]]:
    stems, rejected = _by_stem(composites)
    masks_by_stem, others = _by_stem(masks)
    rejected += others
    reals_folder = _first(path, REAL_FOLDERS)
    reals = _by_stem(reals_folder)[0] if reals_folder else {}
    chosen, refused = _listed(path, composites, stems)
    rejected += refused
    items = []
    for file in chosen:
        image_id = identifier(file.stem)
        if file.stem not in masks_by_stem:
            reason = f"no mask of this name in {masks.name}"
        elif reals_folder is not None and file.stem not in reals:
            reason = f"no real image of this name in {reals_folder.name}"
        else:
            items.append(RealComposite(image_id, file.name, file, masks_by_stem[file.stem], reals.get(file.stem)))
            continue
        rejected.append(rejected_photograph(file.name, image_id, reason))
    return items, rejected


def _realhm(path: Path, masks: Sequence[Path]) -> tuple[list[RealComposite], list[dict]]:
    items, rejected = [], []
    for mask in masks:
        stem = mask.stem.removesuffix("_mask")
        original = (mask.parent / stem).relative_to(path).as_posix()
        image_id = identifier(original.replace("/", "-"))
        parts = {part: mask.with_name(f"{stem}{part}{mask.suffix}") for part in ("", "_fore", "_gt")}
        missing = [file.name for file in parts.values() if not file.is_file()]
        if missing:
            rejected.append(rejected_photograph(original, image_id, f"no {', no '.join(missing)}"))
        else:
            items.append(RealComposite(image_id, original, parts[""], mask, parts["_gt"], parts["_fore"]))
    return items, rejected


def read(path: Path) -> tuple[list[RealComposite], list[dict]]:
    """The composites of a folder in one of the layouts at the head of this file, and rejected rows for incomplete
    ones and for lines of list.txt without a file. No picture is opened. Raises UserError naming the folder if
    it has none of the layouts, or if two composites have one id."""
    path = folder(path)
    composites, masks = _first(path, COMPOSITE_FOLDERS), _first(path, MASK_FOLDERS)
    if composites is not None and masks is not None:
        items, rejected = _pairs(path, composites, masks)
    else:
        mask_files = sorted(file for file in path.rglob("*_mask.*") if not file.name.startswith("."))
        if not mask_files:
            raise UserError(
                f"{path}: no composites: expected a folder of {'/'.join(COMPOSITE_FOLDERS)} and one of "
                f"{'/'.join(MASK_FOLDERS)} with equal file names, or RealHM's X.jpg, X_mask.jpg, X_fore.jpg, X_gt.jpg"
            )
        items, rejected = _realhm(path, mask_files)
    items = sorted(items, key=lambda item: item.image_id)
    for first, second in zip(items, items[1:]):
        if first.image_id == second.image_id:
            raise UserError(f"{path}: duplicate id {first.image_id}: {first.original} and {second.original}")
    return items, rejected


def _open(
    item: RealComposite, max_pixels: int, choice: mask_rule.Choice = mask_rule.Choice()
) -> tuple[images.Picture, np.ndarray, images.Picture | None]:
    """Composite, mask and truth as `load` describes them; format "" for a composite put together here."""
    composite = images.read(item.composite, max_pixels=max_pixels)
    size = composite.pixels.shape[:2]
    images.refuse_other_size(item.mask, images.header_size(item.mask, max_pixels=max_pixels), size)
    soft = images.read_soft_mask(item.mask, choice=choice, max_pixels=max_pixels)
    mask = soft >= mask_rule.HALF
    if not mask.any() or mask.all():
        raise images.BadImage(item.mask, "mask without background" if mask.any() else "empty mask")
    others = {}
    for name, file in (("real image", item.real), ("background", item.background)):
        if file is not None:
            others[name] = images.read(file, max_pixels=max_pixels)
            images.refuse_other_size(file, others[name].pixels.shape[:2], size, name)
    if item.background is not None:
        share = soft[:, :, None] / 255
        pixels = np.rint(composite.pixels * share + others["background"].pixels * (1 - share))
        composite = images.Picture(pixels.astype(np.uint8), "", ("put together from foreground, mask and background",))
    return composite, mask, others.get("real image")


def load(
    item: RealComposite, *, max_pixels: int = images.MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(composite uint8 (H, W, 3), mask bool (H, W) with True = foreground, truth uint8 (H, W, 3) or None).

    Raises BadImage naming the file that can't be read, whose size differs from the composite's, or whose mask is
    empty or covers everything.
    """
    composite, mask, real = _open(item, max_pixels)
    return composite.pixels, mask, None if real is None else real.pixels


def _store(picture: images.Picture, file: Path, out: Path, name: str) -> tuple[str, str]:
    """Write a picture without loss: the bytes of its `file` where that is plain 8-bit RGB in a JPEG or PNG, else
    a PNG. Returns its name below `out` and what was done."""
    if picture.format in ("JPEG", "PNG") and not picture.conversions:
        name = f"{name}.{'jpg' if picture.format == 'JPEG' else 'png'}"
        shutil.copyfile(file, out / name)
        return name, "as is"
    images.write_png(out / f"{name}.png", picture.pixels)
    return f"{name}.png", "; ".join(picture.conversions) or f"{picture.format} to PNG"


def ingest(
    items: Sequence[RealComposite],
    rejected: Sequence[Mapping],
    out: Path,
    *,
    source: str,
    max_pixels: int,
    max_rejected: float,
    choice: mask_rule.Choice = mask_rule.Choice(),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a real set's folder `out`, each picture at its own size and without loss:

        composites/<image_id>.jpg|png   masks/<image_id>.png (255 = foreground)   reals/<image_id>.jpg|png
        composites.parquet              real is missing (None) in the rows of a set without a truth
        rejected.parquet

    `choice`: which value or channel of the masks is in. One composite is in memory at a time. Raises UserError, leaving `out` as it was, if more than the share
    `max_rejected` of the composites is rejected or none is left.
    """
    rejected = [dict(row) for row in rejected]
    total = len(items) + sum(row["item"].startswith("photograph") for row in rejected)
    refuse_too_many(source, rejected, total, max_rejected)
    rows = []
    with atomic.folder(out) as unfinished:
        for kind in ("composites", "masks", "reals"):
            (unfinished / kind).mkdir()
        for done, item in enumerate(items, start=1):
            try:
                composite, mask, real = _open(item, max_pixels, choice)
            except images.BadImage as error:
                reason = f"{error.path.name}: {error.reason}"
                rejected.append(rejected_photograph(item.original, item.image_id, reason))
                refuse_too_many(source, rejected, total, max_rejected)
            else:
                name, kept = _store(composite, item.composite, unfinished, f"composites/{item.image_id}")
                images.write_png(unfinished / f"masks/{item.image_id}.png", mask)
                truth = None
                if real is not None and item.real is not None:
                    truth, _ = _store(real, item.real, unfinished, f"reals/{item.image_id}")
                rows.append({
                    "image_id": item.image_id, "composite": name, "mask": f"masks/{item.image_id}.png",
                    "real": truth, "width": mask.shape[1], "height": mask.shape[0],
                    "foreground_ratio": float(mask.mean()), "source": source, "original": item.original, "kept": kept,
                })  # fmt: skip
            if progress is not None:
                progress(done, len(items))
        if not rows:
            reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
            raise UserError(f"{source}: no usable composite" + (f", first reasons: {reasons}" if reasons else ""))
        tables.write(unfinished / "composites.parquet", tables.frame(rows, COMPOSITES))
        tables.write(unfinished / "rejected.parquet", tables.frame(rejected, REJECTED))
