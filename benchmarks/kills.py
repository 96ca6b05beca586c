"""A campaign of kills: whole runs from an empty workspace, ended at random moments, must end with the undisturbed tables.

    python -m benchmarks.kills --kills 50 --seed 1

A tiny project (the one of the end-to-end test) runs once undisturbed. Then it begins again and again in an empty workspace.
At a random moment either the whole process group is killed (SIGKILL), or DVC alone, or one of Ray's processes: a worker,
the raylet, the GCS; the group where there is no such process at that moment. The run is started again until it ends, and its
tables must have the bytes of the undisturbed ones. Where a kill hit is read from the stage that DVC had named last.

Prints a line a kill and a table at the end. Exits with 1 when a run needed a hand or ended with other tables.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.test_end_to_end import environment, project

COMMAND = [sys.executable, "-m", "commands.cluster", "dvc", "repro"]
TARGETS = ("group", "group", "group", "dvc", "worker", "raylet", "gcs")
LINES = 25
"""Of the log of a run that needed a hand, which are shown."""
LONGEST = 900
"""Seconds after which a run that doesn't end counts as one that waits for ever."""


def tables(folder: Path) -> dict[str, str]:
    """SHA-256 of every result table, by its path within the project."""
    files = sorted((folder / "results").rglob("*.parquet"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def start(folder: Path) -> subprocess.Popen:
    log = open(folder / "run.log", "a")  # noqa: SIM115, the process keeps it
    return subprocess.Popen(
        COMMAND, cwd=folder, env=environment(SEAMBENCH_CPUS="2"), stdout=log, stderr=log, start_new_session=True
    )


def stage_of(folder: Path) -> str:
    """The stage that DVC named last in the log."""
    named = re.findall(r"Running stage '([^']+)'", (folder / "run.log").read_text(errors="replace"))
    return named[-1].removeprefix("models/dvc.yaml:") if named else "start"


def kill(process: subprocess.Popen, target: str) -> bool:
    """Kill one target of a running command; whether there was a process to kill."""
    if target == "group":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
            return True
        return False
    try:
        # Ray's processes may stand in sessions of their own, but they descend from the command
        below = psutil.Process(process.pid).children(recursive=True)
        names = {
            "worker": lambda line: "ray::" in line,
            "raylet": lambda line: "raylet/raylet" in line and "dashboard" not in line,
            "gcs": lambda line: "gcs_server" in line,
            "dvc": lambda line: re.search(r"bin/dvc\b", line) is not None,
        }
        fitting = [process for process in below if names[target](" ".join(process.cmdline()))]
    except psutil.Error:
        return False
    if not fitting:
        return False
    try:
        fitting[0].kill()
    except psutil.NoSuchProcess:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=25, help="a kill comes at most so long after a start")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    by_stage, by_target, wrong, runs, kills = collections.Counter(), collections.Counter(), [], 0, 0
    with tempfile.TemporaryDirectory(prefix="seambench-kills-") as root:
        undisturbed = project(Path(root, "undisturbed"))
        began = time.monotonic()
        if code := start(undisturbed).wait(LONGEST):
            sys.exit(f"the undisturbed run ended with {code}: {(undisturbed / 'run.log').read_text()[-2000:]}")
        expected = tables(undisturbed)
        print(f"undisturbed: {len(expected)} tables in {time.monotonic() - began:.0f} s", flush=True)
        while kills < given.kills:
            runs += 1
            folder = project(Path(root, f"run{runs}"))
            in_this_run = rng.randint(4, 9)
            while True:
                process = start(folder)
                if in_this_run and kills < given.kills:
                    target: str | None = rng.choice(TARGETS)
                    try:
                        process.wait(rng.uniform(0.5, given.seconds))
                    except subprocess.TimeoutExpired:
                        stage = stage_of(folder)
                        if not kill(process, target):
                            target = "group" if kill(process, "group") else None
                        if target:
                            kills, in_this_run = kills + 1, in_this_run - 1
                            by_stage[re.split("[-@]", stage)[0]] += 1
                            by_target[target] += 1
                            print(f"kill {kills}: {target} in {stage} of run {runs}", flush=True)
                try:
                    code = process.wait(LONGEST)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    wrong.append(f"run {runs} waited for over {LONGEST} s in {stage_of(folder)}")
                    break
                if code == 0:
                    if (hashes := tables(folder)) != expected:
                        odd = sorted(name for name in expected | hashes if expected.get(name) != hashes.get(name))
                        wrong.append(f"run {runs} ended with other tables: {', '.join(odd[:3])}")
                    break
                if not in_this_run or kills >= given.kills:
                    # nobody disturbs this start any more, so one more has to do
                    process = start(folder)
                    if (code := process.wait(LONGEST)) or tables(folder) != expected:
                        last = (folder / "run.log").read_text(errors="replace").strip().splitlines()[-LINES:]
                        wrong.append(f"run {runs}: exit {code} without a kill; its last lines:\n" + "\n".join(last))
                    break
    print(f"{kills} kills in {runs} runs; by target {dict(by_target)}; by stage {dict(by_stage)}")
    print("every run ended with the undisturbed tables" if not wrong else "\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
