import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import ParameterError, UserError
from pipeline.running import cluster

ROOT = Path(__file__).resolve().parents[3]


def in_cluster(*command: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    return subprocess.run([sys.executable, "-m", "commands.cluster", *command], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=300)


def test_cores_are_those_of_the_process_or_those_asked_for(monkeypatch):
    monkeypatch.delenv("SEAMBENCH_CPUS", raising=False)
    assert cluster.cpus() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("SEAMBENCH_CPUS", "3")
    assert cluster.cpus() == 3


@pytest.mark.parametrize("silly", ["0", "-1", "two", "1.5", "", " ", "²"])
def test_silly_numbers_of_cores_are_refused(monkeypatch, silly):
    monkeypatch.setenv("SEAMBENCH_CPUS", silly)
    with pytest.raises(ParameterError) as caught:
        cluster.cpus()
    assert str(caught.value) == f"SEAMBENCH_CPUS = {silly!r}: expected a number of cores, 1 or more"


def test_without_a_command_there_is_nothing_to_run():
    done = in_cluster()
    assert done.returncode == 2 and "python -m commands.cluster COMMAND" in done.stderr


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
        "import ray, sys; from pipeline import cluster\n"
        "with cluster.session():\n"
        "    with cluster.session():\n"
        "        print(int(ray.cluster_resources()['CPU']), ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
        "    assert ray.is_initialized()\n"
        "assert not ray.is_initialized()\n"
        "sys.exit(4)\n"
    )
    done = in_cluster(sys.executable, "-c", code, SEAMBENCH_CPUS="1")
    assert (done.returncode, done.stdout) == (4, "1 42\n"), done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch, address):
    # Ray by itself would try again for minutes
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS = '{address}': no Ray cluster answers there \\(.+\\)$") as caught:
        with cluster.session():
            pass
    assert "\n" not in str(caught.value)
