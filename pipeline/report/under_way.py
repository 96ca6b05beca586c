"""Trainings under way as a page shows them: how far each has come, its curves, its sample pictures, and what is missing.

Read from run folders (pipeline/networks/watching.py) and from what stages have left so far. The report that `dvc repro` writes
knows nothing of this; `python -m commands.watch` does.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline import images, repeats
from pipeline.networks import watching
from pipeline.networks.watching import Course
from pipeline.params.schema import Params
from pipeline.report import plots, sheets
from pipeline.report.numbers import Results, Training, number
from pipeline.running import graph, run_folders
from pipeline.scoring import index as scoring_index
from pipeline.tasks import METRICS, TASKS

COLUMNS = 6
"""At most so many epochs are shown of one image, evenly over those that there are, the first and the last among them."""

NO_TRAINING, MADE_ELSEWHERE, NOT_BEGUN = "none needed", "made elsewhere", "not begun"


@dataclass(frozen=True)
class Method:
    """One method, or one repeat of it, and how far it has come."""

    name: str  # as artifacts/ has it: repeats.folder_name
    task: str
    training: str
    """In words."""
    course: Course | None
    """Its latest training; None where there is none, or another one's weights have been put in its place since."""
    ready: bool
    """Whether it has, or needs no, weights of a training that has ended, so that predictions are those of its present state."""
    predicted: bool

    @property
    def counted(self) -> bool:
        """Whether its predictions can be scored."""
        return self.ready and self.predicted

    @property
    def predictions(self) -> str:
        if self.predicted:
            return "there" if self.ready else "of an earlier training, left out"
        return "missing"


def methods(parameters: Params, artifacts: Path) -> list[Method]:
    """Every method of params.yaml in its order, each repeat for itself."""
    latest = latest_courses()
    made = []
    for name, block in parameters.models.items():
        task = parameters.task_of(name)
        for repeat in graph.repeats_of(name, parameters):
            called = repeats.folder_name(name, repeat)
            predicted = _predicted(artifacts / "index" / task / f"{called}.json", block.training is not None)
            if block.training is None:
                words = MADE_ELSEWHERE if block.outputs or block.weights else NO_TRAINING
                made.append(Method(called, task, words, None, True, predicted))
                continue
            words, course, ready = _training(called, task, latest.get(called), artifacts / "models" / called)
            made.append(Method(called, task, words, course, ready, predicted))
    return made


def _predicted(index: Path, trained: bool) -> bool:
    """Whether there are predictions of a method that is trained here, or isn't, as it is now."""
    return index.is_file() and scoring_index.read(index)["trained"] == trained


def latest_courses() -> dict[str, Course]:
    """The training that began last, of each method and repeat, by their name in artifacts/."""
    folders = sorted(
        run_folders.holding(watching.COURSE), key=lambda folder: (folder / watching.COURSE).stat().st_mtime
    )
    return {run_folders.name_of(folder): Course(folder) for folder in folders}


def _training(name: str, task: str, course: Course | None, weights: Path) -> tuple[str, Course | None, bool]:
    """What is said of a training, the run folder to look at, and whether its weights are those that DVC has."""
    published = weights / watching.HISTORY if (weights / "training.json").is_file() else None
    if course is None or (published and not course.running and not _same(course.folder / watching.HISTORY, published)):
        # the stage empties its folder before it trains, so what stands there was trained, or taken from DVC's cache, later
        return (f"done, {_epochs(len(pd.read_csv(published)))}", None, True) if published else (NOT_BEGUN, None, False)
    if course.finished:
        return f"done, {_epochs(course.done)}", course, published is not None
    where = f"epoch {course.done} of {course.epochs}{_score(course, task)}"
    if course.running:
        return f"training, {where}", course, False
    if course.running is None:
        minutes = (time.time() - _last_sign(course)) / 60
        return f"on {course.host}, {where}, last heard of {minutes:.0f} min ago", course, False
    return f"stopped, {where}", course, False


def _same(one_file: Path, other: Path) -> bool:
    return one_file.is_file() and one_file.read_bytes() == other.read_bytes()


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count != 1 else ''}"


def _score(course: Course, task: str) -> str:
    metric = TASKS[task].leading
    scores = course.history.get(f"validation_{metric}", pd.Series(dtype=float)).dropna()
    return f", validation {METRICS[metric].label} {number(scores.iloc[-1], metric)}" if len(scores) else ""


def _last_sign(course: Course) -> float:
    return max(file.stat().st_mtime for file in course.folder.iterdir() if file.is_file())


def section(
    parameters: Params, known: list[Method], data_missing: list[str], failed: dict[str, str], every: int | None
) -> dict:
    """What the page says above its results.

    data_missing: data sets that aren't made yet. failed: task -> why it can't be scored now. every: seconds after which a
    browser loads the page again, or None.
    """
    rows = [
        {
            "task": method.task,
            "name": method.name,
            "training": method.training,
            "predictions": method.predictions,
            "scored": method.counted and method.task not in failed,
        }
        for method in known
    ]
    return {
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "every": every,
        "rows": rows,
        "n_scored": sum(row["scored"] for row in rows),
        "n_running": sum(
            bool(method.course and not method.course.finished and method.course.running) for method in known
        ),
        "data_missing": data_missing,
        "failed": failed,
        "curves": [chart for task in parameters.tasks for chart in _curves(task, known)],
        "samples": [strips for method in known if (strips := _samples(method))],
    }


def _curves(task: str, known: list[Method]) -> list[dict]:
    """Curves of the task's trainings, finished ones among them, that run folders hold."""
    courses = {method.name: method.course for method in known if method.task == task and method.course is not None}
    trainings = [Training(name, course.history, {}) for name, course in sorted(courses.items()) if course.done]
    empty = pd.DataFrame()
    drawn_as = Results(task, {name: {"trained": True} for name in courses}, empty, empty, empty, empty, empty, empty)
    return [{"task": task, "chart": Markup(chart)} for chart in plots.training_curves(drawn_as, trainings)]


def _samples(method: Method) -> dict | None:
    """The sample pictures of one network: a strip per image, from its input over the epochs to the truth."""
    if method.course is None:
        return None
    strips = []
    for image_id, by_epoch in method.course.samples().items():
        if not by_epoch:
            continue
        epochs = sorted(by_epoch)
        shown = sorted({epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, min(COLUMNS, len(epochs)))})
        folder = method.course.folder / watching.SAMPLES / image_id
        files = [folder / "input.png", *(by_epoch[epoch] for epoch in shown), folder / "truth.png"]
        parts = [images.read_rgb(file) for file in files]
        picture = sheets.encode(sheets.beside(parts), len(parts) * (sheets.STRIP + 4))
        note = f"input, epoch {', '.join(map(str, shown))}, truth"
        strips.append(sheets.Strip(picture, image_id, note))
    return {"model": method.name, "task": method.task, "strips": strips} if strips else None
