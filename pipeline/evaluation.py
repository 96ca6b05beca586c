"""From saved predictions to tables: one row per image, then means over stated images, with intervals.

What is evaluated is what artifacts/index/<task>/ lists: one JSON per method, written by inference, with the number of
images of each split and the hash of its manifest. A prediction that is missing, changed or of another size stops the
evaluation; no mean is ever taken over what happened to be there.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import datasets, images, scoring, statistics, tables
from pipeline.errors import UserError
from pipeline.progress import Progress

FOREGROUND_BINS = {
    # specs/harmonization.md 6.3 and specs/localization.md 3.3, which ends at 0.50; what is above, if it is let in, stands apart
    "harmonization": (0.0, 0.05, 0.15, 1.0),
    "localization": (0.0, 0.05, 0.15, 0.30, 0.50, 1.0),
}
DESCRIBES = {
    "localization": ("foreground_ratio", "category", "transfer", "simulated"),
    "harmonization": ("foreground_ratio", "category", "transfer", "simulated"),
    "inpainting": ("hole_ratio", "hole_ratio_bucket"),
}
"""Columns of per_image.parquet that say what kind of image a row is."""


def indexes(folder: Path) -> list[dict]:
    """The methods to evaluate, by name."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no method has predictions there; `dvc repro` makes them")
    methods = []
    for file in files:
        try:
            methods.append(json.loads(file.read_text()))
        except ValueError:
            raise UserError(f"{file} is not JSON; `dvc repro models/dvc.yaml:infer-{file.stem}` makes it anew") from None
    return methods


def per_image(task: str, methods: list[dict], predictions: Path, size: int) -> pd.DataFrame:
    """Scores of every prediction: task, model, subset, split, image_id, photograph, what describes the image, metrics.
    A composite without ground truth has nothing to score in harmonization, and no row.

    Raises UserError naming the method and the file where a prediction is missing, was changed after inference, or
    isn't a picture of size x size pixels.
    """
    rows = []
    for one in methods:
        for key in ("data", "options"):
            if one[key] != methods[0][key]:
                raise UserError(f"artifacts/index/{task}: {methods[0]['model']} was run on {methods[0][key]}, {one['model']} on {one[key]}")
    folders = [Path(one) for one in methods[0]["data"]]
    truth = [hashlib.sha256(one.read_bytes()).hexdigest() for one in datasets.manifests(folders)]
    options = methods[0]["options"]
    total = sum(split["n_images"] for one in methods for split in one["splits"].values())
    with Progress(f"evaluate {task}", total, "predictions") as progress:
        for split in datasets.test_splits(task, folders):
            dataset = datasets.for_testing(task, folders, size, split, **options)
            manifests = {one["model"]: _manifest(one, split, predictions, set(dataset.ids), truth) for one in methods}
            for number, name in enumerate(dataset.ids):
                item, about = dataset.item(number), _about(task, dataset, number, folders)
                for model, manifest in manifests.items():
                    prediction = _prediction(predictions / model / split, manifest.loc[name], task, size)
                    if scores := scoring.score(task, prediction, item):
                        rows.append({"task": task, "model": model, "split": split, "image_id": name} | about | scores)
                    progress.add()
    if not rows:
        raise UserError(f"{task}: no image in {', '.join(methods[0]['data'])} has a ground truth to be scored by")
    frame = pd.DataFrame(rows)
    leading = ["task", "model", "subset", "split", "image_id", "photograph", *DESCRIBES[task]]
    frame = frame[leading + [column for column in frame if column not in leading]]
    return frame.sort_values(["model", "split", "subset", "image_id"], ignore_index=True)


def summary(task: str, scores: pd.DataFrame, methods: list[dict]) -> pd.DataFrame:
    """One row per model, split and sub-dataset, and "All": the mean over all images of the split pooled.

    Columns: task, model, subset, split, n_images, n_parameters, the means, and n_excluded, the images that some metric
    is undefined for (they are left out of that metric's mean alone).
    """
    parameters = {one["model"]: one["n_parameters"] for one in methods}
    expected = {(one["model"], split): two["n_scored"] for one in methods for split, two in one["splits"].items()}
    metrics = metric_columns(task, scores)
    pooled = pd.concat([scores, scores.assign(subset="All")])
    rows = []
    for (model, subset, split), part in pooled.groupby(["model", "subset", "split"], sort=True):
        if subset == "All" and len(part) != expected[model, split]:
            raise UserError(f"{model}: {len(part)} scores for the {expected[model, split]} images with a truth in its manifest ({split})")
        head = {"task": task, "model": model, "subset": subset, "split": split, "n_images": len(part), "n_parameters": parameters[model]}
        rows.append(head | part[metrics].mean().to_dict() | {"n_excluded": int(part[metrics].isna().any(axis=1).sum())})
    return pd.DataFrame(rows)


def intervals(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Bootstrap intervals, over photographs, of the means of the split "test" in `summary`: model, subset, metric, mean, low,
    high, n, ... (This and what follows leaves the real sets out.)"""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    return statistics.intervals_table(pooled, metric_columns(task, scores), ["model", "subset"], "photograph", **options)


def differences(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Paired differences between every two models: subset, metric, first, second, mean (first - second), low, high, p, n."""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    parts = [
        statistics.paired_table(part, metric, "image_id", "photograph", **options).assign(subset=subset, metric=metric)
        for subset, part in pooled.groupby("subset")
        for metric in scoring.HEADLINES[task]
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def ranks(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Ranks with ties of the models: subset, metric, model, mean, rank, rank_worst (pipeline/statistics.py)."""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    parts = []
    for subset, part in pooled.groupby("subset"):
        for metric, higher in scoring.HEADLINES[task].items():
            wide, groups = statistics.wide(part, metric, "image_id", "photograph")
            found = statistics.rank(wide, groups, higher_is_better=higher, **options)
            parts.append(found.assign(subset=subset, metric=metric))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def breakdowns(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Means by what kind of image it is: by (the column), value, model, metric, mean, low, high, n."""
    frame = scores[scores["split"] == "test"]
    by = ["category", "transfer"]
    if task == "inpainting":
        by = ["hole_ratio_bucket"]
    else:
        bins = FOREGROUND_BINS[task]
        labels = [f"{low:.0%}-{high:.0%}" for low, high in zip(bins, bins[1:])]
        frame = frame.assign(foreground_share=pd.cut(frame["foreground_ratio"], bins, labels=labels, include_lowest=True).astype(str))
        by = ["foreground_share", *by]
    options = {"seed": seed, "resamples": resamples, "level": level}
    metrics = list(scoring.HEADLINES[task])
    parts = [
        statistics.intervals_table(frame, metrics, [column, "model"], "photograph", **options).rename(columns={column: "value"}).assign(by=column)
        for column in by
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame[["by", *[column for column in frame if column != "by"]]]


def overlaps(methods: list[dict]) -> pd.DataFrame | None:
    """How far the test photographs of the real sets were seen in their training lists: set, subset and the counts of
    overlaps.parquet; None where no set has such a table."""
    files = [Path(one) / "overlaps.parquet" for one in methods[0]["data"]]
    frames = [tables.read(file).assign(set=file.parent.name) for file in files if file.is_file()]
    if not frames:
        return None
    frame = pd.concat(frames, ignore_index=True)
    return frame[["set", *[column for column in frame if column != "set"]]]


def headline(task: str, table: pd.DataFrame) -> dict:
    """One number per trained method, for DVC's metrics: {model: {metric: mean}}, over all test images.

    The metric is the one that chooses epochs. DVC makes a column of each number, so that more of them, or those of
    methods that no parameter moves, would push what changed between two experiments off the screen.
    """
    pooled = table[(table["subset"] == "All") & (table["split"] == "test") & (table["n_parameters"] > 0)]
    metric = scoring.SELECTS[task]
    return {row["model"]: {metric: round(float(row[metric]), 4)} for _, row in pooled.iterrows()}


def _tested_and_pooled(scores: pd.DataFrame) -> pd.DataFrame:
    tested = scores[scores["split"] == "test"]
    return pd.concat([tested, tested.assign(subset="All")])


def metric_columns(task: str, scores: pd.DataFrame) -> list[str]:
    """The columns of per-image scores that are metrics."""
    about = {"task", "model", "subset", "split", "image_id", "photograph", *DESCRIBES[task]}
    return [column for column in scores if column not in about]


def _manifest(method: dict, split: str, predictions: Path, ids: set[str], truth: list[str]) -> pd.DataFrame:
    file = predictions / method["model"] / split / "predictions.parquet"
    if split not in method["splits"]:
        raise UserError(f"{method['model']} has no predictions for {split}; `dvc repro models/dvc.yaml:infer-{method['model']}` makes them")
    manifest = tables.read(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != method["splits"][split]["predictions"]:
        raise UserError(f"{file} is not the one that inference wrote")
    if method["truth"] != truth:
        raise UserError(f"{method['model']} was run on other data than now stands in {', '.join(method['data'])}")
    twice = manifest["image_id"][manifest["image_id"].duplicated()]
    if len(twice):
        raise UserError(f"{file}: {twice.iloc[0]} occurs twice")
    if set(manifest["image_id"]) != ids:
        odd = sorted(set(manifest["image_id"]) ^ ids)
        raise UserError(f"{file} has {len(manifest)} images, the split {split} has {len(ids)}; {odd[0]} is on one side only")
    return manifest.set_index("image_id")


def _prediction(folder: Path, row: pd.Series, task: str, size: int) -> np.ndarray:
    file = folder / row["prediction"]
    if not file.is_file():
        raise UserError(f"{file} is missing")
    if hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
        raise UserError(f"{file} was changed after inference (sha256 differs from predictions.parquet)")
    picture = images.read_rgb(file)
    if picture.shape[:2] != (size, size):
        raise UserError(f"{file} is {picture.shape[1]}x{picture.shape[0]}, expected {size}x{size}")
    return picture[..., 0] if task == "localization" else picture


def _about(task: str, dataset, number: int, folders: list[Path]) -> dict:
    row = dataset.rows.iloc[number]
    if task == "inpainting":
        return {"subset": folders[0].name, "photograph": row["image_id"], "hole_ratio": row["hole_ratio"], "hole_ratio_bucket": row["hole_ratio_bucket"]}
    described = {key: row[key] for key in DESCRIBES[task]}
    return {"subset": row["subset"], "photograph": row["source_image"]} | described
