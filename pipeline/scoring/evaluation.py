"""From saved predictions to tables: one row per image, then means over stated images, with intervals.

What is evaluated is what artifacts/index/<task>/ lists: one JSON per method, written by inference, with the number of
images of each split and the hash of its manifest. A prediction that is missing, changed or of another size stops the
evaluation; no mean is ever taken over what happened to be there.
"""

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import images, repeats, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.metrics import localization
from pipeline.scoring import image_scores, index, perceptual, protocols
from pipeline.scoring import predictions as saved
from pipeline.tasks import TASKS, compose, share_touched

TOUCHED = "background_touched"
"""A column of per-image scores and of summaries."""


class Scores(NamedTuple):
    """What all predictions of a task score."""

    per_image: pd.DataFrame
    """A row per model, repeat, split and image: task, model, subset, split, image_id, photograph, repeat (of a network that
    is trained from several seeds: which training, from 1), what describes the image, background_touched (of tasks with a region: which share of the pixels outside it the method changed, 0 to 1, before
    they were taken from the input), metrics."""
    by_protocol: pd.DataFrame
    """The rows at image_size again (model, repeat, subset, split, image_id, photograph) with a column "<protocol> <metric>" for
    every score under a named protocol."""
    curves: pd.DataFrame
    """What maps score at every threshold (CURVES): means over the images of one model, split and sub-dataset, and over all
    of the split ("All"). No row where predictions are pictures."""


CURVES = ("precision", "recall", "false_positive_rate", "f1", "iou")


class _Plan(NamedTuple):
    """What there is to score, checked."""

    sets: dict
    """Dataset by split."""
    work: "list[_Work]"
    folders: list[Path]

    def about(self, task: str, item: "_Work") -> dict:
        dataset = self.sets[item.split]
        return {"split": item.split, "image_id": dataset.ids[item.number]} | _about(
            task, dataset, item.number, self.folders
        )


class _Work(NamedTuple):
    """One image and what all models made of it."""

    split: str
    number: int
    predictions: tuple[tuple[str, Path, str, float | None], ...]
    """Model, file, the sha256 that inference stated, and the share of the background that was touched in the size that the
    picture was made in, where it was made elsewhere."""


def indexes(folder: Path) -> list[dict]:
    """The methods to evaluate, by name. Raises UserError naming a file that isn't as inference writes it."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no method has predictions there; `dvc repro` makes them")
    methods = []
    for file in files:
        method = index.read(file)
        if (method["task"], repeats.folder_name(method["model"], method["repeat"])) != (folder.name, file.stem):
            raise UserError(
                f"{file} is of {method['model']} ({method['task']}), expected {file.stem} ({folder.name}); `dvc repro models/dvc.yaml:infer-{file.stem}` makes it anew"
            )
        methods.append(method)
    return methods


def per_image(task: str, methods: list[dict], predictions: Path, size: int) -> pd.DataFrame:
    """`score` without further protocols, in this process."""
    return score(task, methods, predictions, size).per_image


def score(
    task: str,
    methods: list[dict],
    predictions: Path,
    size: int,
    named: Sequence[str] | None = (),
    spread: Callable[[Callable, list], Iterable] = map,
    splits: list[str] | None = None,
    lpips: perceptual.Weights | None = None,
) -> Scores:
    """Scores of every prediction; under seam-256, and at `size` under the protocols `named` too (None: all of the task's).
    A composite without ground truth has nothing to score in harmonization, and no row. With weights for `lpips` there is
    a column of it, in the tasks that have it.

    splits: those to score; None for all that the data have, and further sides that a method was run at.
    spread: a map over the images, in order (pipeline.running.parallel.spread, or the builtin one).

    Raises UserError naming the method and the file where a prediction is missing, was changed after inference, isn't a
    picture of the split's size, or where the number of images is not that of the manifest.
    """
    plan = _planned(task, methods, predictions, size, splits)
    records = protocols.chosen(task, named)
    own = {repeats.folder_name(method["model"], method["repeat"]): method.get("threshold") for method in methods}
    one_image = functools.partial(
        _score_image, root=Path.cwd(), task=task, sets=plan.sets, records=records, thresholds=own, lpips=lpips
    )
    rows, others, curves = [], [], _Curves()
    for item, by_model in zip(plan.work, spread(one_image, plan.work)):
        about = plan.about(task, item)
        for (name, *_), (scores, values, curve) in zip(item.predictions, by_model):
            model, repeat = repeats.parse(name)
            if curve:
                curves.add(model, about["subset"], item.split, curve)
            rows += [{"task": task, "model": model, repeats.COLUMN: repeat} | about | scores] if scores else []
            others += [{"model": model, repeats.COLUMN: repeat} | about | values] if values else []
    if not rows:
        raise UserError(f"{task}: no image in {', '.join(methods[0]['data'])} has a ground truth to be scored by")
    key, leading = (
        ["model", repeats.COLUMN, "subset", "split", "image_id", "photograph"],
        ["task", "model", "subset", "split", "image_id", "photograph", repeats.COLUMN],
    )
    touched = [TOUCHED] if TASKS[task].region else []
    return Scores(
        _ordered(rows, [*leading, *TASKS[task].described_by, *touched]),
        _by_protocol(others, key, TASKS[task].described_by) if others else pd.DataFrame(columns=key),
        curves.table(task, Counter(method["model"] for method in methods)),
    )


def features(
    task: str,
    methods: list[dict],
    predictions: Path,
    size: int,
    weights: perceptual.Weights,
    spread: Callable[[Callable, list], Iterable] = map,
) -> perceptual.Seen:
    """What FID's network sees in every prediction at `size` that has a truth, as it is scored, and in the truth. `spread` and
    errors as in `score`."""
    plan = _planned(task, methods, predictions, size)
    work = [item for item in plan.work if not datasets.side_of(item.split)]
    one_image = functools.partial(_features_of_image, root=Path.cwd(), task=task, sets=plan.sets, weights=weights)
    rows, predicted, real = [], [], []
    for item, image_features in zip(work, spread(one_image, work)):
        if image_features is None:
            continue
        of_truth, of_predictions = image_features
        about = {"split": item.split, "image_id": plan.sets[item.split].ids[item.number]}
        rows += [{"model": model} | about for model, *_ in item.predictions]
        predicted += of_predictions
        real += [of_truth] * len(of_predictions)
    return perceptual.Seen(pd.DataFrame(rows, columns=perceptual.IMAGE), np.array(predicted), np.array(real))


def _features_of_image(item: _Work, *, root: Path, task: str, sets: dict, weights: perceptual.Weights) -> tuple | None:
    dataset = sets[item.split]
    with contextlib.chdir(root):
        given = dataset.item(item.number)
        if TASKS[task].truth not in given:
            return None
        outputs = (
            compose(task, _prediction(file, sha256, task, dataset.size), given)
            for _, file, sha256, _ in item.predictions
        )
        return perceptual.features(weights, given[TASKS[task].truth]), [
            perceptual.features(weights, output) for output in outputs
        ]


def _planned(task: str, methods: list[dict], predictions: Path, size: int, splits: list[str] | None = None) -> _Plan:
    for method in methods:
        for part in ("data", "options"):
            if method[part] != methods[0][part]:
                raise UserError(
                    f"artifacts/index/{task}: {methods[0]['model']} was run on {methods[0][part]}, {method['model']} on {method[part]}"
                )
    folders = [Path(folder) for folder in methods[0]["data"]]
    truth = [hashlib.sha256(manifest.read_bytes()).hexdigest() for manifest in datasets.manifests(folders)]
    sides = {split for method in methods for split in method["splits"] if datasets.side_of(split)}
    sets, work = {}, []
    for split in splits or [
        *datasets.test_splits(task, folders),
        *sorted(sides, key=lambda split: datasets.by_side(datasets.side_of(split) or 0)),
    ]:
        sets[split] = dataset = datasets.for_testing(task, folders, size, split, **methods[0]["options"])
        dataset.decoded = datasets.Latest()
        stated = [
            (
                repeats.folder_name(method["model"], method["repeat"]),
                predictions / repeats.folder_name(method["model"], method["repeat"]) / split,
                _manifest(method, split, predictions, task, dataset, truth),
            )
            for method in methods
        ]
        for number, name in enumerate(dataset.ids):
            files = tuple(
                (model, folder / rows["prediction"][name], rows["sha256"][name], rows.get(TOUCHED, {}).get(name))
                for model, folder, rows in stated
            )
            work.append(_Work(split, number, files))
    return _Plan(sets, work, folders)


class _Curves:
    """Sums of curves over images, from which their means are taken."""

    def __init__(self) -> None:
        self.sums: dict[tuple, dict[str, list]] = {}

    def add(self, model: str, subset: str, split: str, curve: dict[str, np.ndarray]) -> None:
        for name in (subset, "All"):
            sums = self.sums.setdefault((model, split, name), {column: [0.0, 0] for column in CURVES})
            for column in CURVES:
                if not np.isnan(curve[column]).any():  # a mask that fills the image has no false positives to count
                    sums[column] = [sums[column][0] + curve[column], sums[column][1] + 1]

    def table(self, task: str, n_repeats: dict[str, int]) -> pd.DataFrame:
        """task, model, subset, split, threshold, n_images and CURVES: 256 rows for each model, subset and split. Of a
        model with repeats the means are over them too."""
        parts = []
        for (model, split, subset), sums in sorted(self.sums.items()):
            head = {"task": task, "model": model, "subset": subset, "split": split}
            means = {
                column: total / count if count else np.full(localization.LEVELS, np.nan)
                for column, (total, count) in sums.items()
            }
            thresholds = np.arange(localization.LEVELS) / 255
            parts.append(
                pd.DataFrame(
                    {**head, "threshold": thresholds, "n_images": sums["recall"][1] // n_repeats[model], **means}
                )
            )
        columns = ["task", "model", "subset", "split", "threshold", "n_images", *CURVES]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _by_protocol(rows: list[dict], leading: list[str], without: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame = frame[leading + [column for column in frame if column not in (*leading, *without)]]
    return frame.sort_values(["model", repeats.COLUMN, "split", "subset", "image_id"], ignore_index=True)


def _ordered(rows: list[dict], leading: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame = frame[leading + [column for column in frame if column not in leading]]
    return frame.sort_values(["model", repeats.COLUMN, "split", "subset", "image_id"], ignore_index=True)


def _score_image(
    item: _Work,
    *,
    root: Path,
    task: str,
    sets: dict,
    records: tuple,
    thresholds: dict[str, float | None],
    lpips: perceptual.Weights | None = None,
) -> list[tuple[dict, dict, dict]]:
    """Of each model's prediction of one image: its scores under seam-256, those under the other protocols by
    "<protocol> <metric>", and a map's curve. `thresholds` are the models' own; `root` is the project's folder, which a
    worker of a cluster isn't started in."""
    dataset = sets[item.split]
    with contextlib.chdir(root):
        full = dataset.original(item.number) if TASKS[task].trains_on == "composites" else {}
        truth = dataset.fitted(full) if full else dataset.item(item.number)
        size, side = truth[TASKS[task].picture].shape[:2], datasets.side_of(item.split)
        if side == datasets.ORIGINAL:
            records = protocols.at_own_size(records)
        further = (
            _further(task, dataset, item.number, full, truth, records)
            if records and side in (None, datasets.ORIGINAL)
            else None
        )
        scored = []
        for model, file, sha256, touched in item.predictions:
            prediction = _prediction(file, sha256, task, size)
            scores = image_scores.score(task, prediction, truth, thresholds[model])
            if scores and TASKS[task].region:
                scores = {TOUCHED: share_touched(task, prediction, truth) if touched is None else touched} | scores
            if scores and lpips is not None and "lpips" in TASKS[task].perceptual:
                scores["lpips"] = perceptual.lpips(lpips, compose(task, prediction, truth), truth[TASKS[task].truth])
            curve = {}
            if TASKS[task].at_own_threshold and truth[TASKS[task].truth].any():
                curve = localization.curve(prediction, truth[TASKS[task].truth])
            values = {}
            if scores and further is not None:
                values = {f"{protocols.SEAM} {metric}": scores[metric] for metric in TASKS[task].seam_metrics}
                values |= {f"{protocol} {metric}": value for protocol, metric, value in further(prediction)}
            scored.append((scores, values, curve))
        return scored


def _further(task: str, dataset, number: int, full: dict, truth: dict, records: tuple) -> Callable | None:
    """What scores a prediction of this image under the protocols other than seam-256, whose scores are there already;
    None where there is no ground truth."""
    records = tuple(record for record in records if record.name != protocols.SEAM)
    if task == "inpainting":
        return lambda prediction: protocols.inpainting.score(prediction, truth["image"], truth["hole"], records)
    # as the file holds it: protocols differ in what they make of grey edges
    mask = images.read_soft_mask(dataset.rows.iloc[number]["mask"], max_pixels=images.PILLOW_LIMIT)
    if task == "localization":
        return lambda prediction: protocols.localization.score(prediction, mask, records)
    if "real" not in full:
        return None
    return protocols.harmonization.Truth(full["composite"], full["real"], mask, truth["mask"].shape, records).score


def _manifest(method: dict, split: str, predictions: Path, task: str, dataset, truth: list[str]) -> dict[str, dict]:
    """The columns prediction and sha256 of a method's manifest by image, when it is whole and of these images."""
    called = repeats.folder_name(method["model"], method["repeat"])
    file, ids = predictions / called / split / "predictions.parquet", set(dataset.ids)
    if split not in method["splits"]:
        raise UserError(
            f"{method['model']} has no predictions for {split}; `dvc repro models/dvc.yaml:infer-{method['model']}` makes them"
        )
    stated = method["splits"][split]
    manifest = tables.read(file)
    if lacking := [column for column in saved.COLUMNS if column not in manifest]:
        raise UserError(f"{file}: no column {lacking[0]!r}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != stated["predictions"]:
        raise UserError(f"{file} is not the one that inference wrote")
    if method["truth"] != truth:
        raise UserError(f"{method['model']} was run on other data than now stands in {', '.join(method['data'])}")
    twice = manifest["image_id"][manifest["image_id"].duplicated()]
    if len(twice):
        raise UserError(f"{file}: {twice.iloc[0]} occurs twice")
    if set(manifest["image_id"]) != ids:
        odd = sorted(set(manifest["image_id"]) ^ ids)
        raise UserError(
            f"{file} has {len(manifest)} images, the split {split} has {len(ids)}; {odd[0]} is on one side only"
        )
    for key, count in (("n_images", len(ids)), ("n_scored", datasets.scored(task, dataset))):
        if stated[key] != count:
            raise UserError(
                f"artifacts/index/{task}/{method['model']}.json states {key} = {stated[key]} for {split}, the data have {count}"
            )
    return manifest.set_index("image_id").to_dict()


def _prediction(file: Path, sha256: str, task: str, size: int | tuple[int, int]) -> np.ndarray:
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
