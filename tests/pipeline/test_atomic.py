import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import atomic

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_appears_whole(tmp_path):
    with atomic.folder(tmp_path / "a" / "out") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"
    assert os.listdir(tmp_path / "a") == ["out"]


def test_a_folder_replaces_what_stood_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic.folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        assert (tmp_path / "out" / "old").exists()
    assert os.listdir(tmp_path / "out") == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_everything_as_it_was(tmp_path, error):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(error):
        with atomic.folder(tmp_path / "out") as folder:
            (folder / "new").touch()
            raise error
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["old"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_appears_whole_or_not_at_all(tmp_path, error):
    file = tmp_path / "a" / "t.txt"
    with pytest.raises(error):
        with atomic.file(file) as path:
            path.write_text("half")
            raise error
    assert os.listdir(tmp_path / "a") == []
    with atomic.file(file) as path:
        path.write_text("old")
    with pytest.raises(error):
        with atomic.file(file) as path:
            path.write_text("half")
            raise error
    assert file.read_text() == "old" and os.listdir(tmp_path / "a") == ["t.txt"]
    with atomic.file(file) as path:
        path.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and os.listdir(tmp_path / "a") == ["t.txt"]


def test_a_file_that_was_not_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic.file(tmp_path / "t.txt"):
            pass


def test_a_killed_process_leaves_no_output_and_the_next_run_clears_up(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline import atomic\n"
        "with atomic.folder(sys.argv[1]) as folder:\n"
        "    (folder / 'half').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".out.part"]
    with atomic.folder(tmp_path / "out") as folder:
        assert os.listdir(folder) == []
    assert os.listdir(tmp_path) == ["out"]
