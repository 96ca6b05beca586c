from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import params
from pipeline.params.schema import ModelBlock
from pipeline.planning import rates

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"width": 4, "backbone_weights": "none"}


@pytest.fixture
def block() -> ModelBlock:
    own = params.load(ROOT / "presets" / "embedded.yaml").models["unet"]
    assert own.training is not None
    return own.model_copy(
        update={"hyperparameters": SMALL, "training": own.training.model_copy(update={"batch_size": 2})}
    )


@pytest.mark.slow
def test_a_trial_at_a_small_size_counts_the_arithmetic_of_the_true_one(block, monkeypatch):
    monkeypatch.setattr(rates, "SMALL", 64)
    rate = rates.method("unet", block, "localization", 128, 4, threads=1, seconds=0.0, items=None)
    assert rate.basis == "measured at 64 px"
    model = params.build_model("unet", SMALL).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model({"composite": torch.rand(1, 3, 128, 128)})
    assert rate.predict_gflop == pytest.approx(counter.get_total_flops() / 1e9)
    # backward takes a product for the input and one for the weights; a little is computed in training alone
    assert 2.5 < rate.train_gflop["train"] / rate.predict_gflop < 3.2
    assert rate.train_bytes > rates.ADAM_BYTES * rate.parameters
    assert rate.train_seconds["train"] > rate.predict_seconds > 0


def test_methods_without_weights_have_neither_training_nor_arithmetic():
    rate = rates.method("composite", ModelBlock(), "harmonization", 64, 2, threads=1, seconds=0.0, items=None)
    assert (rate.train_seconds, rate.predict_gflop, rate.parameters, rate.basis) == ({}, 0.0, 0, "measured")


def test_what_an_image_costs_is_taken_from_the_data():
    class Flat:
        def __len__(self):
            return 2

        def item(self, number):
            mask = np.zeros((32, 32), bool)
            mask[8:16, 8:16] = True
            return {"composite": np.zeros((32, 32, 3), np.uint8), "real": np.zeros((32, 32, 3), np.uint8), "mask": mask}

    of_image = rates.per_image("harmonization", Flat())
    # a picture of one colour is next to nothing as PNG
    assert 50 < of_image.prediction_bytes < 200 and of_image.read >= 0 and of_image.score > 0


def test_a_localizer_that_trains_on_real_photographs_is_timed_with_some():
    preset = params.load(ROOT / "presets" / "labelled.yaml").models["magritte"]
    block = preset.model_copy(
        update={"hyperparameters": preset.hyperparameters | {"width": 4, "levels": 6, "pristine": True}}
    )
    mask = np.zeros((64, 64), bool)
    mask[8:24, 8:24] = True
    without_photographs = [{"composite": np.zeros((64, 64, 3), np.uint8), "mask": mask}]
    rate = rates.method("magritte", block, "localization", 64, 2, threads=1, seconds=0.0, items=without_photographs)
    assert all(seconds > 0 for seconds in rate.train_seconds.values()) and rate.train_seconds
