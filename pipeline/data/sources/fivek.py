"""MIT-Adobe FiveK: every photograph as it came from the camera and retouched by five experts.

    <folder>/input/a0001-NAME.jpg      also called original, raw
    <folder>/expertA/a0001-NAME.jpg    ... expertE; also called expert_a, a, tiff16_a
    <folder>/masks/a0001-NAME.png      or masks/a0001.png; ours or yours: FiveK itself has none

Folder names are compared without case, spaces, hyphens and underscores; any number of the six may be there.
Files of one photograph have equal stems. The photograph's id is the leading a0001 where the stem starts like
that, and else the whole stem. The 16-bit TIFF files of the original data set are read (as 8-bit), its raw DNG
files are not.
"""

import functools
import re
from pathlib import Path

from pipeline import mask_rule
from pipeline.data.sources.base import (
    Instance,
    Photograph,
    files,
    folder,
    identifier,
    refuse_duplicates,
    rejected_file,
    rejected_photograph,
)
from pipeline.errors import UserError
from pipeline.images import PILLOW_LIMIT, header_size, read_mask

RENDITIONS = ("input", "expertA", "expertB", "expertC", "expertD", "expertE")

_FOLDERS = {
    "input": "input",
    "original": "input",
    "raw": "input",
    **{f"{prefix}{letter}": f"expert{letter.upper()}" for letter in "abcde" for prefix in ("expert", "", "tiff16")},
}
_NUMBERED = re.compile(r"(a\d{4})(?:[^0-9].*)?")


def _photo(stem: str) -> str:
    numbered = _NUMBERED.fullmatch(stem)
    return numbered[1] if numbered else identifier(stem)


def _mask(photograph: Path, mask: Path, choice: mask_rule.Choice):
    # the photograph has passed the limit asked for; the mask is held to its size before it is decoded
    size = header_size(photograph, max_pixels=PILLOW_LIMIT)
    return read_mask(mask, size, choice=choice, max_pixels=PILLOW_LIMIT)


def _renditions(path: Path) -> dict[str, Path]:
    """Folder by rendition. Raises UserError if there is none, or two for one rendition."""
    folders: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        rendition = _FOLDERS.get(re.sub(r"[ _-]", "", entry.name).lower())
        if rendition is None or not entry.is_dir():
            continue
        if rendition in folders:
            raise UserError(f"{path}: {folders[rendition].name} and {entry.name} are both {rendition}")
        folders[rendition] = entry
    if not folders:
        raise UserError(f"{path}: none of the folders {', '.join(RENDITIONS)}")
    return {rendition: folders[rendition] for rendition in RENDITIONS if rendition in folders}


def _masks(path: Path) -> tuple[dict[str, Path], list[dict]]:
    pictures, others = files(folder(path))
    masks: dict[str, Path] = {}
    for file in pictures:
        first = masks.setdefault(_photo(file.stem), file)
        if first != file:
            raise UserError(f"{path}: {first.name} and {file.name} are both masks of {_photo(file.stem)}")
    return masks, [rejected_file(f"masks/{file.name}", "not a picture file that is read") for file in others]


def read(
    path: Path, mask_value: int | None = None, mask_channel: str | None = None
) -> tuple[list[Photograph], list[dict]]:
    """One Photograph per (photograph, rendition), its mask read as `mask_value` and `mask_channel` say, the group being the photograph; each has the one instance of
    its mask file. Photographs without a mask and masks without a photograph become rejected rows. Raises
    UserError naming the folder or the duplicate id where the folder can't be read as FiveK."""
    path, choice = folder(path), mask_rule.Choice(mask_value, mask_channel)
    masks, rejected = _masks(path / "masks")
    photographs = []
    for rendition, entry in _renditions(path).items():
        pictures, others = files(entry)
        rejected += [rejected_file(f"{entry.name}/{file.name}", "not a picture file that is read") for file in others]
        if not pictures:
            kinds = ", ".join(sorted({file.suffix for file in others})) or "nothing"
            raise UserError(f"{entry}: no picture that can be read; it holds {kinds}")
        for file in pictures:
            photo = _photo(file.stem)
            image_id = f"{photo}-{rendition}"
            if photo not in masks:
                rejected.append(rejected_photograph(f"{entry.name}/{file.name}", image_id, f"no masks/{photo}.png"))
                continue
            instance = Instance("1", "", "", functools.partial(_mask, file, masks[photo], choice))
            photographs.append(Photograph(image_id, file, None, photo, rendition, (instance,)))
    refuse_duplicates(photographs)
    known = {photograph.group for photograph in photographs}
    for photo in sorted(set(masks) - known):
        rejected.append(rejected_file(f"masks/{masks[photo].name}", "no photograph of this name"))
    return photographs, rejected
