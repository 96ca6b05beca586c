import functools
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import images, tables
from pipeline.detectability import credits, localizer_scores
from pipeline.errors import UserError
from pipeline.networks import predictor
from pipeline.scoring.statistics import Resampling
from tests.pipeline.tiny import random_picture, subset

SIZE = 24


class RedFinder(nn.Module):
    """A localizer that takes the red channel for a probability."""

    def forward(self, batch):
        assert set(batch) == {"composite"}, "a localizer is shown the picture and nothing else"
        return batch["composite"][:, :1]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    def predict(build_model, build_data, out, *, batch_size, device, describe):
        return predictor.predict_plain(build_model, build_data, out, batch_size=batch_size, device=device)

    monkeypatch.setattr(predictor, "predict_all", functools.wraps(predictor.predict_all)(predict))


def predict(folder: Path, model: str, split: str, drawn: dict[str, np.ndarray]) -> None:
    """A harmonizer's predictions as inference leaves them."""
    rows = []
    for name, picture in drawn.items():
        file = folder / model / split / f"{name}.png"
        images.write_png(file, picture)
        rows.append(
            {"image_id": name, "prediction": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        )
    tables.write(folder / model / split / "predictions.parquet", pd.DataFrame(rows))


@pytest.fixture
def shown(tmp_path) -> dict:
    """Two test composites and a real one, each with its left quarter pasted; a harmonizer that draws black, one that draws red."""
    row = lambda name, split, ratio=0.25, **more: {"pair_id": name, "split": split, "foreground_ratio": ratio} | more
    data = [
        subset(
            tmp_path / "HCOCO",
            [row("c1_1_1", "test"), row("c2_1_1", "test"), row("c3_1_1", "test", 0.75), row("c9_1_1", "train")],
        ),
        subset(tmp_path / "rhm", [row("r1", "rhm", real=None)]),
    ]
    for split, names in (("test", ["c1_1_1", "c2_1_1", "c3_1_1"]), ("rhm", ["r1"])):
        predict(tmp_path / "p", "black", split, dict.fromkeys(names, np.zeros((SIZE, SIZE, 3), np.uint8)))
        predict(tmp_path / "p", "red", split, dict.fromkeys(names, np.full((SIZE, SIZE, 3), (255, 0, 0), np.uint8)))
    return {
        "data": data,
        "predictions": tmp_path / "p",
        "models": ["black", "red"],
        "size": SIZE,
        "max_foreground": 0.5,
    }


def look(shown, tmp_path, **changed) -> pd.DataFrame:
    return localizer_scores.look("finder", RedFinder, shown | changed, tmp_path / "maps", batch_size=3, device="cpu")


def test_what_is_found_before_and_after(shown, tmp_path):
    scores = look(shown, tmp_path)
    assert list(scores.columns) == list(localizer_scores.PER_IMAGE) and not (tmp_path / "maps").exists()
    # every composite but the one above max_foreground and the one to train on, for each harmonizer; a truth isn't needed
    assert scores[["model", "split", "image_id"]].values.tolist() == [
        [model, split, name]
        for model in ("black", "red")
        for split, name in (("rhm", "r1"), ("test", "c1_1_1"), ("test", "c2_1_1"))
    ]
    assert (
        set(scores["subset"]) == {"HCOCO", "rhm"}
        and set(scores["photograph"]) == {"c1", "c2", "r1"}
        and set(scores["localizer"]) == {"finder"}
    )
    red, black = (scores[scores["model"] == model].reset_index() for model in ("red", "black"))
    # red inside: certain there; black inside: what is found is all outside, which random pictures fill above 0
    assert (red["inside_after"] == 1).all() and (black["inside_after"] == 0).all()
    assert (red["ap_after"] > 0.9).all() and (red["ap_credit"] < 0).all()
    # the foreground, a quarter, comes after the background's pixels (but for the few that are black too)
    assert black["ap_after"].between(0.24, 0.3).all()
    for measure in ("ap", "inside"):
        assert (scores[f"{measure}_credit"] == scores[f"{measure}_before"] - scores[f"{measure}_after"]).all()
        assert (red[f"{measure}_before"] == black[f"{measure}_before"]).all(), "there is one before"


def test_measures_equal_scikit_learn_and_a_plain_mean(shown, tmp_path):
    from sklearn.metrics import average_precision_score

    row = look(shown, tmp_path).set_index(["model", "image_id"]).loc[("red", "c2_1_1")]
    picture = images.read_rgb(shown["data"][0] / "composite_images/c2_1_1.png")
    small = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))[..., 0] / 255
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, : SIZE // 4] = True
    assert row["ap_before"] == pytest.approx(average_precision_score(mask.ravel(), small.ravel()))
    assert row["inside_before"] == pytest.approx(small[mask].mean())


def test_outside_the_mask_a_harmonizer_changes_nothing(shown):
    before, after = (
        localizer_scores.Looks(**shown).item(0)["composite"],
        localizer_scores.Looks(**shown).item(1)["composite"],
    )
    seen = localizer_scores.Looks(**shown)
    assert seen.ids[:4] == ["before/test/c1_1_1", "black/test/c1_1_1", "red/test/c1_1_1", "before/test/c2_1_1"]
    for index in (3, 0, 1, 4, 2, 0):  # in any order
        assert np.array_equal(seen.item(index)["composite"], localizer_scores.Looks(**shown).item(index)["composite"])
    assert (after[:, :6] == 0).all() and np.array_equal(before[:, 6:], after[:, 6:])


def test_nothing_at_all_to_find_is_excluded_and_counted(shown, tmp_path):
    images.write_png(shown["data"][0] / "masks/c1_1_1.png", np.zeros((40, 60), bool))
    scores = look(shown, tmp_path)
    assert scores[scores["image_id"] == "c1_1_1"][list(localizer_scores.METRICS)].isna().all(axis=None)
    means = credits.summary(scores, resampling=Resampling(0, 20, 0.9))
    tested = means[(means["split"] == "test") & (means["subset"] == "All")]
    assert (tested["n"] == 1).all() and (tested["n_excluded"] == 1).all() and tested["mean"].notna().all()


def test_summary_by_hand():
    row = {"localizer": "l", "model": "m", "subset": "S", "split": "test"} | dict.fromkeys(
        localizer_scores.METRICS, 0.0
    )
    scores = pd.DataFrame(
        [
            row | {"image_id": str(n), "photograph": "ab"[n % 2], "ap_credit": value}
            for n, value in enumerate((0.1, 0.2, 0.3, 0.8))
        ]
    )
    means = credits.summary(scores, resampling=Resampling(1, 200, 0.9))
    assert set(means["subset"]) == {"S", "All"} and len(means) == 2 * 6
    credit = means[(means["subset"] == "All") & (means["metric"] == "ap_credit")].iloc[0]
    # two photographs: a resample is one of them twice (0.2 or 0.5), or both (0.35)
    assert (credit["mean"], credit["n"], credit["n_groups"]) == (pytest.approx(0.35), 4, 2)
    assert (credit["low"], credit["high"]) == (pytest.approx(0.2), pytest.approx(0.5))


def _remove(folder):
    (folder / "c2_1_1.png").unlink()
    return r"black/test/c2_1_1\.png is missing"


def _change(folder):
    images.write_png(folder / "c2_1_1.png", random_picture(5, SIZE, SIZE))
    return r"black/test/c2_1_1\.png was changed after inference"


def _resize(folder):
    predict(folder.parents[1], "black", "test", {name: np.zeros((8, 9, 3), np.uint8) for name in ("c1_1_1", "c2_1_1")})
    return r"black/test/c1_1_1\.png is 9x8, expected 24x24"


def _drop(folder):
    predict(folder.parents[1], "black", "test", {"c1_1_1": np.zeros((SIZE, SIZE, 3), np.uint8)})
    return r"no prediction for c2_1_1; `dvc repro models/dvc\.yaml:infer-black` makes it"


def _repeat(folder):
    file = folder / "predictions.parquet"
    table = tables.read(file)
    tables.write(file, pd.concat([table, table.head(1)]))
    return r"predictions\.parquet: c1_1_1 occurs twice"


@pytest.mark.parametrize("fault", [_remove, _change, _resize, _drop, _repeat])
def test_faulty_predictions_are_named_and_no_maps_stay(shown, tmp_path, fault):
    said = fault(shown["predictions"] / "black/test")
    with pytest.raises(UserError, match=said):
        look(shown, tmp_path)
    assert not (tmp_path / "maps").exists()


def test_a_network_that_fails_leaves_no_maps(shown, tmp_path):
    class Broken(nn.Module):
        def forward(self, batch):
            return torch.full_like(batch["composite"][:, :1], torch.nan)

    with pytest.raises(UserError, match="prediction for before/test/c1_1_1 is not finite"):
        localizer_scores.look("broken", Broken, shown, tmp_path / "maps", batch_size=3, device="cpu")
    assert not (tmp_path / "maps").exists()
