import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import command
from pipeline.errors import ParameterError, UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pipeline import command
from pipeline.errors import ParameterError, UserError

def main(arguments):
    print("at work")
    raise {error}

if __name__ == "__main__":
    command.run(main, command.parser("does nothing").parse_args())
"""


@pytest.fixture
def script(tmp_path):
    def run(error: str, *arguments: str) -> subprocess.CompletedProcess:
        (tmp_path / "stage.py").write_text(SCRIPT.format(error=error))
        command_line = [sys.executable, str(tmp_path / "stage.py"), *arguments]
        return subprocess.run(
            command_line, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
        )

    return run


@pytest.mark.parametrize(
    "error, code", [("UserError('a.png: truncated')", 1), ("ParameterError('a.png: truncated')", 2)]
)
def test_an_error_of_the_users_is_one_line_and_a_code(script, error, code):
    done = script(error)
    assert (done.returncode, done.stderr, done.stdout) == (code, "stage: a.png: truncated\n", "at work\n")


def test_several_lines_become_one(script):
    assert script("UserError('first\\nsecond')").stderr == "stage: first second\n"


@pytest.mark.parametrize("error, code", [("UserError('why')", 1), ("ParameterError('why')", 2)])
def test_debug_shows_the_traceback_and_keeps_the_code(script, error, code):
    done = script(error, "--debug")
    assert done.returncode == code and "Traceback" in done.stderr and done.stderr.endswith("Error: why\n")


def test_a_defect_of_ours_keeps_its_traceback(script):
    done = script("KeyError('x')")
    assert done.returncode == 1 and "Traceback" in done.stderr and "KeyError: 'x'" in done.stderr


def test_interrupted(script):
    done = script("KeyboardInterrupt")
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "at work\n")


def test_wrong_usage_exits_with_2(script):
    done = script("UserError('x')", "--no-such-option")
    assert done.returncode == 2 and "unrecognized arguments: --no-such-option" in done.stderr and done.stdout == ""


def test_help_shows_defaults(capsys):
    parser = command.parser("makes things")
    parser.add_argument("--size", default=7, help="in pixels")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert (
        ended.value.code == 0 and "makes things" in shown and "in pixels (default: 7)" in shown and "--debug" in shown
    )


def test_work_that_is_done_leaves_nothing_to_say(capsys):
    command.run(lambda arguments: None, command.parser("x").parse_args([]))
    assert capsys.readouterr() == ("", "")


def test_exit_codes_of_the_errors():
    assert (UserError.exit_code, ParameterError.exit_code) == (1, 2) and issubclass(ParameterError, UserError)


@pytest.mark.parametrize(
    "error, said",
    [
        (
            "OSError(28, 'No space left on device', 'data/a.png')",
            "the disk is full (data/a.png); free some space and start again",
        ),
        ("OSError(28, 'No space left on device')", "the disk is full; free some space and start again"),
        (
            "RuntimeError('I/O error: No space left on device (os error 28)')",
            "the disk is full; free some space and start again",
        ),
        (
            "RuntimeError('writing failed') from OSError(122, 'Disk quota exceeded', 'b')",
            "the disk is full (b); free some space and start again",
        ),
        ("NotADirectoryError(20, 'Not a directory', 'file.txt/out')", "file.txt/out: Not a directory"),
        ("PermissionError(13, 'Permission denied', 'out')", "out: Permission denied"),
        ("OSError(36, 'File name too long', 'n' * 5000)", f"{'n' * 100}...{'n' * 59}:" + " File name too long"),
        ("OSError(24, 'Too many open files')", "this machine: Too many open files"),
        ("RuntimeError('Symlink loop from PosixPath')", "PosixPath: a loop of links"),
    ],
)
def test_what_the_machine_refuses_is_one_line(script, error, said):
    done = script(error)
    assert (done.returncode, done.stderr) == (1, f"stage: {said}\n")
    debug = script(error, "--debug")
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_errors_of_other_machines_keep_their_traceback(script):
    assert "Traceback" in script("ConnectionError('no cluster')").stderr


def test_files_that_a_stage_really_meets(tmp_path):
    def said(body: str) -> str:
        (tmp_path / "stage.py").write_text(SCRIPT.replace("    raise {error}", f"    {body}"))
        done = subprocess.run(
            [sys.executable, str(tmp_path / "stage.py")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and len(done.stderr) < 500, done.stderr[-500:]
        return done.stderr

    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    assert "a loop of links" in said("from pathlib import Path; Path('loop').resolve()")
    assert "File name too long" in said("open('n' * 5000)")
    assert "Not a directory" in said("from pipeline import atomic; atomic.folder('file/out').__enter__()")
    assert "disk is full" in said("open('/dev/full', 'w').write('x' * 100000)")
    assert "disk is full" in said(
        "import os, torch; from pathlib import Path; from pipeline.networks import checkpoints; "
        "os.symlink('/dev/full', f'.checkpoint.pt.{os.getpid()}.part'); "
        "checkpoints.save(Path('.'), {'a': torch.zeros(100000)})"
    )


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "RuntimeError('[enforce fail at alloc_cpu.cpp:120] DefaultCPUAllocator: can\\'t allocate memory: you tried to')",
        "type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')",
    ],
)
def test_memory_that_does_not_suffice_is_one_line_that_names_parameters(script, error):
    done = script(error)
    assert done.returncode == 1 and done.stderr.startswith(
        "stage: not enough memory; lower a network's training.batch_size"
    )
    assert done.stderr.count("\n") == 1
