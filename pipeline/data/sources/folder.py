"""Plain photographs in a folder, at any depth, without objects: Places2, CelebA, Paris StreetView, one's own.

Splits come from the first of these that there is:

    lists given by the parameters            {split: file within the folder}
    list_eval_partition.txt, Eval/...        CelebA's: a file name and 0 (train), 1 (validation) or 2 (test) per line
    folders named after splits               train, val, test; data_256, val_256, test_256 and the like of Places365;
                                             paris_train_original, paris_eval of Paris StreetView
    train.txt, val.txt, test.txt, .flist     at the top, also places365_train_standard.txt and the like: a name per line

Without any of them photographs have no split here, and ingest draws one.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipeline import images
from pipeline.data.sources.base import (
    PICTURE_SUFFIXES,
    SPLITS,
    Photograph,
    folder,
    identifier,
    refuse_duplicates,
    rejected_file,
)
from pipeline.errors import UserError
from pipeline.seeds import share

FOLDERS = {
    "train": re.compile(r"train(ing)?|(train|data)_?(256|large)(_standard)?|paris_train(_original)?"),
    "val": re.compile(r"val(id(ation)?)?|val_?(256|large)(_standard)?|paris_val"),
    "test": re.compile(r"test(ing)?|test_?(256|large)(_standard)?|paris_(eval|test)(_gt)?"),
}
"""Names of folders, in small letters, whose photographs are of a split."""

LISTS = {
    "train": re.compile(r"(.*[_-])?train(ing)?([_-].*)?\.(txt|lst|flist)"),
    "val": re.compile(r"(.*[_-])?val(id(ation)?)?([_-].*)?\.(txt|lst|flist)"),
    "test": re.compile(r"(.*[_-])?test([_-].*)?\.(txt|lst|flist)"),
}
"""Names of files at the top of the folder, in small letters, that list the photographs of a split."""

PARTITION = "list_eval_partition.txt"


def read(path: Path, lists: Mapping[str, str] | None = None) -> tuple[list[Photograph], list[dict]]:
    """One Photograph per picture file, and rejected rows for other files and for photographs that no list names.

    Ids are made of the path below the folder. Raises UserError naming the folder where there is no photograph in it, two
    ids clash, a list names a photograph twice, for two splits, or one that isn't there, or only some photographs lie in
    folders named after splits.
    """
    path = folder(path)
    pictures, others = _walk(path)
    if not pictures:
        raise UserError(f"{path}: no photograph in it or below ({', '.join(PICTURE_SUFFIXES)})")
    splits, read_as_lists = _splits(path, pictures, others, lists)
    rejected = [rejected_file(name, "not a picture file that is read") for name in others if name not in read_as_lists]
    if splits is not None and (unlisted := [name for name in pictures if name not in splits]):
        rejected.append(rejected_file(unlisted[0], f"one of {len(unlisted)} photographs that no list names"))
        pictures = [name for name in pictures if name in splits]
    photographs = []
    for name in pictures:
        image_id = identifier(str(PurePosixPath(name).with_suffix("")).replace("/", "-"))
        photographs.append(Photograph(image_id, path / name, splits[name] if splits is not None else None, image_id))
    refuse_duplicates(photographs)
    return photographs, rejected


def with_all_splits(
    photographs: Sequence[Photograph], seed: int, validation_share: float, test_share: float
) -> tuple[list[Photograph], list[str]]:
    """The photographs, those of training taken for splits that the folder lacks, and lines that say so.

    A folder with training and validation photographs alone (Places365 publishes no truth for its test photographs of scenes) is
    tested on the latter, as papers do. Photographs for other missing splits are drawn by the seed: a share of the training
    photographs, at least one. Photographs without any split are returned as they are.
    """
    there = {photograph.split for photograph in photographs}
    if there == {None} or there == set(SPLITS):
        return list(photographs), []
    if "train" not in there:
        raise UserError(
            f"no photograph is in the split train; {', '.join(sorted(map(str, there)))} alone can't train a network"
        )
    lines, assigned = [], list(photographs)
    if "test" not in there and "val" in there:
        assigned = [
            dataclasses.replace(photograph, split="test") if photograph.split == "val" else photograph
            for photograph in assigned
        ]
        lines.append("it has no test photographs: its validation photographs are tested on")
        there = {"train", "test"}
    order = sorted(
        (photograph.image_id for photograph in assigned if photograph.split == "train"),
        key=lambda image_id: (share(seed, image_id), image_id),
    )
    drawn: dict[str, str] = {}
    for split, part in (("test", test_share), ("val", validation_share)):
        if split not in there:
            chosen = [image_id for image_id in order if image_id not in drawn][: max(1, round(part * len(order)))]
            drawn |= dict.fromkeys(chosen, split)
            lines.append(
                f"{len(chosen)} of {len(order)} training photographs are kept for {'validation' if split == 'val' else 'testing'}"
            )
    return [
        dataclasses.replace(photograph, split=drawn.get(photograph.image_id, photograph.split))
        for photograph in assigned
    ], lines


def _walk(path: Path) -> tuple[list[str], list[str]]:
    """(pictures, other files) below the folder, as names with slashes, sorted. Links are followed, each folder once."""
    pictures: list = []
    others: list = []
    seen: set = set()
    for parent, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in names:
            if not name.startswith("."):
                relative = (Path(parent) / name).relative_to(path).as_posix()
                (pictures if Path(name).suffix.lower() in PICTURE_SUFFIXES else others).append(relative)
    return sorted(pictures), sorted(others)


def _splits(
    path: Path, pictures: list[str], others: list[str], lists: Mapping[str, str] | None
) -> tuple[dict[str, str] | None, set[str]]:
    """The split of each picture, None where nothing says it; and which of the other files were read for it."""
    if lists:
        return _listed(path, pictures, {split: images.inside(path, name) for split, name in lists.items()}), set(
            lists.values()
        )
    for name in (PARTITION, f"Eval/{PARTITION}"):
        if name in others:
            return _partition(path / name, pictures), {name}
    by_folder = {name: split for name in pictures if (split := _split_of_folder(name))}
    if by_folder and len(by_folder) < len(pictures):
        odd = next(name for name in pictures if name not in by_folder)
        raise UserError(
            f"{path}: {len(pictures) - len(by_folder)} of {len(pictures)} photographs lie in no folder named after a split, first: {odd}"
        )
    if by_folder:
        return by_folder, set()
    list_files: dict[str, Path] = {}
    for name in others:
        for split, pattern in LISTS.items():
            if "/" not in name and pattern.fullmatch(name.lower()):
                if split in list_files:
                    raise UserError(
                        f"{path}: {list_files[split].name} and {name} both look like the list of {split}; name one in `lists`"
                    )
                list_files[split] = path / name
    list_files = {split: list_files[split] for split in SPLITS if split in list_files}
    return (
        (_listed(path, pictures, list_files), {file.name for file in list_files.values()})
        if list_files
        else (None, set())
    )


def _split_of_folder(name: str) -> str | None:
    for part in PurePosixPath(name).parts[:-1]:
        for split, pattern in FOLDERS.items():
            if pattern.fullmatch(part.lower()):
                return split
    return None


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read as a list ({' '.join(str(error).split())})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed(path: Path, pictures: list[str], lists: Mapping[str, Path]) -> dict[str, str]:
    """The split of each picture that a list names: by its path below the folder, or by its end where that says which."""
    finder = _Finder(path, pictures)
    splits: dict = {}
    for split, file in lists.items():
        lines = _lines(file)
        if not lines:
            raise UserError(f"{file}: an empty list")
        for line in lines:
            name = finder.find(file, line)
            if name in splits:
                raise UserError(
                    f"{file}: {line} is listed {'twice' if splits[name] == split else f'for {splits[name]} too'}"
                )
            splits[name] = split
    return splits


def _partition(file: Path, pictures: list[str]) -> dict[str, str]:
    finder, splits = _Finder(file.parent, pictures), {}
    for line in _lines(file):
        name, _, number = line.rpartition(" ")
        if number not in ("0", "1", "2") or not name.strip():
            raise UserError(f"{file}: {line!r}: expected a file name and 0, 1 or 2")
        splits[finder.find(file, name.strip())] = SPLITS[int(number)]
    return splits


class _Finder:
    """Pictures by the names that lists call them."""

    def __init__(self, path: Path, pictures: list[str]):
        self.path, self.names = path.absolute().as_posix(), set(pictures)
        self.by_name: dict[str, list[str]] = {}
        for name in pictures:
            self.by_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, file: Path, line: str) -> str:
        """The picture that a line names: alone, or with a label behind it (Places365), relative to the folder or with the path that
        it had on another machine (.flist). Raises UserError where there is none, or several."""
        for text in (line, line.rpartition(" ")[0].strip()):
            name = text.replace("\\", "/").removeprefix(f"{self.path}/").removeprefix("./").lstrip("/")
            if name in self.names:
                return name
            ends = [
                picture
                for picture in self.by_name.get(PurePosixPath(name).name, [])
                if f"/{name}".endswith(f"/{picture}") or f"/{picture}".endswith(f"/{name}")
            ]
            if len(ends) == 1:
                return ends[0]
            if len(ends) > 1:
                raise UserError(f"{file}: {line} may be {ends[0]} or {ends[1]}")
        raise UserError(f"{file}: {line}: no such photograph in the folder")
