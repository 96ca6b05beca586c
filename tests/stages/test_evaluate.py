import json
import os

import pandas as pd
import pytest

TASKS = {"localization": ("constant_map", "ap f1 iou"), "harmonization": ("composite", "mse fmse psnr ssim fssim"), "inpainting": ("mean_fill", "ssim psnr l1")}


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
    names = ["per_image", "summary", "intervals", "differences", "ranks", "breakdowns"]
    assert sorted(os.listdir(out)) == sorted([f"{name}.parquet" for name in names] + ["metrics.json"])
    scores, summary = pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(out / "summary.parquet")
    assert {"task", "model", "subset", "split", "image_id", *metrics.split()} <= set(scores.columns)
    assert {"task", "model", "subset", "n_images", "n_parameters", *metrics.split()} <= set(summary.columns)
    assert ("hole_ratio_bucket" in scores) == (task == "inpainting")
    pooled = summary[summary["subset"] == "All"].iloc[0]
    assert pooled["n_images"] == len(scores) == (12 if task == "inpainting" else 3)
    assert pooled[metrics.split()[0]] == pytest.approx(scores[metrics.split()[0]].mean())
    assert json.loads((out / "metrics.json").read_text()) == {}, "no trained method"


def test_a_task_without_predictions(project):
    assert project.refused("evaluate", "inpainting") == (1, "artifacts/index/inpainting: no method has predictions there; `dvc repro` makes them")
    assert not (project.folder / "results").exists()


def test_a_missing_prediction_stops_the_evaluation_and_leaves_the_old_tables(project):
    data = project.make_composites()
    project.run("infer", "composite", "--data", *data)
    project.run("evaluate", "harmonization")
    before = (project.folder / "results/harmonization/summary.parquet").read_bytes()
    (project.folder / "artifacts/predictions/composite/test/c5_1_1.png").unlink()
    assert project.refused("evaluate", "harmonization") == (1, "artifacts/predictions/composite/test/c5_1_1.png is missing")
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
