"""The ten steps of docs/adding_a_network.md, done in a copy of the code with what stands on that page."""

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.running import graph
from tests.models import vector

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding_a_network.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's code blocks in this language, in their order."""
    fenced = re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in fenced]


@pytest.fixture
def project(tmp_path) -> Path:
    """The code, the tests of networks and the embedded preset."""
    leave = shutil.ignore_patterns("__pycache__", "dvc.lock")
    for name in (*graph.PACKAGES, "tests/models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=leave)
    for name in ("dvc.yaml", "pyproject.toml", "tests/__init__.py", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "presets" / "embedded.yaml", tmp_path / "params.yaml")
    return tmp_path


def run(project: Path, line: str) -> str:
    """What a command line of the page says, run in the project by this Python."""
    program, *arguments = shlex.split(line)
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def name_in_parameters(project: Path, block: str) -> None:
    """Write a method's block into params.yaml."""
    file = project / "params.yaml"
    head = r"^models:\n"
    file.write_text(
        re.sub(head, lambda head: head[0] + textwrap.indent(block, "  "), file.read_text(), flags=re.MULTILINE)
    )


@pytest.mark.slow
def test_ten_steps_add_a_network_and_no_eleventh_is_needed(project):
    assert [int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE, re.MULTILINE)] == list(range(1, 11))
    (network, _), (block,), commands = blocks("python"), blocks("yaml"), [line.strip() for line in blocks("sh")]
    (project / "models/harmonization/tint.py").write_text(network)
    name_in_parameters(project, block)
    before = {file: file.read_bytes() for file in project.rglob("*") if file.is_file()}
    said = [run(project, line) for line in commands]
    # the tests of each kind, for this network alone
    passed = int(re.search(r"(\d+) passed", said[-1])[1])
    assert passed >= 12 and not re.search("failed|error|skipped", said[-1]), said[-1]
    stages = YAML(typ="safe").load(project / "models/dvc.yaml")["stages"]
    assert "models/harmonization/tint.py" in stages["train-tint"]["deps"]
    assert "models/layers/region_statistics.py" in stages["infer-tint"]["deps"]
    assert stages["train-tint"]["cmd"].startswith("python -m stages.train tint")
    # no other file of the project is touched
    caches = {"__pycache__", ".pytest_cache"}
    after = {file: file.read_bytes() for file in project.rglob("*") if file.is_file() and not caches & {*file.parts}}
    changed = {str(file.relative_to(project)) for file, content in after.items() if before.get(file) != content}
    assert changed == {"models/dvc.yaml", "tests/models/vectors/tint.npz"}


@pytest.mark.slow
def test_the_page_adds_a_method_without_weights(project):
    (project / "models/localization/red_map.py").write_text(blocks("python")[1])
    name_in_parameters(project, "red_map: {}\n")
    for line in map(str.strip, blocks("sh")):
        said = run(project, line.replace("tint", "red_map").replace('{"width": 4}', "{}"))
    assert int(re.search(r"(\d+) passed", said)[1]) >= 5 and not re.search("failed|error|skipped", said), said
    stages = YAML(typ="safe").load(project / "models/dvc.yaml")["stages"]
    assert "models/localization/red_map.py" in stages["infer-red_map"]["deps"] and "train-red_map" not in stages


def test_a_network_without_a_vector_is_told_how_to_write_it():
    with pytest.raises(
        FileNotFoundError, match="tint has no test vector; `python -m tests.models.vector tint '{...}'`"
    ):
        vector.load("tint")
