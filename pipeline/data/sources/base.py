"""What every source of photographs hands over, whatever its folder looks like."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError

SPLITS = ("train", "val", "test")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".jp2")

REJECTED = {"file": str, "item": str, "reason": str}
"""Columns of a rejected.parquet."""

LONGEST_ID = 100
"""Letters of an id; two of them and a suffix make a file name, for which file systems have room of 255 bytes."""

_ID = re.compile(r"[A-Za-z0-9-]+")


def _refuse_bad_id(what: str, text: str) -> None:
    if not _ID.fullmatch(text):
        raise ValueError(f"{what} {text!r} may hold only A-Z, a-z, 0-9 and '-'; map it with `identifier`")


@dataclass(frozen=True)
class Instance:
    """One object of a photograph. `mask()` draws it: bool (H, W), True = in, of the upright photograph's size;
    it raises UserError if it can't. `category` is "" where the source knows none."""

    instance_id: str
    category: str
    supercategory: str
    mask: Callable[[], np.ndarray]

    def __post_init__(self):
        _refuse_bad_id("instance id", self.instance_id)


@dataclass(frozen=True)
class Photograph:
    """One photograph. Those of one `group` (same source photo, same camera) never cross splits; `rendition`
    names the version or the time where a group holds several. `split` is None where the source has none."""

    image_id: str
    file: Path
    split: str | None
    group: str
    rendition: str = ""
    instances: tuple[Instance, ...] = ()

    def __post_init__(self):
        _refuse_bad_id("image id", self.image_id)
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} of {self.image_id}: expected one of {', '.join(SPLITS)}")


def identifier(name: str) -> str:
    """`name` as an id of letters, digits and hyphens: iHarmony4's file names are split at underscores.

    Underscores, spaces and dots become hyphens. A name with anything else in it (other scripts, brackets) also
    gets eight hexadecimal digits of its hash, so that different names keep different ids, and so does one of more than LONGEST_ID letters, of which the first stay. "" stays "".
    """
    hyphenated = re.sub(r"[_ .]", "-", name)
    if len(hyphenated) <= LONGEST_ID and (not hyphenated or _ID.fullmatch(hyphenated)):
        return hyphenated
    kept = re.sub(r"[^A-Za-z0-9]+", "-", hyphenated)[: LONGEST_ID - 9].strip("-")
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{kept}-{digest}" if kept else digest


def rejected_photograph(file: str, image_id: str, reason: str) -> dict:
    """The row of rejected.parquet for a photograph."""
    return {"file": file, "item": f"photograph {image_id}".strip(), "reason": reason}


def rejected_instance(file: str, instance_id: str, reason: str) -> dict:
    """The row of rejected.parquet for one object of a photograph; the photograph may still be used."""
    return {"file": file, "item": f"instance {instance_id}".strip(), "reason": reason}


def rejected_file(file: str, reason: str) -> dict:
    """The row of rejected.parquet for a file or a line that belongs to no photograph."""
    return {"file": file, "item": "file", "reason": reason}


def refuse_too_many(source: str, rejected: Sequence[Mapping], total: int, max_rejected: float) -> None:
    """Raise UserError if more than the share `max_rejected` of `total` photographs stands in `rejected`; the one
    line names count, share, limit and the first three reasons."""
    refused = [row for row in rejected if row["item"].startswith("photograph")]
    if refused and len(refused) > max_rejected * total:
        reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in refused[:3])
        raise UserError(
            f"{source}: {len(refused)} of {total} photographs rejected "
            f"({len(refused) / total:.1%}, the limit max_rejected is {max_rejected:.1%}), first: {reasons}"
        )


def refuse_duplicates(photographs: Iterable[Photograph]) -> None:
    """Raise UserError, naming the id and the files, if two photographs have one id or two instances of one
    photograph have."""
    files: dict[str, Path] = {}
    for photograph in photographs:
        if photograph.image_id in files:
            first = files[photograph.image_id]
            raise UserError(f"duplicate image id {photograph.image_id}: {first} and {photograph.file}")
        files[photograph.image_id] = photograph.file
        counts = Counter(instance.instance_id for instance in photograph.instances)
        for instance_id, count in counts.items():
            if count > 1:
                raise UserError(f"{photograph.file}: duplicate instance id {instance_id}")


def folder(path: str | Path) -> Path:
    """The folder as a Path. Raises UserError if it is missing or not a folder."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    return path


def files(path: Path) -> tuple[list[Path], list[Path]]:
    """(pictures, others) directly in a folder, each sorted by name; hidden files are in neither."""
    visible = sorted(entry for entry in path.iterdir() if not entry.is_dir() and not entry.name.startswith("."))
    pictures = [entry for entry in visible if entry.suffix.lower() in PICTURE_SUFFIXES]
    return pictures, [entry for entry in visible if entry not in set(pictures)]
