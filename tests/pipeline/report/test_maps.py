import contextlib
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import images, tables
from pipeline.networks import intermediate
from pipeline.report import maps, sheets
from tests.pipeline.report.project import SIZE
from tests.pipeline.report.test_numbers import read
from tests.pipeline.report.test_page import render


def test_the_folder_is_the_one_that_inference_writes():
    assert maps.FOLDER == intermediate.FOLDER


@pytest.fixture
def mapped(finished, tmp_path) -> tuple[Path, str]:
    """The project with two maps of one image, and that image's name."""
    root = shutil.copytree(finished, tmp_path / "mapped")
    folder = root / "artifacts/predictions/rainnet" / maps.FOLDER
    image_id = read(finished).tested["image_id"].iloc[0]
    rows = []
    for name, level in (("reflectance", 40), ("illumination", 200)):
        file = folder / f"{image_id}_{name}.png"
        images.write_png(file, np.full((SIZE, SIZE, 3), level, np.uint8))
        rows.append(
            {
                "image_id": image_id,
                "map": name,
                "prediction": file.name,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
    tables.write(folder / "maps.parquet", pd.DataFrame(rows))
    return root, image_id


def test_maps_stand_between_input_and_output(mapped):
    root, _ = mapped
    with contextlib.chdir(root):
        results = read(Path("."))
        (section,) = maps.gallery(results, sheets.Shown(results, Path("artifacts/predictions"), SIZE))
    assert section["model"] == "rainnet" and [tile["name"] for tile in section["rows"][0]["tiles"]] == [
        "input",
        "reflectance",
        "illumination",
        "output",
        "truth",
    ]
    assert section["rows"][0]["tiles"][1]["source"] == sheets.encode(np.full((SIZE, SIZE, 3), 40, np.uint8), 192)


@pytest.mark.slow
def test_the_page_shows_maps(mapped):
    root, image_id = mapped
    html = render(root)
    assert html.count("<h3>Intermediate maps</h3>") == 1 and f"illumination of {image_id} by rainnet" in html


def test_without_maps_there_is_no_gallery(finished):
    with contextlib.chdir(finished):
        results = read(Path("."))
        assert maps.gallery(results, sheets.Shown(results, Path("artifacts/predictions"), SIZE)) == []
