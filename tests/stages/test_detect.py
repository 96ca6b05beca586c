import os

import pandas as pd
import pytest


@pytest.fixture
def harmonized(project) -> list[str]:
    """Arguments after the model: weights of a trained localizer, data, and one harmonizer that has predicted."""
    data = project.make_composites()
    assert project.run("train", "unet", "--data", *data).code == 0
    assert project.run("infer", "composite", "--data", *data).code == 0
    return ["--weights", "artifacts/models/unet/weights.safetensors", "--data", *data, "--harmonized", "composite"]


def test_from_predictions_to_tables(project, harmonized):
    assert project.run("detect", "unet", *harmonized).code == 0
    assert os.listdir(project.folder / "artifacts/detectability") == ["unet.parquet"]
    done = project.run("detectability", "artifacts/detectability/unet.parquet")
    assert done.code == 0, done.err
    out = project.folder / "results/detectability"
    scores, summary = pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(out / "summary.parquet")
    assert len(scores) == 3 and (scores["ap_before"] == scores["ap_after"]).all(), (
        "the composite as it is hides nothing"
    )
    credits = summary[summary["metric"].isin(["ap_credit", "inside_credit"])]
    assert (credits["mean"] == 0).all() and (credits["n"] == 3).all() and set(credits["subset"]) == {"HCOCO", "All"}
    # before harmonization a localizer sees what it is evaluated on
    data = harmonized[harmonized.index("--data") + 1]
    project.run("infer", "unet", "--weights", harmonized[1], "--data", data)
    project.run("evaluate", "localization")
    evaluated = pd.read_parquet(project.folder / "results/localization/per_image.parquet").set_index("image_id")["ap"]
    assert scores.set_index("image_id")["ap_before"].to_dict() == evaluated.to_dict()


@pytest.mark.slow
def test_the_same_again_gives_the_same_bytes(project, harmonized):
    made = []
    for _ in range(2):
        project.run("detect", "unet", *harmonized)
        project.run("detectability", "artifacts/detectability/unet.parquet")
        made.append(
            [
                (project.folder / name).read_bytes()
                for name in ("artifacts/detectability/unet.parquet", "results/detectability/summary.parquet")
            ]
        )
    assert made[0] == made[1]


def test_what_can_not_be(project, harmonized):
    assert project.refused("detect", "composite", *harmonized) == (
        2,
        "composite is a method of harmonization; localizers detect",
    )
    code, said = project.refused("detect", "unet", *harmonized[:-1], "rainnet")
    assert code == 1 and said.endswith("artifacts/predictions/rainnet/test/predictions.parquet: no such table")
    code, said = project.refused("detect", "unet", "--weights", "gone.safetensors", *harmonized[2:])
    assert code == 1 and said.endswith("gone.safetensors is missing")
    assert project.refused("detectability", "gone.parquet") == (1, "gone.parquet: no such table")
    assert not (project.folder / "artifacts/detectability").exists() and not (project.folder / "results").exists()
