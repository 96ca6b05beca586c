import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.running import cluster, supervisor

ROOT = Path(__file__).resolve().parents[3]


def in_cluster(*command: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    return subprocess.run(
        [sys.executable, "-m", "commands.cluster", *command],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_a_command_there_is_nothing_to_run():
    done = in_cluster()
    assert done.returncode == 2 and "python -m commands.cluster [-v | -q] COMMAND" in done.stderr


def test_in_a_cluster_that_runs_already_the_command_is_just_run():
    # no Ray is started: an address that leads nowhere doesn't matter
    code = "import os, sys; print(os.environ['RAY_ADDRESS']); sys.exit(3)"
    done = in_cluster(sys.executable, "-c", code, RAY_ADDRESS="nowhere:1")
    assert (done.returncode, done.stdout) == (3, "nowhere:1\n")


@pytest.mark.parametrize(
    "command, code, said",
    [
        (["no-such-command"], 127, "no-such-command: No such file or directory\n"),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["true"], 0, ""),
    ],
)
def test_exit_codes_are_those_of_a_shell(command, code, said):
    done = in_cluster(*command, RAY_ADDRESS="nowhere:1")
    assert (done.returncode, done.stderr) == (code, said)


def test_ctrl_c_leaves_the_command_time_to_end_in_its_own_way(tmp_path):
    # the terminal sends it to both; what waits must outlive the command's own clearing up
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path('cleared').touch()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"RAY_ADDRESS": "nowhere:1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "commands.cluster", sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, 2)
        assert process.wait(timeout=30) == 130 and (tmp_path / "cleared").exists()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)


@pytest.mark.slow
def test_a_command_finds_the_head_that_was_started_for_it():
    code = (
        "import ray, sys; from pipeline.running import cluster\n"
        "with cluster.session():\n"
        "    with cluster.session():\n"
        "        print(int(ray.cluster_resources()['CPU']), ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
        "    assert ray.is_initialized()\n"
        "assert not ray.is_initialized()\n"
        "sys.exit(4)\n"
    )
    done = in_cluster(sys.executable, "-c", code, SEAMBENCH_CPUS="1")
    assert (done.returncode, done.stdout) == (4, "1 42\n"), done.stderr


def under_a_head(code: str, folder: Path, *marks: str, **environment: str) -> subprocess.Popen:
    """Start Python code under a head and wait until it has touched `marks` in the folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") or key == "RAY_TMPDIR"}
    command = [sys.executable, "-m", "commands.cluster", sys.executable, "-c", code]
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=kept | {"PYTHONPATH": str(ROOT), "SEAMBENCH_CPUS": "2"} | environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
            # who runs the tests may have SIGHUP ignored (nohup), which children inherit
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
    deadline = time.monotonic() + 240
    while not all((folder / mark).exists() for mark in marks):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "said").read_text()
        time.sleep(0.05)
    return process


def ended(process: subprocess.Popen, folder: Path) -> tuple[int, str]:
    """Exit code and last line, when the process has ended; what isn't ours any more is a failure."""
    code = process.wait(timeout=120)
    return code, (folder / "said").read_text().splitlines()[-1]


# work in two workers, and a child that outlives its parent
WORK = """
import pathlib, signal, subprocess, sys, time
import ray
from pipeline.running import cluster
subprocess.Popen(["sleep", "600"])
with cluster.session():
    @ray.remote
    def work(number):
        pathlib.Path(f"working-{number}").touch()
        time.sleep(600)
    ray.get([work.remote(number) for number in (0, 1)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_the_head_and_leaves_nothing(short, tmp_path, number):
    process = under_a_head(WORK, tmp_path, "working-0", "working-1")
    tree = psutil.Process(process.pid).children(recursive=True)
    assert {"gcs_server", "raylet", "sleep"} <= {child.name() for child in tree}
    process.send_signal(number)
    code, last = ended(process, tmp_path)
    assert (code, last) == (128 + number, f"ended by {number.name}; finished work is kept")
    assert [child for child in tree if cluster.is_alive(child)] == []
    assert "***" not in (tmp_path / "said").read_text() and not list(Path(short).iterdir())


STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("heard").touch())
pathlib.Path("ready").touch()
while True:
    time.sleep(1)
"""


@pytest.mark.slow
def test_a_second_signal_ends_at_once(short, tmp_path):
    process = under_a_head(STUBBORN, tmp_path, "ready")
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    while not (tmp_path / "heard").exists():
        time.sleep(0.05)
    time.sleep(supervisor.SAME_SIGNAL_SECONDS + 0.3)
    assert process.poll() is None
    process.terminate()
    assert ended(process, tmp_path) == (143, "ended by SIGTERM; finished work is kept")
    assert [child for child in tree if cluster.is_alive(child)] == []


def test_a_command_that_does_not_end_is_killed_after_its_grace(tmp_path, monkeypatch):
    # in this cluster, which doesn't exist, no Ray is started
    code = "from pipeline.running import supervisor; supervisor.GRACE_SECONDS = 2.0; supervisor.main()"
    environment = os.environ | {"RAY_ADDRESS": "nowhere:1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, sys.executable, "-c", STUBBORN],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    process.terminate()
    assert (
        process.communicate(timeout=60)[1] == "ended by SIGTERM; finished work is kept\n" and process.returncode == 143
    )
    assert (tmp_path / "heard").exists()


def dvc_project(folder: Path) -> dict[str, str]:
    """Make a folder a project of DVC's; the environment for commands there, which start no Ray."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "RAY_ADDRESS": "nowhere:1",
    }
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=folder, env=environment, check=True)
    return environment


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dvc_that_keeps_going_is_ended_too(tmp_path, number):
    names = "abcdefgh"
    work = f"{sys.executable} -c 'import pathlib, time; pathlib.Path(\"NAME\").touch(); time.sleep(600)'"
    YAML().dump({"stages": {name: {"cmd": work.replace("NAME", name)} for name in names}}, tmp_path / "dvc.yaml")
    environment = dvc_project(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "commands.cluster", "dvc", "repro", "--keep-going"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell without job control starts its background commands with SIGINT ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "a").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"ended by {number.name}; finished work is kept"
    assert not (tmp_path / names[-1]).exists()
    # the next start needs no hand
    YAML().dump({"stages": {name: {"cmd": f"echo {name}"} for name in names}}, tmp_path / "dvc.yaml")
    again = subprocess.run(["dvc", "repro"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_server_of_the_head_that_is_killed_ends_the_run_in_one_line(short, tmp_path, server):
    process = under_a_head(WORK, tmp_path, "working-0", "working-1")
    tree = psutil.Process(process.pid).children(recursive=True)
    next(child for child in tree if child.name() == server).kill()
    code, last = ended(process, tmp_path)
    assert code == 1 and last.startswith("Ray's head ended (") and "start again, and finished work is kept" in last
    assert [child for child in tree if cluster.is_alive(child)] == []


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mended(project: Path, content: str, capsys) -> str:
    """What is said of a lock file with this content; it is gone exactly when something is."""
    file = project / ".dvc" / "tmp" / "rwlock"
    file.write_text(content)
    supervisor.mend_dvc_locks(project)
    said = capsys.readouterr().err
    assert file.exists() == (not said)
    if said:
        assert (project / ".dvc" / "tmp" / "rwlock.set-aside").read_text() == content and said.count("\n") == 1
    return said


def marked(pid: int) -> str:
    mark = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"write": {"/out": mark}, "read": {"/in": [mark]}})


GONE = 2**22 + 1  # Linux numbers processes up to 2^22


@pytest.mark.parametrize("content", ["", "{", marked(1)[:-9], "[]", "null", '{"write": 3}', '{"read": {"/in": [{}]}}'])
def test_a_lock_file_that_cannot_be_read_is_set_aside(project, content, capsys):
    assert mended(project, content, capsys).startswith(
        ".dvc/tmp/rwlock can't be read: a dvc that was killed left it; set aside as "
    )


@pytest.mark.parametrize("content", ["{}", '{"write": {}, "read": {}}', marked(GONE)])
def test_a_lock_file_that_dvc_can_use_stays(project, content, capsys):
    assert mended(project, content, capsys) == ""


def test_marks_of_a_number_that_another_program_has_now_are_set_aside(project, capsys):
    with subprocess.Popen(["sleep", "600"], cwd="/") as stranger:
        said = mended(project, marked(stranger.pid), capsys)
        stranger.kill()
    assert "names processes that are not of this project" in said
    with subprocess.Popen(["sleep", "600"], cwd=project) as ours:
        assert mended(project, marked(ours.pid), capsys) == ""
        ours.kill()


def test_while_dvc_runs_in_the_project_its_lock_file_is_left_alone(project, capsys):
    script = project / "dvc"
    script.write_text("import time; time.sleep(600)")
    with subprocess.Popen([sys.executable, script], cwd=project) as running:
        try:
            deadline = time.monotonic() + 30
            while not supervisor.is_dvc(psutil.Process(running.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
            with pytest.raises(
                UserError,
                match=rf"^\.dvc/tmp/rwlock can't be read, and a dvc still runs in this project \(PID {running.pid}\); end it",
            ):
                mended(project, "", capsys)
            assert mended(project, marked(running.pid), capsys) == ""
            # another project within this one is none of its business
            inner = project / "inner"
            (inner / ".dvc" / "tmp").mkdir(parents=True)
            assert "can't be read" in mended(inner, "", capsys)
        finally:
            running.kill()


def test_a_project_without_a_lock_file_or_without_dvc_is_left_alone(project, capsys):
    supervisor.mend_dvc_locks(project)
    supervisor.mend_dvc_locks(Path("/"))
    assert capsys.readouterr().err == ""


LOCK = """schema: '2.0'
stages:
  ingest@a:
    cmd: python -m stages.ingest a data/sources/a
    deps:
    - path: pipeline/images.py
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 17
  train-unet:
    cmd: python -m stages.train unet --data data/composites/HCOCO data/composites/HAdobe5k
      data/composites/Hday2night
    params:
      params.yaml:
        seed: 1
        models.unet:
          note: 'a: b'
    outs:
    - path: artifacts/models/unet
      hash: md5
      md5: '00000000000000000000000000000000'
"""


@pytest.mark.parametrize("file", ["dvc.lock", "models/dvc.lock"])
def test_a_dvc_lock_that_was_cut_anywhere_can_be_read_afterwards(project, capsys, file):
    # voluptuous' own check, in DVC's own form, is the referee
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    lock = project / file
    lock.parent.mkdir(exist_ok=True)
    for length in range(len(LOCK) + 1):
        lock.write_text(LOCK[:length])
        supervisor.mend_dvc_locks(project)
        said = capsys.readouterr().err
        kept = lock.read_text() if lock.exists() else None
        assert kept != "" and bool(said) == (kept != LOCK[:length])
        if length == len(LOCK):
            assert kept == LOCK
        elif said:
            assert said.startswith(f"{file} ends in the middle: a dvc that was killed left it; set aside as .dvc/tmp/")
            assert said.count("\n") == 1 and LOCK.startswith(kept or "")
            assert (project / ".dvc/tmp" / f"{file.replace('/', '-')}.set-aside").read_text() == LOCK[:length]
        if kept:
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(kept))
        if LOCK.index("  train-unet:") < length < len(LOCK):
            assert kept is not None and "ingest@a" in kept  # what was whole isn't lost


@pytest.mark.parametrize(
    "text",
    [
        LOCK.replace("  train-unet:", "<<<<<<< ours\n  train-unet:") + "=======\n>>>>>>> theirs\n",
        LOCK.replace("\n", "\r\n"),
        LOCK + "datasets:\n- name: a\n",
        "# a comment of somebody's\n" + LOCK,
        "schema: '2.0'\nstages: {}\n",
        "schema: '1.0'\n",
    ],
    ids=["merge", "line ends", "datasets", "comment", "empty", "older"],
)
def test_a_dvc_lock_that_was_not_cut_is_left_to_dvc(project, capsys, text):
    lock = project / "dvc.lock"
    lock.write_bytes(text.encode())
    supervisor.mend_dvc_locks(project)
    assert lock.read_bytes() == text.encode() and capsys.readouterr().err == ""


@pytest.mark.slow
def test_dvc_starts_again_after_a_kill_has_cut_its_lock_file(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo done}}")
    environment = dvc_project(tmp_path)
    (tmp_path / ".dvc" / "tmp").mkdir(exist_ok=True)
    (tmp_path / ".dvc" / "tmp" / "rwlock").touch()
    assert subprocess.run(["dvc", "repro"], cwd=tmp_path, env=environment, capture_output=True).returncode
    done = subprocess.run(
        [sys.executable, "-m", "commands.cluster", "dvc", "repro"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "rwlock can't be read" in done.stderr, done.stderr
