import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

import models
from models.base import Model
from pipeline import images
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import intermediate
from tests.pipeline.tiny import Pictures


class Parts(Model):
    """The composite's half as one map, white as the other."""

    task = "harmonization"
    broken = False

    def maps(self, batch):
        half = batch["composite"] / 2
        return {"half": half * float("nan") if self.broken else half, "white": torch.ones_like(half)}


def test_maps_of_a_few_images_are_saved(tmp_path):
    data = Pictures("p", 5)
    intermediate.save(Parts(), data, tmp_path)
    table = pd.read_parquet(tmp_path / "maps.parquet")
    assert (
        len(table) == 6
        and table["image_id"].nunique() == intermediate.IMAGES
        and list(table["map"])[:2] == ["half", "white"]
    )
    for row in table.itertuples():
        saved = images.read_rgb(tmp_path / row.prediction)
        composite = data.item(data.ids.index(row.image_id))["composite"]
        assert np.abs(saved - (composite / 2 if row.map == "half" else 255.0)).max() <= 0.5
        assert row.sha256 == hashlib.sha256((tmp_path / row.prediction).read_bytes()).hexdigest()


def test_which_images_depends_on_their_names_alone(tmp_path):
    class Backwards(Pictures):
        def __init__(self, split, count):
            super().__init__(split, count)
            self.ids.reverse()

    chosen = []
    for number, data in enumerate((Pictures("p", 9), Backwards("p", 9))):
        intermediate.save(Parts(), data, tmp_path / str(number))
        chosen.append(set(pd.read_parquet(tmp_path / str(number) / "maps.parquet")["image_id"]))
    assert chosen[0] == chosen[1]


def test_a_map_that_is_not_finite_is_refused(tmp_path):
    model = Parts()
    model.broken = True
    with pytest.raises(UserError, match="the network's half of p0. is not finite"):
        intermediate.save(model, Pictures("p", 2), tmp_path)


def test_reflectance_and_illumination_of_dht_make_its_prediction(tmp_path):
    torch.manual_seed(0)
    model = models.create("dht").eval()
    data = Pictures("p", 1)
    assert intermediate.has_maps(model) and not intermediate.has_maps(models.create("composite"))
    intermediate.save(model, data, tmp_path)
    parts = {
        row.map: images.read_rgb(tmp_path / row.prediction) / 255
        for row in pd.read_parquet(tmp_path / "maps.parquet").itertuples()
    }
    with torch.no_grad():
        drawn = model(datasets.collate([data.item(0)]))[0].permute(1, 2, 0).numpy()
    assert set(parts) == {"reflectance", "illumination"}
    assert np.abs(parts["reflectance"] * parts["illumination"] - drawn).max() < 1.1 / 255


def test_a_form_without_maps_writes_nothing(tmp_path):
    intermediate.save(models.create("dht", form="ht"), Pictures("p", 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()
