"""Pictures made elsewhere, taken in at the originals' own sizes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import images
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import outputs
from tests.pipeline.tiny import random_picture, subset


def take_in(tmp_path: Path, picture: np.ndarray):
    data = [subset(tmp_path / "HCOCO", [{"pair_id": "c1_1_1", "split": "test", "foreground_ratio": 0.25}])]
    images.write_png(tmp_path / "theirs/c1_1_1.png", picture)
    reading = outputs.Reading("harmonization", tmp_path / "theirs", side=20)
    split = datasets.at_side(datasets.ORIGINAL)
    stated = outputs.take_in(
        reading, data, 20, [split], tmp_path / "out", options={}, spread=lambda work, items, describe: map(work, items)
    )
    return stated, tmp_path / "out" / split


def test_a_picture_of_the_originals_size_is_taken_as_it_is(tmp_path):
    picture = random_picture(7)  # 40 x 60 pixels, as the composite
    (stated, origin), folder = take_in(tmp_path, picture)
    assert np.array_equal(images.read_rgb(folder / "c1_1_1.png"), picture)
    assert stated["test@original"]["n_images"] == 1 and origin == "outputs made elsewhere: 1 PNG"
    assert list(pd.read_parquet(folder / "predictions.parquet")["made_at"]) == [outputs.AS_SCORED]


def test_a_smaller_one_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"1 file can't be used: c1_1_1.png: is 20x20, expected 60x40 in test@original"):
        take_in(tmp_path, random_picture(7)[:20, :20])
