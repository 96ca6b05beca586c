import os
import shutil

import pandas as pd
import pytest

TASKS = ("localization", "harmonization", "inpainting")


@pytest.fixture
def results(project) -> list[str]:
    composites, photographs = project.make_composites(), project.make_photographs()
    project.run("irregular_masks", *photographs)
    for model, data in (("constant_map", composites), ("composite", composites), ("mean_fill", photographs)):
        project.run("infer", model, "--data", *data)
    for task in TASKS:
        assert project.run("evaluate", task).code == 0
    return [f"results/{task}" for task in TASKS]


def test_the_papers_numbers_and_ours(project, results):
    done = project.run("published", *results)
    assert done.code == 0, done.err
    out = project.folder / "results/published"
    assert sorted(os.listdir(out)) == ["compared.parquet", "correlations.parquet", "published.parquet"]
    assert {"task", "paper", "model", "subset", "metric", "value", "note"} <= set(
        pd.read_parquet(out / "published.parquet")
    )
    compared = pd.read_parquet(out / "compared.parquet")
    # of the three methods here papers print the composite alone
    assert set(compared["model"]) == {"composite"} and set(compared["subset"]) == {"HCOCO", "All"}
    ours = pd.read_parquet(project.folder / "results/harmonization/intervals.parquet").set_index(
        ["model", "subset", "metric"]
    )
    row = compared[
        (compared["table"] == "Table II") & (compared["subset"] == "HCOCO") & (compared["metric"] == "mse")
    ].iloc[0]
    assert (
        row[["ours", "low", "high"]].tolist()
        == ours.loc[("composite", "HCOCO", "mse"), ["mean", "low", "high"]].tolist()
    )
    assert row["published"] == 67.89 and row["n_images"] == 3
    assert set(pd.read_parquet(out / "correlations.parquet")["why_not"]) == {"1 model in common, an order needs 3"}


def test_a_missing_table_is_named_and_nothing_is_written(project, results):
    (project.folder / "results/inpainting/breakdowns.parquet").unlink()
    assert project.refused("published", *results) == (1, "results/inpainting/breakdowns.parquet: no such table")
    shutil.rmtree(project.folder / "results/localization")
    assert project.refused("published", *results) == (1, "results/localization/summary.parquet: no such table")
    assert not (project.folder / "results/published").exists()
