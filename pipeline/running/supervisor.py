"""A command under one Ray head, which is started before it and taken down after it, whatever ends it.

    python -m commands.cluster COMMAND [ARGUMENT ...]

runs the command with RAY_ADDRESS pointing at a head of its own: a whole `dvc repro` then pays for one start. With
RAY_ADDRESS set, the command runs in that cluster.

SIGINT, SIGTERM and SIGHUP are passed on to the command and all that it started, which end in their own way; then the
head is taken down, and the exit code is 128 + the signal's number. A second signal ends everything at once.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import atomic, logs
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.running import cluster

GRACE_SECONDS = 25.0
"""How long a command may take to end after SIGTERM or SIGHUP before it is killed; Slurm itself kills after 30."""

SAME_SIGNAL_SECONDS = 1.0
"""Signals that come within this time are one: `timeout`, make and batch systems send theirs to the group and to each."""

DVC_SECONDS = 5.0
"""How long DVC may take to notice that its stage has ended."""


def main() -> None:
    command = sys.argv[1:]
    level = {"-v": "verbose", "-q": "quiet"}.get(command[0]) if command else None
    logs.configure(level)
    command = command[1:] if level is not None else command
    if not command:
        print("usage: python -m commands.cluster [-v | -q] COMMAND [ARGUMENT ...]", file=sys.stderr)
        sys.exit(2)
    cluster.adopt_orphans()
    try:
        if Path(command[0]).name == "dvc":
            mend_dvc_locks(Path.cwd())
        with Signals() as signals:
            code = _run(command, signals)
    except UserError as error:
        LOG.error(error)
        code = error.exit_code
    sys.exit(code)


class Signals:
    """Notes the signals that ask a process to end, while the block lasts. One that is ignored already (nohup) stays so."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.again = False
        self._at = 0.0
        self._before: dict = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *failure) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._at = number, now
        elif now - self._at > SAME_SIGNAL_SECONDS:
            self.again = True

    def seconds(self) -> float:
        """Time since the first signal."""
        return time.monotonic() - self._at


def _run(command: list[str], signals: Signals) -> int:
    with under_head(not os.environ.get("RAY_ADDRESS"), signals) as head:
        if signals.number is not None:
            return told_to_end(signals.number)
        return supervise(command, os.environ | (head.environment if head else {}), head, signals)


@contextlib.contextmanager
def under_head(wanted: bool, signals: Signals) -> Iterator[cluster.Head | None]:
    """A Ray head for as long as the block lasts; None where none is wanted, where RAY_ADDRESS names a cluster, and where a
    signal came before it had started."""
    if not wanted or os.environ.get("RAY_ADDRESS"):
        yield None
        return
    head = cluster.Head(should_stop=lambda: signals.number is not None)
    try:
        head.__enter__()
    except InterruptedError:
        yield None
        return
    try:
        yield head
    finally:
        head.stop(at_once=signals.again)


def supervise(command: list[str], environment: dict[str, str], head: cluster.Head | None, signals: Signals) -> int:
    """Run a command; its exit code as a shell gives it: 127 without such a command, 128 + n when signal n ended it or us.

    Raises UserError when the head ends before the command does.
    """
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        LOG.error(f"{command[0]}: {error.strerror}")
        return 127
    passed_on: PassedOn | None = None
    failure = None
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
        if failure is None and signals.number is None and head is not None and process.poll() is None:
            failure = head.ended()
        if signals.number is not None or failure is not None:
            if passed_on is None:
                passed_on = PassedOn(process.pid, signal.SIGTERM if signals.number is None else signals.number)
            if signals.again or passed_on.overdue():
                cluster.kill_tree(process.pid)
                process.wait()
                break
            passed_on.go_on()
    if process.returncode < 0 or passed_on is not None:
        # what the command had started and left behind is ours now
        for orphan in psutil.Process().children():
            if head is None or orphan.pid != head.process.pid:
                cluster.kill_tree(orphan.pid)
    if signals.number is not None:
        return told_to_end(signals.number)
    if failure is not None and head is not None:
        raise UserError(
            f"Ray's head ended ({failure}); start again, and finished work is kept; its logs are in {head.folder}"
        )
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def told_to_end(number: int) -> int:
    LOG.error(f"ended by {signal.Signals(number).name}; finished work is kept")
    return 128 + number


class PassedOn:
    """A signal on its way to a command and its descendants.

    DVC gets none while a stage of its runs: the stage gets it, and DVC ends by itself when the stage has. In between it
    gets SIGINT, upon which it lets go of its locks; SIGTERM would cut it off while it writes them. A DVC that was told
    to keep going begins another stage instead. While it waits for that one it writes nothing and hears no SIGINT, and
    SIGTERM ends it.
    """

    def __init__(self, command: int, number: int):
        self.command, self.number, self.started = command, number, time.monotonic()
        self.by_terminal = number == signal.SIGINT and _in_the_foreground()
        self.wait = 2 * SAME_SIGNAL_SECONDS if number == signal.SIGINT and not self.by_terminal else 0.0
        self.told: set[psutil.Process] = set()
        self.sent = False
        self.wait_for_dvc: float | None = None
        """Seconds after the first signal; None once DVC was told."""

    def go_on(self) -> None:
        passed = time.monotonic() - self.started
        if passed < self.wait:
            return
        dvc, others = self._descendants()
        if not self.sent:
            self.sent = True
            if self.by_terminal:  # which has sent it to all of these, and to DVC
                self.told.update(others)
            else:
                self._tell(others)
                self.wait_for_dvc = passed + (DVC_SECONDS if others else 0.0)
        elif further := self._further_stages(dvc):
            self.wait_for_dvc = None
            _send(signal.SIGTERM, dvc)
            self._tell(further)
        elif self.wait_for_dvc is not None and passed >= self.wait_for_dvc:
            self.wait_for_dvc = None
            _send(signal.SIGINT, dvc)

    def overdue(self) -> bool:
        return self.number != signal.SIGINT and time.monotonic() - self.started > GRACE_SECONDS

    def _tell(self, processes: list[psutil.Process]) -> None:
        self.told.update(processes)
        _send(self.number, processes)

    def _descendants(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The command and what it started: DVC, and everything else."""
        dvc: list[psutil.Process] = []
        others: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.command)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    (dvc if is_dvc(process) else others).append(process)
        return dvc, others

    def _further_stages(self, dvc: list[psutil.Process]) -> list[psutil.Process]:
        """What DVC has started since the signal, with all that belongs to it."""
        further: list[psutil.Process] = []
        for parent in dvc:
            with contextlib.suppress(psutil.Error):
                for child in parent.children():
                    if child not in self.told and not is_dvc(child):
                        further += [child, *child.children(recursive=True)]
        return further


def _send(number: int, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _in_the_foreground() -> bool:
    with contextlib.suppress(OSError), open("/dev/tty") as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is DVC's command line, started by its script or as a module."""
    words = process.cmdline()[:3]
    return any(Path(word).name == "dvc" for word in words[:2]) or words[1:] == ["-m", "dvc"]


def mend_dvc_locks(folder: Path) -> None:
    """Mend what a killed dvc left and what would make DVC ask for a hand: its file of busy paths, where that is unreadable or
    names a process number that another program has now, is set aside; a dvc.lock that ends in the middle loses its last stage.
    Does nothing where all is well.

    Raises UserError when one of them is unreadable and a dvc of this project still runs.
    """
    project = _project(folder)
    if project is None:
        return
    _mend_busy_paths(project)
    for lock in (project / "dvc.lock", project / "models" / "dvc.lock"):
        if lock.is_file():
            _mend_cut_lock(lock, project)


def _mend_busy_paths(project: Path) -> None:
    file = project / ".dvc" / "tmp" / "rwlock"
    if not file.exists():
        return
    with open(file.with_name("rwlock.lock"), "a") as guard:
        with contextlib.suppress(OSError):
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)  # zc.lockfile's, which DVC holds while it writes the file
            marks = _marks(file)
            if marks is not None and not any(psutil.pid_exists(pid) for pid in marks):
                return  # DVC removes marks of processes that are gone
            running = _dvc_in(project)
            if marks is None and running:
                raise _still_running(file, running)
            if marks is not None and (running or any(_project_of(pid) == project for pid in marks)):
                return  # one that is alive; what it has to say is DVC's matter
            aside = file.with_name("rwlock.set-aside")
            os.replace(file, aside)
            why = "can't be read" if marks is None else "names processes that are not of this project"
            LOG.warning(f"{_shown(file)} {why}: a dvc that was killed left it; set aside as {_shown(aside)}")


def _mend_cut_lock(lock: Path, project: Path) -> None:
    """DVC writes these files from top to bottom into their place: killed in between, it leaves a part that it then refuses."""
    text = lock.read_text(errors="replace")
    whole = _whole_stages(text)
    if text and whole == len(text):  # an empty file is cut too: DVC misses its first line
        return
    if running := _dvc_in(project):
        raise _still_running(lock, running)
    aside = project / ".dvc" / "tmp" / f"{lock.relative_to(project).as_posix().replace('/', '-')}.set-aside"
    with atomic.file(aside) as copy:
        copy.write_text(text)
    if whole:
        with atomic.file(lock) as kept:
            kept.write_text(text[:whole])
    else:
        lock.unlink()
    LOG.warning(
        f"{_shown(lock)} ends in the middle: a dvc that was killed left it; set aside as {_shown(aside)}, and what it no longer "
        "records is taken from DVC's cache"
    )


_LOCK_HEAD = "schema: '2.0'\nstages:\n"


def _whole_stages(text: str) -> int:
    """How many characters of a dvc.lock hold whole stages: all of them, unless it was cut. Stages are read as YAML from
    the last one backwards, up to a whole one: those before it were followed by another (and reading them takes seconds).

    What is no beginning of a file in the form in which DVC writes it (a merge's marks, a section of another kind, other
    line ends) counts as whole: it wasn't cut, and what is to be said of it is DVC's matter.
    """
    if not text.startswith(_LOCK_HEAD):
        return 0 if _LOCK_HEAD.startswith(text) else len(text)
    if re.search(r"^\S", text[len(_LOCK_HEAD) :], re.MULTILINE):
        return len(text)
    stages = [entry.start() for entry in re.finditer(r"^(?:  [^ \n]| {1,2}\Z)", text, re.MULTILINE)]
    for start, end in zip(reversed(stages), [len(text), *reversed(stages)]):
        if text[:end].endswith("\n") and _is_stage(text[start:end]):
            return end
    return 0


def _is_stage(text: str) -> bool:
    """Whether this is one whole entry of a dvc.lock, in the form in which DVC wants it."""
    try:
        (entry,) = YAML(typ="safe", pure=True).load(text).values()
        listed = [*entry.get("deps", []), *entry.get("outs", [])]
        recorded = entry.get("params", {}).values()
    except (YAMLError, AttributeError, TypeError, ValueError):
        return False
    return (
        isinstance(entry.get("cmd"), (str, list))
        and all(isinstance(values, dict) for values in recorded)
        and all(isinstance(item, dict) and isinstance(item.get("path"), str) for item in listed)
        and all(isinstance(item.get("md5", ""), str) for item in listed)
    )


def _still_running(file: Path, pid: int) -> UserError:
    return UserError(
        f"{_shown(file)} can't be read, and a dvc still runs in this project (PID {pid}); end it, or wait until it has"
    )


def _shown(file: Path) -> str:
    return os.path.relpath(file)


def _marks(file: Path) -> list[int] | None:
    """Numbers of the processes that the file says are reading or writing; None if it can't be read."""
    try:
        content = json.loads(file.read_bytes())
        writers = list(content.get("write", {}).values())
        readers = [mark for marks in content.get("read", {}).values() for mark in marks]
        return [int(mark["pid"]) for mark in writers + readers]
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _project(folder: Path) -> Path | None:
    return next((place for place in [folder, *folder.parents] if (place / ".dvc").is_dir()), None)


def _project_of(pid: int) -> Path | None:
    """DVC project in which a process runs."""
    with contextlib.suppress(psutil.Error):
        return _project(Path(psutil.Process(pid).cwd()))
    return None


def _dvc_in(project: Path) -> int | None:
    """Number of a dvc that runs in this project."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and is_dvc(process) and _project_of(process.pid) == project:
                return process.pid
    return None
