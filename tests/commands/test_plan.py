import argparse
import shutil
from pathlib import Path

import pytest

from commands import plan
from pipeline.errors import ParameterError, UserError
from pipeline.planning import rates
from pipeline.running import jobs
from pipeline.running.jobs import Stage

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    Stage("ingest@x", "python -m stages.ingest x data/sources/x", frozenset(), True),
    Stage("train-unet", "python -m stages.train unet --data data/a data/b", frozenset({"ingest@x"}), True),
    Stage("infer-unet", "python -m stages.infer unet --weights w --data data/a", frozenset({"train-unet"}), True),
    Stage("evaluate@localization", "python -m stages.evaluate localization", frozenset({"infer-unet"}), True),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copy(ROOT / "presets/embedded.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "read_graph", lambda with_state: (STAGES, {}))
    monkeypatch.setattr(rates, "starting", lambda: (2.0, 1.0))
    monkeypatch.setattr(rates, "recording", lambda: 1.0)
    known = rates.Rate(0.5, 10.0, 1000, {"train": 0.25}, {"train": 30.0}, 2**30)
    monkeypatch.setattr(rates, "method", lambda *_: known)


def arguments(**more) -> argparse.Namespace:
    usual = {
        "cores": 4, "gpus": 0, "gpu_kind": "h100", "share_of_peak": 0.5, "jobs": [1, 2], "seconds": 1.0,
        "train_images": 100, "test_images": 20,
    }  # fmt: skip
    return argparse.Namespace(**usual | more)


def costs_of(monkeypatch, **more) -> dict:
    kept = []
    monkeypatch.setattr(plan, "show", lambda costs, *_: kept.extend(costs))
    plan.main(arguments(**more))
    return {cost.stage.name: cost for cost in kept}


def test_costs_are_images_times_rates(project, monkeypatch):
    costs = costs_of(monkeypatch)
    assert list(costs) == ["train-unet", "infer-unet", "evaluate@localization"]
    # embedded: 20 epochs of batches of 8, of which 12 are whole in 100 images; 32 validation images after each of them,
    # predicted by two threads; the process takes 1 + 2 s to begin
    assert costs["train-unet"].fixed == pytest.approx(3 + 20 * 12 * 8 * 0.25 + 20 * 32 * 0.5 / 2)
    assert costs["train-unet"].core_seconds == 2 * costs["train-unet"].fixed
    assert (costs["infer-unet"].fixed, costs["infer-unet"].spread) == (3.0, 20 * 0.5)


def test_a_method_without_weights_begins_without_torch(project, monkeypatch):
    stage = Stage("infer-telea", "python -m stages.infer telea --data data/a", frozenset({"ingest@x"}), True)
    monkeypatch.setattr(jobs, "read_graph", lambda with_state: ([*STAGES, stage], {}))
    costs = costs_of(monkeypatch)
    assert (costs["infer-telea"].fixed, costs["infer-unet"].fixed) == (2.0, 3.0)
    assert costs["infer-telea"].memory < costs["infer-unet"].memory


def test_a_localizer_looks_at_every_harmonization_and_at_the_real_picture(project, monkeypatch):
    command = "python -m stages.detect unet --weights w --data data/a --harmonized composite poisson rainnet"
    stage = Stage("detect-unet", command, frozenset({"train-unet"}), True)
    monkeypatch.setattr(jobs, "read_graph", lambda with_state: ([*STAGES, stage], {}))
    assert costs_of(monkeypatch)["detect-unet"].spread == 4 * 20 * 0.5


def test_images_that_are_drawn_often_make_longer_epochs(project, monkeypatch):
    file = Path("params.yaml")
    text = file.read_text()
    drawn = text.replace("epochs: 20\n", "epochs: 20\n      draws: 2\n", 1)
    assert drawn != text and "unet" in text[: text.index("epochs: 20")]
    file.write_text(drawn)
    # 25 whole batches of 8 in 2 x 100 images
    assert costs_of(monkeypatch)["train-unet"].fixed == pytest.approx(3 + 20 * 25 * 8 * 0.25 + 20 * 32 * 0.5 / 2)


def test_on_gpus_arithmetic_counts(project, monkeypatch):
    costs = costs_of(monkeypatch, gpus=1)
    # data sheet: 494 TFLOPS of TF32, of which half; forward passes of 10 GFLOP, steps of 30
    flops = (20 * 12 * 8 * 30 + 20 * 32 * 10) * 1e9
    assert costs["train-unet"].gpu_seconds == pytest.approx(3 + flops / 247e12)
    assert costs["infer-unet"].gpu_seconds == pytest.approx(3 + 20 * 10e9 / 247e12)


def test_the_table_says_what_is_not_in_it(project, capsys):
    plan.main(arguments())
    said = capsys.readouterr().out
    assert "not planned, for they make the data: ingest" in said and "one stage at a time" in said


@pytest.mark.parametrize(
    "more, error, says",
    [
        ({"train_images": None}, ParameterError, "--train-images and --test-images: give both"),
        ({"gpus": 1, "gpu_kind": "abacus"}, ParameterError, "--gpu-kind abacus: expected one of a100, h100, h200"),
        ({"gpus": 1, "share_of_peak": 0.0}, ParameterError, "--share-of-peak 0.0"),
        ({"train_images": None, "test_images": None}, UserError, "data/a isn't there yet"),
    ],
)
def test_refusals(project, more, error, says):
    with pytest.raises(error, match=says):
        plan.main(arguments(**more))
