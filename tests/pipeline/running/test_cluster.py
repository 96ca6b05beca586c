import fcntl
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ParameterError, UserError
from pipeline.running import cluster

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch, address):
    # Ray by itself would try again for minutes
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        UserError, match=f"^RAY_ADDRESS = '{address}': no Ray cluster answers there \\(.+\\)$"
    ) as caught:
        with cluster.session():
            pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_cluster(monkeypatch):
    for name in (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "address, logs, ray, elsewhere",
    [
        ("10.0.0.1:6379", None, None, True),
        ("10.0.0.1:6379", None, "always", True),
        ("10.0.0.1:6379", None, "off", False),
        ("127.0.0.1:6379", "/tmp/logs", None, False),  # a head of our own, started by a command above this one
        (None, None, None, False),
    ],
)
def test_a_cluster_is_elsewhere_when_somebody_else_started_it(no_cluster, monkeypatch, address, logs, ray, elsewhere):
    for name, value in (("RAY_ADDRESS", address), (cluster.LOGS, logs), ("SEAMBENCH_RAY", ray)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cluster.elsewhere() == elsewhere


def test_what_is_shipped_is_the_packages_files_and_nothing_else(monkeypatch, tmp_path):
    from ray._private.runtime_env.packaging import create_package

    for name in ("pipeline", "models", "stages", "commands", "data", ".runs", "models/__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("")
    (tmp_path / "pipeline" / "known.json").write_text("{}")
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    shipped = cluster._shipped()
    create_package(shipped["working_dir"], Path(f"{tmp_path}.zip"), True, excludes=shipped["excludes"])
    with zipfile.ZipFile(f"{tmp_path}.zip") as package:
        names = {name for name in package.namelist() if not name.endswith("/")}
    code = {f"{name}/file.py" for name in ("pipeline", "models", "stages", "commands")}
    assert names == code | {"pipeline/known.json"}


def test_workers_elsewhere_are_told_what_concerns_their_work(monkeypatch):
    for name, value in (
        ("SEAMBENCH_CHECKPOINT_SECONDS", "5"),
        ("SEAMBENCH_DRIVER", "1:2:/x"),
        ("OMP_NUM_THREADS", "8"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    told = cluster._shipped()["env_vars"]
    assert told["SEAMBENCH_CHECKPOINT_SECONDS"] == "5" and told["GOMP_SPINCOUNT"] == "1000"
    assert told["OMP_NUM_THREADS"] == "1" and not {"SEAMBENCH_DRIVER", "HOME", "RAY_AUTH_TOKEN"} & told.keys()


@pytest.mark.parametrize(
    "workers, each, fits", [(3, 1, True), (4, 1, False), (1, 2, True), (2, 2, False), (1, 3, False)]
)
def test_more_cpus_than_the_nodes_have_are_refused(monkeypatch, workers, each, fits):
    import ray

    nodes = [{"Alive": True, "Resources": resources} for resources in ({"CPU": 2.0}, {"CPU": 1.0}, {})]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}])
    if fits:
        cluster.require_cpus(workers, each)
        return
    what = f"training.workers = {workers}" if each == 1 else f"training.threads = {each}"
    with pytest.raises(UserError, match=f"^{what}: the nodes of this Ray cluster have 2, 1, 0 CPU"):
        cluster.require_cpus(workers, each)


def start_refused() -> str:
    with pytest.raises(UserError) as caught:
        with cluster.session():
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_temporary_folder_that_cannot_be_is_refused_in_one_line(no_cluster, monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    assert (
        start_refused().startswith(f"RAY_TMPDIR = '{long}': its path has {len(str(long))} bytes, and 1")
        and not long.exists()
    )
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/x")
    assert start_refused() == "RAY_TMPDIR = '/dev/null/x': Not a directory"


def test_the_longest_temporary_folder_holds_rays_sockets(no_cluster, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 200)
    longest = int(start_refused().split(" bytes, and ")[1].split()[0])
    socket = f"/{'x' * (longest - 1)}/{cluster.SCRATCH}12345678/r/session_2026-11-28_15-18-30_123456_4194304/sockets/plasma_store"
    assert len(socket) == 107  # Linux has 108 bytes for it, the last of which is 0


def test_what_killed_heads_left_is_removed_and_what_is_held_stays(tmp_path):
    names = [f"{cluster.SCRATCH}{name}" for name in ("left", "half", "held", "fresh")] + ["other"]
    left, half, held, fresh, other = (tmp_path / name for name in names)
    for folder in (left, half, held, fresh, other):
        folder.mkdir()
        if folder != half:
            (folder / "lock").touch()
        if folder != fresh:
            os.utime(folder, (0, 0))
    with open(held / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster._remove_left_over(tmp_path)
    assert set(tmp_path.iterdir()) == {held, fresh, other}


def script(folder: Path, text: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_a_head_that_does_not_start_is_tried_again_once_and_then_told(no_cluster, short, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "executable", script(tmp_path, f"echo start >> {tmp_path}/starts; exit 3"))
    assert start_refused().startswith(
        f"Ray's head didn't start, twice (its process ended with exit code 3); its logs are in {short}/"
    )
    assert (tmp_path / "starts").read_text() == "start\nstart\n"
    assert capfd.readouterr().err == "Ray's head didn't start (its process ended with exit code 3); trying once more\n"


def test_a_head_that_hangs_is_given_up_and_killed(no_cluster, short, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(cluster, "START_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "SPEAK_SECONDS", 0.2)
    monkeypatch.setattr(sys, "executable", script(tmp_path, f"echo $$ >> {tmp_path}/pids; sleep 600 & wait"))
    assert start_refused().startswith("Ray's head didn't start, twice (it took more than 0 s)")
    assert "waiting for Ray's head to start: 0 s\n" in capfd.readouterr().err
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)


# joins the cluster, then tells the sockets of all processes of the head; what a stranger meets is tried with the same address
STAGE = """
import json, os, subprocess, sys
import psutil, ray
from pipeline.running import cluster

def listening(root):
    found = []
    for process in [root, *root.children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or connection.status == psutil.CONN_NONE:
                found.append([process.name(), connection.laddr.ip])
    return found

with cluster.session():
    workers = ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(4)])
    sockets = listening(psutil.Process().parent())
    join = "import ray; ray.init(address=sys.argv[1]); print(ray.get(ray.remote(lambda: 'ran').remote()))".replace("ray.init", "import sys; ray.init", 1)
    strangers = []
    for auth in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {}):
        kept = {key: value for key, value in os.environ.items() if "AUTH" not in key and key != "RAY_ADDRESS"}
        strangers.append(subprocess.Popen([sys.executable, "-c", join, os.environ["RAY_ADDRESS"]], env=kept | auth, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    ran = [stranger.communicate()[0] for stranger in strangers]
    print(json.dumps({"sockets": sockets, "strangers": [[stranger.returncode != 0, out] for stranger, out in zip(strangers, ran)]}))
"""


@pytest.mark.slow
def test_a_run_listens_on_loopback_only_and_wants_its_token(tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "HOME": "/dev/null/nowhere",
        "SEAMBENCH_CPUS": "2",
    }
    command = [sys.executable, "-m", "commands.cluster", sys.executable, "-c", STAGE]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    addresses = {ip for _, ip in told["sockets"]}
    assert all(
        (ip := ipaddress.ip_address(address)).is_loopback
        or (ip.version == 6 and ip.ipv4_mapped and ip.ipv4_mapped.is_loopback)
        for address in addresses
    ), told
    assert {"gcs_server", "raylet"} <= {name for name, _ in told["sockets"]} and len(told["sockets"]) >= 6
    assert told["strangers"] == [[True, ""]] * 3


@pytest.mark.slow
def test_the_documented_cluster_takes_who_has_the_token_and_refuses_others_in_one_line(short):
    recipe = (ROOT / "docs" / "experiments.md").read_text().split("on one machine:\n\n")[1].split("\n\n")[0]
    assert "ray start --head " in recipe and "127.0.0.1:6379" in recipe
    port = str(cluster_port())
    recipe = (
        recipe.replace("6379", port)
        .replace("ray start --head ", f"ray start --head --block --port={port} --num-cpus=1 ")
        .replace("-stats\n", "-stats &\n")
    )
    code = (
        "import sys; from pipeline.errors import UserError; from pipeline.running import cluster\n"
        "try:\n"
        "    with cluster.session():\n"
        "        import ray; print(ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    home = Path(short, "home")
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    kept |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_TMPDIR": short}
    with subprocess.Popen(
        ["sh", "-ec", recipe + "\nwait"], cwd=ROOT, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as shell:
        try:
            deadline = time.monotonic() + 120
            while cluster._refusal("127.0.0.1", int(port)) and time.monotonic() < deadline:
                time.sleep(0.5)
            time.sleep(3)  # its raylet comes after its server
            assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
            head = psutil.Process(shell.pid)
            open_to = {
                connection.laddr.ip
                for process in head.children(recursive=True)
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
            assert open_to <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"} and open_to
            # another shell, which has the address alone
            joining = [
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    cwd=ROOT,
                    env=kept | {"RAY_ADDRESS": f"127.0.0.1:{port}"} | more,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for more in ({}, {"HOME": short})
            ]
            with_token, without = [process.communicate(timeout=240)[0] for process in joining]
        finally:
            cluster.kill_tree(shell.pid)
    assert with_token == "42\n"
    assert (
        without.startswith(
            f"RAY_ADDRESS = '127.0.0.1:{port}': the cluster wants its own token; set RAY_AUTH_MODE=token"
        )
        and without.count("\n") == 1
    )


def cluster_port() -> int:
    """A port that is free and below those that Ray gives its workers."""
    for port in range(6400, 7000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def test_a_silent_wait_says_what_it_waits_for(monkeypatch, capsys):
    monkeypatch.setattr(cluster, "SILENCE_SECONDS", 0.1)
    with cluster.waiting("predict") as heard:
        heard()
        time.sleep(1.5)
    assert capsys.readouterr().err.startswith("predict: nothing was finished for ")


def test_workers_that_die_one_after_the_other_end_the_wait_unless_something_is_finished(tmp_path):
    # the log is Ray's; the wait would be for ever
    code = (
        "import sys, time; from pathlib import Path; from pipeline.running import cluster\n"
        "log = Path('gcs_server.out')\n"
        "with cluster.waiting('predict') as heard:\n"
        "    for number in range(30):\n"
        "        with open(log, 'a') as file: print('W Reporting worker exit, low on memory', file=file)\n"
        "        time.sleep(0.6)\n"
        "        if number < 10: heard()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEAMBENCH_CPUS": "1", cluster.LOGS: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    line = "predict: 8 workers died one after the other, for lack of memory; lower inference.batch_size, or SEAMBENCH_CPUS for fewer workers at once\n"
    assert (done.returncode, done.stderr) == (1, line) and len(
        (tmp_path / "gcs_server.out").read_text().splitlines()
    ) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("server", ["raylet", "gcs_server"])
def test_a_join_that_hangs_ends_in_one_line(short, server):
    code = (
        "import os, psutil; from pipeline.running import cluster\n"
        "with cluster.Head() as head:\n"
        f"    next(one for one in psutil.Process(head.process.pid).children() if one.name() == {server!r}).suspend()\n"
        "    cluster.JOIN_SECONDS = 4\n"
        "    with cluster._joined(head.address, 'this head'):\n"
        "        pass\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAY_TMPDIR": short,
        "SEAMBENCH_CPUS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=300)
    assert (
        done.returncode == 1
        and done.stderr.splitlines()[-1]
        == "this head: it accepts connections, but joining it took more than 4 s; start again"
    )


@pytest.mark.slow
def test_inference_without_memory_enough_ends_in_one_line(short, tmp_path):
    # Ray takes 1% of the memory for too much, and ends each worker at once
    code = (
        "import functools; from pathlib import Path; from pipeline.networks import predictor; from pipeline.running import parallel\n"
        "parallel.pays = lambda done, count, passed: True\n"  # at once, though little work would stay in this process
        "from tests.pipeline.networks.test_predictor import Drawing; from tests.pipeline.tiny import Pictures\n"
        f"predictor.predict_all(Drawing, functools.partial(Pictures, 'p', 3), Path({str(tmp_path)!r}), batch_size=2, device='cpu', describe='predict')\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    kept |= {
        "RAY_TMPDIR": short,
        "SEAMBENCH_CPUS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_memory_usage_threshold": "0.01",
        "RAY_memory_monitor_refresh_ms": "200",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
        "for lack of memory; lower inference.batch_size, or SEAMBENCH_CPUS for fewer workers at once"
    )
