"""How a run ends when it is told to, when the disk is full and when memory runs out: exit code and last lines of each.

    python -m benchmarks.ends
    python -m benchmarks.ends --small-disk /mnt/small
    python -m benchmarks.ends --only memory

The tiny project of the end-to-end test begins in an empty workspace and is ended on its way. Then it is started again, with
room enough and nobody disturbing it, and has to end with the tables of an undisturbed run.

--small-disk: an empty file system of some 300 MB (as root: `mount -t tmpfs -o size=300m tmpfs /mnt/small`). The project lies on
    it, beside a file that leaves it less room with each attempt. Without it, the full disk is left out.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.kills import stage_of, tables
from tests.test_end_to_end import environment, project

PARTS = ("signals", "memory", "disk")
COMMAND = [sys.executable, "-m", "commands.repro"]
ROOMS = (1, 4, 8, 12, 16, 24)
"""Megabytes that are free when a run on the small disk begins."""

NO_MEMORY = {
    "RAY_memory_usage_threshold": "0.01",
    "RAY_memory_monitor_refresh_ms": "200",
    "SEAMBENCH_RAY": "always",
}
"""Ray does all work, takes 1% of the machine's memory for too much, and ends each of its workers at once."""
SIGNALS = {
    "Ctrl-C": (signal.SIGINT,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
}
SECOND = 1.0
"""Seconds between a signal and the second one."""


def start(folder: Path, **more: str) -> subprocess.Popen:
    with open(folder / "run.log", "w") as log:
        return subprocess.Popen(
            COMMAND,
            cwd=folder,
            env=environment(SEAMBENCH_CPUS="2", **more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def last_lines(folder: Path) -> str:
    """What is said at the end: the stage's own last line stands before DVC's."""
    return " | ".join(line[:240] for line in (folder / "run.log").read_text(errors="replace").strip().splitlines()[-2:])


def signalled(folder: Path, *numbers: signal.Signals) -> int:
    """The exit code of a run that gets these signals, a second apart, once a network trains."""
    process = start(folder)
    while process.poll() is None and not stage_of(folder).startswith("train"):
        time.sleep(0.2)
    time.sleep(2 * SECOND)
    for number in numbers:
        process.send_signal(number)
        time.sleep(SECOND)
    return process.wait()


def said_once(folder: Path, line: str) -> str:
    """How often a traceback stands in the log beside that line: 'one line' where none does. Such a log is kept."""
    tracebacks = (folder / "run.log").read_text(errors="replace").count("Traceback (most recent call last)")
    if line and not tracebacks:
        return "one line"
    kept = Path(tempfile.mkdtemp(prefix="seambench-ends-log-")) / "run.log"
    shutil.copy(folder / "run.log", kept)
    return f"{tracebacks} tracebacks ({kept})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small-disk", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these endings")
    given = parser.parse_args()
    # a shell without job control starts background commands with Ctrl-C ignored, which every program below would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wrong = []
    with tempfile.TemporaryDirectory(prefix="seambench-ends-") as root:
        expected: dict[str, str] = {}

        def attempt(name: str, folder: Path, end: Callable[[], int], mend: Callable[[], None] = lambda: None) -> None:
            code = end()
            lines, stage = last_lines(folder), stage_of(folder)
            print(f"{name}: exit {code} in {stage}, {said_once(folder, lines)}: {lines}", flush=True)
            mend()
            again = start(folder).wait()
            if again or (expected and tables(folder) != expected):
                wrong.append(f"{name}: the start after it ended with {again}: {last_lines(folder)}")
            expected.update(tables(folder) if not expected else {})

        for name, numbers in SIGNALS.items() if "signals" in given.only else ():
            folder = project(Path(root, name.replace(" ", "-")))
            attempt(name, folder, lambda folder=folder, numbers=numbers: signalled(folder, *numbers))
        if "memory" in given.only:
            folder = project(Path(root, "memory"))
            attempt("too little memory", folder, lambda: start(folder, **NO_MEMORY).wait())
        for room in ROOMS if given.small_disk and "disk" in given.only else ():
            folder = project(given.small_disk / "project")
            ballast = given.small_disk / "ballast"
            free = shutil.disk_usage(given.small_disk).free
            ballast.write_bytes(bytes(max(0, free - room * 2**20)))
            attempt(f"{room} MB free", folder, lambda: start(folder).wait(), ballast.unlink)
            shutil.rmtree(folder)
    print("every start afterwards ended with the same tables" if not wrong else "\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
