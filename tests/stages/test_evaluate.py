import hashlib
import json
import os

import numpy as np
import pandas as pd
import pytest

from pipeline import tables
from pipeline.data.datasets import for_testing
from pipeline.metrics import harmonization
from pipeline.scoring import perceptual

TASKS = {
    "localization": ("constant_map", "ap f1 iou"),
    "harmonization": ("composite", "mse fmse psnr ssim fssim"),
    "inpainting": ("mean_fill", "ssim psnr l1"),
}


@pytest.mark.parametrize("task", TASKS)
def test_tables_of_a_task(project, task):
    model, metrics = TASKS[task]
    if task == "inpainting":
        data = project.make_photographs()
        project.run("irregular_masks", *data)
    else:
        data = project.make_composites()
    project.run("infer", model, "--data", *data)
    done = project.run("evaluate", task)
    assert done.code == 0, done.err
    out = project.folder / "results" / task
    names = [
        "per_image",
        "summary",
        "intervals",
        "differences",
        "differences_by_size",
        "ranks",
        "breakdowns",
        "protocols",
        *(["curves"] if task == "localization" else []),
    ]
    if task != "localization":
        names.append("perceptual")
        assert set(pd.read_parquet(out / "perceptual.parquet")["why_not"]) == {
            "evaluation.perceptual.lpips is null: no weights, no LPIPS", "evaluation.perceptual.fid is null: no weights, no FID"
        }  # fmt: skip
        assert not {"lpips", "fid"} & set(pd.read_parquet(out / "per_image.parquet"))
    assert sorted(os.listdir(out)) == sorted([f"{name}.parquet" for name in names] + ["metrics.json"])
    scores, summary = pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(out / "summary.parquet")
    assert {"task", "model", "subset", "split", "image_id", *metrics.split()} <= set(scores.columns)
    assert {"task", "model", "subset", "n_images", "n_parameters", *metrics.split()} <= set(summary.columns)
    assert ("hole_ratio_bucket" in scores) == (task == "inpainting")
    pooled = summary[summary["subset"] == "All"].iloc[0]
    assert pooled["n_images"] == len(scores) == (12 if task == "inpainting" else 3)
    assert pooled[metrics.split()[0]] == pytest.approx(scores[metrics.split()[0]].mean())
    assert json.loads((out / "metrics.json").read_text()) == {}, "no trained method"


@pytest.mark.slow
def test_protocols_and_resolutions_are_parameters(project):
    data = project.make_composites()
    project.content["inference"]["resolutions"] = [40, 64]  # the pictures have 40 x 60 pixels
    project.content["evaluation"]["protocols"]["harmonization"] = ["iih"]
    project.write()
    assert project.run("infer", "composite", "--data", *data).code == 0
    done = project.run("evaluate", "harmonization")
    assert done.code == 0, done.err
    out = project.folder / "results/harmonization"
    scores, protocols = pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(out / "protocols.parquet")
    assert scores["split"].value_counts().to_dict() == {"test": 3, "test@40": 3}
    assert (
        set(protocols["protocol"]) == {"seam-256", "iih"}
        and set(protocols["split"]) == {"test"}
        and set(protocols["n_images"]) == {3}
    )
    rows = (
        pd.read_parquet(out / "breakdowns.parquet").query("by == 'resolution' and metric == 'psnr'").set_index("value")
    )
    assert rows["n"].to_dict() == {"32": 3, "40": 3, "64": 0} and rows["mean"].isna().to_dict() == {
        "32": False,
        "40": False,
        "64": True,
    }
    project.content["evaluation"]["protocols"]["harmonization"] = []
    project.write()
    project.run("evaluate", "harmonization")
    assert pd.read_parquet(out / "protocols.parquet").empty


def test_a_task_without_predictions(project):
    assert project.refused("evaluate", "inpainting") == (
        1,
        "artifacts/index/inpainting: no method has predictions there; `dvc repro` makes them",
    )
    assert not (project.folder / "results").exists()


def test_a_missing_prediction_stops_the_evaluation_and_leaves_the_old_tables(project):
    data = project.make_composites()
    project.run("infer", "composite", "--data", *data)
    project.run("evaluate", "harmonization")
    before = (project.folder / "results/harmonization/summary.parquet").read_bytes()
    (project.folder / "artifacts/predictions/composite/test/c5_1_1.png").unlink()
    assert project.refused("evaluate", "harmonization") == (
        1,
        "artifacts/predictions/composite/test/c5_1_1.png is missing",
    )
    assert (project.folder / "results/harmonization/summary.parquet").read_bytes() == before


def test_a_task_that_does_not_exist(project):
    done = project.run("evaluate", "segmentation")
    assert done.code == 2 and "invalid choice: 'segmentation'" in done.err


@pytest.mark.slow
def test_the_same_again_gives_the_same_bytes(project):
    data = project.make_composites()
    project.run("infer", "composite", "--data", *data)
    made = []
    for _ in range(2):
        project.run("evaluate", "harmonization")
        made.append({path.name: path.read_bytes() for path in (project.folder / "results/harmonization").iterdir()})
    assert made[0] == made[1]


@pytest.mark.slow
def test_lpips_and_fid_by_files_of_weights(project, monkeypatch):
    """With networks that say how far apart two pictures are in a number of their own: no published weights are here."""
    for name in ("stand-in-for-alexnet.pth", "stand-in-for-inception.pth"):
        (project.folder / name).write_text(name)
    published = {
        hashlib.sha256(b"stand-in-for-alexnet.pth").hexdigest(): perceptual.Published("lpips", "alex", "a stand-in"),
        hashlib.sha256(b"stand-in-for-inception.pth").hexdigest(): perceptual.Published(
            "fid", "inception", "a stand-in"
        ),
    }
    monkeypatch.setattr(perceptual, "PUBLISHED", published)
    monkeypatch.setattr(
        perceptual, "lpips", lambda weights, prediction, truth: float(np.abs(prediction.astype(float) - truth).mean())
    )
    monkeypatch.setattr(perceptual, "features", lambda weights, picture: picture.mean(axis=(0, 1)).astype(np.float32))
    data = project.make_composites()
    assert project.run("infer", "composite", "--data", *data).code == 0
    project.content["evaluation"]["perceptual"] = {
        "lpips": "stand-in-for-alexnet.pth",
        "fid": "stand-in-for-inception.pth",
        "fid_minimum": 2,
    }
    project.write()
    done = project.run("evaluate", "harmonization")
    assert done.code == 0, done.err
    out = project.folder / "results/harmonization"
    scores = pd.read_parquet(out / "per_image.parquet")
    assert (scores["lpips"] > 0).all()
    for name in ("per_image", "summary", "intervals", "perceptual"):
        assert (
            hashlib.sha256(b"stand-in-for-alexnet.pth").hexdigest()
            in tables.metadata_of(out / f"{name}.parquet")["lpips"]
        )
    table = pd.read_parquet(out / "perceptual.parquet").query("value == 'All'").set_index("metric")
    assert table.loc["lpips", "score"] == pytest.approx(scores["lpips"].mean())
    pairs = [
        (item["composite"], item["real"])
        for item in map(for_testing("harmonization", [project.folder / data[0]], 32, "test").item, range(3))
    ]
    means = [np.array([picture.mean(axis=(0, 1)) for picture in side]) for side in zip(*pairs)]
    assert (
        table.loc["fid", "score"] == pytest.approx(perceptual.frechet_distance(*means), rel=1e-4)
        and table.loc["fid", "n_photographs"] == 3
    )
    assert tables.metadata_of(out / "perceptual.parquet")["fid"].startswith("inception, weights of sha256 ")
    project.content["evaluation"]["perceptual"]["lpips"] = "stand-in-for-inception.pth"
    project.write()
    assert (
        "other weights would give other numbers under the name LPIPS" in project.refused("evaluate", "harmonization")[1]
    )


@pytest.mark.slow
def test_several_samples_of_a_network_that_draws_them(project):
    data = project.make_photographs()
    project.content["image_size"], project.content["inference"]["samples"] = 64, 3
    project.content["models"]["pic"] = {"hyperparameters": {"width": 2, "discriminator_width": 2, "prior_blocks": 1}}
    project.write()
    project.run("irregular_masks", *data)
    for name in ("pic", "mean_fill"):
        done = project.run("infer", name, "--data", *data)
        assert done.code == 0, done.err
    index = {
        name: json.loads((project.folder / f"artifacts/index/inpainting/{name}.json").read_text())
        for name in ("pic", "mean_fill")
    }
    assert index["pic"]["splits"]["test"]["samples"]["n"] == 3 and "samples" not in index["mean_fill"]["splits"]["test"]
    manifest = pd.read_parquet(project.folder / "artifacts/predictions/pic/test/predictions.parquet")
    assert list(manifest.columns) == ["image_id", "prediction", "sha256"] and len(manifest) == 12
    done = project.run("evaluate", "inpainting")
    assert done.code == 0, done.err
    summary = (
        pd.read_parquet(project.folder / "results/inpainting/summary.parquet")
        .query("subset == 'All'")
        .set_index("model")
    )
    table = (
        pd.read_parquet(project.folder / "results/inpainting/samples.parquet")
        .query("value == 'All'")
        .set_index(["model", "metric"])
    )
    assert set(table.index.get_level_values("model")) == {"pic"}
    for metric, better in (("psnr", 1), ("ssim", 1), ("l1", -1)):
        row = table.loc[("pic", metric)]
        assert row["first"] == pytest.approx(summary.loc["pic", metric]), "the first is what every other table scores"
        assert better * row["best"] > better * row["mean"] and better * row["best"] >= better * row["first"]
    assert table["diversity"].gt(0).all() and set(table["n_samples"]) == {3}


@pytest.mark.slow
def test_scores_at_the_pictures_own_sizes(project):
    data = project.make_composites()
    project.content["inference"]["resolutions"] = ["original"]
    project.write()
    assert project.run("infer", "composite", "--data", *data).code == 0
    done = project.run("evaluate", "harmonization")
    assert done.code == 0, done.err
    out = project.folder / "results/harmonization"
    scores = pd.read_parquet(out / "per_image.parquet")
    assert scores["split"].value_counts().to_dict() == {"test": 3, "test@original": 3}
    files = for_testing("harmonization", [project.folder / data[0]], 32, "test@original")
    own = scores[scores["split"] == "test@original"].set_index("image_id")
    for number, name in enumerate(files.ids):
        item = files.item(number)
        expected = harmonization.score(item["composite"], item["real"], item["mask"])
        assert own.loc[name, list(expected)].tolist() == pytest.approx(list(expected.values())) and item[
            "real"
        ].shape == (40, 60, 3)
    table = pd.read_parquet(out / "protocols.parquet")
    assert set(table.query("split == 'test@original'")["protocol"]) == {"seam-256", "cdtnet", "pctnet"}
    assert table.query("split == 'test@original'")["mean"].notna().all()
    # nothing is resized here, so an evaluator that scores whole outputs says what ours does
    at = table.query("split == 'test@original' and subset == 'All'").set_index(["protocol", "metric"])
    assert at.loc[("cdtnet", "mse"), "mean"] == pytest.approx(at.loc[("seam-256", "mse"), "mean"])
    assert at.loc[("pctnet", "mse"), "caveat"].startswith("scored at each picture's own size; it doesn't round")
    assert {"iih", "rainnet"} <= set(table.query("split == 'test'")["protocol"])
    rows = pd.read_parquet(out / "breakdowns.parquet").query("metric == 'psnr'")
    assert rows.query("by == 'resolution'").set_index("value")["n"].to_dict() == {"32": 3, "original": 3}
    assert "resolution_same_images" not in set(rows["by"])
    project.content["inference"]["resolutions"] = ["original", 40]
    project.write()
    project.run("infer", "composite", "--data", *data)
    assert project.run("evaluate", "harmonization").code == 0
    rows = pd.read_parquet(out / "breakdowns.parquet").query("metric == 'psnr' and by == 'resolution_same_images'")
    assert list(rows["value"]) == ["32", "40", "original"] and set(rows["n"]) == {3}


@pytest.mark.slow
def test_three_trainings_of_two_networks(project):
    data, networks = project.make_composites(), ("unet", "rainnet")
    training = project.content["models"]["unet"]["training"]
    project.content["models"]["rainnet"] = {
        "hyperparameters": {"levels": 4, "width": 4, "discriminator_width": 4},
        "training": training,
    }
    project.write()
    weights = {}
    for name in networks:
        for repeat, called in ((1, name), (2, f"{name}@2"), (3, f"{name}@3")):
            which = () if repeat == 1 else ("--repeat", repeat)
            done = project.run("train", name, *which, "--data", *data)
            assert done.code == 0, done.err
            file = f"artifacts/models/{called}/weights.safetensors"
            weights[called] = (project.folder / file).read_bytes()
            done = project.run("infer", name, *which, "--weights", file, "--data", *data)
            assert done.code == 0, done.err
    assert len(set(weights.values())) == 6  # every training has a seed of its own
    project.run("infer", "constant_map", "--data", *data)
    project.run("infer", "composite", "--data", *data)
    for task, name, untrained in (("localization", "unet", "constant_map"), ("harmonization", "rainnet", "composite")):
        done = project.run("evaluate", task)
        assert done.code == 0, done.err
        read = {
            table: pd.read_parquet(project.folder / f"results/{task}/{table}.parquet")
            for table in ("per_image", "summary", "intervals", "differences", "protocols")
        }
        assert read["per_image"].groupby("model")["repeat"].agg(["nunique", "size"]).loc[name].tolist() == [3, 9]
        assert read["per_image"].groupby("model")["repeat"].agg(["nunique", "size"]).loc[untrained].tolist() == [1, 3]
        metric = {"localization": "ap", "harmonization": "fmse"}[task]
        means = read["per_image"][read["per_image"]["model"] == name].groupby("repeat")[metric].mean()
        pooled = read["summary"].set_index(["model", "subset"]).loc[(name, "All")]
        assert (pooled["n_repeats"], pooled["n_images"]) == (3, 3) and pooled[metric] == pytest.approx(means.mean())
        (row,) = (
            read["intervals"]
            .query(f"model == '{name}' and subset == 'All' and metric == '{metric}'")
            .to_dict("records")
        )
        assert row["mean"] == pytest.approx(means.mean()) and row["repeat_sd"] == pytest.approx(means.std())
        (row,) = (
            read["protocols"]
            .query(f"model == '{name}' and subset == 'All' and metric == '{metric}' and protocol == 'seam-256'")
            .to_dict("records")
        )
        assert row["mean"] == pytest.approx(means.mean()) and row["repeat_sd"] == pytest.approx(means.std())
        (gap,) = (
            read["differences"]
            .query(f"first == '{name}' and second == '{untrained}' and subset == 'All' and metric == '{metric}'")
            .to_dict("records")
        )
        assert gap["n"] == 3
        # one training is what it was, whatever the number of the others
        for file in (project.folder / f"artifacts/index/{task}").glob("*@*.json"):
            file.unlink()
        assert project.run("evaluate", task).code == 0
        alone = pd.read_parquet(project.folder / f"results/{task}/per_image.parquet")
        both = read["per_image"][read["per_image"]["repeat"] == 1].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, both, check_exact=True)
