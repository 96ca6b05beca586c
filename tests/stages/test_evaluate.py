import json
import os

import pandas as pd
import pytest

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
    assert sorted(os.listdir(out)) == sorted([f"{name}.parquet" for name in names] + ["metrics.json"])
    scores, summary = pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(out / "summary.parquet")
    assert {"task", "model", "subset", "split", "image_id", *metrics.split()} <= set(scores.columns)
    assert {"task", "model", "subset", "n_images", "n_parameters", *metrics.split()} <= set(summary.columns)
    assert ("hole_ratio_bucket" in scores) == (task == "inpainting")
    pooled = summary[summary["subset"] == "All"].iloc[0]
    assert pooled["n_images"] == len(scores) == (12 if task == "inpainting" else 3)
    assert pooled[metrics.split()[0]] == pytest.approx(scores[metrics.split()[0]].mean())
    assert json.loads((out / "metrics.json").read_text()) == {}, "no trained method"


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


def test_the_same_again_gives_the_same_bytes(project):
    data = project.make_composites()
    project.run("infer", "composite", "--data", *data)
    made = []
    for _ in range(2):
        project.run("evaluate", "harmonization")
        made.append({path.name: path.read_bytes() for path in (project.folder / "results/harmonization").iterdir()})
    assert made[0] == made[1]
