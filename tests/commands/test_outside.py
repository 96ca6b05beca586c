"""hand_out, score and import_weights: what a person types for methods and weights from elsewhere."""

import csv
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import models
from pipeline import images, tables


def handed(project, task: str, *options: str):
    data = project.make_photographs() if task == "inpainting" else project.make_composites()
    if task == "inpainting":
        assert project.run("irregular_masks", *data).code == 0
    done = project.run("hand_out", task, "inputs", *options)
    assert done.code == 0, done.err
    with open(project.folder / "inputs/manifest.csv") as file:
        return data, list(csv.DictReader(file))


@pytest.mark.parametrize(
    "task, folders",
    [("localization", ["composites"]), ("harmonization", ["composites", "masks"]), ("inpainting", ["images", "masks"])],
)
def test_inputs_come_without_the_truth(project, task, folders):
    data, rows = handed(project, task)
    assert sorted(os.listdir(project.folder / "inputs")) == sorted(["README.md", "manifest.csv", *folders])
    assert all(len(os.listdir(project.folder / "inputs" / folder)) == len(rows) for folder in folders)
    assert {(row["height"], row["width"]) for row in rows} == {("32", "32")}
    page = (project.folder / "inputs/README.md").read_text()
    assert (
        f"{len(rows)} images" in page
        and f"python -m commands.score {task} FOLDER" in page
        and f"`{rows[0]['image_id']}.png`" in page
    )
    for row in rows if task == "inpainting" else ():
        picture, hole = (
            images.read_rgb(project.folder / "inputs" / row["image"]),
            images.read_mask(project.folder / "inputs" / row["hole"]),
        )
        assert hole.any() and not picture[hole].any() and picture[~hole].any()


def test_originals_keep_their_size(project):
    data, rows = handed(project, "harmonization", "--size", "original")
    assert {(row["height"], row["width"]) for row in rows} == {("40", "60")}
    given = images.read_rgb(project.folder / "inputs" / rows[0]["composite"])
    assert np.array_equal(
        given, images.read_rgb(project.folder / data[0] / f"composite_images/{rows[0]['image_id']}.png")
    )


def test_hand_out_says_no_in_one_line(project):
    project.make_composites()
    (project.folder / "there").mkdir()
    assert project.refused("hand_out", "harmonization", "there") == (
        1,
        "there is there already; remove it or give another name",
    )
    assert project.refused("hand_out", "harmonization", "new", "--split", "rhm") == (
        2,
        "--split rhm: expected one of test",
    )
    assert not (project.folder / "new").exists()


def returned(project):
    """A split evaluated here, and outputs of a method that runs elsewhere: half way between composite and grey."""
    data, rows = handed(project, "harmonization")
    for row in rows:
        images.write_png(
            project.folder / f"elsewhere/{row['image_id']}.png",
            (images.read_rgb(project.folder / "inputs" / row["composite"]) // 2 + 64).astype(np.uint8),
        )
    return data


def test_a_folder_is_scored_there_and_then(project):
    data = returned(project)
    assert (
        project.run("infer", "composite", "--data", *data).code == 0
        and project.run("evaluate", "harmonization").code == 0
    )
    before = sorted(path for path in project.folder.rglob("*"))
    done = project.run("score", "harmonization", "elsewhere", "--name", "halfway")
    assert done.code == 0, done.err
    assert (
        "halfway: outputs made elsewhere: 3 PNG" in done.out and "less composite" in done.out and "fMSE ↓" in done.out
    )
    assert sorted(path for path in project.folder.rglob("*")) == before, "nothing is left behind"
    done = project.run(
        "score", "harmonization", "elsewhere", "--name", "halfway", "--out", "tables", "--protocols", "iharmony4"
    )
    assert done.code == 0 and "iharmony4" in done.out
    project.content["models"]["halfway"] = {"task": "harmonization", "outputs": "elsewhere"}
    project.write()
    assert (
        project.run("take_in", "halfway", "--data", *data).code == 0
        and project.run("evaluate", "harmonization").code == 0
    )
    as_a_method = (
        tables.read(project.folder / "results/harmonization/per_image.parquet")
        .query("model == 'halfway'")
        .reset_index(drop=True)
    )
    assert tables.read(project.folder / "tables/per_image.parquet").equals(as_a_method)
    (gap,) = tables.read(project.folder / "tables/differences.parquet").query("subset == 'All' and metric == 'fmse'")[
        "mean"
    ]
    differences = tables.read(project.folder / "results/harmonization/differences.parquet")
    (expected,) = differences.query(
        "subset == 'All' and metric == 'fmse' and first == 'halfway' and second == 'composite'"
    )["mean"]
    assert gap == expected


def test_without_methods_here_there_is_nothing_to_compare_with(project):
    returned(project)
    done = project.run("score", "harmonization", "elsewhere", "--name", "halfway")
    assert done.code == 0 and "No method here was evaluated on this split" in done.out and "fMSE" in done.out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["gone", "--name", "x"], (1, "gone: no such folder of outputs")),
        (
            ["elsewhere", "--name", "composite"],
            (2, "--name composite: params.yaml has a method of this name; give another"),
        ),
        (["elsewhere", "--name", "x", "--split", "rhm"], (2, "--split rhm: expected one of test")),
        (
            ["elsewhere", "--name", "x", "--out", "inputs"],
            (1, "inputs is there already; remove it or give another name"),
        ),
        (["inputs/masks", "--name", "x", "--side", "7"], None),
    ],
)
def test_score_says_no_in_one_line(project, arguments, said):
    returned(project)
    if said is None:  # masks are pictures too: nothing can know that they are none of a method's
        assert project.run("score", "harmonization", *arguments).code == 0
        return
    assert project.refused("score", "harmonization", *arguments) == said


def released(folder, hyperparameters: dict) -> dict[str, torch.Tensor]:
    """The small U-Net's tensors under other names, in its order."""
    torch.manual_seed(8)
    state = models.create("unet", **hyperparameters).state_dict()
    torch.save(
        {"state_dict": {f"module.theirs_{number}": value for number, value in enumerate(state.values())}},
        folder / "released.pth.tar",
    )
    return state


def test_released_weights_run_without_training_and_tables_say_so(project):
    data = project.make_composites()
    block = project.content["models"]["unet"]
    state = released(project.folder, block["hyperparameters"])
    done = project.run("import_weights", "unet", "released.pth.tar", "-o", "w.safetensors")
    assert done.code == 0, done.err
    assert f"released.pth.tar: theirs_0 {list(next(iter(state.values())).shape)} -> {next(iter(state))}" in done.out
    assert f"{len(state)} entries of unet, paired by position" in done.out
    weights = load_file(project.folder / "w.safetensors")
    assert set(weights) == set(state) and all(torch.equal(weights[name], value) for name, value in state.items())
    project.content["models"]["unet"] = {"hyperparameters": block["hyperparameters"], "weights": "w.safetensors"}
    project.write()
    assert project.run("infer", "unet", "--weights", "w.safetensors", "--imported", "--data", *data).code == 0
    assert project.run("evaluate", "localization").code == 0
    (origin,) = tables.read(project.folder / "results/localization/summary.parquet").query("subset == 'All'")["origin"]
    assert origin.startswith("weights: imported, sha256 ") and len(origin.split()[-1]) == 64


def test_import_weights_says_no_in_one_line(project):
    released(project.folder, project.content["models"]["unet"]["hyperparameters"])
    ask = lambda *more: project.refused("import_weights", *more)
    assert ask("unet", "released.pth.tar", "-o", "w.pth") == (2, "w.pth: the file is safetensors; end its name so")
    assert ask("unet", "gone.pth", "-o", "w.safetensors") == (1, "gone.pth: no such file")
    assert ask("composite", "released.pth.tar", "-o", "w.safetensors") == (2, "composite has no weights")
    assert ask("unte", "released.pth.tar", "-o", "w.safetensors")[1].startswith("no model 'unte'; did you mean 'unet'?")
    code, said = ask(
        "unet", "released.pth.tar", "-o", "w.safetensors", "--hyperparameters", "{width: 8, backbone_weights: none}"
    )
    assert code == 1 and said.startswith("entry 1 of ") and "do the network's hyperparameters differ?" in said
    assert ask("unet", "released.pth.tar", "released.pth.tar", "-o", "w.safetensors") == (
        2,
        "released.pth.tar is given twice",
    )
    assert not (project.folder / "w.safetensors").exists()
    shutil.copy(project.folder / "released.pth.tar", project.folder / "w.safetensors")
    assert ask("unet", "released.pth.tar", "-o", "w.safetensors") == (
        1,
        "w.safetensors is there already; remove it or give another name",
    )
