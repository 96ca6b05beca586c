"""Compiled files that were cut short don't keep a module from being imported."""

import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kept", [20, 60, -3])
def test_a_cut_compiled_file_is_compiled_anew(tmp_path, kept):
    source = tmp_path / "mended.py"
    source.write_text("VALUE = [number for number in range(5)]\n\n\ndef f():\n    return VALUE\n")
    compiled = Path(py_compile.compile(str(source)))
    whole = compiled.read_bytes()
    compiled.write_bytes(whole[:kept])
    run = lambda code: subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run("import mended").returncode == 1, "CPython itself stops here"
    done = run("import pipeline, mended; print(sum(mended.f()))")
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr
    assert compiled.read_bytes() == whole
    source.write_text("def\n")
    assert "SyntaxError" in run("import pipeline, mended").stderr
