"""From one row per image to tables: means over stated images, intervals, paired differences, ranks, breakdowns.

All of them take `scores`, the rows of per_image.parquet (`Scores.per_image` of pipeline/scoring/evaluation.py). Intervals are
bootstrap intervals over photographs, as `resampling` says; of a network that was trained from several seeds they are over
photographs and trainings, and its means are over both.
"""

from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline import repeats, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import statistics
from pipeline.scoring.evaluation import TOUCHED
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import METRICS, TASKS


def summary(task: str, scores: pd.DataFrame, methods: list[dict]) -> pd.DataFrame:
    """One row per model, split and sub-dataset, and "All": the mean over all images of the split pooled.

    Columns: task, model, subset, split, n_repeats (trainings that the means are over), n_images, n_parameters (missing where nobody knows), origin (trained here, no
    weights, or which weights or pictures were brought along), background_touched (of tasks with a region: the mean share
    of the pixels outside it that the method changed, which are scored as the input has them), simulated (of composites: which share of the images a
    camera model made, 0 to 1), threshold and threshold_from (of methods that predict maps: the threshold that f1_val and
    iou_val are taken at, and what it was chosen on or why there is none), the means, and n_excluded, the images that some metric
    is undefined for (they are left out of that metric's mean alone; a method without a threshold of its own is no such
    case).
    """
    about = {method["model"]: method for method in methods if method["repeat"] == 1}
    expected: Counter = Counter()
    for method in methods:
        expected.update(
            {(method["model"], split): manifest["n_scored"] for split, manifest in method["splits"].items()}
        )
    metrics = metric_columns(task, scores)
    pooled = pd.concat([scores, scores.assign(subset="All")])
    rows = []
    there = scores.groupby(["model", "split"]).size()
    for (model, split), count in expected.items():
        if (n_scores := int(there.get((model, split), 0))) != count:
            raise UserError(f"{model}: {n_scores} scores for the {count} images with a truth in its manifest ({split})")
    for (model, subset, split), part in pooled.groupby(["model", "subset", "split"], sort=True):
        head = {
            "task": task,
            "model": model,
            "subset": subset,
            "split": split,
            "n_repeats": part[repeats.COLUMN].nunique(),
            "n_images": part["image_id"].nunique(),
            "n_parameters": about[model]["n_parameters"],
        }
        head["origin"] = about[model]["origin"]
        if TOUCHED in part:
            head[TOUCHED] = part[TOUCHED].mean()
        if "simulated" in part:
            head["simulated"] = part["simulated"].mean()
        if TASKS[task].at_own_threshold:
            head |= _threshold([method for method in methods if method["model"] == model])
        undefined = part.loc[part[_of_all_methods(task, metrics)].isna().any(axis=1), "image_id"].nunique()
        rows.append(head | part[metrics].mean().to_dict() | {"n_excluded": undefined})
    frame = pd.DataFrame(rows)
    return frame.astype({"n_parameters": "Int64"} | ({"threshold": "float64"} if "threshold" in frame else {}))


def intervals(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Bootstrap intervals, over photographs, of the means of the split "test" in `summary`: model, subset, metric, mean, low,
    high, n, ..., simulated. (This and what follows leaves the real sets out, and says as `summary` does which share of
    the images is simulated.)"""
    pooled = _tested_and_pooled(scores)
    table = statistics.intervals_table(
        pooled, metric_columns(task, scores), ["model", "subset"], "photograph", resampling=resampling
    )
    return _with_simulated_share(table, pooled, ["subset"])


def differences(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Paired differences between every two models: subset, metric, first, second, mean (first - second), low, high, p, n."""
    pooled = _tested_and_pooled(scores)
    parts = [
        statistics.paired_table(part, metric, "image_id", "photograph", resampling=resampling).assign(
            subset=subset, metric=metric
        )
        for subset, part in pooled.groupby("subset")
        for metric in TASKS[task].metrics
    ]
    frame = _with_simulated_share(pd.concat(parts, ignore_index=True), pooled, ["subset"])
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def differences_by_size(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Paired differences as in `differences`, by how much of the image is at stake: by (hole_ratio_bucket, else
    foreground_share), value, metric, first, second, mean (first - second), low, high, p, n."""
    by, frame = _with_size(task, scores[scores["split"] == "test"])
    parts = [
        statistics.paired_table(part, metric, "image_id", "photograph", resampling=resampling).assign(
            **{by: value, "metric": metric}
        )
        for value, part in frame.groupby(by)
        for metric in TASKS[task].metrics
    ]
    table = (
        _with_simulated_share(pd.concat(parts, ignore_index=True), frame, [by])
        .rename(columns={by: "value"})
        .assign(by=by)
    )
    return table[["by", "value", "metric", *[column for column in table if column not in ("by", "value", "metric")]]]


def ranks(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Ranks with ties of the models: subset, metric, model, mean, rank, rank_worst (pipeline/scoring/statistics.py)."""
    pooled = _tested_and_pooled(scores)
    parts = []
    for subset, part in pooled.groupby("subset"):
        for metric in TASKS[task].metrics:
            wide, groups = statistics.wide(part, metric, "image_id", "photograph")
            ranked = statistics.rank(
                wide, groups, higher_is_better=METRICS[metric].higher_is_better, resampling=resampling
            )
            parts.append(ranked.assign(subset=subset, metric=metric))
    frame = _with_simulated_share(pd.concat(parts, ignore_index=True), pooled, ["subset"])
    return frame[["subset", "metric", *[column for column in frame if column not in ("subset", "metric")]]]


def breakdowns(task: str, scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Means by what kind of image it is: by (the column), value, model, metric, mean, low, high, n."""
    size, frame = _with_size(task, scores[scores["split"] == "test"])
    by = [size, *TASKS[task].kinds]
    metrics = list(TASKS[task].metrics)
    parts = [
        _with_simulated_share(
            statistics.intervals_table(frame, metrics, [column, "model"], "photograph", resampling=resampling),
            frame,
            [column],
        )
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


def by_resolution(
    task: str, scores: pd.DataFrame, methods: list[dict], size: int, resampling: Resampling
) -> pd.DataFrame:
    """Breakdowns by the side in pixels that predictions were made and scored at, with the columns of `breakdowns`.

    by = "resolution": all images that are large enough for a side (at `size`: all), n tells how many; none: n = 0.
    by = "resolution_same_images": at every side the same images, those that are large enough for the largest side that
    has any. Of the pictures' own sizes the value is "original"; where they are the only further size, the images are the same
    anyway and this part is left out. Without further sides there is no row.
    """
    splits = {split for method in methods for split in method["splits"] if datasets.side_of(split)}
    if not splits:
        return pd.DataFrame()
    sides = {size: "test"} | {side: split for split in splits if (side := datasets.side_of(split))}
    tested = scores[scores["split"].isin(sides.values())]
    at = tested["split"].map({split: side for side, split in sides.items()})
    largest = max((side for side in at.unique() if side != datasets.ORIGINAL), default=size)
    same = tested["image_id"].isin(tested.loc[at == largest, "image_id"])
    squares = [side for side in sides if side != datasets.ORIGINAL]
    frames = []
    for by, part in (
        ("resolution", tested),
        *((("resolution_same_images", tested[same]),) if len(squares) > 1 else ()),
    ):
        rows = []  # a side without an image has its row, an undefined mean over 0 images
        for model in sorted({method["model"] for method in methods}):
            for side in sorted(sides, key=datasets.by_side):
                chosen = part[(at[part.index] == side) & (part["model"] == model)]
                intervals = statistics.model_intervals(
                    chosen, list(TASKS[task].metrics), "photograph", resampling=resampling
                )
                rows += [
                    {"by": by, "value": str(side), "model": model, "metric": metric} | interval._asdict()
                    for metric, interval in zip(TASKS[task].metrics, intervals)
                ]
        frames.append(
            _with_simulated_share(pd.DataFrame(rows), part.assign(value=at[part.index].astype(str)), ["value"])
        )
    return pd.concat(frames, ignore_index=True)


def overlaps(methods: list[dict]) -> pd.DataFrame | None:
    """How far test photographs of the real iHarmony4 were seen in its training lists: set (the name of a sub-dataset of
    composites or of a real set), subset and the counts of overlaps.parquet; None where no set has such a table."""
    files = [Path(folder) / "overlaps.parquet" for folder in methods[0]["data"]]
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
    pooled = table[(table["subset"] == "All") & (table["split"] == "test") & (table["n_parameters"].fillna(0) > 0)]
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


def _threshold(trainings: list[dict]) -> dict:
    """The mean of the thresholds of a network's repeats, each of which has chosen its own, and what each says of it."""
    if len(trainings) == 1:
        return {key: trainings[0][key] for key in ("threshold", "threshold_from")}
    values = [training["threshold"] for training in trainings if training["threshold"] is not None]
    said = "; ".join(f"repeat {training['repeat']}: {training['threshold_from']}" for training in trainings)
    return {"threshold": sum(values) / len(values) if values else None, "threshold_from": said}


def _of_all_methods(task: str, metrics: list[str]) -> list[str]:
    """Without the metrics at a method's own threshold: a method that has none lacks them for every image, which says
    nothing of the images."""
    return [name for name in metrics if name not in TASKS[task].at_own_threshold]


def metric_columns(task: str, scores: pd.DataFrame) -> list[str]:
    """The columns of per-image scores that are metrics."""
    about = {
        "task",
        "model",
        repeats.COLUMN,
        "subset",
        "split",
        "image_id",
        "photograph",
        *TASKS[task].described_by,
        TOUCHED,
    }
    return [column for column in scores if column not in about]
