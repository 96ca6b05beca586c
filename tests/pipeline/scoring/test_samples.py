import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import samples
from pipeline.scoring.statistics import Resampling
from tests.pipeline.tiny import random_picture

SIZE = 16


@pytest.fixture
def drawn(tmp_path):
    """Two photographs with a hole of 16 x 4 pixels, and a method that gives both three samples, off by 0, 20 and 40 levels in
    the first photograph, by 40, 40 and 40 in the second."""
    source, masks, split = tmp_path / "photos", tmp_path / "masks", tmp_path / "p/drawer/test"
    for name, number in (("x", 1), ("y", 2)):
        picture = np.clip(random_picture(number)[:SIZE, :SIZE], 0, 200)
        images.write_png(source / f"{name}.png", picture)
    tables.write(
        source / "photographs.parquet",
        pd.DataFrame([{"image_id": name, "image": f"{name}.png", "split": "test", "sha256": name} for name in "xy"]),
    )
    hole = np.zeros((SIZE, SIZE), bool)
    hole[:, :4] = True
    images.write_png(masks / "m.png", hole)
    tables.write(masks / "masks.parquet", pd.DataFrame([{"mask_id": "m", "mask": "m.png", "split": "test"}]))
    assigned = [{"image_id": name, "hole_ratio_bucket": "20-30", "hole_ratio": 0.25, "mask": "m.png"} for name in "xy"]
    tables.write(masks / "assigned.parquet", pd.DataFrame(assigned))
    data = [source, masks]
    dataset = datasets.for_testing("inpainting", data, SIZE, "test")
    rows = []
    for name, offsets in (("x_20-30", (20, 0, 40)), ("y_20-30", (40, 40, 40))):
        truth = dataset.item(dataset.ids.index(name))["image"]
        for sample, offset in enumerate(offsets, 1):
            file = f"{name}.png" if sample == 1 else f"samples/{name}_{sample}.png"
            images.write_png(split / file, truth + np.uint8(offset))  # outside the hole too, which composing undoes
            rows.append(
                {
                    "image_id": name,
                    "sample": sample,
                    "prediction": file,
                    "sha256": hashlib.sha256((split / file).read_bytes()).hexdigest(),
                }
            )
    return tmp_path / "p", [stated(tmp_path / "p", data, pd.DataFrame(rows))]


def stated(predictions: Path, data: list, table: pd.DataFrame, n: int = 3) -> dict:
    file = predictions / "drawer/test/samples.parquet"
    tables.write(file, table)
    said = {"n": n, "predictions": hashlib.sha256(file.read_bytes()).hexdigest()}
    return {
        "task": "inpainting",
        "model": "drawer",
        "data": [str(folder) for folder in data],
        "options": {},
        "splits": {"test": {"samples": said}},
    }


def test_the_first_the_best_and_the_mean(drawn):
    predictions, methods = drawn
    scores = samples.per_image("inpainting", methods, predictions, SIZE)
    l1 = scores[scores["metric"] == "l1"].set_index("image_id")
    off = lambda levels: levels / 255 / 4  # a quarter of the picture is hole
    assert l1.loc["x_20-30", ["first", "best", "mean"]].tolist() == pytest.approx([off(20), 0, off(20)])
    assert l1.loc["y_20-30", ["first", "best", "mean"]].tolist() == pytest.approx([off(40)] * 3)
    # pairs of x differ by 20, 20 and 40 levels inside the hole
    assert l1["diversity"].tolist() == pytest.approx([80 / 3 / 255, 0])
    psnr = scores[scores["metric"] == "psnr"].set_index("image_id").loc["x_20-30"]
    assert psnr["best"] == 100 and psnr["first"] == pytest.approx(-10 * np.log10((20 / 255) ** 2 / 4))
    assert (psnr["n_samples"], psnr["hole_ratio_bucket"], psnr["photograph"]) == (3, "20-30", "x")


def test_the_table_pools_and_breaks_down(drawn):
    predictions, methods = drawn
    scores = samples.per_image("inpainting", methods, predictions, SIZE)
    table = samples.table("inpainting", scores, Resampling(1, 50, 0.9)).set_index(["by", "value", "metric"])
    assert {key[:2] for key in table.index} == {("subset", "All"), ("subset", "photos"), ("hole_ratio_bucket", "20-30")}
    row = table.loc[("subset", "All", "l1")]
    assert row[["first", "best", "mean"]].tolist() == pytest.approx([30 / 1020, 20 / 1020, 30 / 1020])
    assert row["best_low"] <= row["best"] <= row["best_high"] and (row["n_images"], row["n_samples"]) == (2, 3)


def test_only_methods_that_state_samples_are_drawing(drawn):
    _, methods = drawn
    assert samples.drawing([*methods, {"splits": {"test": {"n_images": 3}}}]) == methods


def test_a_changed_manifest_and_a_missing_sample_stop_it(drawn):
    predictions, methods = drawn
    file = predictions / "drawer/test/samples.parquet"
    table = tables.read(file)
    short = stated(predictions, methods[0]["data"], table.iloc[1:])
    with pytest.raises(
        UserError, match="drawer: x_20-30 has 2 samples in samples.parquet, expected 3 of each test image"
    ):
        samples.per_image("inpainting", [short], predictions, SIZE)
    tables.write(file, table.iloc[:3])
    with pytest.raises(UserError, match="samples.parquet is not the one that inference wrote"):
        samples.per_image("inpainting", methods, predictions, SIZE)
