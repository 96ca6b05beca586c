"""A folder in iHarmony4's layout, taken as it is: the real one, any of its sub-datasets, or one made by us.

    <root>/IHD_train.txt  IHD_test.txt               one line per composite: HCOCO/composite_images/c49_123_1.jpg
    <root>/<subset>/<subset>_train.txt  _test.txt    or, without those: file names alone
    <root>/<subset>/composite_images/<real>_<object>_<k>.jpg
    <root>/<subset>/masks/<real>_<object>.png
    <root>/<subset>/real_images/<real>.jpg

The official lists are not disjoint by photograph (docs/protocol.md): they are taken
unchanged, and how far train and test overlap is counted per sub-dataset (`overlaps`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import images, mask_rule, reading
from pipeline.data.sources.base import (
    SPLITS,
    folder,
    refuse_too_many,
    rejected_file,
    rejected_photograph,
)
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
        """In Hday2night the camera, d90 of d90-26; elsewhere the photograph: one camera's frames show one scene."""
        return self.real.split("-")[0] if self.subset == "Hday2night" else self.real


@dataclass(frozen=True)
class Checked:
    """What `read` found. Paths in `rows` are relative to root / subset, as in our own pairs.parquet; `overlaps` has
    a row per sub-dataset, see there; `colour_masks` counts the mask files stored with colour channels instead of
    as grayscale (all of them used)."""

    root: Path
    rows: list[dict]
    rejected: list[dict]
    overlaps: list[dict]
    colour_masks: int


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
    found = [entry for entry in whole if entry[0].is_file()]
    if not found:
        subsets = [path] if (path / "composite_images").is_dir() else sorted(path.iterdir())
        for subset in subsets:
            for split in SPLITS:
                file = subset / f"{subset.name}_{split}.txt"
                if file.is_file():
                    found.append((file, split, subset.name))
    if not found:
        raise UserError(
            f"{path}: no list of composites: expected IHD_train.txt and IHD_test.txt, "
            "or <subset>/<subset>_train.txt and _test.txt, or a list named in the parameters"
        )
    return found


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
        raise UserError(f"{path}: {' and '.join(file.name for file, *_ in chosen)} {'are' if len(chosen) > 1 else 'is'} empty: no composite is listed")
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


class _Checker:
    """Looks at every file once, however many composites share it; keeps sizes and reasons, never pixels."""

    def __init__(self, decode: bool, max_pixels: int, choice: mask_rule.Choice):
        self.decode, self.max_pixels, self.choice = decode, max_pixels, choice
        self.known: dict[Path, tuple | images.BadImage] = {}
        self.colour_masks = 0

    def _once(self, file: Path, look: Callable[[Path], tuple]) -> tuple:
        if file not in self.known:
            try:
                self.known[file] = look(file)
            except images.BadImage as error:
                self.known[file] = error
        known = self.known[file]
        if isinstance(known, images.BadImage):
            raise known
        return known

    def picture(self, file: Path) -> tuple[int, int]:
        """(height, width). Raises BadImage for a file that is missing or no picture (and, with `decode`, broken)."""
        if not self.decode:
            return self._once(file, lambda file: images.header_size(file, max_pixels=self.max_pixels))
        return self._once(file, lambda file: images.read_rgb(file, max_pixels=self.max_pixels).shape[:2])

    def mask(self, file: Path) -> tuple[tuple[int, int], float]:
        """((height, width), foreground share). Raises BadImage as `images.read_mask` does, and for an empty mask."""

        def look(file: Path):
            mask = images.read_mask(file, choice=self.choice, max_pixels=self.max_pixels)
            if not mask.any():
                raise images.BadImage(file, "empty mask")
            self.colour_masks += images.stored_in_colour(file, max_pixels=self.max_pixels)
            return mask.shape, float(mask.mean())

        return self._once(file, look)


def _row(root: Path, entry: Listed, check: _Checker) -> dict:
    """The row of one composite. Raises BadImage if one of its three files can't be used."""
    size = check.picture(root / entry.composite_file)
    mask_size, foreground_ratio = check.mask(root / entry.mask_file)
    images.refuse_other_size(root / entry.mask_file, mask_size, size)
    images.refuse_other_size(root / entry.real_file, check.picture(root / entry.real_file), size, "real image")

    def within(file: str) -> str:
        return file.removeprefix(f"{entry.subset}/")

    return {
        "pair_id": f"{entry.real}_{entry.object}_{entry.k}", "subset": entry.subset, "split": entry.split,
        "composite": within(entry.composite_file), "mask": within(entry.mask_file), "real": within(entry.real_file),
        "category": "",
        "foreground_ratio": foreground_ratio, "source_image": entry.real, "reference_image": "",
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
    progress: Callable[[int, int], None] | None = None,
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
    progress
        Called with (done, total) after each composite.

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
    check, rows = _Checker(decode, max_pixels, choice), []
    for done, entry in enumerate(present, start=1):
        try:
            rows.append(_row(root, entry, check))
        except images.BadImage as error:
            reason = f"{error.path.relative_to(root)}: {error.reason}"
            rejected.append(rejected_photograph(entry.composite_file, f"{entry.real}_{entry.object}_{entry.k}", reason))
        if progress is not None:
            progress(done, len(present))
    refuse_too_many(str(path), rejected, total, max_rejected)
    if not rows:
        reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
        raise UserError(f"{path}: no usable composite" + (f", first reasons: {reasons}" if reasons else ""))
    return Checked(root, rows, rejected, overlaps(present), check.colour_masks)
