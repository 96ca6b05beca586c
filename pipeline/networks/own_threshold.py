"""The threshold of a localizer, chosen on what it predicts of validation images."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.networks import predictor
from pipeline.scoring import thresholds


def choose(
    build_model: Callable,
    data: list[Path],
    size: int,
    work: Path,
    *,
    count: int,
    batch_size: int,
    device: str,
    describe: str,
    max_foreground: float = 1.0,
) -> thresholds.Threshold:
    """The threshold of best mean F1 on the validation images that training scores: `count` of them, evenly over the split.

    build_model: the ready model. data: folders of composites, of which those without validation images are passed over.
    size: side in pixels of the maps. work: a folder for the maps, made here and removed again.
    """
    validated = [folder for folder in data if len(_validation_rows(folder, max_foreground))]
    if not validated:
        return thresholds.NOTHING_TO_CHOOSE_ON
    build_data = functools.partial(_validation_images, validated, size, count, max_foreground)
    work.mkdir()
    rows = predictor.predict_all(build_model, build_data, work, batch_size=batch_size, device=device, describe=describe)
    dataset = build_data()
    files = dict(zip(rows["image_id"], rows["prediction"]))
    chosen = thresholds.choose(
        (images.read_rgb(work / files[name], max_pixels=images.PILLOW_LIMIT)[..., 0], dataset.item(number)["mask"])
        for number, name in enumerate(dataset.ids)
    )
    shutil.rmtree(work)
    return chosen


def _validation_rows(folder: Path, max_foreground: float):
    frame = tables.read(folder / "pairs.parquet", ["split", "foreground_ratio"])
    return frame[(frame["split"] == "val") & (frame["foreground_ratio"] <= max_foreground)]


def _validation_images(data: list[Path], size: int, count: int, max_foreground: float) -> datasets.Composites:
    rows = datasets.pairs(data, "val", max_foreground)
    return datasets.Composites(rows.iloc[datasets.evenly(len(rows), count)], size, masks_by_area=True)
