"""From saved predictions to tables: one row per image, then means over stated images, with intervals.

What is evaluated is what artifacts/index/<task>/ lists: one JSON per method, written by inference, with the number of
images of each split and the hash of its manifest. A prediction that is missing, changed or of another size stops the
evaluation; no mean is ever taken over what happened to be there.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import image_scores, protocols, statistics
from pipeline.scoring import predictions as saved
from pipeline.tasks import METRICS, TASKS

INDEX_KEYS = {"task", "model", "n_parameters", "trained", "data", "options", "truth", "splits"}


class Scores(NamedTuple):
    """What all predictions of a task score."""

    per_image: pd.DataFrame
    """A row per model, split and image: task, model, subset, split, image_id, photograph, what describes the image,
    metrics."""
    by_protocol: pd.DataFrame
    """The rows at image_size again (model, subset, split, image_id, photograph) with a column "<protocol> <metric>" for every
    score under a named protocol."""


class _Work(NamedTuple):
    """One image and what all models made of it."""

    split: str
    number: int
    predictions: tuple[tuple[str, Path, str], ...]
    """Model, file and the sha256 that inference stated."""


def indexes(folder: Path) -> list[dict]:
    """The methods to evaluate, by name. Raises UserError naming a file that isn't as inference writes it."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no method has predictions there; `dvc repro` makes them")
    methods = []
    for file in files:
        anew = f"`dvc repro models/dvc.yaml:infer-{file.stem}` makes it anew"
        try:
            found = json.loads(file.read_text())
        except ValueError:
            raise UserError(f"{file} is not JSON; {anew}") from None
        if lacking := INDEX_KEYS - set(found if isinstance(found, dict) else ()):
            raise UserError(f"{file} does not state {sorted(lacking)[0]}; {anew}")
        if (found["task"], found["model"]) != (folder.name, file.stem):
            raise UserError(f"{file} is of {found['model']} ({found['task']}), expected {file.stem} ({folder.name}); {anew}")
        methods.append(found)
    return methods


def per_image(task: str, methods: list[dict], predictions: Path, size: int) -> pd.DataFrame:
    """`score` without further protocols, in this process."""
    return score(task, methods, predictions, size).per_image


def score(
    task: str,
    methods: list[dict],
    predictions: Path,
    size: int,
    named: list[str] | None = (),
    spread: Callable[[Callable, list], Iterable] = map,
) -> Scores:
    """Scores of every prediction; under seam-256, and at `size` under the protocols `named` too (None: all of the task's).
    A composite without ground truth has nothing to score in harmonization, and no row.

    spread: a map over the images, in order (pipeline.running.parallel.spread, or the builtin one).

    Raises UserError naming the method and the file where a prediction is missing, was changed after inference, isn't a
    picture of the split's size, or where the number of images is not that of the manifest.
    """
    for one in methods:
        for key in ("data", "options"):
            if one[key] != methods[0][key]:
                raise UserError(f"artifacts/index/{task}: {methods[0]['model']} was run on {methods[0][key]}, {one['model']} on {one[key]}")
    folders = [Path(one) for one in methods[0]["data"]]
    truth = [hashlib.sha256(one.read_bytes()).hexdigest() for one in datasets.manifests(folders)]
    sides = {split for one in methods for split in one["splits"] if datasets.side_of(split)}
    sets, work = {}, []
    for split in [*datasets.test_splits(task, folders), *sorted(sides, key=datasets.side_of)]:
        sets[split] = dataset = datasets.for_testing(task, folders, size, split, **methods[0]["options"])
        dataset.decoded = datasets.Latest()
        stated = [(one["model"], predictions / one["model"] / split, _manifest(one, split, predictions, task, dataset, truth)) for one in methods]
        for number, name in enumerate(dataset.ids):
            files = tuple((model, folder / rows["prediction"][name], rows["sha256"][name]) for model, folder, rows in stated)
            work.append(_Work(split, number, files))
    records = protocols.chosen(task, named)
    one_image = functools.partial(_score_image, root=Path.cwd(), task=task, sets=sets, records=records)
    rows, others = [], []
    for item, found in zip(work, spread(one_image, work)):
        about = {"split": item.split, "image_id": sets[item.split].ids[item.number]} | _about(task, sets[item.split], item.number, folders)
        for (model, *_), (scores, values) in zip(item.predictions, found):
            rows += [{"task": task, "model": model} | about | scores] if scores else []
            others += [{"model": model} | about | values] if values else []
    if not rows:
        raise UserError(f"{task}: no image in {', '.join(methods[0]['data'])} has a ground truth to be scored by")
    key, leading = ["model", "subset", "split", "image_id", "photograph"], ["task", "model", "subset", "split", "image_id", "photograph"]
    return Scores(_ordered(rows, [*leading, *TASKS[task].described_by]), _ordered(others, key, TASKS[task].described_by) if others else pd.DataFrame(columns=key))


def _ordered(rows: list[dict], leading: list[str], without: tuple[str, ...] = ()) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame = frame[leading + [column for column in frame if column not in (*leading, *without)]]
    return frame.sort_values(["model", "split", "subset", "image_id"], ignore_index=True)


def _score_image(item: _Work, *, root: Path, task: str, sets: dict, records: tuple) -> list[tuple[dict, dict]]:
    """Of each model's prediction of one image: its scores under seam-256, and those under the other protocols by
    "<protocol> <metric>". `root` is the project's folder, which a worker of a cluster isn't started in."""
    dataset = sets[item.split]
    with contextlib.chdir(root):
        full = dataset.original(item.number) if TASKS[task].trains_on == "composites" else {}
        truth = dataset.fitted(full) if full else dataset.item(item.number)
        further = None if datasets.side_of(item.split) or not records else _further(task, dataset, item.number, full, truth, records)
        found = []
        for _, file, sha256 in item.predictions:
            prediction = _prediction(file, sha256, task, dataset.size)
            scores = image_scores.score(task, prediction, truth)
            values = {}
            if scores and further is not None:
                values = {f"{protocols.SEAM} {metric}": scores[metric] for metric in TASKS[task].seam_metrics}
                values |= {f"{protocol} {metric}": value for protocol, metric, value in further(prediction)}
            found.append((scores, values))
        return found


def _further(task: str, dataset, number: int, full: dict, truth: dict, records: tuple) -> Callable | None:
    """What scores a prediction of this image under the protocols other than seam-256, whose scores are there already;
    None where there is no ground truth."""
    records = tuple(one for one in records if one.name != protocols.SEAM)
    if task == "inpainting":
        return lambda prediction: protocols.inpainting(prediction, truth["image"], truth["hole"], records)
    # as the file holds it: protocols differ in what they make of grey edges
    mask = images.read_rgb(dataset.rows.iloc[number]["mask"], max_pixels=images.PILLOW_LIMIT)[..., 0]
    if task == "localization":
        return lambda prediction: protocols.localization(prediction, mask, records)
    if "real" not in full:
        return None
    return protocols.HarmonizationTruth(full["composite"], full["real"], mask, (dataset.size, dataset.size), records).score


def summary(task: str, scores: pd.DataFrame, methods: list[dict]) -> pd.DataFrame:
    """One row per model, split and sub-dataset, and "All": the mean over all images of the split pooled.

    Columns: task, model, subset, split, n_images, n_parameters, simulated (of composites: which share of the images a
    camera model made, 0 to 1), the means, and n_excluded, the images that some metric is undefined for (they are left
    out of that metric's mean alone).
    """
    parameters = {one["model"]: one["n_parameters"] for one in methods}
    expected = {(one["model"], split): two["n_scored"] for one in methods for split, two in one["splits"].items()}
    metrics = metric_columns(task, scores)
    pooled = pd.concat([scores, scores.assign(subset="All")])
    rows = []
    there = scores.groupby(["model", "split"]).size()
    for (model, split), count in expected.items():
        if (found := int(there.get((model, split), 0))) != count:
            raise UserError(f"{model}: {found} scores for the {count} images with a truth in its manifest ({split})")
    for (model, subset, split), part in pooled.groupby(["model", "subset", "split"], sort=True):
        head = {"task": task, "model": model, "subset": subset, "split": split, "n_images": len(part), "n_parameters": parameters[model]}
        if "simulated" in part:
            head["simulated"] = part["simulated"].mean()
        rows.append(head | part[metrics].mean().to_dict() | {"n_excluded": int(part[metrics].isna().any(axis=1).sum())})
    return pd.DataFrame(rows)


def intervals(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Bootstrap intervals, over photographs, of the means of the split "test" in `summary`: model, subset, metric, mean, low,
    high, n, ..., simulated. (This and what follows leaves the real sets out, and says as `summary` does which share of
    the images is simulated.)"""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    table = statistics.intervals_table(pooled, metric_columns(task, scores), ["model", "subset"], "photograph", **options)
    return _with_simulated_share(table, pooled, ["subset"])


def differences(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Paired differences between every two models: subset, metric, first, second, mean (first - second), low, high, p, n."""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    parts = [
        statistics.paired_table(part, metric, "image_id", "photograph", **options).assign(subset=subset, metric=metric)
        for subset, part in pooled.groupby("subset")
        for metric in TASKS[task].metrics
    ]
    frame = _with_simulated_share(pd.concat(parts, ignore_index=True), pooled, ["subset"])
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def differences_by_size(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Paired differences as in `differences`, by how much of the image is at stake: by (hole_ratio_bucket, else
    foreground_share), value, metric, first, second, mean (first - second), low, high, p, n."""
    by, frame = _with_size(task, scores[scores["split"] == "test"])
    options = {"seed": seed, "resamples": resamples, "level": level}
    parts = [
        statistics.paired_table(part, metric, "image_id", "photograph", **options).assign(**{by: value, "metric": metric})
        for value, part in frame.groupby(by)
        for metric in TASKS[task].metrics
    ]
    table = _with_simulated_share(pd.concat(parts, ignore_index=True), frame, [by]).rename(columns={by: "value"}).assign(by=by)
    return table[["by", "value", "metric", *[column for column in table if column not in ("by", "value", "metric")]]]


def ranks(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Ranks with ties of the models: subset, metric, model, mean, rank, rank_worst (pipeline/scoring/statistics.py)."""
    pooled = _tested_and_pooled(scores)
    options = {"seed": seed, "resamples": resamples, "level": level}
    parts = []
    for subset, part in pooled.groupby("subset"):
        for metric in TASKS[task].metrics:
            wide, groups = statistics.wide(part, metric, "image_id", "photograph")
            found = statistics.rank(wide, groups, higher_is_better=METRICS[metric].higher_is_better, **options)
            parts.append(found.assign(subset=subset, metric=metric))
    frame = _with_simulated_share(pd.concat(parts, ignore_index=True), pooled, ["subset"])
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def breakdowns(task: str, scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Means by what kind of image it is: by (the column), value, model, metric, mean, low, high, n."""
    size, frame = _with_size(task, scores[scores["split"] == "test"])
    by = [size, *TASKS[task].kinds]
    options = {"seed": seed, "resamples": resamples, "level": level}
    metrics = list(TASKS[task].metrics)
    parts = [
        _with_simulated_share(statistics.intervals_table(frame, metrics, [column, "model"], "photograph", **options), frame, [column])
        .rename(columns={column: "value"})
        .assign(by=column)
        for column in by
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame[["by", *[column for column in frame if column != "by"]]]


def _with_size(task: str, frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The column that says how large the hole or foreground is, and the frame with it."""
    column, bins = TASKS[task].size_column, TASKS[task].size_bins
    if bins is None:
        return column, frame
    labels = [f"{low:.0%}-{high:.0%}" for low, high in zip(bins, bins[1:])]
    share = pd.cut(frame["foreground_ratio"], bins, labels=labels, include_lowest=True).astype(str)
    return column, frame.assign(**{column: share})


def by_resolution(task: str, scores: pd.DataFrame, methods: list[dict], size: int, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Breakdowns by the side in pixels that predictions were made and scored at, with the columns of `breakdowns`.

    by = "resolution": all images that are large enough for a side (at `size`: all), n tells how many; none: n = 0.
    by = "resolution_same_images": at every side the same images, those that are large enough for the largest side that
    has any. Without further sides there is no row.
    """
    splits = {split for one in methods for split in one["splits"] if datasets.side_of(split)}
    if not splits:
        return pd.DataFrame()
    sides = {size: "test"} | {datasets.side_of(split): split for split in splits}
    tested = scores[scores["split"].isin(sides.values())]
    at = tested["split"].map({split: side for side, split in sides.items()})
    same = tested["image_id"].isin(tested.loc[at == at.max(), "image_id"])
    frames = []
    for by, part in (("resolution", tested), ("resolution_same_images", tested[same])):
        rows = []  # a side without an image has its row, an undefined mean over 0 images
        for model in sorted(one["model"] for one in methods):
            for side in sorted(sides):
                chosen = part[(at[part.index] == side) & (part["model"] == model)]
                found = statistics.mean_intervals(chosen[list(TASKS[task].metrics)], chosen["photograph"], seed=seed, resamples=resamples, level=level)
                rows += [{"by": by, "value": str(side), "model": model, "metric": metric} | one._asdict() for metric, one in zip(TASKS[task].metrics, found)]
        frames.append(_with_simulated_share(pd.DataFrame(rows), part.assign(value=at[part.index].astype(str)), ["value"]))
    return pd.concat(frames, ignore_index=True)


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
    metric = TASKS[task].leading
    return {row["model"]: {metric: round(float(row[metric]), 4)} for _, row in pooled.iterrows()}


def _with_simulated_share(table: pd.DataFrame, scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The table with the column `simulated`, as `summary` has it, of the images that a row is of; unchanged where no image
    can be simulated (inpainting)."""
    if "simulated" not in scores:
        return table
    share = scores.drop_duplicates([*by, "image_id"]).groupby(by, dropna=False)["simulated"].mean()
    return table.merge(share.reset_index(), on=by, how="left", validate="many_to_one")


def _tested_and_pooled(scores: pd.DataFrame) -> pd.DataFrame:
    tested = scores[scores["split"] == "test"]
    return pd.concat([tested, tested.assign(subset="All")])


def metric_columns(task: str, scores: pd.DataFrame) -> list[str]:
    """The columns of per-image scores that are metrics."""
    about = {"task", "model", "subset", "split", "image_id", "photograph", *TASKS[task].described_by}
    return [column for column in scores if column not in about]


def _manifest(method: dict, split: str, predictions: Path, task: str, dataset, truth: list[str]) -> dict[str, dict]:
    """The columns prediction and sha256 of a method's manifest by image, when it is whole and of these images."""
    file, ids = predictions / method["model"] / split / "predictions.parquet", set(dataset.ids)
    if split not in method["splits"]:
        raise UserError(f"{method['model']} has no predictions for {split}; `dvc repro models/dvc.yaml:infer-{method['model']}` makes them")
    stated = method["splits"][split]
    manifest = tables.read(file, ["image_id", "prediction", "sha256"])
    if hashlib.sha256(file.read_bytes()).hexdigest() != stated["predictions"]:
        raise UserError(f"{file} is not the one that inference wrote")
    if method["truth"] != truth:
        raise UserError(f"{method['model']} was run on other data than now stands in {', '.join(method['data'])}")
    twice = manifest["image_id"][manifest["image_id"].duplicated()]
    if len(twice):
        raise UserError(f"{file}: {twice.iloc[0]} occurs twice")
    if set(manifest["image_id"]) != ids:
        odd = sorted(set(manifest["image_id"]) ^ ids)
        raise UserError(f"{file} has {len(manifest)} images, the split {split} has {len(ids)}; {odd[0]} is on one side only")
    for key, count in (("n_images", len(ids)), ("n_scored", datasets.scored(task, dataset))):
        if stated[key] != count:
            raise UserError(f"artifacts/index/{task}/{method['model']}.json states {key} = {stated[key]} for {split}, the data have {count}")
    return manifest.set_index("image_id").to_dict()


def _prediction(file: Path, sha256: str, task: str, size: int) -> np.ndarray:
    picture = saved.read(file, sha256, size)
    if TASKS[task].region is not None:
        return picture
    if (picture != picture[..., :1]).any():
        raise UserError(f"{file} is in colour, expected a grey probability map")
    return np.ascontiguousarray(picture[..., 0])


def _about(task: str, dataset, number: int, folders: list[Path]) -> dict:
    row = dataset.rows.iloc[number]
    described = {key: row[key] for key in TASKS[task].described_by}
    # photographs are tested as one sub-dataset, named after their source
    subset = row["subset"] if TASKS[task].trains_on == "composites" else folders[0].name
    return {"subset": subset, "photograph": row[TASKS[task].photograph]} | described
