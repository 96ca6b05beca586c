"""LPIPS and FID, put into rows of text for the page; or why there are none."""

import pandas as pd

from pipeline.report.numbers import Results, between, number
from pipeline.tasks import METRICS, TASKS


def section(results: Results, table: pd.DataFrame) -> dict:
    """What the page says of perceptual.parquet: {"metrics", "rows", "why_not"}.

    A row is a method over all images of the split "test", in the order of the page, with a cell (text, interval, best) for
    each metric that has a score. why_not: the reasons of metrics without a score, each once.
    """
    pooled = table[(table["value"] == "All") & (table["split"] == "test")].set_index(["metric", "model"])
    scored = [
        metric
        for metric in TASKS[results.task].perceptual
        if metric in pooled.index and pooled.loc[metric, "score"].notna().any()
    ]
    best = {metric: number(pooled.loc[metric, "score"].min(), metric) for metric in scored}
    rows = []
    for model in results.order if scored else ():
        cells = []
        for metric in scored:
            cell = pooled.loc[(metric, model)]
            text = number(cell["score"], metric)
            cells.append(
                {"text": text, "interval": between(cell["low"], cell["high"], metric), "best": text == best[metric]}
            )
        rows.append({"model": model, "trained": results.methods[model]["trained"], "cells": cells})
    absent = table[~table["metric"].isin(scored)]
    return {
        "metrics": [
            {
                "name": METRICS[metric].label,
                "meaning": METRICS[metric].meaning,
                "n_images": int(pooled.loc[metric, "n_images"].max()),
                "n_photographs": int(pooled.loc[metric, "n_photographs"].max()),
            }
            for metric in scored
        ],
        "rows": rows,
        "why_not": [
            f"{METRICS[metric].label}: {part['why_not'].iloc[-1]}"
            for metric, part in absent.groupby("metric", sort=False)
        ],
    }
