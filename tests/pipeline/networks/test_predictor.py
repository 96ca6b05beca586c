import functools
import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import models
from models.arrays import ArrayMethod
from pipeline import images
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import predictor
from pipeline.running import cluster, parallel
from tests.pipeline.tiny import Network, Pictures

ROOT = Path(__file__).resolve().parents[3]


class Drawing(nn.Module):
    """Draws a picture that depends on the composite, and a map of it where `channels` is 1; `bad` spoils dark pictures."""

    def __init__(self, channels: int = 3, bad: str = "", marker: str = ""):
        super().__init__()
        self.channels, self.bad, self.marker = channels, bad, marker

    def forward(self, batch):
        if self.bad == "size":
            raise ValueError("height 16 is not divisible by 32; pad to 32")
        if self.marker and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = batch["composite"].sqrt()[:, : self.channels]
        if self.bad == "nan":
            drawn = drawn.clone()
            drawn[batch["composite"].mean(dim=(1, 2, 3)) == batch["composite"].mean(dim=(1, 2, 3)).min()] = torch.nan
        return drawn


def seeded() -> Network:
    torch.manual_seed(0)
    return Network()


def test_pngs_hold_what_the_network_drew(tmp_path):
    data = Pictures("p", 5)
    table = predictor.predict_plain(Drawing, lambda: data, tmp_path, batch_size=2)
    assert table["image_id"].tolist() == data.ids and list(table.columns) == ["image_id", "prediction", "sha256"]
    for number, row in table.iterrows():
        saved = np.asarray(Image.open(tmp_path / row["prediction"]))
        drawn = np.sqrt(data.item(number)["composite"].astype(np.float32) / 255)
        assert np.array_equal(
            saved, np.rint(drawn * 255).astype(np.uint8)
        )  # outside the mask too: nothing is composed yet
        assert row["sha256"] == hashlib.sha256((tmp_path / row["prediction"]).read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(table["prediction"])


class Halved(ArrayMethod):
    """The composite in half its brightness, black where the mask is; picky about pictures of little red."""

    task = "harmonization"

    def __init__(self, least: float = 0.0):
        self.least = least

    def draw(self, item):
        if item["composite"][..., 0].mean() < self.least:
            raise ValueError("too little red")
        return np.where(item["mask"][..., None], np.float32(0), item["composite"] / 2)


@pytest.mark.parametrize("full_size", [False, True])
def test_a_method_on_arrays_draws_what_its_torch_module_draws(tmp_path, full_size):
    data = Pictures("p", 5)
    make = functools.partial(predictor.predict_plain, build_data=lambda: data, batch_size=1 if full_size else 3)
    table = make(Halved, out=tmp_path / "arrays", full_size=full_size)
    for number, row in table.iterrows():
        item = data.item(number)
        saved = images.read_rgb(tmp_path / "arrays" / row["prediction"])
        # an odd level's half lies between two levels: to the even one
        assert np.array_equal(saved, np.where(item["mask"][..., None], 0, np.rint(item["composite"] / 2)))
    by_torch = make(lambda: models.as_model(Halved()), out=tmp_path / "torch", full_size=full_size)
    pd.testing.assert_frame_equal(table, by_torch)


def test_a_refusal_by_a_method_on_arrays_names_the_picture_and_not_its_batch(tmp_path):
    data = Pictures("p", 5)
    red = [data.item(number)["composite"][..., 0].mean() / 255 for number in range(5)]
    poorest = int(np.argmin(red))
    assert poorest > 0
    build = functools.partial(Halved, sorted(red)[0] + 1e-3)
    with pytest.raises(UserError, match=f"^the network refuses {data.ids[poorest]}: too little red$"):
        predictor.predict_plain(build, lambda: data, tmp_path, batch_size=8)


def test_maps_are_grey(tmp_path):
    table = predictor.predict_plain(functools.partial(Drawing, 1), lambda: Pictures("p", 1), tmp_path, batch_size=2)
    with Image.open(tmp_path / table["prediction"][0]) as picture:
        assert picture.mode == "L" and picture.size == (16, 16)


def test_networks_predict_in_evaluation_mode(tmp_path):
    data, model = Pictures("p", 3), seeded().eval()
    predictor.predict_plain(seeded, lambda: data, tmp_path, batch_size=2)
    with torch.no_grad():
        drawn = model(datasets.collate([data.item(2)]))[0].numpy()
    saved = np.asarray(Image.open(tmp_path / "p02.png"))
    assert np.abs(saved.astype(int) - images.to_uint8(drawn)).max() <= 1  # dropout would move far more


@pytest.mark.parametrize("by, extremes", [(1.5, r"\[0\.\d+, 1\.\d+\]"), (-0.5, r"\[-0\.\d+, 0?\.?-?\d*\.?\d*\]")])
def test_a_prediction_outside_its_range_is_named(tmp_path, by, extremes):
    class Off(Drawing):
        def forward(self, batch):
            return super().forward(batch) * by

    with pytest.raises(
        UserError, match=f"^the network's prediction for p0[01] has values in {extremes}, expected \\[0, 1\\]$"
    ):
        predictor.predict_plain(Off, lambda: Pictures("p", 2), tmp_path, batch_size=2)


def test_no_picture_no_prediction(tmp_path):
    for predict in (predictor.predict_plain, functools.partial(predictor.predict_all, describe="none")):
        table = predict(Drawing, lambda: Pictures("p", 0), tmp_path, batch_size=2, device="cpu")
        assert list(table.columns) == ["image_id", "prediction", "sha256"] and table.empty


def test_a_prediction_that_is_not_finite_is_named(tmp_path):
    data = Pictures("p", 4)
    darkest = min(data.ids[2:], key=lambda name: data.item(data.ids.index(name))["composite"].mean())
    first = min(data.ids[:2], key=lambda name: data.item(data.ids.index(name))["composite"].mean())
    with pytest.raises(UserError, match=f"^the network's prediction for {first} is not finite$"):
        predictor.predict_plain(functools.partial(Drawing, bad="nan"), lambda: data, tmp_path, batch_size=2)
    made = predictor.Predictor(functools.partial(Drawing, bad="nan"), lambda: data, tmp_path, "cpu", 2)
    with pytest.raises(UserError, match=darkest):
        made.predict(2)


def test_what_the_network_refuses_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^the network refuses p00: height 16 is not divisible by 32; pad to 32$"):
        predictor.predict_plain(
            functools.partial(Drawing, bad="size"), lambda: Pictures("p", 1), tmp_path, batch_size=2
        )


def test_short_work_needs_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "session", None)
    threads = torch.get_num_threads()
    build_data = functools.partial(Pictures, "p", 5)
    plain = predictor.predict_plain(seeded, build_data, tmp_path, batch_size=2)
    pd.testing.assert_frame_equal(
        predictor.predict_all(seeded, build_data, tmp_path, batch_size=2, device="cpu", describe="predict"), plain
    )
    monkeypatch.setenv("SEAMBENCH_RAY", "off")
    monkeypatch.setattr(parallel, "pays", lambda done, count, passed: True)
    pd.testing.assert_frame_equal(
        predictor.predict_all(seeded, build_data, tmp_path, batch_size=2, device="cpu", describe="predict"), plain
    )
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="this process sees no GPU; set training.device: cpu"):
        predictor.predict_plain(Drawing, lambda: Pictures("p", 1), tmp_path, batch_size=2, device="gpu")


@pytest.fixture(params=["1", "2"], ids=["one core", "two cores"], scope="module")
def session(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEAMBENCH_CPUS", request.param)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster.session():
            yield


def by_ray(build_model, build_data, out: Path, **options) -> pd.DataFrame:
    """By actors alone, or where `first_here` batches were predicted in this process."""
    out.mkdir()
    batches = options.pop("first_here", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "pays", lambda done, count, passed: done >= 4 * batches)
        return predictor.predict_all(
            build_model, build_data, out, **{"batch_size": 4, "device": "cpu", "describe": "predict"} | options
        )


@pytest.mark.slow
def test_actors_predict_what_one_process_predicts_bit_for_bit(session, tmp_path, capsys):
    # 11 items in batches of 4: with whom an image shares its batch must not depend on the number of actors
    build_data = functools.partial(Pictures, "p", 11)
    (tmp_path / "plain").mkdir()
    plain = predictor.predict_plain(seeded, build_data, tmp_path / "plain", batch_size=4)
    pd.testing.assert_frame_equal(by_ray(seeded, build_data, tmp_path / "begun here", first_here=1), plain)
    table = by_ray(seeded, build_data, tmp_path / "ray")
    pd.testing.assert_frame_equal(table, plain)
    assert all(
        (tmp_path / "ray" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
        for name in table["prediction"]
    )
    assert "predict: 11/11 images" in capsys.readouterr().err


@pytest.mark.slow
def test_refusals_come_out_of_actors_in_one_line(session, tmp_path):
    with pytest.raises(UserError, match=r"^the network's prediction for p\d\d is not finite$"):
        by_ray(functools.partial(Drawing, bad="nan"), functools.partial(Pictures, "p", 5), tmp_path / "a")
    with pytest.raises(UserError, match=r"^p03\.png: can't be decoded$"):
        by_ray(Drawing, functools.partial(Pictures, "p", 5, "p03"), tmp_path / "b")


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced(session, tmp_path):
    build_data = functools.partial(Pictures, "p", 6)
    killed = by_ray(functools.partial(Drawing, marker=str(tmp_path / "died")), build_data, tmp_path / "a")
    assert (tmp_path / "died").exists()
    pd.testing.assert_frame_equal(killed, by_ray(Drawing, build_data, tmp_path / "b"))


@pytest.mark.slow
def test_a_cluster_without_a_gpu_refuses_one(session, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"needs 1 GPU\(s\) and this Ray cluster has 0"):
        by_ray(Drawing, functools.partial(Pictures, "p", 1), tmp_path / "a", device="gpu")


class Several(Drawing):
    """Sample k is k grey levels brighter than what `forward` draws."""

    def samples(self, batch, n):
        return torch.stack([self(batch) * 0.5 + number / 255 for number in range(n)])


def test_samples_are_saved_beside_the_first(tmp_path):
    data = Pictures("p", 3)
    table = predictor.predict_plain(Several, lambda: data, tmp_path, batch_size=2, samples=3)
    assert list(table.columns) == ["image_id", "prediction", "sha256", "sample"]
    assert list(zip(table["image_id"], table["sample"])) == [
        (name, sample) for name in data.ids for sample in (1, 2, 3)
    ]
    assert table["prediction"].tolist()[:3] == ["p00.png", "samples/p00_2.png", "samples/p00_3.png"]
    first, second, third = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in table["prediction"][:3])
    assert np.array_equal(second - first, np.full_like(first, 1)) and np.array_equal(
        third - first, np.full_like(first, 2)
    )
    for row in table.itertuples():
        assert row.sha256 == hashlib.sha256((tmp_path / row.prediction).read_bytes()).hexdigest()
