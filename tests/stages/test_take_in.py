import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline import images, tables
from tests.pipeline.tiny import random_picture

IDS = ["c4_1_1", "c5_1_1", "c6_1_1"]


def name_outputs(project, task: str = "harmonization", **more) -> None:
    project.content["models"]["theirs"] = {"task": task, "outputs": "elsewhere", **more}
    project.write()


def composites(project) -> dict[str, np.ndarray]:
    folder = project.folder / "data/composites/HCOCO/composite_images"
    return {name: images.read_rgb(folder / f"{name}.png") for name in IDS}


def small(picture: np.ndarray) -> np.ndarray:
    return images.resize(picture, (32, 32))


def taken(project, split: str = "test"):
    return tables.read(project.folder / f"artifacts/predictions/theirs/{split}/predictions.parquet").set_index(
        "image_id"
    )


@pytest.mark.parametrize(
    "task, model", [("localization", "constant_map"), ("harmonization", "composite"), ("inpainting", "mean_fill")]
)
def test_what_a_method_here_made_scores_the_same_when_it_comes_as_a_folder(project, task, model):
    data = project.make_photographs() if task == "inpainting" else project.make_composites()
    if task == "inpainting":
        assert project.run("irregular_masks", *data).code == 0
    assert project.run("infer", model, "--data", *data).code == 0
    shutil.copytree(
        project.folder / f"artifacts/predictions/{model}/test",
        project.folder / "elsewhere",
        ignore=shutil.ignore_patterns("*.parquet"),
    )
    name_outputs(project, task)
    done = project.run("take_in", "theirs", "--data", *data)
    assert done.code == 0, done.err
    assert project.run("evaluate", task).code == 0
    scores = tables.read(project.folder / f"results/{task}/per_image.parquet")
    if task == "localization":  # pictures made elsewhere come without those that a threshold is chosen on
        assert scores[["f1_val", "iou_val"]].isna().all(axis=1).tolist() == (scores["model"] == "theirs").tolist()
        scores = scores.drop(columns=["f1_val", "iou_val"])
    ours, theirs = (
        scores[scores["model"] == name].drop(columns="model").reset_index(drop=True) for name in (model, "theirs")
    )
    assert ours.equals(theirs) and len(ours) == (12 if task == "inpainting" else 3)
    summary = (
        tables.read(project.folder / f"results/{task}/summary.parquet").query("subset == 'All'").set_index("model")
    )
    assert summary.loc["theirs", "origin"] == f"outputs made elsewhere: {len(ours)} PNG" and np.isnan(
        summary.loc["theirs", "n_parameters"]
    )
    assert summary.loc[model, "origin"] == "no weights" and summary.loc[model, "n_parameters"] == 0
    for table in ("intervals", "ranks", "protocols"):
        assert "theirs" in set(tables.read(project.folder / f"results/{task}/{table}.parquet")["model"])


def test_names_suffixes_and_folders_are_free(project):
    data = project.make_composites()
    made = {name: small(picture) for name, picture in composites(project).items()}
    images.write_png(project.folder / "elsewhere/HCOCO/c4_1_1.png", made["c4_1_1"])
    Image.fromarray(made["c5_1_1"]).save(project.folder / "elsewhere/c5_1_1.TIFF")
    Image.fromarray(made["c6_1_1"]).save(project.folder / "elsewhere/c6_1_1.bmp")
    (project.folder / "elsewhere/notes.txt").write_text("how it was made")
    name_outputs(project, n_parameters=12)
    assert project.run("take_in", "theirs", "--data", *data).code == 0
    table = taken(project)
    assert list(table["file"]) == ["HCOCO/c4_1_1.png", "c5_1_1.TIFF", "c6_1_1.bmp"] and list(table["format"]) == [
        "PNG",
        "TIFF",
        "BMP",
    ]
    assert (table["background_touched"] == 0).all() and set(table["made_at"]) == {"image_size"}
    index = json.loads((project.folder / "artifacts/index/harmonization/theirs.json").read_text())
    assert (
        index["origin"] == "outputs made elsewhere: 1 BMP, 1 PNG, 1 TIFF"
        and index["n_parameters"] == 12
        and not index["trained"]
    )


def test_originals_and_another_side_are_resized_by_the_named_filter(project):
    data = project.make_composites()
    full = composites(project)
    half = np.array(Image.fromarray(full["c5_1_1"]).resize((20, 20)))
    for name, picture in (("c4_1_1", full["c4_1_1"]), ("c5_1_1", half), ("c6_1_1", small(full["c6_1_1"]))):
        images.write_png(project.folder / f"elsewhere/{name}.png", picture)
    name_outputs(project, outputs_side=20, outputs_filter="bicubic")
    done = project.run("take_in", "theirs", "--data", *data)
    assert done.code == 0, done.err
    assert list(taken(project)["made_at"]) == ["original", "outputs_side", "image_size"] and list(
        taken(project)["size"]
    ) == ["60x40", "20x20", "32x32"]
    expected = np.array(Image.fromarray(full["c4_1_1"]).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(images.read_rgb(project.folder / "artifacts/predictions/theirs/test/c4_1_1.png"), expected)
    assert taken(project)["background_touched"]["c4_1_1"] == 0, "counted at the size that it was made in"
    assert "3 PNG; 1 resized bicubic from the original's size; 1 resized bicubic from 20x20" in done.out


def test_how_much_of_the_background_was_touched_by_hand(project):
    data = project.make_composites()
    for name, picture in composites(project).items():
        picture = picture.copy()
        picture[:, 15:30] ^= 1  # the mask is a quarter of the picture, its 15 columns on the left
        images.write_png(project.folder / f"elsewhere/{name}.png", picture)
    name_outputs(project)
    assert project.run("take_in", "theirs", "--data", *data).code == 0
    assert taken(project)["background_touched"].to_numpy() == pytest.approx(15 / 45)
    project.run("evaluate", "harmonization")
    scores = tables.read(project.folder / "results/harmonization/per_image.parquet")
    assert scores["background_touched"].to_numpy() == pytest.approx(15 / 45)
    assert "background_touched" not in set(
        tables.read(project.folder / "results/harmonization/intervals.parquet")["metric"]
    )


def test_probability_maps_of_8_and_16_bits_and_arrays(project):
    data = project.make_composites()
    ramp = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    folder = project.folder / "elsewhere"
    images.write_png(folder / "c4_1_1.png", np.rint(255 * ramp).astype(np.uint8))
    Image.fromarray(np.rint(65535 * ramp).astype(np.uint16)).save(folder / "c5_1_1.png")
    np.save(folder / "c6_1_1.npy", ramp[None].astype(np.float32))
    name_outputs(project, "localization")
    done = project.run("take_in", "theirs", "--data", *data)
    assert done.code == 0, done.err
    maps = [
        np.asarray(Image.open(project.folder / f"artifacts/predictions/theirs/test/{name}.png")).astype(int)
        for name in IDS
    ]
    for picture in maps:
        assert np.abs(picture - np.rint(255 * ramp)).max() <= 1 and picture.shape == (32, 32) and picture.max() == 255
    assert np.array_equal(maps[0], np.rint(255 * ramp)) and np.array_equal(
        maps[2], np.rint(255 * ramp.astype(np.float32))
    )
    assert list(taken(project)["format"]) == ["PNG", "PNG", "NumPy"]


def test_a_photograph_of_any_shape_counts_by_its_centre_square(project):
    data = project.make_photographs()
    assert project.run("irregular_masks", *data).code == 0
    for photograph in ("p2", "p3"):
        picture = images.read_rgb(project.folder / f"data/sources/bundled/images/{photograph}.png")
        for bucket in range(0, 60, 10):
            content = picture if bucket % 20 else picture[:, 10:50]
            images.write_png(project.folder / f"elsewhere/{photograph}_{bucket}-{bucket + 10}.png", content)
    name_outputs(project, "inpainting")
    done = project.run("take_in", "theirs", "--data", *data)
    assert done.code == 0, done.err
    table = taken(project)
    assert (
        (table["background_touched"] == 0).all()
        and set(table["size"]) == {"60x40", "40x40"}
        and set(table["made_at"]) == {"original"}
    )
    out = project.folder / "artifacts/predictions/theirs/test"
    assert (out / "p2_0-10.png").read_bytes() == (out / "p2_10-20.png").read_bytes()


def test_other_sides_come_from_originals_or_a_folder_of_their_own(project):
    data = project.make_composites()
    project.content["inference"]["resolutions"] = [40]
    name_outputs(project)
    for name, picture in composites(project).items():
        images.write_png(project.folder / f"elsewhere/{name}.png", picture)
    assert project.run("take_in", "theirs", "--data", *data).code == 0
    assert taken(project, "test@40")["made_at"].eq("original").all()
    with Image.open(project.folder / "artifacts/predictions/theirs/test@40/c4_1_1.png") as picture:
        assert picture.size == (40, 40)


def test_files_of_composites_that_localization_leaves_out_are_no_surplus(project):
    data = project.make_composites()
    table = project.folder / data[0] / "pairs.parquet"
    frame = tables.read(table)
    frame.loc[frame["pair_id"] == "c5_1_1", "foreground_ratio"] = 0.6
    tables.write(table, frame)
    for name in IDS:
        images.write_png(project.folder / f"elsewhere/{name}.png", np.full((32, 32), 9, np.uint8))
    name_outputs(project, "localization")
    assert project.run("take_in", "theirs", "--data", *data).code == 0
    assert list(taken(project).index) == ["c4_1_1", "c6_1_1"]


def _missing(folder):
    for name in IDS[1:]:
        (folder / f"{name}.png").unlink()


def _link(folder):
    (folder / "c4_1_1.png").unlink()
    (folder / "c4_1_1.png").symlink_to(folder.parent / "params.yaml")


@pytest.mark.parametrize(
    "harm, said",
    [
        (shutil.rmtree, "elsewhere: no such folder of outputs"),
        (_missing, "elsewhere: test: 2 of 3 images without a file: c5_1_1, c6_1_1"),
        (lambda folder: images.write_png(folder / "c9_1_1.png", random_picture(1)), "elsewhere: test: 1 file of no image of the split: c9_1_1.png"),
        (lambda folder: shutil.copy(folder / "c4_1_1.png", folder / "c4_1_1.jpg"), "elsewhere: test: 1 image with more than one file: c4_1_1.jpg and c4_1_1.png"),
        (lambda folder: (folder / "c4_1_1.png").write_text("text"), "elsewhere: 1 file can't be used: c4_1_1.png: not a picture in one of the formats"),
        (
            lambda folder: images.write_png(folder / "c4_1_1.png", random_picture(1, 20, 20)),
            "elsewhere: 1 file can't be used: c4_1_1.png: 20x20, expected 32x32 or 60x40 (the original); another side is stated as outputs_side",
        ),
        (_link, "c4_1_1.png: is a link that leads out of the folder elsewhere"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "elsewhere is a file; outputs are a folder of files"),
        (lambda folder: [file.rename(folder / f"deep{number}") for number, file in enumerate(sorted(folder.iterdir()))], "elsewhere: test: 3 of 3 images without a file: c4_1_1, c5_1_1, c6_1_1"),
    ],
    ids=["gone", "missing", "surplus", "doubled", "text", "size", "link", "file", "unnamed"],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said_in_one_line_and_nothing_is_written(project, harm, said):
    data = project.make_composites()
    for name, picture in composites(project).items():
        images.write_png(project.folder / f"elsewhere/{name}.png", small(picture))
    name_outputs(project)
    harm(project.folder / "elsewhere")
    code, line = project.refused("take_in", "theirs", "--data", *data)
    assert code == 1 and line.startswith(said)
    assert not [file for file in (project.folder / "artifacts").rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    "write, said",
    [
        (lambda file: images.write_png(file, random_picture(1, 32, 32)), "in colour, expected a grey probability map"),
        (
            lambda file: np.save(file.with_suffix(".npy"), np.full((32, 32), 1.5)),
            "values in [1.5, 1.5], expected probabilities in [0, 1]",
        ),
        (lambda file: np.save(file.with_suffix(".npy"), np.full((32, 32), np.nan)), "values in [nan, nan]"),
        (
            lambda file: np.save(file.with_suffix(".npy"), np.zeros((2, 32, 32))),
            "an array of shape (2, 32, 32), expected (height, width)",
        ),
        (
            lambda file: np.save(file.with_suffix(".npy"), np.array([None]), allow_pickle=True),
            "not a NumPy array without objects",
        ),
        (lambda file: np.save(file.with_suffix(".npy"), np.zeros((32, 32), np.int64)), "numbers of type int64"),
    ],
    ids=["colour", "range", "nan", "shape", "objects", "integers"],
)
def test_what_is_no_probability_map(project, write, said):
    data = project.make_composites()
    for name in IDS[1:]:
        images.write_png(project.folder / f"elsewhere/{name}.png", np.full((32, 32), 9, np.uint8))
    write(project.folder / f"elsewhere/{IDS[0]}.png")
    name_outputs(project, "localization")
    code, line = project.refused("take_in", "theirs", "--data", *data)
    assert code == 1 and line.startswith("elsewhere: 1 file can't be used: c4_1_1.") and said in line


@pytest.mark.parametrize(
    "block, said",
    [
        (
            {"rainnet": {"task": "harmonization", "outputs": "x"}},
            "models.rainnet.outputs = 'x': expected another name for the method, as rainnet is one of this repository",
        ),
        ({"theirs": {"outputs": "x"}}, "outputs need a task, one of localization, harmonization, inpainting"),
        (
            {"theirs": {"task": "harmonization", "outputs": "x", "hyperparameters": {}}},
            "outputs were made elsewhere, so hyperparameters can't be given with them",
        ),
        (
            {"theirs": {"task": "harmonization", "outputs": "artifacts/predictions/theirs"}},
            "expected a folder of your own outside artifacts/",
        ),
        ({"th/eirs": {"task": "harmonization", "outputs": "x"}}, "expected text of the form ^[A-Za-z][A-Za-z0-9_-]*$"),
        ({"composite": {"task": "harmonization"}}, "task belongs to outputs, a folder, which is missing"),
        ({"unet": {"weights": "w", "training": "TRAINING"}}, "weights are used as they are and training makes its own"),
    ],
)
def test_blocks_that_contradict_themselves(project, block, said):
    training = project.content["models"]["unet"]["training"]
    project.content["models"] |= {
        name: {key: training if value == "TRAINING" else value for key, value in settings.items()}
        for name, settings in block.items()
    }
    project.write()
    code, line = project.refused("take_in", "theirs", "--data", "data/composites/HCOCO")
    assert code == 2 and said in line


def test_a_project_of_harmonization_alone_takes_pictures_in(project):
    data = project.make_composites()
    for name, picture in composites(project).items():
        images.write_png(project.folder / f"elsewhere/{name}.png", picture)
    for key in ("localization", "inpainting", "irregular_masks"):
        del project.content[key]
    project.content["models"] = {"composite": {}}
    name_outputs(project)
    done = project.run("take_in", "theirs", "--data", *data)
    assert done.code == 0, done.err
    assert len(taken(project)) == 3


@pytest.mark.slow
def test_the_same_again_gives_the_same_bytes(project):
    data = project.make_composites()
    for name, picture in composites(project).items():
        images.write_png(project.folder / f"elsewhere/{name}.png", picture)
    name_outputs(project)
    made = []
    for _ in range(2):
        assert project.run("take_in", "theirs", "--data", *data).code == 0
        made.append(
            {path.name: path.read_bytes() for path in (project.folder / "artifacts").rglob("*") if path.is_file()}
        )
    assert (
        made[0] == made[1]
        and len(made[0]) == 5
        and sorted(os.listdir(project.folder / "elsewhere")) == [f"{name}.png" for name in IDS]
    )
