"""commands.cost goes on where it was: what the table has is not measured again, and other methods' rows stay."""

import fcntl
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.networks import cost
from tests.small_project import ROOT


@pytest.fixture
def measured(project, monkeypatch) -> list[tuple[str, str]]:
    """(method, size) of each measurement that a command makes, in order; the third ends the command once."""
    (project.folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/licences.md", project.folder / "docs")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made: list[tuple[str, str]] = []

    def measure(name, hyperparameters, size, device, seconds, gib):
        made.append((name, size))
        if len(made) == 3:
            raise UserError("ended")
        height, width = cost.SIZES[size]
        about = {"model": name, "hyperparameters": cost.written(hyperparameters), "size": size, "device": device}
        about |= {"height": height, "width": width, "parameters": 1, "gmacs": np.nan, "ms": float(len(made))}
        return about | {"peak_mib": 1.0, "why_not": "", "processor": cost.processor(device)}

    monkeypatch.setattr(cost, "measure", measure)
    return made


def times(project) -> dict[tuple[str, str], float]:
    return pd.read_parquet(project.folder / "results/cost.parquet").set_index(["model", "size"])["ms"].to_dict()


def test_an_ended_command_goes_on_where_it_was(project, measured):
    assert project.run("cost", "composite", "unet", "--sizes", "256", "1080p").code != 0
    assert times(project) == {("composite", "256"): 1, ("composite", "1080p"): 2}
    assert project.run("cost", "composite", "unet", "--sizes", "256", "1080p").code == 0
    assert measured[3:] == [("unet", "256"), ("unet", "1080p")]
    assert project.run("cost", "composite", "--sizes", "256", "--again").code == 0
    assert times(project) == {
        ("composite", "256"): 6,
        ("composite", "1080p"): 2,
        ("unet", "256"): 4,
        ("unet", "1080p"): 5,
    }
    project.content["models"]["unet"]["hyperparameters"]["width"] = 8
    project.write()
    assert project.run("cost", "unet", "--sizes", "256").code == 0
    assert measured[6:] == [("unet", "256")]  # another network now, whose other size was dropped
    assert set(times(project)) == {("composite", "256"), ("composite", "1080p"), ("unet", "256")}


def test_a_second_command_on_the_same_table_is_refused(project, measured):
    folder = project.folder / "results"
    folder.mkdir()
    with open(folder / ".cost.parquet.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, said = project.refused("cost", "composite", "--sizes", "256")
    assert code == 1 and said.startswith("results/cost.parquet: another `commands.cost` is writing it; wait until")
    assert not measured
