"""Where Ray runs: in a cluster named by RAY_ADDRESS, else in a head started on this machine for this process alone.

A head of our own listens on loopback only and lets nobody join without a token that is drawn for it. It is held by a
process of its own, so that whoever waits for it can give up: Ray's own calls can't be interrupted.

The environment, not params.yaml, says what the machine offers, because it must not change any result:

    RAY_ADDRESS        address of a running cluster; unset: a head of our own
    RAY_TMPDIR         folder for the sockets and logs of a head of our own; unset: TMPDIR, else /tmp
    SEAMBENCH_CPUS     cores a head of our own may use, and within a cluster a stage; unset: all that there are
    SEAMBENCH_GPU_WORKERS  workers that a stage may have on the GPUs at once; unset: as many as they hold
    SEAMBENCH_GPU_SHARE    part of a GPU that a worker takes, above 0 and at most 1; unset: 1, a GPU for itself
    SEAMBENCH_RAY      "off": no Ray at all, the same work by plain processes of this machine; unset or "on": Ray once it
                       pays; "always": Ray from the first image on, so that a login node does none of the work

To a cluster that RAY_ADDRESS names this code is shipped, so its other nodes need Python's packages and no copy of it.
What is read and written they must see: the project's data, artifacts, results and .runs under the same paths.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import functools
import importlib.metadata
import ipaddress
import json
import logging
import math
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil

from pipeline.errors import ParameterError, UserError
from pipeline.logs import LOG

START_SECONDS = 120.0
"""How long a head may take to start before it is tried again, once. It takes 3 to 5 seconds on an idle machine."""

JOIN_SECONDS = 120.0
"""How long joining a cluster may take. It takes less than a second."""

STOP_SECONDS = 15.0
"""How long a head may take to end in an orderly way before its processes are killed."""

SPEAK_SECONDS = 15.0
"""Seconds between the lines that say what is waited for."""

OOM_RETRIES = 3
"""How often a task is run again that Ray ended for lack of memory; Ray by itself would try for ever."""

LESS_MEMORY = "lower inference.batch_size, or SEAMBENCH_CPUS for fewer workers at once"

SILENCE_SECONDS = 60.0
"""Seconds without anything finished after which a line says what is waited for."""

LOGS = "SEAMBENCH_RAY_LOGS"
"""Environment variable that names the folder of the logs of a head of our own."""

SHIPPED = ("commands", "models", "pipeline", "stages")
"""Packages that workers import: a cluster elsewhere gets them from here."""

SEEN = ("data", "artifacts", "results", ".runs")
"""Folders of a project that workers read and write."""

FORWARDED = ("GOMP_SPINCOUNT", "PYTHONHASHSEED")
"""Variables of the environment that workers elsewhere get beside the SEAMBENCH_ ones."""

SCRATCH = "seambench-ray-"
ROOT = Path(__file__).resolve().parents[__spec__.name.count(".")]

# Ray reads these when it is imported or when its workers start
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@functools.cache
def _token() -> str:
    return secrets.token_hex(32)


def _environment_of_our_own() -> dict[str, str]:
    """What a head of our own, its workers and those who join it need in their environment.

    The first entry is Ray's switch for machines that can't form a cluster with others: every process then takes the
    loopback address for its own. `_node_ip_address="127.0.0.1"` doesn't do it, as Ray turns that back into the address
    on the network. The token goes through the environment, which no other user of the machine can read.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token(),
        "RAY_task_oom_retries": str(OOM_RETRIES),
    }


def _environment_of(address: str) -> dict[str, str]:
    """What joining a running cluster needs beyond what the environment says already.

    A token is shown where there is one, as `ray start` takes one where there is one. A cluster that runs on loopback
    alone is joined as such.
    """
    wanted = {}
    if "RAY_AUTH_MODE" not in os.environ:
        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))
        wanted["RAY_AUTH_MODE"] = (
            "token" if os.environ.get("RAY_AUTH_TOKEN") or os.access(file, os.R_OK) else "disabled"
        )
    host, port = _host_and_port(address)
    if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ and port and _is_loopback(host):
        outside = _outside_address()
        if outside and _refusal(host, port) is None and _refusal(outside, port) is not None:
            wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return wanted


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Host and port of an address; no port for a word such as "auto", which Ray resolves."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _outside_address() -> str | None:
    """This machine's address on the network, if it is on one. Nothing is sent: a datagram socket is only routed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def _refusal(host: str, port: int) -> str | None:
    """Why nothing answers at this address, or None when something does."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


# before anything imports ray, which reads it then; a worker has been told by its node
if not ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
    os.environ.update(
        _environment_of(os.environ["RAY_ADDRESS"]) if os.environ.get("RAY_ADDRESS") else _environment_of_our_own()
    )


def cpus() -> int:
    """Cores that a head of our own may use."""
    wanted = os.environ.get("SEAMBENCH_CPUS")
    if wanted is None:
        return len(os.sched_getaffinity(0))
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ParameterError(f"SEAMBENCH_CPUS = {wanted!r}: expected a number of cores, 1 or more")
    return int(wanted)


def cores() -> int:
    """Cores that a stage may use in the running cluster. Call it inside a `session`."""
    import ray

    there = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    return min(there, cpus()) if "SEAMBENCH_CPUS" in os.environ else there


def gpu_share() -> float:
    """Part of a GPU that a worker takes, so that several networks may share one."""
    wanted = os.environ.get("SEAMBENCH_GPU_SHARE", "1")
    try:
        share = float(wanted)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ParameterError(f"SEAMBENCH_GPU_SHARE = {wanted!r}: expected a number above 0 and at most 1")
    return share


def plain() -> bool:
    """Whether the environment asks to do without Ray."""
    return _wanted() == "off"


def always() -> bool:
    """Whether the environment asks to hand all work to Ray at once, also where that takes longer."""
    return _wanted() == "always"


def _wanted() -> str:
    wanted = os.environ.get("SEAMBENCH_RAY", "on")
    if wanted not in ("on", "off", "always"):
        raise ParameterError(f"SEAMBENCH_RAY = {wanted!r}: expected on, off or always")
    return wanted


def elsewhere() -> bool:
    """Whether work goes to a cluster that somebody else started, whose nodes may be other machines."""
    return bool(os.environ.get("RAY_ADDRESS")) and LOGS not in os.environ and not plain()


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Ray, for as long as the block lasts. Inside another session nothing more is started.

    Raises UserError when RAY_ADDRESS names a cluster that doesn't answer or wants another token, or when no head
    starts. A cluster that accepts a connection and then doesn't go on ends the process with one line and exit code 1.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():  # else the environment below comes first
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        called = f"RAY_ADDRESS = {address!r}"
        with _joined(address, called, _shipped() if elsewhere() else None):
            if elsewhere():
                _require_nodes(called)
            yield
        return
    os.environ.update(_environment_of_our_own())
    with Head() as head, head.watched(), _joined(head.address, "Ray's head"):
        os.environ[LOGS] = head.environment[LOGS]
        try:
            yield
        finally:
            del os.environ[LOGS]


def _shipped() -> dict:
    """Ray's runtime environment of workers elsewhere: this code, which Ray keeps by its hash, and what the environment says
    about the work. Data are not shipped: all that is no package of code is left out."""
    others = [f"/{entry.name}" for entry in ROOT.iterdir() if entry.name not in SHIPPED]
    about_here = (LOGS, "SEAMBENCH_DRIVER")
    told = {
        name: value
        for name, value in os.environ.items()
        if name in FORWARDED or (name.startswith("SEAMBENCH_") and name not in about_here)
    }
    # a worker has one thread unless it sets more itself, whatever the nodes' environments say: sums depend on it
    return {"working_dir": str(ROOT), "excludes": [*others, "__pycache__"], "env_vars": told | {"OMP_NUM_THREADS": "1"}}


@contextlib.contextmanager
def _joined(address: str, called: str, shipped: dict | None = None) -> Iterator[None]:
    host, port = _host_and_port(address)
    if port and (refusal := _refusal(host, port)):  # Ray would try again for minutes
        raise UserError(f"{called}: no Ray cluster answers there ({refusal})")
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    with (
        _at_most(
            JOIN_SECONDS,
            f"{called}: it accepts connections, but joining it took more than {JOIN_SECONDS:.0f} s; start again",
        ),
        _muted() as said,
    ):
        try:
            # what workers print stays in Ray's log files: errors are raised here anyway, and Ray Train alone prints
            # dozens of lines about itself. So do Ray's libraries below Python in this process, which call it an error that
            # an actor of Ray Data has arguments.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            ray.init(
                address=address,
                logging_level=logging.WARNING,
                log_to_driver=False,
                configure_logging=True,
                runtime_env=shipped,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if (
                isinstance(error, ray.exceptions.AuthenticationError)
                or b"InvalidAuthToken" in Path(said.name).read_bytes()
            ):
                why = "the cluster wants its own token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
            else:
                why = f"no Ray cluster answers there ({' '.join(str(error).split())})"
            raise UserError(f"{called}: {why}") from None
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a stack of its libraries; a killed stage just ends, and its workers with it
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except ray.exceptions.OutOfMemoryError:
        raise UserError(f"a worker was ended {1 + OOM_RETRIES} times for lack of memory; {LESS_MEMORY}") from None
    finally:
        with _at_most(STOP_SECONDS, f"{called}: leaving it took more than {STOP_SECONDS:.0f} s; start again"):
            ray.shutdown()


_standard_error = 2


def _require_nodes(called: str) -> None:
    """Refuse a cluster one of whose other nodes doesn't see the project's files, or has another torch: whatever ran there
    would fail again and again, or end with other numbers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return

    @ray.remote(num_cpus=0, max_retries=0)
    def tell(files: list[str]) -> tuple[str, list[bool]]:
        import importlib.metadata

        try:
            version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            version = "no torch"
        return version, [os.path.exists(file) for file in files]

    with _probes() as probes:
        answers = [
            tell.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                [str(file) for file in probes]
            )
            for node in others
        ]
        for node, answer in zip(others, answers):
            name = node["NodeManagerAddress"]
            try:
                version, seen = ray.get(answer, timeout=JOIN_SECONDS)
            except ray.exceptions.RayError as error:
                if not any(other["Alive"] for other in ray.nodes() if other["NodeID"] == node["NodeID"]):
                    continue  # it died meanwhile, and nothing will be placed there
                raise UserError(
                    f"{called}: its node {name} runs no task ({str(error).strip().splitlines()[-1]})"
                ) from None
            if not all(seen):
                unseen = ", ".join(str(file.parent) for file, there in zip(probes, seen) if not there)
                raise UserError(
                    f"{called}: its node {name} doesn't see {unseen}; mount it there under the same path (code is shipped, files aren't)"
                )
            if version != (ours := importlib.metadata.version("torch")):
                raise UserError(f"{called}: its node {name} has torch {version}, and this machine {ours}")


@contextlib.contextmanager
def _probes() -> Iterator[list[Path]]:
    """A file in each of the project's folders that workers use, for as long as the block lasts."""
    project = Path(os.environ.get("DVC_ROOT", ".")).absolute()
    name = f".seen-{secrets.token_hex(8)}"
    (project / ".runs").mkdir(exist_ok=True)
    probes = [project / folder / name for folder in SEEN if (project / folder).is_dir()]
    try:
        for file in probes:
            file.touch()
        yield probes
    finally:
        for file in probes:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Attend to a wait for Ray's workers; yields a function to call whenever one of them has finished something.

    When nothing is finished for long, a line says so now and then. When the workers of a head of our own die again and again
    and nothing is finished meanwhile, one line and exit code 1 end the process: Ray Data would try for ever.
    """
    over = threading.Event()
    heard = spoken = time.monotonic()
    limit = 2 * (1 + OOM_RETRIES) * min(cpus(), 8)  # where Ray counts by itself, as for plain tasks, it comes first
    deaths, _ = _deaths()

    def hear() -> None:
        nonlocal heard
        heard = time.monotonic()

    def attend() -> None:
        nonlocal spoken, deaths
        since = heard
        while not over.wait(0.5):
            if heard != since:
                since, spoken, deaths = heard, heard, _deaths()[0]
                continue
            died, for_memory = _deaths()
            if died - deaths >= limit:
                why = "for lack of memory" if for_memory else "perhaps for lack of memory"
                _end(f"{what}: {died - deaths} workers died one after the other, {why}; {LESS_MEMORY}")
            if time.monotonic() - spoken > SILENCE_SECONDS:
                spoken = time.monotonic()
                LOG.info(f"{what}: nothing was finished for {spoken - heard:.0f} s; waiting for Ray's workers")

    thread = threading.Thread(target=attend, daemon=True)
    thread.start()
    try:
        yield hear
    finally:
        over.set()
        thread.join()


def _deaths() -> tuple[int, bool]:
    """How many workers of a head of our own have died unasked so far, and whether Ray ended some for lack of memory. Ray has
    no call that tells; its server notes each in its log."""
    with contextlib.suppress(KeyError, OSError):
        log = Path(os.environ[LOGS], "gcs_server.out").read_text(errors="replace")
        lines = [line for line in log.splitlines() if "Reporting worker exit" in line]
        return len(lines), any("low on memory" in line for line in lines)
    return 0, False


@contextlib.contextmanager
def _muted() -> Iterator[IO[bytes]]:
    """Turn standard error into a file while the block lasts: Ray's libraries repeat themselves there, past Python."""
    global _standard_error
    sys.stderr.flush()
    with tempfile.NamedTemporaryFile() as said:
        _standard_error = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(_standard_error, 2)
            os.close(_standard_error)
            _standard_error = 2


# reads standard input, which ends when the other process lets go of it or is gone
_WATCH = "import select, sys; select.select([0], [], [], float(sys.argv[1]))[0] or print(sys.argv[2], file=sys.stderr)"


@contextlib.contextmanager
def _at_most(seconds: float, line: str) -> Iterator[None]:
    """End the process with a line and exit code 1 if the block takes longer: a call into Ray can't be interrupted.

    While Ray registers a process it keeps the interpreter's lock, so no thread of Python's gets to run: another process says
    the line, and faulthandler's timer, which is no such thread, ends this one.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), line], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds + 2, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            assert watcher.stdin is not None  # a pipe was asked for
            watcher.stdin.close()
            watcher.wait()


def _end(line: str) -> None:
    sys.stdout.flush()
    os.write(_standard_error, f"{line}\n".encode())
    os._exit(1)


def gpus() -> int:
    """GPUs of the running cluster. Call it inside a `session`."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def gpu_workers() -> int:
    """Workers that a stage may have on the running cluster's GPUs at once. Call it inside a `session`."""
    there = int(gpus() / gpu_share())
    return min(there, int(os.environ.get("SEAMBENCH_GPU_WORKERS", there)))


def require_gpus(count: int) -> None:
    """Refuse in words what Ray would wait for without end: more GPUs than the running cluster has."""
    there = gpus()
    if there < count:
        raise UserError(
            f"training.device = 'gpu' needs {count} GPU(s) and this Ray cluster has {there}; set training.device: cpu, or start Ray where the GPUs are"
        )


def require_cpus(workers: int, each: int) -> None:
    """Refuse in words what Ray would wait for without end: more workers, or larger ones, than the running cluster's nodes
    have CPUs for."""
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if (there := sum(cpus // each for cpus in nodes)) < workers:
        what = f"training.workers = {workers}" if each == 1 else f"training.threads = {each}"
        raise UserError(
            f"{what}: the nodes of this Ray cluster have {', '.join(map(str, nodes))} CPU(s), enough for {there} of {workers} worker(s); lower it, or add nodes"
        )


class Head:
    """A Ray head on this machine's loopback, held by a process of its own; a context manager.

    The holding process has a session of its own, so that a terminal's Ctrl-C doesn't reach it: what uses Ray ends first.
    It takes Ray down when it is told to, when the process that started it is gone, and when one of Ray's own servers is.
    `should_stop` is asked while the head starts, and ends the start with an InterruptedError.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False):
        self.should_stop = should_stop
        self.address = ""
        self._said = b""
        self._reason: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a command that joins the head has in its environment beside this process's own."""
        return {"RAY_ADDRESS": self.address, LOGS: str(self.folder / "r" / "session_latest" / "logs")}

    def __enter__(self) -> "Head":
        cores = cpus()
        for attempt in (1, 2):
            folder = _scratch_folder()
            self._launch(cores, folder)
            try:
                if (failure := self._await_start()) is None:
                    return self
            except BaseException:
                self._kill()
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._kill()
            if attempt == 1:
                LOG.warning(f"Ray's head didn't start ({failure}); trying once more")
        raise UserError(f"Ray's head didn't start, twice ({failure}); its logs are in {folder}")

    def __exit__(self, *failure) -> None:
        self.stop()

    def _launch(self, cores: int, folder: Path) -> None:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {__spec__.name} import hold_head; hold_head({cores}, {str(folder)!r})"
        environment = os.environ | _environment_of_our_own() | {"RAY_ADDRESS": "local"}
        self.folder, self._said, self._reason = folder, b"", None
        with open(folder / "head.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None  # pipes were asked for
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def _await_start(self) -> str | None:
        """None when the head has started, else why it hasn't."""
        started = spoken = time.monotonic()
        while True:
            select.select([self._stdout], [], [], 0.1)
            if said := self._next_line():
                self.address = said.get("address", "")
                return said.get("failure")
            if self.should_stop():
                raise InterruptedError
            now = time.monotonic()
            if self.process.poll() is not None:
                return f"its process ended with exit code {self.process.returncode}"
            if now - started > START_SECONDS:
                return f"it took more than {START_SECONDS:.0f} s"
            if now - spoken > SPEAK_SECONDS:
                spoken = now
                LOG.info(f"waiting for Ray's head to start: {now - started:.0f} s")

    def _next_line(self) -> dict | None:
        self._said += self._stdout.read() or b""
        line, newline, rest = self._said.partition(b"\n")
        if not newline:
            return None
        self._said = rest
        return json.loads(line)

    def ended(self) -> str | None:
        """Why the head is no more, in words; None while it lives."""
        if self._reason is None:
            if said := self._next_line():
                self._reason = said["failure"]
            elif self.process.poll() is not None:
                self._reason = "the process that held it ended"
        return self._reason

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """End this process with one line if the head ends while the block lasts: Ray's calls would wait for it."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                if reason := self.ended():
                    _end(
                        f"Ray's head ended ({reason}); start again, and finished work is kept; its logs are in {self.folder}"
                    )

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def stop(self, at_once: bool = False) -> None:
        """Take the head down; with `at_once` by killing its processes. None of them is left."""
        failed = self._reason is not None
        with contextlib.suppress(OSError):
            self._stdin.write(b"kill\n" if at_once else b"stop\n")
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self._kill()
        if not failed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        kill_tree(self.process.pid, itself=self.process.poll() is None)
        self.process.wait()
        self._stdout.close()
        with contextlib.suppress(OSError):
            self._stdin.close()


def _scratch_folder() -> Path:
    """A new folder for a head's sockets and logs, which no other user of the machine can enter. Those that killed
    processes have left are removed.

    Raises UserError when RAY_TMPDIR can't be it.
    """
    named = os.environ.get("RAY_TMPDIR")
    # the longest path in it is Ray's session_<date>_<microseconds>_<pid>/sockets/plasma_store
    tail = len(f"/{SCRATCH}12345678/r/session_2000-01-01_00-00-00_000000_1234567/sockets/plasma_store")
    longest = (103 if sys.platform == "darwin" else 107) - tail
    for root in [Path(named)] if named else [Path(tempfile.gettempdir()), Path("/tmp")]:
        root, failure = root.absolute(), None
        if len(os.fsencode(root)) > longest:
            failure = f"its path has {len(os.fsencode(root))} bytes, and {longest} are left for it in the names of Ray's sockets; name a shorter one"
        else:
            try:
                root.mkdir(parents=True, exist_ok=True)
                _remove_left_over(root)
                folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=root))
                (folder / "lock").touch()
                return folder
            except OSError as error:
                failure = error.strerror
    raise UserError(f"{'RAY_TMPDIR' if named else 'the folder for temporary files'} = {_short(str(root))}: {failure}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:100]}...{text[-97:]}")


def _remove_left_over(root: Path) -> None:
    for folder in root.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < 2 * START_SECONDS:
                continue  # a head may be about to take it
            with open(folder / "lock", "a") as lock:  # made anew where a removal was cut short
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a head is held there
                shutil.rmtree(folder, ignore_errors=True)


def hold_head(cores: int, folder: str) -> None:
    """What the process that holds a head does. On standard input it is told "stop" or "kill"; on standard output it says
    one JSON object a line: {"address": ...} once, {"failure": ...} when something ended that shouldn't."""
    adopt_orphans()
    lock = open(Path(folder, "lock"), "w")  # noqa: SIM115, held until this process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints goes to the log
    del os.environ["RAY_ADDRESS"]
    stopping, owner = threading.Event(), os.getppid()

    def say(**fields: str) -> None:
        with contextlib.suppress(OSError):
            print(json.dumps(fields), file=talk, flush=True)

    def end(code: int, keep_logs: bool = False) -> None:
        kill_tree(os.getpid(), itself=False)
        if not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(code)

    def listen() -> None:  # in a thread, because Ray's calls may not return
        while os.getppid() == owner:
            if select.select([0], [], [], 0.5)[0]:
                if os.read(0, 5).startswith(b"stop"):
                    stopping.set()
                    time.sleep(STOP_SECONDS)
                break
        end(0)

    threading.Thread(target=listen, daemon=True).start()
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _temp_dir=str(Path(folder, "r")),
        )
    except Exception as error:
        say(failure=" ".join(str(error).split())[:500])
        end(1, keep_logs=True)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # who started this process has them too, and says when it is time
    address = ray.get_runtime_context().gcs_address
    if not _is_loopback(_host_and_port(address)[0]):
        say(failure=f"it listens on {address}, not on loopback alone")
        end(1, keep_logs=True)
    servers = {child.name(): child for child in psutil.Process().children() if child.name() in ("gcs_server", "raylet")}
    say(address=address)
    while not stopping.wait(0.3):
        for name, server in servers.items():
            if not is_alive(server):
                say(failure=f"its {name} was killed")
                end(1, keep_logs=True)
    ray.shutdown()
    end(0)


def adopt_orphans() -> None:
    """Make this process the parent of those of its descendants whose own parent dies, so that it can find them (Linux;
    elsewhere nothing)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and isn't waited for yet doesn't."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill_tree(pid: int, itself: bool = True) -> None:
    """Kill all descendants of a process, and with `itself` the process, and wait until they are gone."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for _ in range(10):  # what is killed may have had children that weren't there yet
        with contextlib.suppress(psutil.Error):
            tree = [process for process in root.children(recursive=True) if is_alive(process)]
            if itself and is_alive(root):
                tree.append(root)
            if not tree:
                return
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(tree, timeout=1)
