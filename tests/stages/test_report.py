import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.report", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_writes_one_file(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [file.name for file in (folder / "report").iterdir()] == ["index.html"]
    assert (folder / "report/index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list(folder.glob(".report*"))


@pytest.mark.slow
def test_failure_is_one_line_and_leaves_the_former_report(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "report").mkdir()
    (folder / "report/index.html").write_text("former")
    (folder / "results/inpainting/summary.parquet").unlink()
    done = run(folder)
    assert done.returncode == 1
    assert (
        len(done.stderr.strip().splitlines()) == 1
        and "results/inpainting/summary.parquet: no such table" in done.stderr
    )
    assert (folder / "report/index.html").read_text() == "former" and not list(folder.glob(".report*"))
