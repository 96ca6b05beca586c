"""A folder in iHarmony4's layout, taken as it is: the real one, any of its sub-datasets, or one made by us.

    <root>/IHD_train.txt  IHD_test.txt               one line per composite: HCOCO/composite_images/c49_123_1.jpg
    <root>/<subset>/<subset>_train.txt  _test.txt    or, without those: file names alone
    <root>/<subset>/composite_images/<real>_<object>_<k>.jpg
    <root>/<subset>/masks/<real>_<object>.png
    <root>/<subset>/real_images/<real>.jpg

The official lists are not disjoint by photograph (docs/protocol.md): they are taken
unchanged, and how far train and test overlap is counted per sub-dataset (`overlaps`).
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import images, mask_rule, reading
from pipeline.data.sources.base import (
    SPLITS,
    folder,
    refuse_too_many,
    rejected_file,
    rejected_photograph,
)
from pipeline.data.sources.known_files import Facts, KnownFiles
from pipeline.errors import UserError

PAIRS = {
    "pair_id": str, "subset": str, "split": str, "composite": str, "mask": str, "real": str, "category": str,
    "foreground_ratio": float, "source_image": str, "reference_image": str, "transfer": str, "seed": int,
}  # fmt: skip
"""Columns of a pairs.parquet, see `read` for what they hold here."""


@dataclass(frozen=True)
class Listed:
    """One line of a list: a composite by the parts of its name, `<real>_<object>_<k>.jpg`."""

    subset: str
    split: str
    real: str
    object: str
    k: str

    @property
    def composite_file(self) -> str:
        return f"{self.subset}/composite_images/{self.real}_{self.object}_{self.k}.jpg"

    @property
    def mask_file(self) -> str:
        return f"{self.subset}/masks/{self.real}_{self.object}.png"

    @property
    def real_file(self) -> str:
        return f"{self.subset}/real_images/{self.real}.jpg"

    @property
    def camera(self) -> str:
        return camera(self.subset, self.real)


@dataclass(frozen=True)
class Checked:
    """What `read` found. Paths in `rows` are relative to root / subset, as in our own pairs.parquet; `overlaps` has
    a row per sub-dataset, see there; `colour_masks` counts the mask files stored with colour channels instead of
    as grayscale (all of them used); `sha256` is that of each usable file, by its name below root."""

    root: Path
    rows: list[dict]
    rejected: list[dict]
    overlaps: list[dict]
    colour_masks: int
    sha256: dict[str, str]


def camera(subset: str, real: str) -> str:
    """In Hday2night the camera of a photograph, d90 of d90-26; elsewhere the photograph: one camera's frames show one scene."""
    return real.split("-")[0] if subset == "Hday2night" else real


def known_files(file: Path, max_pixels: int, choice: mask_rule.Choice = mask_rule.Choice()) -> KnownFiles:
    """What earlier checks kept in `file`, found under the same limit and choice and by the same code."""
    code = [Path(source).read_text() for source in (__file__, images.__file__, mask_rule.__file__)]
    rules = [*code, str(max_pixels), str(choice)]
    return KnownFiles(file, "\n".join(rules))


def parse(line: str, split: str, subset: str | None = None) -> Listed:
    """One line of a list. `subset` is the sub-dataset whose own list it is; None for a list of the whole folder.

    Raises ValueError saying what is wrong with the line.
    """
    parts = line.replace("\\", "/").removeprefix("./").split("/")
    if ".." in parts or parts[0] == "":
        raise ValueError("leads out of the folder")
    if len(parts) > 3 or (len(parts) > 1 and parts[-2] != "composite_images"):
        raise ValueError("expected <subset>/composite_images/<composite>.jpg")
    named = parts[0] if len(parts) == 3 else subset
    if named is None:
        raise ValueError("names no sub-dataset; expected <subset>/composite_images/<composite>.jpg")
    if subset not in (None, named):
        raise ValueError(f"is in the list of {subset}")
    stem, dot, suffix = parts[-1].rpartition(".")
    pieces = stem.split("_")
    if not dot or suffix.lower() != "jpg" or len(pieces) != 3 or not all(pieces):
        raise ValueError("not a name <real>_<object>_<k>.jpg; ids hold no underscore")
    return Listed(named, split, *pieces)


def _list_files(path: Path) -> list[tuple[Path, str, str | None]]:
    """(list, split, sub-dataset whose own list it is) as the folder holds them."""
    whole: list[tuple[Path, str, str | None]] = [(path / f"IHD_{split}.txt", split, None) for split in SPLITS]
    lists = [entry for entry in whole if entry[0].is_file()]
    if not lists:
        subsets = [path] if (path / "composite_images").is_dir() else sorted(path.iterdir())
        for subset in subsets:
            for split in SPLITS:
                file = subset / f"{subset.name}_{split}.txt"
                if file.is_file():
                    lists.append((file, split, subset.name))
    if not lists:
        raise UserError(
            f"{path}: no list of composites: expected IHD_train.txt and IHD_test.txt, "
            "or <subset>/<subset>_train.txt and _test.txt, or a list named in the parameters"
        )
    return lists


def listed(path: Path, lists: Mapping[str, str] | None = None) -> tuple[list[Listed], list[dict]]:
    """Every composite of the folder's lists, in their order, and rows for lines that can't be understood or are
    repeated. `lists` gives the list of each split by name instead, e.g. {"test": "lists/le50_test.txt"}.

    Raises UserError if there is no list, or a composite stands in the lists of two splits.
    """
    path = folder(path).absolute()
    chosen = [(images.inside(path, name), split, None) for split, name in (lists or {}).items()] or _list_files(path)
    own = path.name if (path / "composite_images").is_dir() else None
    entries: dict[str, Listed] = {}
    rejected = []
    for file, split, subset in chosen:
        for line in reading.lines(file):
            try:
                entry = parse(line, split, subset or own)
                first = entries.setdefault(entry.composite_file, entry)
                if first.split != split:
                    raise UserError(f"{file}: {line} is also listed for {first.split}")
                if first is not entry:
                    raise ValueError("listed twice")
            except ValueError as error:
                rejected.append(rejected_photograph(line, "", f"{error} ({file.name})"))
    if not entries and not rejected:
        raise UserError(
            f"{path}: {' and '.join(file.name for file, *_ in chosen)} {'are' if len(chosen) > 1 else 'is'} empty: no composite is listed"
        )
    return list(entries.values()), rejected


def overlaps(entries: Iterable[Listed]) -> list[dict]:
    """How far test is unseen, a row per sub-dataset: composites and photographs in train (val counted with it) and
    test, photographs on both sides, the test composites made of those; and the same for the cameras of Hday2night
    (0 elsewhere)."""
    entries = list(entries)
    rows = []
    for subset in sorted({entry.subset for entry in entries}):
        test = [entry for entry in entries if entry.subset == subset and entry.split == "test"]
        train = [entry for entry in entries if entry.subset == subset and entry.split != "test"]
        photographs = {entry.real for entry in train}
        cameras = {entry.camera for entry in train} if subset == "Hday2night" else set()
        rows.append({
            "subset": subset,
            "composites_train": len(train),
            "composites_test": len(test),
            "photographs_train": len(photographs),
            "photographs_test": len({entry.real for entry in test}),
            "photographs_shared": len({entry.real for entry in test} & photographs),
            "test_composites_of_shared_photographs": sum(entry.real in photographs for entry in test),
            "cameras_shared": len({entry.camera for entry in test} & cameras),
            "test_composites_of_shared_cameras": sum(entry.camera in cameras for entry in test),
        })  # fmt: skip
    return rows


def _look(files: list[tuple[str, str]], *, root: Path, max_pixels: int, choice: mask_rule.Choice) -> list[Facts]:
    """The facts of the files of one photograph, given as (kind, name below root)."""
    return [_facts(root, kind, file, max_pixels, choice) for kind, file in files]


def _facts(root: Path, kind: str, file: str, max_pixels: int, choice: mask_rule.Choice) -> Facts:
    path = root / file
    try:
        state = path.stat()
        size, changed = state.st_size, state.st_mtime_ns
    except OSError:
        size, changed = -1, -1
    about: dict[str, Any] = {}
    try:
        if kind == "header":
            about["height"], about["width"] = images.header_size(path, max_pixels=max_pixels)
        elif kind == "picture":
            about["height"], about["width"] = images.read_rgb(path, max_pixels=max_pixels).shape[:2]
        else:
            mask = images.read_mask(path, choice=choice, max_pixels=max_pixels)
            if not mask.any():
                raise images.BadImage(path, "empty mask")
            about["height"], about["width"] = mask.shape
            about |= {
                "foreground_ratio": float(mask.mean()),
                "colour": images.stored_in_colour(path, max_pixels=max_pixels),
            }
        with path.open("rb") as stream:
            about["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    except images.BadImage as error:
        about = {"problem": error.reason}
    return Facts(kind, file, size, changed, **about)


def _row(entry: Listed, kind: str, facts: Mapping[tuple[str, str], Facts]) -> dict:
    """The row of one composite. Raises ValueError, saying why, if one of its three files can't be used."""
    composite, mask, real = (
        facts[kind, entry.composite_file],
        facts["mask", entry.mask_file],
        facts[kind, entry.real_file],
    )
    for file_facts, what in ((composite, None), (mask, "mask"), (real, "real image")):
        if file_facts.problem:
            raise ValueError(f"{file_facts.file}: {file_facts.problem}")
        if what and (file_facts.height, file_facts.width) != (composite.height, composite.width):
            raise ValueError(
                f"{file_facts.file}: the {what} is {file_facts.width}x{file_facts.height}, its image {composite.width}x{composite.height}"
            )

    def within(file: str) -> str:
        return file.removeprefix(f"{entry.subset}/")

    return {
        "pair_id": f"{entry.real}_{entry.object}_{entry.k}", "subset": entry.subset, "split": entry.split,
        "composite": within(entry.composite_file), "mask": within(entry.mask_file), "real": within(entry.real_file),
        "category": "",
        "foreground_ratio": mask.foreground_ratio, "source_image": entry.real, "reference_image": "",
        "transfer": "unknown", "seed": 0,
    }  # fmt: skip


def read(
    path: Path,
    *,
    lists: Mapping[str, str] | None = None,
    decode: bool = True,
    max_pixels: int = images.MAX_PIXELS,
    max_rejected: float = 0.0,
    choice: mask_rule.Choice = mask_rule.Choice(),
    known: KnownFiles | None = None,
    parallel_map: Callable[[Callable, list], Iterable] = map,
) -> Checked:
    """Check every listed composite, its mask and its real image, and make a row of pairs.parquet of it.

    path
        The whole folder, or one sub-dataset (then `root` is the folder it lies in). Its lists, or those named in
        `lists` ({split: file name}); one list alone will do.
    decode
        Decode composites and real images, which finds truncated files; without it only their headers are read.
        Masks are always decoded, by the rule of `images.read_mask`.
    max_rejected
        Share of the listed composites, 0..1, that may be refused. Lines that name a sub-dataset whose folder isn't
        there aren't part of this copy: one rejected row says how many there are, and they don't count.
    choice
        Which value or channel of the masks is in.
    known
        What earlier checks found; files that were not changed since are not looked at again. It is saved here.
    parallel_map
        A map over the photographs, in any order (pipeline.running.parallel.spread, or the builtin one).

    What iHarmony4 doesn't publish stays open: category and reference_image are "", transfer is "unknown", seed 0.
    Raises UserError if there is no list, a composite is listed for two splits, too many are refused, or none is
    left.
    """
    path = folder(path).absolute()
    root = path.parent if (path / "composite_images").is_dir() else path
    entries, rejected = listed(path, lists)
    absent: dict[tuple[str, str], int] = {}
    present = []
    for entry in entries:
        if (root / entry.subset).is_dir():
            present.append(entry)
        else:
            absent[entry.subset, entry.split] = absent.get((entry.subset, entry.split), 0) + 1
    total = len(present) + len(rejected)
    for (subset, split), count in absent.items():
        rejected.append(rejected_file(subset, f"{count} lines for {split} name this folder, which isn't here"))
    kind, known = "picture" if decode else "header", known or KnownFiles()
    facts = _all_facts(
        root,
        present,
        kind,
        known,
        functools.partial(_look, root=root, max_pixels=max_pixels, choice=choice),
        parallel_map,
    )
    rows = []
    for entry in present:
        try:
            rows.append(_row(entry, kind, facts))
        except ValueError as error:
            rejected.append(
                rejected_photograph(entry.composite_file, f"{entry.real}_{entry.object}_{entry.k}", str(error))
            )
    refuse_too_many(str(path), rejected, total, max_rejected)
    if not rows:
        reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
        raise UserError(f"{path}: no usable composite" + (f", first reasons: {reasons}" if reasons else ""))
    colour_masks = sum(file_facts.colour for file_facts in facts.values())
    return Checked(
        root,
        rows,
        rejected,
        overlaps(present),
        colour_masks,
        {file_facts.file: file_facts.sha256 for file_facts in facts.values()},
    )


def _all_facts(
    root: Path, entries: list[Listed], kind: str, known: KnownFiles, look: Callable, parallel_map: Callable
) -> dict[tuple[str, str], Facts]:
    """The facts of every file that the entries name, by (kind, name), each file looked at once however many share it."""
    photographs: dict[str, dict[tuple[str, str], None]] = {}
    for entry in entries:
        of_photograph = photographs.setdefault(entry.real_file, {})
        of_photograph |= dict.fromkeys(
            ((kind, entry.composite_file), ("mask", entry.mask_file), (kind, entry.real_file))
        )
    facts, work = {}, []
    for files in photographs.values():
        unknown = []
        for key in files:
            if (file_facts := known.find(root, *key)) is None:
                unknown.append(key)
            else:
                facts[key] = file_facts
        if unknown:
            work.append(unknown)
    try:
        for looked_at in parallel_map(look, work):
            for file_facts in looked_at:
                facts[file_facts.kind, file_facts.file] = file_facts
                known.add(file_facts)
    finally:
        known.save()
    return facts
