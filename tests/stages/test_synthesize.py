import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import tables
from tests.pipeline.data.composites import making

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return making.photos(tmp_path_factory.mktemp("source"), photographs=80)


@pytest.fixture
def workplace(tmp_path):
    """A folder with params.yaml, where the stage can run."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((ROOT / "presets/embedded.yaml").read_text())
    content["composites"]["subsets"] = {"HCOCO": making.TRANSFER | {"source": "bundled", "references": "bundled"}}
    content["composites"]["rendering"]["filters"] = making.FILTERS
    yaml.dump(content, tmp_path / "params.yaml")
    return tmp_path


def start(workplace: Path, source: Path, out: str, cpus: int) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.synthesize", "HCOCO", source, source, out], cwd=workplace,
        env=environment | {"PYTHONPATH": str(ROOT), "SEAMBENCH_CPUS": str(cpus)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def done(workplace: Path) -> int:
    return len(list(workplace.glob(".runs/synthesize-HCOCO-*/done/*.json")))


@pytest.mark.slow
def test_workers_and_a_kill_do_not_show_in_the_bytes(workplace, source):
    finish(start(workplace, source, "one", cpus=1))
    assert not list((workplace / ".runs").iterdir()), "finished work leaves its staging folder behind"
    expected = making.digest(workplace / "one")
    pairs = tables.read(workplace / "one/pairs.parquet")
    assert len(pairs) > 150 and pairs["reference_image"].nunique() > 20

    finish(start(workplace, source, "two", cpus=2))
    assert making.digest(workplace / "two") == expected

    process = start(workplace, source, "killed", cpus=2)
    while done(workplace) < 30:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert 30 <= done(workplace) < 150 and not (workplace / "killed").exists()
    finish(start(workplace, source, "killed", cpus=2))
    assert making.digest(workplace / "killed") == expected


@pytest.mark.slow
def test_what_cannot_be_made_is_told_in_one_line_and_leaves_nothing(workplace, source):
    yaml = YAML()
    content = yaml.load(workplace / "params.yaml")
    content["composites"]["rendering"]["filters"]["min_pixels"] = 100000
    yaml.dump(content, workplace / "params.yaml")
    process = start(workplace, source, "none", cpus=1)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "synthesize: HCOCO: no train composite passed; of photos 161 objects and candidates were refused"
    )
    assert not (workplace / "none").exists()
