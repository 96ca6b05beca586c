"""The report of what there is so far -> .runs/live/report/index.html, while `make repro` or `dvc repro` is still at work.

It says how far each training has come, shows curves and sample pictures of those that have begun, scores the methods whose
predictions are there, and says what is missing. It reads what the stages leave and touches none of it; DVC knows nothing of
it. It takes one core while it scores, and scores a task anew only where its predictions, parameters or code have changed.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import atomic, command, params
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.params.schema import Params
from pipeline.report import page, under_way
from pipeline.report.under_way import Method
from pipeline.running import graph, run_folders

LIVE = "live"
NOT_LINKED = ("artifacts", "results", "report", "dvc.yaml", "dvc.lock", *graph.PACKAGES)
"""Of the project's folder, what the live one has of its own or does without."""


def main(arguments) -> None:
    while True:
        began = time.monotonic()
        file = write(arguments.every)
        LOG.info(f"wrote {os.path.relpath(file)} in {time.monotonic() - began:.0f} s")
        if arguments.every is None:
            return
        time.sleep(arguments.every)


def write(every: int | None) -> Path:
    """Write the page of what there is now; returns its file."""
    parameters = params.load()
    known = under_way.methods(parameters, Path("artifacts"))
    live = _live_folder()
    made, data_missing = _made(parameters)
    failed = {}
    for task in parameters.tasks:
        scored = [method for method in known if method.task == task and method.counted]
        # means over repeats are of the first and others: without the first there is no method
        scored = [method for method in scored if method.name.partition("@")[0] in {other.name for other in scored}]
        if _take_index(live, task, scored) and (why := _evaluate(live, task)):
            failed[task] = why
    shown = _reduced(made, known, [task for task in parameters.tasks if (live / "results" / task).is_dir()])
    with contextlib.chdir(live):
        if shown.models and (why := _stage("published", *(f"results/{task}" for task in shown.tasks))):
            raise UserError(why)
        html = page.render(
            shown,
            results=Path("results"),
            artifacts=Path("artifacts"),
            data=Path("data"),
            file=Path("params.yaml"),
            presets=Path("presets"),
            under_way=under_way.section(parameters, known, data_missing, failed, every),
        )
    file = live / "report/index.html"
    with atomic.file(file) as path:
        path.write_text(html, encoding="utf-8")
    return file


def _live_folder() -> Path:
    """A folder that stands beside the run folders and looks like the project's: its own index and results, and links to all
    else, so that stages run there as they do in the project."""
    project, live = Path.cwd(), run_folders.kept(LIVE, "params.yaml").parent
    live.mkdir(parents=True, exist_ok=True)
    for path in [*live.iterdir(), *live.glob("artifacts/*"), *live.glob("results/*")]:
        if path.is_symlink():
            path.unlink()
    for path in project.iterdir():
        if not path.name.startswith(".") and path.name not in NOT_LINKED:
            (live / path.name).symlink_to(path)
    # of detectability there is nothing to say before all localizers and harmonizers have predicted
    for folder, names in (("artifacts", ("models", "predictions")), ("results", ("study", "cost.parquet"))):
        (live / folder).mkdir(exist_ok=True)
        for name in names:
            if (project / folder / name).exists():
                (live / folder / name).symlink_to(project / folder / name)
    return live


def _made(parameters: Params) -> tuple[Params, list[str]]:
    """The parameters without data sets that aren't made yet, and the names of these."""
    missing: list[str] = []
    update: dict[str, Any] = {}
    if parameters.composites is not None:
        subsets = parameters.composites.subsets
        there = {
            name: subset for name, subset in subsets.items() if Path(f"data/composites/{name}/pairs.parquet").is_file()
        }
        missing += [name for name in subsets if name not in there]
        update["composites"] = parameters.composites.model_copy(update={"subsets": there})
    if parameters.irregular_masks is not None and not Path("data/irregular_masks/assigned.parquet").is_file():
        missing.append("irregular masks")
        update["irregular_masks"] = None
    return parameters.model_copy(update=update), missing


def _reduced(parameters: Params, known: list[Method], tasks: list[str]) -> Params:
    """The parameters with the methods alone that are scored."""
    names = {method.name for method in known if method.counted and method.task in tasks}
    return parameters.model_copy(
        update={"models": {name: block for name, block in parameters.models.items() if name in names}}
    )


def _take_index(live: Path, task: str, methods: list[Method]) -> bool:
    """Copy the index of the methods to score, as it is now; whether there are any. What was scored of others goes."""
    index = live / "artifacts/index" / task
    shutil.rmtree(index, ignore_errors=True)
    if not methods:
        shutil.rmtree(live / "results" / task, ignore_errors=True)
        return False
    index.mkdir(parents=True)
    for method in methods:
        shutil.copyfile(f"artifacts/index/{task}/{method.name}.json", index / f"{method.name}.json")
    return True


def _evaluate(live: Path, task: str) -> str | None:
    """Score a task where that wasn't done of the same; returns why it can't be, or None."""
    digest = hashlib.sha256(Path("params.yaml").read_bytes())
    for file in sorted((live / "artifacts/index" / task).iterdir()):
        digest.update(file.read_bytes())
    for name in graph.closure("stages.evaluate"):
        digest.update((run_folders.ROOT / name).read_bytes())
    key, results = live / f".{task}.key", live / "results" / task
    if results.is_dir() and key.is_file() and key.read_text() == digest.hexdigest():
        return None
    LOG.info(f"scoring {task}")
    shutil.rmtree(results, ignore_errors=True)
    with contextlib.chdir(live):
        if why := _stage("evaluate", task):
            return why
    key.write_text(digest.hexdigest())
    return None


def _stage(name: str, *arguments: str) -> str | None:
    """Run a stage in the working folder; returns the line that it ends with where it fails, else None."""
    path = os.pathsep.join(filter(None, (str(run_folders.ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.strip().splitlines() or [f"stages.{name} ended with exit code {done.returncode}"]
    return lines[-1] if done.returncode else None


def _seconds(text: str) -> int:
    if (seconds := int(text)) < 1:
        raise ValueError(text)
    return seconds


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument(
        "--every", type=_seconds, help="go on, and write the page again after so many seconds, until Ctrl-C"
    )
    command.run(main, parser.parse_args())
