"""What the report sets beside a task's scores: the papers' numbers, what localizers still find, whom people prefer.

Plain rows of text for the template, as in pipeline/report/numbers.py.
"""

import math
from pathlib import Path

import pandas as pd

from pipeline import tables
from pipeline.report.numbers import between, change, number
from pipeline.tasks import METRICS

MEASURES = ("ap", "inside")
"""Of pipeline/detectability/localizer_scores.py, in the order of their columns."""


def published(folder: Path, task: str) -> dict:
    """The printed numbers that a task's results have a counterpart for.

    {"papers": [{paper, table, n, rows}], "orders": [...], "n_without_order"}: a row holds model, label, subset, split,
    metric, ours, interval, printed, note; an order is a printed column with a rank correlation.
    """
    compared, correlations = (tables.read(folder / f"{name}.parquet") for name in ("compared", "correlations"))
    compared, correlations = (frame[frame["task"] == task] for frame in (compared, correlations))
    papers = [
        {"paper": paper, "table": name, "n": len(part), "rows": [_printed(row) for row in part.itertuples()]}
        for (paper, name), part in compared.groupby(["paper", "table"], sort=True)
    ]
    ordered = correlations[correlations["why_not"] == ""]
    orders = [
        {"paper": row.paper, "table": row.table, "where": _where(row), "metric": _name(row.metric), "n": row.n_models,
         "spearman": f"{row.spearman:.2f}".replace("-", "−"), "kendall": f"{row.kendall:.2f}".replace("-", "−")}
        for row in ordered.itertuples()
    ]  # fmt: skip
    return {
        "papers": papers, "orders": orders, "n_without_order": len(correlations) - len(ordered),
        "agreement": agreement(ordered),
    }  # fmt: skip


def agreement(ordered: pd.DataFrame) -> str:
    """How alike a task's results and papers order methods, in a sentence with what it rests on. `ordered`: the rows of
    correlations.parquet that have a rank correlation."""
    if ordered.empty:
        return "No printed column shares three methods with this run: nothing says whether papers order them alike."
    low, high = int(ordered["n_models"].min()), int(ordered["n_models"].max())
    methods = f"{low}" if low == high else f"{low} to {high}"
    median = f"{ordered['spearman'].median():.2f}".replace("-", "−")
    columns = f"{len(ordered)} printed column{'s' if len(ordered) != 1 else ''}"
    return f"Order of methods against papers: Spearman {median} at the median of {columns}, each of {methods} methods."


def _printed(row) -> dict:
    return {
        "model": row.model, "label": row.label, "where": _where(row), "of": row.ours_subset if row.ours_subset != row.subset else "",
        "metric": _name(row.metric), "ours": _number(row.ours, row.metric), "interval": between(row.low, row.high, row.metric) if row.metric in METRICS else "",
        "printed": f"{row.published:.8g}", "note": row.note,
    }  # fmt: skip


def _where(row) -> str:
    split = "" if row.split == "test" else f" ({row.split})"
    return (
        f"{row.subset} {f'{row.condition} %' if row.condition[:1].isdigit() and 'px' not in row.condition else row.condition}".strip()
        + split
    )


def _name(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric


def _number(value: float, metric: str) -> str:
    return number(value, metric) if metric in METRICS else f"{value:.4g}"


def detectability(folder: Path, trained: list[str]) -> list[dict]:
    """What each localizer finds before and after harmonization, one table per localizer and split, "test" first; nothing
    where no localizer was trained. `trained`: harmonizers with training.

    {localizer, split, n_images, rows}: a row holds model, trained and for each measure before, after, credit, interval.
    """
    if not folder.is_dir():
        return []
    summary = tables.read(folder / "summary.parquet")
    pooled = summary[summary["subset"] == "All"]
    made = []
    for (localizer, split), part in sorted(
        pooled.groupby(["localizer", "split"]), key=lambda group: (group[0][0], group[0][1] != "test", group[0][1])
    ):
        cells = part.set_index(["model", "metric"])
        rows = [
            {
                "model": model,
                "trained": model in trained,
                "measures": [_measure(cells, model, measure) for measure in MEASURES],
            }
            for model in cells.xs("ap_credit", level="metric")["mean"].sort_values(ascending=False, kind="stable").index
        ]
        made.append(
            {
                "localizer": localizer,
                "split": split,
                "n_images": int(part["n"].max()),
                "n_excluded": int(part["n_excluded"].max()),
                "rows": rows,
            }
        )
    return made


def _measure(cells: pd.DataFrame, model: str, measure: str) -> dict:
    scores = {when: cells.loc[(model, f"{measure}_{when}")] for when in ("before", "after", "credit")}
    low, high = scores["credit"]["low"], scores["credit"]["high"]
    # a measure is a share, written as AP is
    return {
        "before": number(scores["before"]["mean"], "ap"),
        "after": number(scores["after"]["mean"], "ap"),
        "credit": change(scores["credit"]["mean"], "ap") if math.isfinite(scores["credit"]["mean"]) else "–",
        "interval": between(low, high, "ap"),
        "sure": bool(math.isfinite(low) and (low > 0 or high < 0)),
    }


def study(folder: Path, order: list[str]) -> dict | None:
    """The preference study among this task's methods, if one was scored: {n_votes, n_raters, scored, rows}; a row holds model,
    share, share_interval, score, score_interval, votes."""
    if not (folder / "shares.parquet").is_file():
        return None
    shares = tables.read(folder / "shares.parquet").set_index("model")
    if not set(shares.index) <= set(order):
        return None  # of the other task
    scored = (folder / "scores.parquet").is_file()
    scores = tables.read(folder / "scores.parquet").set_index("model") if scored else None
    rows = []
    for model, score_row in (shares if scores is None else scores).iterrows():
        share = shares.loc[model]
        row = {
            "model": model,
            "share": f"{share['share']:.1%}",
            "votes": f"{int(share['n_votes'])} of {int(share['n_shown'])}",
        }
        row["share_interval"] = f"{share['low']:.1%} to {share['high']:.1%}" if math.isfinite(share["low"]) else ""
        row["score"] = f"{score_row['score']:+.2f}".replace("-", "−") if scored else ""
        row["score_interval"] = (
            f"{score_row['low']:.2f} to {score_row['high']:.2f}".replace("-", "−")
            if scored and math.isfinite(score_row["low"])
            else ""
        )
        rows.append(row)
    return {
        "n_votes": int(shares["n_votes"].sum()),
        "n_raters": int(shares["n_raters"].max()),
        "scored": scored,
        "rows": rows,
    }
