"""The same predictions under other protocols and at other resolutions, put into rows of text for the page."""

from pathlib import Path

import pandas as pd

from pipeline import tables as parquet
from pipeline.data import datasets
from pipeline.report.numbers import Results, between, change, number
from pipeline.scoring import protocols as known
from pipeline.tasks import METRICS, TASKS


def sections(results: Results, folder: Path) -> dict:
    """protocols (None where protocols.parquet has no rows) and resolutions (no entry without further sides) of a task whose
    tables lie in `folder`. Raises UserError naming the table if it is missing."""
    return {
        "protocols": protocols(results, parquet.read(folder / "protocols.parquet")),
        "resolutions": resolutions(results),
    }


def protocols(results: Results, table: pd.DataFrame) -> dict | None:
    """What the page says of protocols.parquet: `words` on the spread, `tables` and the `caveats` of each protocol.

    A table has metric, split, methods and rows: a protocol and its cells, in the order of the methods, with text, gap (to
    seam-256), best, rank and `moved`, whether the rank differs from that under seam-256.
    """
    if table.empty:
        return None
    first = TASKS[results.task].shown_first
    metrics = [first, *(name for name in results.metrics if name != first)]
    pooled = table[table["subset"] == "All"]
    splits = ["test", *sorted(set(pooled["split"]) - {"test"})]
    made = [
        _protocol_table(results, pooled, split, metric)
        for split in splits
        for metric in (metrics if split == "test" else metrics[:1])
    ]
    caveats = table.drop_duplicates("protocol")
    return {
        "words": _words(results, pooled, metrics[0]),
        "tables": [table for table in made if table and len(table["rows"]) > 1],
        "caveats": [
            {"protocol": row["protocol"], "text": row["caveat"]} for _, row in caveats.iterrows() if row["caveat"]
        ],
    }


def _protocol_table(results: Results, table: pd.DataFrame, split: str, metric: str) -> dict | None:
    part = table[(table["split"] == split) & (table["metric"] == metric)].set_index(["protocol", "model"])
    if part.empty:
        return None
    models = [model for model in results.order if model in part.index.get_level_values("model")]
    rows = []
    for protocol in part.index.get_level_values("protocol").unique():
        means = part.loc[protocol, "mean"]
        best = number(means.max() if results.metrics[metric] else means.min(), metric)
        cells = []
        for model in models:
            cell, seam = part.loc[(protocol, model)], part.loc[(known.SEAM, model)]
            ranks = [(row["rank"], row["rank_worst"]) for row in (cell, seam)]
            text = number(cell["mean"], metric)
            cells.append(
                {
                    "text": text,
                    "best": text == best != "–",
                    "gap": change(cell["gap"], metric) if protocol != known.SEAM and pd.notna(cell["gap"]) else "",
                    "interval": between(cell["gap_low"], cell["gap_high"], metric),
                    "rank": str(cell["rank"])
                    if cell["rank"] == cell["rank_worst"]
                    else f"{cell['rank']}–{cell['rank_worst']}",
                    "moved": ranks[0] != ranks[1],
                }
            )
        rows.append({"protocol": protocol, "cells": cells, "n_excluded": int(part.loc[protocol, "n_excluded"].max())})
    return {
        "metric": METRICS[metric].label,
        "higher": results.metrics[metric],
        "split": split,
        "methods": [{"model": model, "trained": results.methods[model]["trained"]} for model in models],
        "rows": rows,
        "n_images": int(part["n_images"].max()),
    }


def _words(results: Results, pooled: pd.DataFrame, metric: str) -> dict:
    """The spread of the leading method over the protocols, the distance to the second under seam-256, and where another leads."""
    wide = pooled[(pooled["split"] == "test") & (pooled["metric"] == metric)].pivot(
        index="protocol", columns="model", values="mean"
    )
    order = wide.loc[known.SEAM].sort_values(ascending=not results.metrics[metric], kind="stable").index
    first, over = order[0], wide[order[0]].dropna()
    leads = {
        protocol: row.idxmax() if results.metrics[metric] else row.idxmin()
        for protocol, row in wide.iterrows()
        if row.notna().any()
    }
    return {
        "metric": METRICS[metric].label,
        "first": first,
        "low": {"text": number(over.min(), metric), "protocol": over.idxmin()} if len(over) else None,
        "high": {"text": number(over.max(), metric), "protocol": over.idxmax()} if len(over) else None,
        "second": order[1] if len(order) > 1 else "",
        "apart": number(abs(wide.loc[known.SEAM, order[0]] - wide.loc[known.SEAM, order[1]]), metric)
        if len(order) > 1
        else "",
        "n_protocols": len(wide),
        "others": [{"protocol": protocol, "model": model} for protocol, model in leads.items() if model != first],
    }


def resolutions(results: Results) -> list[dict]:
    """Tables of the leading metric by the side of the predictions: of all images that are large enough for a side, and of
    the same images at every side. Rows are methods; `sides` say n, and how many originals are smaller."""
    tables = []
    for by in ("resolution", "resolution_same_images"):
        part = results.breakdowns[(results.breakdowns["by"] == by) & (results.breakdowns["metric"] == results.leading)]
        if part.empty:
            continue
        sides = sorted(
            part["value"].unique(), key=lambda side: datasets.by_side(side if side == datasets.ORIGINAL else int(side))
        )
        cells = part.set_index(["model", "value"])
        # of an image that the metric is undefined for there is a score too
        n = {
            side: int((part.loc[part["value"] == side, "n"] + part.loc[part["value"] == side, "n_excluded"]).max())
            for side in sides
        }
        rows = [
            {
                "model": model,
                "trained": results.methods[model]["trained"],
                "cells": [
                    {
                        "text": number(cell["mean"], results.leading),
                        "interval": between(cell["low"], cell["high"], results.leading),
                    }
                    for cell in (cells.loc[(model, side)] for side in sides)
                ],
            }
            for model in results.order
        ]
        same = by == "resolution_same_images"
        smaller = {side: 0 if same else max(n.values()) - n[side] for side in sides}
        tables.append(
            {
                "same": same,
                "metric": METRICS[results.leading].label,
                "higher": results.metrics[results.leading],
                "sides": [{"side": side, "n": n[side], "smaller": smaller[side]} for side in sides],
                "rows": rows,
            }
        )
    return tables
