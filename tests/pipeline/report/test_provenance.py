import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline.errors import ParameterError, UserError
from pipeline.report import provenance
from tests.pipeline.report import project

PRESETS = project.ROOT / "presets"


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_revision(tmp_path):
    assert provenance.revision(tmp_path) == "not a git repository"
    git(tmp_path, "init")
    assert provenance.revision(tmp_path) == "a git repository without a commit"
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "dvc.lock").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert provenance.revision(tmp_path) == f"{commit[:12]}, unchanged"
    (tmp_path / "dvc.lock").write_text("written by dvc repro itself")
    assert provenance.revision(tmp_path) == f"{commit[:12]}, unchanged"
    (tmp_path / "a.txt").write_text("b")
    assert provenance.revision(tmp_path) == f"{commit[:12]}, with 1 changed file"
    (tmp_path / "b.txt").write_text("new")
    assert provenance.revision(tmp_path) == f"{commit[:12]}, with 2 changed files"


def test_revision_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.revision(tmp_path) == "not known (git is not installed)"


@pytest.mark.parametrize("name", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_a_preset_is_recognized(tmp_path, name):
    shutil.copy(PRESETS / f"{name}.yaml", tmp_path / "params.yaml")
    assert provenance.preset(tmp_path / "params.yaml", PRESETS) == {"name": name, "differences": []}


def test_differences_are_leaves(tmp_path):
    parameters = YAML(typ="safe").load((PRESETS / "embedded.yaml").read_text())
    seed, name = parameters["seed"], next(iter(parameters["models"]))
    parameters["seed"] = seed + 1
    parameters["training"]["device"] = "auto"
    block = parameters["models"].pop(name)
    with open(tmp_path / "params.yaml", "w") as file:
        YAML().dump(parameters, file)
    nearest = provenance.preset(tmp_path / "params.yaml", PRESETS)
    assert nearest["name"] == "embedded"
    by_key = {difference["key"]: (difference["preset"], difference["here"]) for difference in nearest["differences"]}
    assert by_key["seed"] == (str(seed), str(seed + 1))
    assert by_key["training.device"] == ("cpu", "auto")
    assert set(by_key) == {"seed", "training.device", f"models.{name}"} and by_key[f"models.{name}"][1] == "not there"
    assert block == {}


def test_presets_must_be_there_and_valid(tmp_path):
    with pytest.raises(UserError, match="no preset there"):
        provenance.preset(PRESETS / "embedded.yaml", tmp_path)
    (tmp_path / "odd.yaml").write_text("seed: -1\n")
    with pytest.raises(ParameterError, match="odd.yaml"):
        provenance.preset(PRESETS / "embedded.yaml", tmp_path)


def test_machine_and_libraries():
    import torch

    machine, versions = provenance.machine(), dict(provenance.libraries())
    assert int(machine["Cores"]) >= 1 and all(machine.values())
    assert torch.__version__.startswith(versions["torch"]) and versions["python"].startswith("3.")
