"""What a network draws on its way to a prediction (Model.maps), saved of a few test images for the report to show."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import pandas as pd

from models.arrays import ArrayMethod
from pipeline import images, seeds, tables
from pipeline.data import datasets
from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.base import Model

FOLDER = "maps@test"
"""Folder beside those of the splits; no real set can have the name."""

IMAGES = 3


def has_maps(model: "Model | ArrayMethod") -> "TypeGuard[Model]":
    if isinstance(model, ArrayMethod):
        return False
    from models.base import Model  # torch, which a method on arrays does without

    return type(model).maps is not Model.maps


def save(model: "Model", dataset: "datasets.Composites | datasets.Holes", out: Path) -> None:
    """Write the maps of IMAGES test images, drawn by a fixed seed, to `out`: PNGs, and maps.parquet with image_id, map (its
    name), prediction (the file), sha256. A network that has none in its form writes nothing.

    It runs in this process, on the CPU and one thread: the same bytes everywhere. Raises UserError for a map that isn't finite.
    """
    import torch

    chosen = sorted(range(len(dataset)), key=lambda number: seeds.derive("maps", dataset.ids[number]))[:IMAGES]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for number in chosen:
            name = dataset.ids[number]
            with torch.no_grad():
                maps = model.eval().maps(datasets.collate([dataset.item(number)]))
            for label, drawn in maps.items():
                picture = drawn[0].float().numpy()
                if not np.isfinite(picture).all():
                    raise UserError(f"the network's {label} of {name} is not finite")
                file = out / f"{name}_{label}.png"
                images.write_png(file, images.to_uint8(picture))
                rows.append(
                    {
                        "image_id": name,
                        "map": label,
                        "prediction": file.name,
                        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    }
                )
    finally:
        torch.set_num_threads(threads)
    if rows:
        tables.write(out / "maps.parquet", pd.DataFrame(rows))
