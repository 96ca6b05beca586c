"""Small sources and parameters for the tests of synthesis: photographs drawn by a formula, taken in by pipeline.data.ingest."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import images, tables
from pipeline.data import ingest
from pipeline.data.sources import fivek, timelapse
from pipeline.data.sources.base import Instance, Photograph
from pipeline.params import schema

HEIGHT, WIDTH = 60, 80
FILTERS = {
    "foreground_ratio": {"low": 0.01, "high": 0.8}, "min_pixels": 50, "colour_difference": {"low": 3, "high": 40},
    "max_clipped": 0.3, "max_hue_rotation": 60, "max_area_ratio": 16, "attempts": 8,
}  # fmt: skip
TRANSFER = {
    "recipe": "transfer", "source": "photos", "references": "photos", "prefix": "c",
    "composites_per_object": 1.5, "max_per_object": 3, "same_category": True,
}  # fmt: skip


def rendering(methods=("reinhard", "xiao", "fecker", "pitie"), quality=95, **filters) -> schema.Rendering:
    return schema.Rendering.model_validate(
        {"methods": list(methods), "filters": FILTERS | filters, "jpeg_quality": quality, "jpeg_subsampling": "4:4:4"}
    )


def subset(**changes) -> schema.Subset:
    return schema.Subset.model_validate(TRANSFER | changes)


def picture(*seed, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A textured photograph: waves of a colour that belongs to the seed. uint8 RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    colour, contrast = rng.uniform(70, 180, 3), rng.uniform(15, 45, 3)
    waves = np.sin(rng.uniform(4, 12) * x + rng.uniform(4, 12) * y)[..., None] * contrast
    return np.clip(colour + waves + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def ellipse(top: float, left: float, radius: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - top * height, (x - left * width) * 0.8) < radius


def photograph(
    folder: Path, name: str, split: str, objects: list[tuple[str, np.ndarray]], group: str = "", pixels=None
) -> Photograph:
    """One photograph with its objects, given as (category, mask); written to `folder`."""
    file = folder / f"{name}.jpg"
    images.write_jpeg(file, picture(*name.encode()) if pixels is None else pixels)
    instances = tuple(
        Instance(str(number), category, "", lambda mask=mask: mask)
        for number, (category, mask) in enumerate(objects, start=1)
    )
    return Photograph(name, file, split, group or name, "", instances)


def take_in(photographs: list[Photograph], out: Path, shares: tuple[float, float] = (0.0, 0.0), rejected=()) -> Path:
    ingest.ingest(
        photographs, rejected, out, source=out.name, seed=5, validation_share=shares[0], test_share=shares[1],
        longest_side=None, min_side=8, max_pixels=10**6, max_rejected=0.0,
    )  # fmt: skip
    return out


def photos(folder: Path, photographs: int = 16) -> Path:
    """Photographs with a cup and a tree each, two and more of one scene; and one with a lamp, the only one, in train."""
    made = []
    for number in range(photographs):
        split = ("train", "train", "val", "test")[number % 4]
        objects = [("cup", ellipse(0.4, 0.35, 13 + number % 3)), ("tree", ellipse(0.7, 0.8, 9 + number % 4))]
        made.append(photograph(folder / "files", f"p{number:03d}", split, objects, group=f"scene{number % 8}"))
    made.append(photograph(folder / "files", "p999", "train", [("lamp", ellipse(0.5, 0.5, 12))]))
    return take_in(made, folder / "photos")


def fivek_source(folder: Path, photographs: int = 8) -> Path:
    """Photographs a0001, ... in FiveK's six renditions, each brighter or darker than the next."""
    for number in range(1, photographs + 1):
        original = picture(number).astype(float)
        for step, rendition in enumerate(fivek.RENDITIONS):
            images.write_jpeg(
                folder / "fivek-files" / rendition / f"a{number:04d}-name.jpg",
                np.clip(original * (0.6 + 0.12 * step), 0, 255).astype(np.uint8),
            )
        images.write_png(folder / "fivek-files/masks" / f"a{number:04d}.png", ellipse(0.5, 0.5, 15))
    return take_in(*_read(fivek, folder / "fivek-files", folder / "fivek"))


def timelapse_source(
    folder: Path, cameras=("7", "90", "91", "1048", "22"), frames=("0600", "0900", "1200", "1500", "1800")
) -> Path:
    """Aligned frames of fixed cameras; those of 0900 and 1200 have a mask."""
    for camera in cameras:
        scene = picture(int(camera)).astype(float)
        for step, frame in enumerate(frames):
            light = np.array([1.1 - 0.1 * step, 1.0 - 0.1 * step, 0.95 - 0.05 * step])
            images.write_jpeg(
                folder / "timelapse-files" / camera / f"{frame}.jpg", np.clip(scene * light, 0, 255).astype(np.uint8)
            )
        for frame in ("0900", "1200"):
            images.write_png(folder / "timelapse-files/masks" / camera / f"{frame}.png", ellipse(0.4, 0.5, 14))
    return take_in(*_read(timelapse, folder / "timelapse-files", folder / "timelapse"))


def _read(source, path: Path, out: Path) -> tuple:
    photographs, rejected = source.read(path)
    return photographs, out, (0.2, 0.2), rejected


def write_tables(root: Path, objects: pd.DataFrame) -> Path:
    """The tables of a source without its pictures: enough for a plan. `objects` has image_id, instance_id, category, split,
    area and, if wanted, group; photographs are 100 x 100 pixels."""
    objects = objects.assign(group=objects.get("group", objects["image_id"]))
    instances = objects.assign(
        supercategory="", mask="masks/" + objects["image_id"] + "_" + objects["instance_id"] + ".png", image="images/" + objects["image_id"] + ".jpg",
        width=100, height=100, foreground_ratio=objects["area"] / 10000, mask_sha256="",
    )  # fmt: skip
    tables.write(root / "instances.parquet", instances[list(ingest.INSTANCES)])
    photographs = instances.drop_duplicates("image_id").assign(
        rendition="", source="s", original="", kept="", sha256=""
    )
    tables.write(root / "photographs.parquet", photographs[list(ingest.PHOTOGRAPHS)])
    return root


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
