"""DVC experiments from code: which are finished, which wait, and what a finished one left behind.

What changes something is one of DVC's own commands, run as a person would; only the state of the queue is read from
DVC's library, which has no command that says it in a form to be read by programs. All of this is of the repository in
the working folder.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.running import cluster

LOCKS = ("dvc.lock", "models/dvc.lock")


def override(key: str, value) -> str:
    """The text for `dvc exp run -S` that sets a key of params.yaml, whether the file has it or not.

    value: str, int, float, bool, None, or a list or tuple of them. Texts are quoted, so that "+AdaIN", "null" or "1" stay
    texts in Hydra's grammar.
    """
    return f"++{key}={_literal(value)}"


def _literal(value) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_literal(item) for item in value)}]"
    if isinstance(value, str):
        # in Hydra's quotes a backslash counts as such unless it stands before a quote
        if "\\" in value:
            raise UserError(f"{value!r} holds a backslash, which `dvc exp run -S` can't carry")
        return "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)


def finished() -> dict[str, str]:
    """Name -> commit of the experiments that are done, whatever commit they started from; of equal names the latest."""
    listed = _git("for-each-ref", "--sort=committerdate", "--format=%(refname) %(objectname)", "refs/exps")
    commits = {}
    for line in listed.splitlines():
        ref, commit = line.split()
        parts = ref.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/<2 of the baseline>/<its other 38>/<name>
            commits[parts[4]] = commit
    return commits


def waiting() -> dict[str, str]:
    """Name -> "Queued" or "Running" of the experiments in DVC's queue.

    An experiment whose worker was killed with its machine would count as running for ever: it is given up here.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        queue = repo.experiments.celery_queue
        states = {
            entry["name"]: entry["status"] for entry in queue.status() if entry["status"] in ("Queued", "Running")
        }
        lost = [name for name, state in states.items() if state == "Running"]
        if lost and not queue.worker_status():
            _call(["dvc", "queue", "kill", "--force", *lost], quiet=True)
            return {name: state for name, state in states.items() if state != "Running"}
    return states


def require_repository() -> None:
    """Refuse where DVC could not keep an experiment; tell git of the lock files, without which a copy has no data."""
    if _call(["git", "rev-parse", "--verify", "HEAD"], quiet=True):
        raise UserError(
            "experiments are kept as git commits, and here is no commit to start from; `git commit` the project first"
        )
    for lock in LOCKS:
        if not Path(lock).is_file():
            raise UserError(f"{lock} is missing; `make repro` makes the data that experiments start from")
    if new := _git("ls-files", "--others", "--", *LOCKS).split():
        _git("add", "--force", "--", *new)
        LOG.info(f"git add {' '.join(new)}: experiments run in a copy of what git knows")


def stale_stages(target: str, except_for: tuple[str, ...]) -> list[str]:
    """Stages that `target` needs and whose outputs aren't what the present parameters, code and data would give."""
    said = subprocess.run(
        ["dvc", "status", "--json", "--with-deps", target], capture_output=True, text=True, env=_environment()
    )
    if said.returncode:
        raise UserError(f"dvc status {target}: {' '.join(said.stderr.split())}")
    return [name for name in json.loads(said.stdout) if name not in except_for]


def enqueue(name: str, targets: list[str], overrides: list[str]) -> None:
    """Put one experiment into DVC's queue. It runs these stages alone, in this order: what they read comes from the cache,
    and sources given by relative paths, which a copy of the project would look for elsewhere, are not asked for."""
    set_params = [part for assignment in overrides for part in ("-S", assignment)]
    command = ["dvc", "exp", "run", "--queue", "--force", "--single-item", "--name", name, *set_params, *targets]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {' '.join((done.stderr or done.stdout).split())}")


def run_queue(jobs: int) -> None:
    """Run all that waits, `jobs` at once, and show what it says. Ctrl-C ends the showing; the work goes on.

    Copies find the interpreter that runs this, and unfinished work where it stands in the project itself. Each experiment has
    its share of the cores: threads of one that wait for a core would hold up the others.
    """
    cores = max(1, cluster.cpus() // jobs)
    _call(
        ["dvc", "exp", "run", "--run-all", "--jobs", str(jobs)],
        SEAMBENCH_CPUS=str(cores),
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(cores)),
    )


def read_table(commit: str, path: str) -> pd.DataFrame:
    """A Parquet table that an experiment left, out of git and DVC's cache."""
    return pd.read_parquet(io.BytesIO(read(commit, path)))


def read(commit: str, path: str) -> bytes:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        return DVCFileSystem(rev=commit).read_bytes(path)
    except (OSError, DvcException) as error:
        raise UserError(
            f"experiment {commit[:7]}: {path} can't be read from DVC's cache ({' '.join(str(error).split())})"
        ) from None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return done.stdout


def _call(command: list[str], quiet: bool = False, **more: str) -> int:
    where = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stdout=where, stderr=where, env=_environment() | more).returncode


def _environment() -> dict[str, str]:
    return dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
