"""A folder of photographs with their objects in COCO format.

    <folder>/images/NAME.jpg
    <folder>/instances.json      COCO: images, annotations (polygons or RLE), categories
    <folder>/splits.json         optional: {"train": [file names], "val": [...], "test": [...]}

The split of a photograph is the one of splits.json or else the field `split` of its image entry; its group is
the field `source_photo` of its image entry, or else itself. What iscrowd: 1 marks is rejected, or used where that is asked for. Masks belong to the
upright photograph: one whose JSON gives another size (an EXIF-rotated file measured as it is stored, say)
loses its objects.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from pipeline import reading
from pipeline.data.sources.base import (
    SPLITS,
    Instance,
    Photograph,
    folder,
    identifier,
    refuse_duplicates,
    rejected_instance,
    rejected_photograph,
)
from pipeline.errors import UserError
from pipeline.images import (
    PILLOW_LIMIT,
    BadImage,
    header_size,
    inside,
    refuse_other_size,
)

Crowd = Literal["reject", "use"]


def run_lengths(counts: str) -> list[int]:
    """The run lengths in a compressed COCO RLE string: five bits a character, lowest first, 0x20 = goes on, 0x10
    of the last = negative; from the fourth on, differences to the run before the last.

    pycocotools reads past the end of a broken string and leaves what a short one doesn't cover uninitialized;
    knowing the runs first is the guard. Raises ValueError for a string that isn't such a code.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"RLE holds the character {character!r}")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("RLE ends in the middle of a number")
    return runs


def _rle(segmentation: Mapping, height: int, width: int) -> np.ndarray:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise ValueError(f"RLE of size {size}, the photograph is [{height}, {width}] (height, width)")
    if isinstance(counts, str):
        runs = run_lengths(counts)
    elif isinstance(counts, list) and all(isinstance(run, int) for run in counts):
        runs = counts
    else:
        raise ValueError("RLE without counts that are a string or a list of integers")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"RLE doesn't decode: its runs cover {sum(runs)} of {height * width} pixels")
    code = {"size": [height, width], "counts": counts}
    return coco_mask.decode(code if isinstance(counts, str) else coco_mask.frPyObjects(code, height, width)) > 0


def _polygons(segmentation: Sequence, height: int, width: int) -> np.ndarray:
    reach = height + width  # polygons a little outside are clipped; far ones would be walked pixel by pixel
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("polygon without three points (x1, y1, x2, y2, x3, y3, ...)")
        for number in polygon:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError(f"polygon with a coordinate that is {number!r}")
            if abs(number) > reach:
                raise ValueError(f"polygon with the coordinate {number}, far outside {width}x{height}")
    polygons = [[float(number) for number in polygon] for polygon in segmentation]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))) > 0


def draw(segmentation, height: int, width: int) -> np.ndarray:
    """A COCO segmentation as bool (height, width), True = in: a list of polygons (their union), or RLE with
    compressed (str) or plain (list) counts. Raises ValueError saying what is wrong with it."""
    if isinstance(segmentation, Mapping):
        return _rle(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation:
        return _polygons(segmentation, height, width)
    raise ValueError("no segmentation")


def _mask(file: Path, declared, segmentation) -> np.ndarray:
    """The mask of one annotation; `declared` is the (height, width) of its image entry, or None where it has none."""
    size = header_size(file, max_pixels=PILLOW_LIMIT)  # a larger picture is refused before its masks
    if declared is not None:
        refuse_other_size(file, declared, size, "size in the JSON")
    try:
        return draw(segmentation, *size)
    except ValueError as error:
        raise BadImage(file, str(error)) from None


def _document(path: Path) -> dict:
    document = reading.as_json(path, "no such file; expected COCO instances (images, annotations, categories)")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise UserError(f"{path}: not COCO instances: no list {key!r} (expected images, annotations, categories)")
    if not document["images"]:
        raise UserError(f"{path}: its list of images is empty")
    return document


def _is_id(value) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and value != ""


def _by_id(path: Path, entries: list, what: str) -> tuple[dict, list[dict]]:
    """Entries by their id, and the rows of those without one. Raises UserError for an id that occurs twice."""
    known: dict = {}
    rejected: list[dict] = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            row = rejected_photograph if what == "image" else rejected_instance
            rejected.append(row(path.name, f"{position} (position in the list)", f"{what} without an id"))
        elif entry["id"] in known:
            names = [str(each.get("file_name", each.get("name", ""))) for each in (known[entry["id"]], entry)]
            named = f" ({names[0]}, {names[1]})" if all(names) else ""
            raise UserError(f"{path}: duplicate {what} id {entry['id']}{named}")
        else:
            known[entry["id"]] = entry
    return known, rejected


def _categories(path: Path, entries: list) -> dict:
    known, nameless = _by_id(path, entries, "category")
    nameless += [entry for entry in known.values() if not isinstance(entry.get("name"), str)]
    if nameless:
        raise UserError(f"{path}: not COCO instances: a category without an id or a name")
    return known


def _instances(path: Path, document: dict, files: Mapping, crowd: Crowd) -> tuple[dict, list[dict]]:
    """Instances by the id of their image entry; `files` gives (file, declared size) by that id, or None for an
    image that was rejected."""
    categories = _categories(path, document["categories"])
    annotations, rejected = _by_id(path, document["annotations"], "annotation")
    made: dict = {}
    for key, annotation in annotations.items():
        if annotation.get("iscrowd") and crowd == "reject":
            reason = "iscrowd: 1 marks a group drawn as one region; crowd_objects: use takes such regions as objects"
            rejected.append(rejected_instance(path.name, str(key), reason))
            continue
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not _is_id(image) or image not in files:
            rejected.append(rejected_instance(path.name, str(key), f"its image {image} isn't in the list of images"))
        elif not _is_id(category) or category not in categories:
            reason = f"its category {category} isn't in the list of categories"
            rejected.append(rejected_instance(path.name, str(key), reason))
        elif files[image] is not None:
            named = categories[category]
            file, declared = files[image]
            mask = functools.partial(_mask, file, declared, annotation.get("segmentation"))
            instance = Instance(identifier(str(key)), named["name"], str(named.get("supercategory") or ""), mask)
            made.setdefault(image, []).append(instance)
    return made, rejected


def _declared(entry: Mapping) -> tuple[float, float] | None:
    """(height, width) as the entry states them, None where it doesn't. Raises ValueError for what is no number; digits
    written as text are taken as the number."""
    size = []
    for key in ("height", "width"):
        value = entry.get(key)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            kind = "text" if isinstance(value, str) else "no number"
            raise ValueError(f"its {key} is {kind} ({str(value)[:40]!r})")
        size.append(value)
    height, width = size
    return None if height is None or width is None else (height, width)


def _split(path: Path, entry: Mapping, splits: Mapping[str, str] | None) -> str | None:
    """The split of one image entry; raises ValueError where it should have one and hasn't."""
    if splits is not None:
        if entry["file_name"] not in splits:
            raise ValueError("in no split of the split file")
        return splits[entry["file_name"]]
    split = entry.get("split")
    if split is not None and split not in SPLITS:
        raise UserError(f"{path}: {entry['file_name']}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    return split


def _image(path: Path, entry: Mapping, locate: Callable[[str], Path], splits) -> tuple[Path, str | None]:
    """File and split of one image entry; raises ValueError saying why it can't be used."""
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise ValueError("image without a file name")
    try:
        file = locate(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    if not file.is_file():
        raise ValueError("no such file")
    return file, _split(path, entry, splits)


def read_json(
    path: Path, locate: Callable[[str], Path], splits: Mapping[str, str] | None = None, crowd: Crowd = "reject"
) -> tuple[list[Photograph], list[dict]]:
    """Photographs and rejected rows of one COCO instances JSON.

    `locate` turns a file name of the JSON into a path; it raises UserError for a name it refuses. `splits` maps
    file names to splits; without it the field `split` of the image entries counts. An image that is missing,
    whose name is refused or repeated, or that stands in no split, becomes a rejected row, and so does an
    annotation without a known image or category. Masks are drawn (and refused) only when they are asked for.
    Raises UserError naming the file for JSON that isn't COCO and for ids that occur twice.
    """
    path = Path(path)
    document = _document(path)
    entries, rejected = _by_id(path, document["images"], "image")
    files: dict = dict.fromkeys(entries)
    accepted: dict = {}
    listed: dict = {}
    for key, entry in entries.items():
        name = str(entry.get("file_name"))
        try:
            if listed.setdefault(name, key) != key:
                raise ValueError(f"is image {listed[name]} already")
            declared = _declared(entry)
            accepted[key] = _image(path, entry, locate, splits)
            files[key] = (accepted[key][0], declared)
        except ValueError as error:
            rejected.append(rejected_photograph(name, identifier(str(key)), str(error)))
    instances, refused = _instances(path, document, files, crowd)
    photographs = []
    for key, (file, split) in accepted.items():
        image_id = identifier(str(key))
        group = str(entries[key].get("source_photo") or image_id)
        photographs.append(Photograph(image_id, file, split, group, "", tuple(instances.get(key, ()))))
    refuse_duplicates(photographs)
    return photographs, rejected + refused


def _split_file(path: Path) -> dict[str, str]:
    """File name -> split, from {"train": [names], ...}. Raises UserError for another shape or a name given twice."""
    lists = reading.as_json(path)
    named: dict[str, str] = {}
    if not isinstance(lists, dict) or not set(lists) <= set(SPLITS):
        raise UserError(f"{path}: expected lists of file names under {', '.join(SPLITS)}")
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {split} is not a list of file names")
        for name in names:
            if named.setdefault(name, split) != split:
                raise UserError(f"{path}: {name} is in {named[name]} and in {split}")
    return named


def _locate(root: Path, asked: set[str], name: str) -> Path:
    asked.add(name)
    return inside(root, name)


def read(
    path: Path,
    *,
    annotations: Sequence[str] = ("instances.json",),
    images: Sequence[str] = ("images",),
    splits: str = "splits.json",
    crowd_objects: Crowd = "reject",
) -> tuple[list[Photograph], list[dict]]:
    """Photographs and rejected rows of a folder in COCO format.

    `annotations` names one JSON or several (COCO itself: annotations/instances_train2017.json, ...), `images`
    the folder of their files: one for all, or one for each. `splits` may be missing. `crowd_objects` says what becomes of regions
    that iscrowd: 1 marks: rejected rows, or objects like others (brush tools mark single objects so). File names that climb out
    of the folder, name a missing file or stand in the split file alone become rejected rows. Raises UserError
    naming the file for what makes the folder unusable.
    """
    path = folder(path)
    if len(images) not in (1, len(annotations)):
        raise UserError(f"{path}: {len(images)} image folders for {len(annotations)} annotation files")
    split_file = inside(path, splits)
    chosen = _split_file(split_file) if split_file.exists() else None
    photographs: list[Photograph] = []
    rejected: list[dict] = []
    asked: set[str] = set()
    for position, name in enumerate(annotations):
        root = folder(inside(path, images[position % len(images)]))
        made, refused = read_json(inside(path, name), functools.partial(_locate, root, asked), chosen, crowd_objects)
        photographs += made
        rejected += refused
    refuse_duplicates(photographs)
    for name in sorted(set(chosen or ()) - asked):
        rejected.append(rejected_photograph(name, "", f"in {splits} and in no list of images"))
    return photographs, rejected
