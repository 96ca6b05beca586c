import json
import os
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline.networks.loop import Loop


def test_a_network_is_trained_and_published(project):
    data = project.make_composites()
    done = project.run("train", "unet", "--data", *data)
    assert done.code == 0, done.err
    out = project.folder / "artifacts/models/unet"
    assert sorted(os.listdir(out)) == sorted(
        ["weights.safetensors", "last.safetensors", "history.parquet", "history.csv", "training.json", "training.log"]
    )
    (line,) = [line for line in done.err.splitlines() if " epoch 1/1 " in line]
    assert (
        line.startswith("unet train epoch 1/1 step 1: loss ")
        and " images/s, " in line
        and line in (out / "training.log").read_text()
    )
    table = pd.read_csv(out / "history.csv")
    assert len(table) == 1 and {"step", "epoch", "loss", "learning_rate", "validation_ap"} <= set(table.columns)
    assert json.loads((out / "training.json").read_text())["steps_of_the_last_run"] == 1
    assert load_file(out / "weights.safetensors")


def test_a_finished_training_is_published_again_without_training(project, monkeypatch):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    out = project.folder / "artifacts/models/unet"
    first = (out / "weights.safetensors").read_bytes()
    shutil.rmtree(out)  # as DVC does before it runs a stage
    monkeypatch.setattr(Loop, "_train_epoch", None)
    assert project.run("train", "unet", "--data", *data).code == 0
    assert (out / "weights.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["models"]["unet"]["training"]["optimization"].update(learning_rate=0.5),
        lambda content: content.update(seed=1),
        lambda content: content["training"].update(validation_images=1),
        lambda content: content["localization"].update(max_foreground=0.9),
    ],
)
def test_an_edited_parameter_starts_anew(project, edit):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    edit(project.content)
    project.write()
    assert project.run("train", "unet", "--data", *data).code == 0
    assert len(list((project.folder / ".runs").iterdir())) == 2


def test_what_it_does_not_depend_on_starts_nothing_anew(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    project.content["evaluation"]["bootstrap"] = 77
    project.content["training"]["samples_every"] = 3
    project.content["models"]["composite"] = {"hyperparameters": {}}
    project.write()
    project.run("train", "unet", "--data", *data)
    assert len(list((project.folder / ".runs").iterdir())) == 1


def test_other_data_starts_anew(project):
    data = project.make_composites()
    project.run("train", "unet", "--data", *data)
    table = project.folder / data[0] / "pairs.parquet"
    frame = pd.read_parquet(table)
    frame.assign(category="dog").to_parquet(table)
    project.run("train", "unet", "--data", *data)
    assert len(list((project.folder / ".runs").iterdir())) == 2


def test_what_the_network_refuses_is_one_line(project):
    project.content["image_size"] = 40
    project.write()
    code, said = project.refused("train", "unet", "--data", *project.make_composites())
    assert code == 1 and said.startswith("training unet: the network refuses the batch of c") and "40" in said
    assert not (project.folder / "artifacts").exists()


def test_batches_larger_than_the_data_are_refused(project):
    project.content["models"]["unet"]["training"] = project.content["models"]["unet"]["training"] | {"batch_size": 4}
    project.write()
    code, said = project.refused("train", "unet", "--data", *project.make_composites())
    assert (code, said) == (1, "unet: 3 training images, fewer than models.unet.training.batch_size = 4")
