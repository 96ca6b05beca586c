"""Predictions at the pictures' own sizes, as inference saves them for the split "test@original"."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import models
from models.layers.input_size import require_divisible
from pipeline import images
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import apply, predictor
from tests.pipeline.tiny import subset


class Halving(nn.Module):
    """Takes sides that 16 divides alone, and draws the composite in half its brightness."""

    task, full_resolution = "harmonization", False

    def forward(self, batch):
        require_divisible(batch["composite"], 16)
        return batch["composite"] / 2


class Square(Halving):
    def forward(self, batch):
        raise ValueError("expected 32x32 pixels")


def pct():
    torch.manual_seed(0)
    return models.create("pct", width=16, layers=1, dropout=0.0, perceptual_weights="none", size=32).eval()


@pytest.fixture
def build_data(tmp_path):
    data = [
        subset(
            tmp_path / "HCOCO",
            [{"pair_id": f"c{number}_1_1", "split": "test", "foreground_ratio": 0.25} for number in range(2)],
        )
    ]
    return functools.partial(datasets.for_testing, "harmonization", data, 32, "test@original")  # 40 x 60 pixels


@pytest.mark.parametrize("build", [Halving, pct], ids=["a margin, cut off again", "two sizes"])
def test_it_is_what_a_method_does_to_a_picture_of_ones_own(build, build_data, tmp_path):
    table = predictor.predict_plain(build, build_data, tmp_path / "out", batch_size=1, full_size=True)
    dataset = build_data()
    assert list(table["image_id"]) == dataset.ids
    for number, row in table.iterrows():
        saved, item = images.read_rgb(tmp_path / "out" / row["prediction"]), dataset.item(number)
        expected, seen = apply.predict("harmonization", build(), item["composite"], item["mask"])
        assert saved.shape == (40, 60, 3) and np.array_equal(saved, expected)
        assert seen == ((48, 64) if build is Halving else (32, 32))
        if build is Halving:
            assert np.abs(saved.astype(float) - item["composite"] / 2).max() <= 0.5


def test_a_network_that_refuses_the_size_says_so(build_data, tmp_path):
    with pytest.raises(UserError, match="the network refuses c0_1_1: expected 32x32 pixels"):
        predictor.predict_plain(Square, build_data, tmp_path, batch_size=1, full_size=True)
