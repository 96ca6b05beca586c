"""Scores of networks that draw several answers to one question: of the first, of the best and the mean of all.

The first is what every other table scores. The best is the best of n with the truth in hand, so it tells what the network can
draw, not what it would give; it grows with n and compares at equal n alone.
"""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import image_scores, statistics
from pipeline.scoring import predictions as saved
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import METRICS, TASKS, compose

SPLIT = "test"
"""The split that samples are drawn of."""

KINDS = ("first", "best", "mean")
COLUMNS = {
    "task": str, "model": str, "by": str, "value": str, "metric": str, "n_samples": int, "n_images": int,
    **{f"{kind}{end}": float for kind in KINDS for end in ("", "_low", "_high")}, "diversity": float,
}  # fmt: skip


class _Work(NamedTuple):
    number: int
    """Number of the item in the dataset."""
    predictions: tuple[tuple[str, tuple[tuple[Path, str], ...]], ...]
    """Model, and file and sha256 of each of its samples, the first first."""


def drawing(methods: list[dict]) -> list[dict]:
    """The methods whose index states several samples."""
    return [method for method in methods if "samples" in method["splits"].get(SPLIT, {})]


def manifest(predictions: Path, method: dict) -> pd.DataFrame:
    """samples.parquet of a method: image_id, sample (1 is the first), prediction (a path in the split's folder), sha256.

    Raises UserError, naming the file, where it isn't the one that inference wrote.
    """
    file = predictions / method["model"] / SPLIT / "samples.parquet"
    table = tables.read(file, ["image_id", "sample", "prediction", "sha256"])
    if hashlib.sha256(file.read_bytes()).hexdigest() != method["splits"][SPLIT]["samples"]["predictions"]:
        raise UserError(f"{file} is not the one that inference wrote")
    return table


def per_image(
    task: str, methods: list[dict], predictions: Path, size: int, spread: Callable[[Callable, list], Iterable] = map
) -> pd.DataFrame:
    """A row per drawing method, image and metric: model, subset, photograph, what describes the image, metric, n_samples, first,
    best, mean, diversity.

    diversity: mean absolute difference between two samples over the pixels and channels of the hole or foreground, on the
    scale 0 to 1, mean over all pairs; 0: the samples are the same. spread: a map, see evaluation.score.
    """
    folders = [Path(folder) for folder in methods[0]["data"]]
    dataset = datasets.for_testing(task, folders, size, SPLIT, **methods[0]["options"])
    dataset.decoded = datasets.Latest()
    files: dict[str, dict[str, list]] = {}
    for method in drawing(methods):
        table = manifest(predictions, method).sort_values(["image_id", "sample"])
        of_image = {
            name: [(predictions / method["model"] / SPLIT / row.prediction, row.sha256) for row in part.itertuples()]
            for name, part in table.groupby("image_id")
        }
        n = method["splits"][SPLIT]["samples"]["n"]
        if odd := sorted(
            name for name in {*dataset.ids, *of_image} if len(of_image.get(name, ())) != n or name not in dataset.ids
        ):
            raise UserError(
                f"{method['model']}: {odd[0]} has {len(of_image.get(odd[0], ()))} samples in samples.parquet, expected {n} of each test image"
            )
        files[method["model"]] = of_image
    work = [
        _Work(number, tuple((model, tuple(of_image[name])) for model, of_image in files.items()))
        for number, name in enumerate(dataset.ids)
    ]
    rows: list[dict[str, Any]] = []
    for item, image_rows in zip(
        work, spread(functools.partial(_scores, root=Path.cwd(), task=task, dataset=dataset), work)
    ):
        described = dataset.rows.iloc[item.number]
        about = {key: described[key] for key in TASKS[task].described_by}
        about |= {
            "subset": described["subset"] if "subset" in described else folders[0].name,
            "photograph": described[TASKS[task].photograph],
        }
        rows += [{"image_id": dataset.ids[item.number]} | about | row for row in image_rows]
    return pd.DataFrame(rows)


def _scores(item: _Work, *, root: Path, task: str, dataset) -> list[dict]:
    with contextlib.chdir(root):
        truth = dataset.item(item.number)
        rows, size = [], truth[TASKS[task].picture].shape[:2]
        for model, files in item.predictions:
            outputs = [compose(task, saved.read(file, sha256, size), truth) for file, sha256 in files]
            scores = [image_scores.score(task, output, truth) for output in outputs]
            differing = _diversity(outputs, truth[TASKS[task].region])
            for metric in TASKS[task].metrics if scores[0] else ():
                values = np.array([score[metric] for score in scores])
                best = values.max() if METRICS[metric].higher_is_better else values.min()
                rows.append(
                    {
                        "model": model,
                        "metric": metric,
                        "n_samples": len(files),
                        "first": values[0],
                        "best": best,
                        "mean": values.mean(),
                        "diversity": differing,
                    }
                )
        return rows


def _diversity(outputs: list[np.ndarray], region: np.ndarray) -> float:
    if not region.any():
        return float("nan")
    inside = [output[region].astype(np.float64) / 255 for output in outputs]
    return float(np.mean([np.abs(first - second).mean() for first, second in itertools.combinations(inside, 2)]))


def table(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """samples.parquet: the means over images of `per_image`'s rows, with intervals over photographs, and the columns COLUMNS.

    by, value: "subset" and a sub-dataset or "All", or "hole_ratio_bucket" and a bucket.
    """
    size_column = TASKS[task].size_column
    parts = [("subset", scores.assign(subset="All")), ("subset", scores)]
    parts += [(size_column, scores)] if TASKS[task].size_bins is None else []
    rows = []
    for by, frame in parts:
        for (model, value, metric), part in frame.groupby(["model", by, "metric"], sort=True):
            row = {"task": task, "model": model, "by": by, "value": value, "metric": metric}
            row |= {
                "n_samples": int(part["n_samples"].iloc[0]),
                "n_images": len(part),
                "diversity": float(part["diversity"].mean()),
            }
            for kind, interval in zip(
                KINDS, statistics.mean_intervals(part[list(KINDS)], part["photograph"], resampling=resampling)
            ):
                row |= {kind: interval.mean, f"{kind}_low": interval.low, f"{kind}_high": interval.high}
            rows.append({column: row[column] for column in COLUMNS})
    return tables.frame(rows, COLUMNS)
