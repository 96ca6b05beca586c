import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from pipeline import images, tables
from tests.models import vector

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_WEIGHTS = sorted(set(models.names()) - set(vector.trained_names()))


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
    stated = index(project, "harmonization", "composite")
    sha256 = hashlib.sha256((out / "predictions.parquet").read_bytes()).hexdigest()
    assert stated["splits"] == {"test": {"n_images": 3, "n_scored": 3, "predictions": sha256}}
    assert (stated["task"], stated["model"], stated["n_parameters"], stated["trained"], stated["data"]) == (
        "harmonization",
        "composite",
        0,
        False,
        data,
    )
    assert stated["truth"] == [hashlib.sha256((project.folder / data[0] / "pairs.parquet").read_bytes()).hexdigest()]


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
    assert {split: (manifest["n_images"], manifest["n_scored"]) for split, manifest in splits.items()} == {
        "test": (3, 3),
        "test@40": (3, 3),
        "test@64": (0, 0),
    }


def test_a_trained_network_predicts_with_its_weights(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    weights = "artifacts/models/unet/weights.safetensors"
    assert project.run("infer", "unet", "--weights", weights, "--data", *data).code == 0
    stated = index(project, "localization", "unet")
    assert stated["trained"] and stated["n_parameters"] > 1000 and stated["options"] == {"max_foreground": 0.5}
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


@pytest.mark.slow
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


def test_a_localizers_threshold_is_chosen_on_validation_images_alone(project):
    data = project.make_composites()
    assert project.run("infer", "constant_map", "--data", *data).code == 0
    stated = index(project, "localization", "constant_map")
    # a constant map's F1 is the same at every threshold below its level, of which the middle one is taken
    with Image.open(project.folder / "artifacts/predictions/constant_map/test/c4_1_1.png") as picture:
        ((_, level),) = picture.getcolors()
    assert stated["threshold"] == pytest.approx((level - 1) // 2 / 255)
    assert stated["threshold_from"].endswith(" on 1 validation image")
    assert not (project.folder / "artifacts/predictions/constant_map/.validation").exists()
    table = project.folder / data[0] / "pairs.parquet"
    frame = tables.read(table)
    tables.write(table, frame[frame["split"] != "val"])
    assert project.run("infer", "constant_map", "--data", *data).code == 0
    stated = index(project, "localization", "constant_map")
    assert (stated["threshold"], stated["threshold_from"]) == (None, "none: no validation image has a foreground")


def test_weights_trained_elsewhere_have_no_threshold_and_the_index_says_why(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    weights = "artifacts/models/unet/weights.safetensors"
    assert project.run("infer", "unet", "--weights", weights, "--imported", "--data", *data).code == 0
    stated = index(project, "localization", "unet")
    assert stated["threshold"] is None and "may have been trained on the validation images" in stated["threshold_from"]


def test_predictions_that_are_pictures_have_no_threshold(project):
    data = project.make_composites()
    assert project.run("infer", "composite", "--data", *data).code == 0
    stated = index(project, "harmonization", "composite")
    assert stated["threshold"] is None and stated["threshold_from"] is None


@pytest.mark.parametrize(
    "pristine, origin", [(True, "trained here, on real photographs beside the composites"), (False, "trained here")]
)
def test_a_localizer_that_was_shown_real_photographs_is_said_to_be_so(project, pristine, origin):
    data = project.make_composites()
    small = {"levels": 4, "width": 4, "discriminator_width": 4, "pristine": pristine}
    project.content["models"]["magritte"] = {
        "hyperparameters": small,
        "training": project.content["models"]["unet"]["training"],
    }
    project.write()
    assert project.run("train", "magritte", "--data", *data).code == 0
    weights = "artifacts/models/magritte/weights.safetensors"
    assert project.run("infer", "magritte", "--weights", weights, "--data", *data).code == 0
    stated = index(project, "localization", "magritte")
    assert (stated["origin"], stated["trained"]) == (origin, True)


WITHOUT_TORCH = """
import json, runpy, sys
from pipeline.networks import devices, intermediate, own_threshold, predictor
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["infer", *arguments]
    try:
        runpy.run_module("stages.infer", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, arguments
    assert "torch" not in sys.modules, arguments
"""


def test_methods_without_weights_are_run_without_torch(project):
    composites, photographs = project.make_composites(), project.make_photographs()
    assert project.run("irregular_masks", *photographs).code == 0
    project.content["models"] = {name: {} for name in WITHOUT_WEIGHTS}
    project.content["inference"]["resolutions"] = ["original"]
    project.write()
    given = {"localization": composites, "harmonization": composites, "inpainting": photographs}
    runs = [[name, "--data", *given[models.task_of(name)]] for name in WITHOUT_WEIGHTS]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps([*runs, ["--help"]])],
        cwd=project.folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in WITHOUT_WEIGHTS:
        assert index(project, models.task_of(name), name)["n_parameters"] == 0
