"""What the papers print, as one table, and how our results stand beside it.

`published.csv` is typed by hand from specs/harmonization.md 1, 3, 5 and 7, specs/localization.md 1 and
specs/inpainting.md 11 and 15: every results and ablation table there, each number as printed, with the specs' remarks
on cells that contradict others or are not certain.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

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
"""The metric of ours that a printed one is to be held against, where the names differ: printed F1 and IoU are taken
from maps stretched to their own range, printed fSSIM has IIH's constants."""

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


def compare(
    ours: pd.DataFrame,
    published: pd.DataFrame | None = None,
    models: Mapping[str, str] | None = None,
    subsets: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Our means beside the printed ones: a row per printed number that we have a counterpart for.

    ours: a summary table, a row per (task, model, subset) and a column per metric on our scales (shares, not per
    cents); with `hole_ratio_bucket` a row per bucket too. models: our name -> published `model`, for names that
    differ; subsets: our sub-dataset -> the published ones it is held against (default: the one of its own name).

    Returns task, paper, table, subset, condition, metric, model, label, ours, published (per cents as shares), note.
    """
    published = table() if published is None else published
    keys = ["task", "model", "subset", "condition"]
    ours = ours.copy()
    ours["condition"] = ours["hole_ratio_bucket"].fillna("").astype(str) if "hole_ratio_bucket" in ours else ""
    ours["model"] = ours["model"].map(lambda name: (models or {}).get(name, name))
    ours["subset"] = ours["subset"].map(lambda name: list((subsets or {}).get(name, [name])))
    ours = ours.explode("subset")
    if ours.duplicated(keys).any():
        row = ours[ours.duplicated(keys)].iloc[0]
        raise UserError(f"two rows of ours for {row['model']} on {row['subset']} {row['condition']}".rstrip())
    printed = comparable(published)
    measured = [metric for metric in printed["ours_metric"].unique() if metric in ours]
    long = ours.melt(keys, measured, "ours_metric", "ours").dropna(subset="ours")
    merged = printed.merge(long, on=[*keys, "ours_metric"])
    columns = ["task", "paper", "table", "subset", "condition", "metric", "model", "label", "ours", "published", "note"]
    return merged[columns].sort_values(columns[:7], kind="stable", ignore_index=True)


def correlations(compared: pd.DataFrame) -> pd.DataFrame:
    """Do our results order the models as the paper does? From the rows of `compare`.

    Returns a row per printed column (task, paper, table, subset, condition, metric): n_models, spearman and kendall
    (tau-b) between our values and the printed ones. They are NaN with fewer than 3 models, or when all values of a
    side are equal.
    """
    keys = ["task", "paper", "table", "subset", "condition", "metric"]
    rows = []
    for key, part in compared.groupby(keys, sort=True):
        pair, found = (part["ours"], part["published"]), (np.nan, np.nan)
        if len(part) >= SMALLEST and all(side.nunique() > 1 for side in pair):
            found = (float(measure(*pair).statistic) for measure in (stats.spearmanr, stats.kendalltau))
        rows.append((*key, len(part), *found))
    return pd.DataFrame(rows, columns=[*keys, "n_models", "spearman", "kendall"])
