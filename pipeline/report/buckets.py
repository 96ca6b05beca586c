"""Hole-ratio tables as Li et al. print them ("Recurrent Feature Reasoning for Image Inpainting", CVPR 2020, Table 1).

There is one table per metric. Its rows are methods, its columns are hole-ratio buckets in per cent of the image.
"""

from pathlib import Path

from pipeline.report import paper_tables
from pipeline.report.numbers import Results
from pipeline.tasks import METRICS


def tables(results: Results, folder: Path) -> list[dict]:
    """Tables of one task from its result tables in `folder`, by the code of `python -m commands.table --by bucket`.

    A table has: metric (its label), higher (whether higher is better), buckets, and rows in the order of the page. A row has
    model, trained and one cell per bucket: text, best, second, and tied (its difference from the best can't be told from 0).
    """
    printed = paper_tables.read(results.task, folder, "bucket", None)
    made = []
    for metric in results.metrics:
        buckets = [bucket for bucket, name in printed.means.columns if name == metric]
        rows = []
        for model in results.order:
            cells = [
                {
                    "text": paper_tables.number(printed.means.loc[model, (bucket, metric)], metric),
                    "best": bool(printed.best.loc[model, (bucket, metric)]),
                    "second": bool(printed.second.loc[model, (bucket, metric)]),
                    "tied": bool(printed.tied.loc[model, (bucket, metric)]),
                }
                for bucket in buckets
            ]
            rows.append({"model": model, "trained": results.methods[model]["trained"], "cells": cells})
        label, higher = METRICS[metric].label, METRICS[metric].higher_is_better
        made.append({"metric": label, "higher": higher, "buckets": buckets, "rows": rows})
    return made
