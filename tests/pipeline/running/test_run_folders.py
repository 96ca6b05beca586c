import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import schema
from pipeline.running import run_folders

ROOT = Path(__file__).resolve().parents[3]
OPTIMIZATION = {"optimizer": "adam", "learning_rate": 0.1, "schedule": {"name": "constant"}}
BLOCK = schema.Optimization(**OPTIMIZATION)


def test_the_same_work_has_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(b"1")
    first = run_folders.run_folder("unet", 1, "a", BLOCK, {"max": 0.5}, Path("data"))
    assert first == run_folders.run_folder(
        "unet", 1, "a", schema.Optimization(**OPTIMIZATION), {"max": 0.5}, Path("data")
    )
    assert first.parent == tmp_path / ".runs" and first.name.startswith("unet-") and not first.exists()


def test_a_queued_experiment_leaves_its_unfinished_work_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", "/project")
    inside = run_folders.run_folder("unet", 1)
    assert inside.parent == Path("/project/.runs")
    monkeypatch.delenv("DVC_ROOT")
    assert run_folders.run_folder("unet", 1).name == inside.name


def test_whatever_the_result_depends_on_makes_another_folder(tmp_path):
    data = tmp_path / "data"
    data.write_bytes(b"1")
    base = (1, "a", BLOCK, {"max": 0.5, "block": BLOCK}, data)
    names = {run_folders.run_folder("unet", *base).name}
    for place, other in [
        (0, 2),
        (0, "1"),
        (1, "b"),
        (2, schema.Optimization(**OPTIMIZATION | {"learning_rate": 0.2})),
        (3, {"max": 0.6, "block": BLOCK}),
        (3, {"max": 0.5}),
        (3, {"max": 0.5, "block": schema.Optimization(**OPTIMIZATION | {"learning_rate": 0.2})}),
    ]:
        parts = list(base)
        parts[place] = other
        names.add(run_folders.run_folder("unet", *parts).name)
    data.write_bytes(b"2")
    names.add(run_folders.run_folder("unet", *base).name)
    names.add(run_folders.run_folder("rfr", *base).name)
    assert len(names) == 10


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"pairs\.parquet: no such file$"):
        run_folders.run_folder("x", 1, tmp_path / "pairs.parquet")


def test_the_order_of_keys_does_not_count():
    assert run_folders.run_folder("x", {"a": 1, "b": 2}) == run_folders.run_folder("x", {"b": 2, "a": 1})


def test_the_code_that_is_loaded_counts(tmp_path, monkeypatch):
    before = run_folders.run_folder("x")
    file = ROOT / "pipeline" / "running" / "run_folders.py"
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# edited" if path == file else b""))
    assert run_folders.run_folder("x") != before


def test_code_elsewhere_does_not_count():
    packages = [ROOT / name for name in ("stages", "commands", "pipeline", "models")]
    files = run_folders._loaded_code()
    assert files and all(any(package in file.parents for package in packages) for file in files)
    assert ROOT / "pipeline" / "running" / "run_folders.py" in files and Path(__file__) not in files


@pytest.mark.slow
@pytest.mark.parametrize("module", ["stages.train", "stages.synthesize"])
def test_code_that_makes_the_result_is_loaded_before_the_folder_is_named(module):
    # an import inside a function would be missed by the hash, and an edit of it would not start the work anew
    code = f"import {module}, sys; print(*sorted(name for name in sys.modules if name.split('.')[0] in ('pipeline', 'models', 'stages')))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    from pipeline.running import graph

    files = {graph._file_of(name) for name in loaded}
    late = {ROOT / file for file in graph.closure(module)} - files
    # what nothing but an annotation of models/__init__.py names makes no result
    assert late <= {ROOT / "models" / "base.py"}
