import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from pipeline import images, tables


def index(project, task: str, model: str) -> dict:
    return json.loads((project.folder / f"artifacts/index/{task}/{model}.json").read_text())


def test_predictions_their_manifest_and_the_index(project):
    data = project.make_composites()
    assert project.run("infer", "composite", "--data", *data).code == 0
    out = project.folder / "artifacts/predictions/composite/test"
    manifest = tables.read(out / "predictions.parquet")
    assert manifest["image_id"].tolist() == ["c4_1_1", "c5_1_1", "c6_1_1"]
    assert sorted(path.name for path in out.iterdir()) == [
        "c4_1_1.png",
        "c5_1_1.png",
        "c6_1_1.png",
        "predictions.parquet",
    ]
    shown = np.asarray(Image.open(out / "c5_1_1.png"))
    assert np.array_equal(
        shown, images.resize(images.read_rgb(project.folder / data[0] / "composite_images/c5_1_1.png"), (32, 32))
    )
    found = index(project, "harmonization", "composite")
    sha256 = hashlib.sha256((out / "predictions.parquet").read_bytes()).hexdigest()
    assert found["splits"] == {"test": {"n_images": 3, "n_scored": 3, "predictions": sha256}}
    assert (found["task"], found["model"], found["n_parameters"], found["trained"], found["data"]) == (
        "harmonization",
        "composite",
        0,
        False,
        data,
    )
    assert found["truth"] == [hashlib.sha256((project.folder / data[0] / "pairs.parquet").read_bytes()).hexdigest()]


def test_other_sides_are_splits_of_their_own(project):
    data = project.make_composites()
    project.content["inference"]["resolutions"] = [40, 64]
    project.write()
    assert project.run("infer", "composite", "--data", *data).code == 0
    out = project.folder / "artifacts/predictions/composite"
    with Image.open(out / "test@40/c4_1_1.png") as picture:
        assert picture.size == (40, 40)
    assert [path.name for path in (out / "test@64").iterdir()] == [
        "predictions.parquet"
    ]  # the pictures have 40 x 60 pixels
    splits = index(project, "harmonization", "composite")["splits"]
    assert {split: (one["n_images"], one["n_scored"]) for split, one in splits.items()} == {
        "test": (3, 3),
        "test@40": (3, 3),
        "test@64": (0, 0),
    }


def test_a_trained_network_predicts_with_its_weights(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    weights = "artifacts/models/unet/weights.safetensors"
    assert project.run("infer", "unet", "--weights", weights, "--data", *data).code == 0
    found = index(project, "localization", "unet")
    assert found["trained"] and found["n_parameters"] > 1000 and found["options"] == {"max_foreground": 0.5}
    with Image.open(project.folder / "artifacts/predictions/unet/test/c4_1_1.png") as picture:
        assert picture.mode == "L" and picture.size == (32, 32)


def test_weights_of_another_network_are_refused_and_nothing_is_written(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    project.content["models"]["unet"]["hyperparameters"]["width"] = 8
    project.write()
    weights = "artifacts/models/unet/weights.safetensors"
    code, said = project.refused("infer", "unet", "--weights", weights, "--data", *data)
    assert code == 1 and f"{weights} does not fit the network: " in said
    code, said = project.refused(
        "infer", "unet", "--weights", "artifacts/models/gone/weights.safetensors", "--data", *data
    )
    assert code == 1 and said.endswith(
        "gone/weights.safetensors is missing; `dvc repro models/dvc.yaml:train-gone` makes it"
    )
    assert not (project.folder / "artifacts/predictions").exists() and not (project.folder / "artifacts/index").exists()


def test_inpainting_predicts_every_assigned_pair(project):
    source, masks = project.make_photographs()
    assert project.run("irregular_masks", source, masks).code == 0
    assert project.run("infer", "mean_fill", "--data", source, masks).code == 0
    assert index(project, "inpainting", "mean_fill")["splits"]["test"]["n_images"] == 2 * 6  # photographs x buckets


def test_composites_above_the_largest_foreground_are_left_out_of_localization_alone(project):
    data = project.make_composites()
    table = project.folder / data[0] / "pairs.parquet"
    frame = tables.read(table)
    frame.loc[frame["pair_id"] == "c5_1_1", "foreground_ratio"] = 0.6
    tables.write(table, frame)
    project.run("infer", "constant_map", "--data", *data)
    project.run("infer", "composite", "--data", *data)
    assert index(project, "localization", "constant_map")["splits"]["test"]["n_images"] == 2
    assert index(project, "harmonization", "composite")["splits"]["test"]["n_images"] == 3


def test_an_unreadable_picture_is_named_and_nothing_half_written_remains(project):
    data = project.make_composites()
    file = project.folder / data[0] / "composite_images/c6_1_1.png"
    file.write_bytes(file.read_bytes()[:200])
    code, said = project.refused("infer", "composite", "--data", *data)
    assert code == 1 and "composite_images/c6_1_1.png: can't be decoded" in said
    assert list((project.folder / "artifacts").rglob("*")) in ([], [project.folder / "artifacts/predictions"])


@pytest.mark.parametrize("model", ["composite", "constant_map"])
def test_the_same_again_gives_the_same_bytes(project, model):
    data = project.make_composites()
    made = []
    for _ in range(2):
        project.run("infer", model, "--data", *data)
        made.append(
            {path.name: path.read_bytes() for path in (project.folder / "artifacts").rglob("*") if path.is_file()}
        )
    assert made[0] == made[1] and len(made[0]) == 5
