"""A blinded preference study: which method's output looks more like a photograph, asked of people.

One HTML page that opens from disk and needs no network. Its pictures have opaque names that are drawn anew for every
image; which method made which stands in a key file beside the page, not in it. Each rater sees the
comparisons, and the pictures within a comparison, in an order of their own. Same methods, images and seed: same bytes.
"""

import base64
import hashlib
import io
import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

import models
from pipeline import images, seeds, tables
from pipeline.data import datasets
from pipeline.errors import ParameterError, UserError
from pipeline.scoring import index as scoring_index
from pipeline.scoring import predictions as saved
from pipeline.tasks import TASKS, compose

DESIGNS = {
    "pairs": "Which picture looks more like an untouched photograph?",
    "best": "Which picture looks most like an untouched photograph?",
}
"""pairs: every two methods on each image, choose one of two; best: all methods on each image, choose one. What is asked."""

KEY_FORMAT = "seambench-study-key"
MAX_BYTES = 100_000_000


@dataclass(frozen=True)
class Study:
    """`html` is the page, `key` what its opaque names stand for."""

    html: str
    key: dict


def make(
    names: list[str], *, index: Path, predictions: Path, split: str, design: str, n_images: int, chosen: list[str] | None = None,
    n_comparisons: int | None = None, question: str | None = None, seed: int = 0,
) -> Study:  # fmt: skip
    """The study of these methods' saved predictions.

    names: two or more methods of harmonization, or of inpainting. index: folder artifacts/index. predictions: folder
    artifacts/predictions. split: "test" or a real set. chosen: ids of the images to show; without it `n_images` are
    drawn by the seed, other photographs first. n_comparisons: at most so many for each rater, the pairs of methods in
    equal numbers; None asks all.

    Raises ParameterError for methods that can't be compared or numbers that are too small, and UserError naming what is
    missing, was changed after inference, or makes the page larger than MAX_BYTES.
    """
    task = _task(names, index)
    if design not in DESIGNS:
        raise ParameterError(f"design {design!r}: expected one of {', '.join(DESIGNS)}")
    question = question or DESIGNS[design]
    if n_images < 1 or (n_comparisons is not None and n_comparisons < 1):
        raise ParameterError(f"a study of {n_images} images and {n_comparisons} comparisons asks nothing")
    outputs = Outputs(task, names, index / task, predictions, split)
    shown = _chosen(outputs, chosen, n_images, split, seed)
    contents = [[image, name, outputs.sha256(image, name)] for image in shown for name in sorted(names)]
    said = json.dumps([seed, design, split, question, n_comparisons, contents])
    study = hashlib.sha256(said.encode()).hexdigest()[:16]
    asked = _comparisons(names, shown, design, n_comparisons, seed)
    # an id is drawn from the seed, which the page doesn't hold
    opaque = {
        (image, name): f"{seeds.derive('picture', study, seed, image, name):016x}"
        for image, group in asked
        for name in group
    }
    pictures = {shown_as: _encode(outputs.picture(*pair)) for pair, shown_as in opaque.items()}
    comparisons = {
        f"{seeds.derive('comparison', study, seed, image, *group):016x}": sorted(opaque[image, name] for name in group)
        for image, group in asked
    }
    page = {
        "study": study,
        "design": design,
        "question": question,
        "pictures": dict(sorted(pictures.items())),
        "comparisons": sorted([name, group] for name, group in comparisons.items()),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # "<" would end the script that holds the data
    html = environment.get_template("page.html.j2").render(data=Markup(json.dumps(page).replace("<", "\\u003c")))
    if len(html) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(html) / 1e6:.0f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB; show fewer images or methods"
        )
    key = {
        "format": KEY_FORMAT,
        "study": study,
        "task": task,
        "design": design,
        "question": question,
        "seed": seed,
        "models": names,
        "pictures": {opaque[pair]: {"split": split, "image_id": pair[0], "model": pair[1]} for pair in sorted(opaque)},
        "comparisons": dict(sorted(comparisons.items())),
    }
    return Study(html, key)


def _task(names: list[str], index: Path) -> str:
    if len(set(names)) != len(names) or len(names) < 2:
        raise ParameterError(f"methods {', '.join(names)}: a study compares two or more different ones")
    try:
        # a method whose pictures were made elsewhere is known by its index alone
        indexed = {name: [task for task in TASKS if (index / task / f"{name}.json").is_file()] for name in names}
        (task,) = {indexed[name][0] if len(indexed[name]) == 1 else models.task_of(name) for name in names}
    except ValueError as error:
        reason = str(error) if str(error).startswith("no model") else "they are of different tasks"
        raise ParameterError(f"methods {', '.join(names)}: {reason}") from None
    if TASKS[task].region is None:
        raise ParameterError(
            "localization gives maps, which nobody can prefer; a study needs methods of harmonization or inpainting"
        )
    return task


class Outputs:
    """What some methods made of one split's images, composed as it is scored and shown.

    `photographs`: image id -> the photograph it is of. `size`: (height, width) of every picture.
    """

    def __init__(self, task: str, names: list[str], index: Path, predictions: Path, split: str):
        stated = {name: scoring_index.read(index / f"{name}.json") for name in names}
        first = stated[names[0]]
        for name, method in stated.items():
            if split not in method["splits"]:
                raise UserError(f"{name} has no predictions for {split}; it has {', '.join(method['splits'])}")
            if method["data"] != first["data"] or method["truth"] != first["truth"]:
                raise UserError(f"{names[0]} and {name} were run on different data; `dvc repro` runs them anew")
        self.task, self.folders = task, {name: predictions / name / split for name in names}
        self.manifests = {
            name: tables.read(folder / "predictions.parquet").set_index("image_id")
            for name, folder in self.folders.items()
        }
        self.size = images.header_size(self.folders[names[0]] / self.manifests[names[0]]["prediction"].iloc[0])[0]
        self.dataset = datasets.for_testing(
            task, [Path(folder) for folder in first["data"]], self.size, split, **first["options"]
        )
        self.number_of = {image: number for number, image in enumerate(self.dataset.ids)}
        column = TASKS[task].photograph
        self.photographs = dict(zip(self.dataset.ids, self.dataset.rows[column]))

    def sha256(self, image: str, name: str) -> str:
        """What the manifest says of a prediction. Raises UserError where there is none."""
        if image not in self.manifests[name].index:
            raise UserError(f"{self.folders[name] / 'predictions.parquet'} has no prediction for {image}")
        return self.manifests[name].loc[image, "sha256"]

    def picture(self, image: str, name: str) -> np.ndarray:
        """uint8 RGB (H, W, 3). Raises UserError where the file is missing or not what the manifest says."""
        file = self.folders[name] / self.manifests[name].loc[image, "prediction"]
        drawn = saved.read(file, self.sha256(image, name), self.size)
        return compose(self.task, drawn, self.dataset.item(self.number_of[image]))


def _chosen(outputs: Outputs, chosen: list[str] | None, n_images: int, split: str, seed: int) -> list[str]:
    """The images to show, in the order of their ids."""
    if chosen is None:
        seen: Counter[str] = Counter()
        order: list[tuple[int, int, str]] = []
        for image in sorted(outputs.photographs, key=lambda image: seeds.share("study image", seed, image)):
            order.append((seen[outputs.photographs[image]], len(order), image))
            seen[outputs.photographs[image]] += 1
        return sorted(image for *_, image in sorted(order)[:n_images])
    if unknown := [image for image in chosen if image not in outputs.photographs]:
        raise ParameterError(f"{split} has no image {unknown[0]!r}")
    return sorted(set(chosen))


def _comparisons(
    names: list[str], shown: list[str], design: str, limit: int | None, seed: int
) -> list[tuple[str, tuple[str, ...]]]:
    """(image, methods) of all that is asked; with a limit the pairs of methods stay in equal numbers, give or take one."""
    groups = list(itertools.combinations(sorted(names), 2)) if design == "pairs" else [tuple(sorted(names))]
    rounds = []
    for group in groups:
        drawn = sorted(shown, key=lambda image: seeds.share("study comparison", seed, image, *group))
        rounds += [
            (count, seeds.share("study group", seed, count, *group), image, group) for count, image in enumerate(drawn)
        ]
    return [(image, group) for *_, image, group in sorted(rounds)[:limit]]


def _encode(picture: np.ndarray) -> str:
    """A data URI without loss, all methods alike, so that no trace of a codec tells them apart."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
