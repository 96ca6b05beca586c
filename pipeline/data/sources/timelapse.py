"""Fixed cameras at many times, their frames aligned (day2night and the like).

    <folder>/<camera>/<frame>.jpg          two frames at least
    <folder>/masks/<camera>/<frame>.png    the unmoving object of that frame

Ids are <camera>-<frame>; the group is the camera, the rendition the frame. A frame without a mask is kept: its
pixels serve other frames as another time of day.
"""

import functools
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


def _mask(frame: Path, mask: Path, choice: mask_rule.Choice):
    # the photograph has passed the limit asked for; the mask is held to its size before it is decoded
    size = header_size(frame, max_pixels=PILLOW_LIMIT)
    return read_mask(mask, size, choice=choice, max_pixels=PILLOW_LIMIT)


def _camera(path: Path, masks: Path, choice: mask_rule.Choice) -> tuple[list[Photograph], list[dict]]:
    pictures, others = files(path)
    rejected = [rejected_file(f"{path.name}/{file.name}", "not a picture file that is read") for file in others]
    if len(pictures) == 1:
        only = pictures[0]
        image_id = identifier(f"{path.name}-{only.stem}")
        rejected.append(rejected_photograph(f"{path.name}/{only.name}", image_id, "its camera has no other frame"))
        return [], rejected
    drawn: dict[str, Path] = {}
    for file in files(masks)[0] if masks.is_dir() else ():
        if drawn.setdefault(file.stem, file) != file:
            raise UserError(f"{masks}: {drawn[file.stem].name} and {file.name} are both masks of {file.stem}")
    photographs = []
    for file in pictures:
        instances: tuple[Instance, ...] = ()
        if file.stem in drawn:
            instances = (Instance("1", "", "", functools.partial(_mask, file, drawn.pop(file.stem), choice)),)
        image_id = identifier(f"{path.name}-{file.stem}")
        photographs.append(Photograph(image_id, file, None, identifier(path.name), file.stem, instances))
    rejected += [rejected_file(f"masks/{path.name}/{mask.name}", "no frame of this name") for mask in drawn.values()]
    return photographs, rejected


def read(
    path: Path, mask_value: int | None = None, mask_channel: str | None = None
) -> tuple[list[Photograph], list[dict]]:
    """One Photograph per frame, its mask read as `mask_value` and `mask_channel` say, and rejected rows for files that aren't pictures, cameras with one frame and
    masks without a frame. Raises UserError naming the folder where there is no camera in it, or ids clash."""
    path, choice = folder(path), mask_rule.Choice(mask_value, mask_channel)
    cameras = sorted(
        entry for entry in path.iterdir() if entry.is_dir() and entry.name != "masks" and not entry.name.startswith(".")
    )
    if not cameras:
        raise UserError(f"{path}: no camera: expected a folder of frames per camera, and masks/<camera>/<frame>.png")
    photographs, rejected = [], []
    for camera in cameras:
        made, refused = _camera(camera, path / "masks" / camera.name, choice)
        photographs += made
        rejected += refused
    known = {camera.name for camera in cameras}
    for entry in sorted((path / "masks").iterdir()) if (path / "masks").is_dir() else ():
        if entry.name not in known and not entry.name.startswith("."):
            rejected.append(rejected_file(f"masks/{entry.name}", "no camera of this name"))
    refuse_duplicates(photographs)
    return photographs, rejected
