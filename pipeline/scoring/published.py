"""What the papers print, as one table, and how our results stand beside it.

`published.csv` is typed by hand from the papers that its column `paper` names: every results and ablation table, each number as printed, with remarks
on cells that contradict others or are not certain.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import UserError

FILE = Path(__file__).with_suffix(".csv")

COLUMNS = {
    "task": "localization, harmonization or inpainting",
    "paper": "where the number is printed",
    "table": "which table there",
    "model": "the network's name in models/, where there is one; an ablation is name:variant",
    "label": "the name as printed",
    "subset": "sub-dataset, or All",
    "condition": "hole-ratio bucket in per cent (10-20), resolution, or empty",
    "metric": "what is printed: psnr, fmse, f1, memory, votes, ...",
    "value": "as printed",
    "unit": "of the value; per cents stay per cents",
    "note": "the specs' remark on this cell, or empty",
}

KEY = ["task", "paper", "table", "model", "subset", "condition", "metric"]

UNITS = ("dB", "grey levels squared", "percent", "share", "MB", "millions", "votes", "log odds", "distance")

OURS = {
    ("localization", "f1"): "f1_minmax",
    ("localization", "iou"): "iou_minmax",
    ("harmonization", "fssim"): "fssim_iih",
}
"""The metric of ours that a printed metric is to be held against, where the names differ: printed F1 and IoU are taken
from maps stretched to their own range, printed fSSIM has IIH's constants."""

NAMED_PHOTOGRAPHS = ("CelebA", "Paris", "Places2")
SUBSETS = {("inpainting", "All"): NAMED_PHOTOGRAPHS}
"""The papers' data sets that a sub-dataset of ours of another name is held against."""

PRINTED = ["task", "paper", "table", "subset", "condition", "metric"]
"""What makes a printed column of models."""

COMPARED = (*PRINTED, "model", "label", "split", "ours_subset", "ours", "low", "high", "n_images", "published", "note")

SMALLEST = 3
"""Models below which no rank correlation is given."""


def table(path: Path = FILE) -> pd.DataFrame:
    """The published numbers: columns as in COLUMNS, `value` float64, one row per KEY.

    Raises UserError, naming the file and the line, for a column that is missing or unknown, an empty cell where a
    value is due, a unit or task that is unknown, a value that is no finite number or out of its unit's range, or a
    number typed twice.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    if list(frame.columns) != list(COLUMNS):
        raise UserError(f"{path}: columns {', '.join(frame.columns)}; expected {', '.join(COLUMNS)}")
    values = pd.to_numeric(frame["value"], errors="coerce")
    share = frame["unit"].map({"percent": 100.0, "share": 1.0}).fillna(np.inf)
    checks = {
        "an empty cell": (frame.drop(columns=["subset", "condition", "note"]) == "").any(axis=1),
        "an unknown task": ~frame["task"].isin(("localization", "harmonization", "inpainting")),
        "an unknown unit": ~frame["unit"].isin(UNITS),
        "a value that is no finite number": ~np.isfinite(values),
        "a value out of the range of its unit": (values < 0) | (values > share),
        "a number that stands there twice": frame.duplicated(KEY),
    }
    for what, wrong in checks.items():
        if wrong.any():
            row = frame[wrong].iloc[0]
            cell = f"{row['model']}, {row['subset']}, {row['metric']} = {row['value']!r} {row['unit']}"
            raise UserError(f"{path}, line {int(np.argmax(wrong)) + 2}: {what} ({cell})")
    return frame.assign(value=values)


def comparable(printed: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` with `published`, the value on our scale (per cents as shares), and `ours_metric`, the metric of
    ours that it is held against."""
    return printed.assign(
        published=printed["value"] / np.where(printed["unit"] == "percent", 100, 1),
        ours_metric=[OURS.get(key, key[1]) for key in zip(printed["task"], printed["metric"])],
    )


def measured(summary: pd.DataFrame, intervals: pd.DataFrame, breakdowns: pd.DataFrame | None = None) -> pd.DataFrame:
    """Our means of one task as `compare` takes them, from evaluation's tables; in inpainting breakdowns.parquet is one of
    them: task, model, subset, split, condition (the hole-ratio bucket, or empty), metric, ours, low, high, n_images.

    Sets without sub-datasets of their own (DIH99, RealHM) have no "All" that any table prints and are left out;
    iHarmony4 as a real set stays. So are splits at further sides ("test@512"), which no table prints. The papers print inpainting by bucket on named photographs; our buckets are those of
    all test photographs, so they stand under "All"; where these are of one source that is called like a published set
    (Places2, CelebA, Paris), they stand under its name, and "All", which says the same once more, is left out. Where evaluation gives no interval, low and high are NaN.
    """
    of_split = summary[~summary["split"].str.contains("@")].groupby("split")
    subdivided = {split for split, part in of_split if split == "test" or set(part["subset"]) - {"All", split}}
    keys = ["task", "model", "subset", "split", "n_images"]
    metrics = [name for name in summary.select_dtypes("number") if not name.startswith("n_")]
    means = summary[summary["split"].isin(subdivided)].melt(keys, metrics, "metric", "ours")
    stated = intervals if "split" in intervals else intervals.assign(split="test")
    on = ["model", "subset", "split", "metric"]
    parts = [means.merge(stated[[*on, "low", "high"]], on=on, how="left").assign(condition="")]
    if breakdowns is not None:
        named = set(summary["subset"]) - {"All"}
        pooled = "All" if len(named) > 1 or not named <= set(NAMED_PHOTOGRAPHS) else named.pop()
        if pooled != "All":
            parts = [parts[0][parts[0]["subset"] == pooled]]
        buckets = breakdowns[breakdowns["by"] == "hole_ratio_bucket"].rename(
            columns={"value": "condition", "mean": "ours", "n": "n_images"}
        )
        parts.append(buckets.assign(task=summary["task"].iloc[0], subset=pooled, split="test"))
    return pd.concat(parts, ignore_index=True)[
        ["task", "model", "subset", "split", "condition", "metric", "ours", "low", "high", "n_images"]
    ]


def compare(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    subsets: Mapping[tuple[str, str], Sequence[str]] = SUBSETS,
) -> pd.DataFrame:
    """Our means beside the printed ones: a row per printed number that we have a counterpart for.

    ours: a row per (task, model, subset, split, condition, metric) on our scales (shares, not per cents), as `measured`
    makes it. subsets: (task, our sub-dataset) -> the published ones it is held against (default: the one of its own name).

    Returns COMPARED; `split` and `ours_subset` say what ours is of, published per cents are shares. Both sides are of other
    pictures unless ours are the paper's own: what can be compared is the order of the models. Raises UserError where two rows of ours meet one printed number.
    """
    published = table() if published is None else published
    keys = ["task", "model", "subset", "condition", "ours_metric"]
    measured_rows = ours.dropna(subset="ours").rename(columns={"metric": "ours_metric"})
    measured_rows = measured_rows.assign(
        ours_subset=measured_rows["subset"],
        subset=[list(subsets.get(key, [key[1]])) for key in zip(measured_rows["task"], measured_rows["subset"])],
    )
    measured_rows = measured_rows.explode("subset")
    if (twice := measured_rows.duplicated([*keys, "split"])).any():
        row = measured_rows[twice].iloc[0]
        raise UserError(f"two rows of ours for {row['model']} on {row['subset']} {row['condition']}".rstrip())
    merged = comparable(published).merge(measured_rows, on=keys)
    return merged[list(COMPARED)].sort_values([*PRINTED, "split", "model"], kind="stable", ignore_index=True)


def correlations(compared: pd.DataFrame) -> pd.DataFrame:
    """Do our results order the models as the paper does? From the rows of `compare`.

    Returns a row per printed column (task, paper, table, subset, condition, metric) and split of ours: n_models, spearman and kendall
    (tau-b) between our values and the printed ones, and why_not: with fewer than 3 models, or when all values of a side
    are equal, they are NaN and this says so; otherwise it is empty.
    """
    # half of this module's time to load, which those who only read the papers' numbers don't pay
    from scipy import stats

    rows = []
    for key, part in compared.groupby([*PRINTED, "split"], sort=True):
        pair, coefficients, why_not = (part["ours"], part["published"]), (np.nan, np.nan), ""
        if len(part) < SMALLEST:
            why_not = f"{len(part)} model{'s' if len(part) != 1 else ''} in common, an order needs {SMALLEST}"
        elif flat := [name for name, side in zip(("ours", "published"), pair) if side.nunique() == 1]:
            why_not = f"all values are equal ({' and '.join(flat)})"
        else:
            spearman, kendall = (float(measure(*pair).statistic) for measure in (stats.spearmanr, stats.kendalltau))
            coefficients = spearman, kendall
        rows.append((*key, len(part), *coefficients, why_not))
    columns = [*PRINTED, "split", "n_models", "spearman", "kendall", "why_not"]
    return pd.DataFrame(rows, columns=columns).astype(
        {"n_models": int, "spearman": float, "kendall": float, "why_not": str}
    )
