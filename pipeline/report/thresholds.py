"""What maps score at which threshold, put into rows of text and charts for the page; of tasks whose predictions are maps."""

import pandas as pd
from markupsafe import Markup

from pipeline.report import plots
from pipeline.report.numbers import Results, number
from pipeline.tasks import METRICS, TASKS


def section(results: Results, curves: pd.DataFrame) -> dict:
    """What the page says of curves.parquet and of the metrics in Task.shown_beside, over all images of the split "test".

    {"metrics": [(label, meaning, higher is better)], "rows", "charts"}; a row holds model, trained, its own threshold, what that
    was chosen on, and a cell (text, best) for each metric.
    """
    names = TASKS[results.task].shown_beside
    summary = results.summary[(results.summary["subset"] == "All") & (results.summary["split"] == "test")]
    means = summary.set_index("model")
    best = {name: _best(means[name], name) for name in names}
    rows = []
    for model in results.order:
        texts = {name: number(means.loc[model, name], name) for name in names}
        chosen = means.loc[model, "threshold"]
        rows.append(
            {
                "model": model,
                "trained": results.methods[model]["trained"],
                "threshold": "" if pd.isna(chosen) else f"{chosen:.3f}",
                "threshold_from": means.loc[model, "threshold_from"],
                "cells": [{"text": texts[name], "best": texts[name] == best[name]} for name in names],
            }
        )
    pooled = curves[(curves["subset"] == "All") & (curves["split"] == "test")]
    charts = [
        plots.over_thresholds(results, pooled, "recall", "precision", "Precision by recall"),
        plots.over_thresholds(results, pooled, "false_positive_rate", "recall", "ROC: recall by false positives"),
        plots.over_thresholds(results, pooled, "threshold", "f1", "F1 by threshold"),
    ]
    return {
        "metrics": [(METRICS[name].label, METRICS[name].meaning, METRICS[name].higher_is_better) for name in names],
        "rows": rows,
        "charts": [Markup(chart) for chart in charts],
    }


def _best(values: pd.Series, metric: str) -> str | None:
    values = values.dropna()
    if not len(values):
        return None
    return number(values.max() if METRICS[metric].higher_is_better else values.min(), metric)
