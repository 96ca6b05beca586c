import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import tables
from pipeline.report import samples as on_the_page
from pipeline.report import sheets
from pipeline.scoring import samples
from pipeline.scoring.statistics import Resampling
from tests.pipeline.report.project import SIZE
from tests.pipeline.report.test_numbers import read
from tests.pipeline.report.test_page import render


@pytest.fixture
def drawing(finished, tmp_path) -> Path:
    """The finished project, in which pconv drew two samples: its own prediction and mean_fill's."""
    root = shutil.copytree(finished, tmp_path / "drawing")
    with contextlib.chdir(root):
        split, other = Path("artifacts/predictions/pconv/test"), Path("artifacts/predictions/mean_fill/test")
        first = tables.read(split / "predictions.parquet").assign(sample=1)
        second = tables.read(other / "predictions.parquet").assign(sample=2)
        second["prediction"] = "../../mean_fill/test/" + second["prediction"]
        tables.write(split / "samples.parquet", pd.concat([first, second]))
        file = Path("artifacts/index/inpainting/pconv.json")
        index = json.loads(file.read_text())
        index["splits"]["test"]["samples"] = {
            "n": 2,
            "predictions": hashlib.sha256((split / "samples.parquet").read_bytes()).hexdigest(),
        }
        file.write_text(json.dumps(index))
        scores = samples.per_image("inpainting", [index], Path("artifacts/predictions"), SIZE)
        tables.write("results/inpainting/samples.parquet", samples.table("inpainting", scores, Resampling(1, 20, 0.9)))
    return root


def test_scores_and_pictures_of_samples_stand_side_by_side(drawing):
    with contextlib.chdir(drawing):
        results = read(Path("."), "inpainting")
        section = on_the_page.section(
            results,
            tables.read("results/inpainting/samples.parquet"),
            sheets.Shown(results, Path("artifacts/predictions"), SIZE),
        )
    assert [(row["model"], row["metric"], row["n_samples"]) for row in section["rows"]] == [
        ("pconv", "SSIM", 2),
        ("pconv", "PSNR", 2),
        ("pconv", "L1", 2),
    ]
    first, best, mean = (float(cell["text"]) for cell in section["rows"][1]["cells"])
    assert best == first > mean  # the other sample is a grey hole
    (shown,) = section["pictures"]
    assert len(shown["strips"]) == 3 and shown["strips"][0].note == "input, 2 samples, truth"


def test_the_page_has_them(drawing):
    html = render(drawing)
    assert html.count("<h3>Several samples</h3>") == 1 and "input, samples of pconv and truth of" in html
