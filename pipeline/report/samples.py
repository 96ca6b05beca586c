"""Several samples of one question side by side on the page: their scores, and their pictures."""

from pathlib import Path

import pandas as pd

from pipeline.report.numbers import Results, between, number
from pipeline.report.sheets import STRIP, Shown, Strip, beside, encode, picks
from pipeline.scoring import predictions as saved
from pipeline.scoring import samples
from pipeline.tasks import METRICS, compose

IMAGES, PICTURES = 3, 6
"""Images shown of a method, and at most so many samples of each."""


def section(results: Results, table: pd.DataFrame, shown: Shown) -> dict:
    """What the page says of samples.parquet: `rows`, one per method and metric, in the order of the page, and `strips` by
    method: input, samples and truth of a few images, those that the contact sheet begins with."""
    pooled = table[table["value"] == "All"].set_index(["model", "metric"])
    drawing = sorted(
        samples.drawing(list(results.methods.values())), key=lambda method: results.order.index(method["model"])
    )
    rows = []
    for method in drawing:
        for metric, higher in results.metrics.items():
            scored = pooled.loc[(method["model"], metric)]
            cells = [
                {
                    "text": number(scored[kind], metric),
                    "interval": between(scored[f"{kind}_low"], scored[f"{kind}_high"], metric),
                }
                for kind in samples.KINDS
            ]
            rows.append({"model": method["model"], "trained": method["trained"], "metric": METRICS[metric].label, "higher": higher, "cells": cells,
                         "n_samples": int(scored["n_samples"]), "n_images": int(scored["n_images"]), "diversity": f"{scored['diversity']:.4f}"})  # fmt: skip
    strips = [
        {"model": method["model"], "trained": method["trained"], "strips": _strips(results, method, shown)}
        for method in drawing
    ]
    return {"kinds": samples.KINDS, "rows": rows, "pictures": strips}


def _strips(results: Results, method: dict, shown: Shown) -> list[Strip]:
    manifest = samples.manifest(shown.predictions, method).sort_values("sample")
    folder: Path = shown.predictions / method["model"] / samples.SPLIT
    strips = []
    for _, image_id in picks(results, IMAGES):
        item = shown.item(image_id)
        size = item[shown.task.picture].shape[:2]
        chosen = manifest[manifest["image_id"] == image_id].head(PICTURES)
        outputs = [
            compose(results.task, saved.read(folder / row.prediction, row.sha256, size), item)
            for row in chosen.itertuples()
        ]
        parts = [shown.start(image_id), *outputs, shown.truth(image_id)]
        strips.append(
            Strip(encode(beside(parts), len(parts) * (STRIP + 4)), image_id, f"input, {len(outputs)} samples, truth")
        )
    return strips
