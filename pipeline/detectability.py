"""Can a composite still be told from a photograph once it was harmonized? The tables of what trained localizers say.

A localizer looks at each composite and then at the same composite as each harmonizer repainted it (pipeline/looks.py).
What it found before and no longer finds is credited to the harmonizer: the fall of its average precision against the
mask, and of its mean probability inside the mask. No ground truth is needed, so this holds for real composites too. The
measure is ours; a localizer that finds nothing before has nothing to lose, so before and after stand beside each credit.
"""

import pandas as pd

from pipeline import statistics

MEASURES = ("ap", "inside")
"""ap: average precision of the map against the mask, as in localization. inside: mean probability inside the mask."""

METRICS = tuple(f"{measure}_{when}" for measure in MEASURES for when in ("before", "after", "credit"))
"""credit = before - after, above 0 where less is found than before."""

PER_IMAGE = ("localizer", "model", "subset", "split", "image_id", "photograph", *METRICS)
"""`model` is the harmonizer."""


def summary(scores: pd.DataFrame, *, seed: int, resamples: int, level: float) -> pd.DataFrame:
    """Means of METRICS with bootstrap intervals over photographs: localizer, model, subset, split, metric, mean, low, high,
    n, n_excluded, n_groups. Subset "All" pools the images of a split."""
    pooled = pd.concat([scores, scores.assign(subset="All")])
    options = {"seed": seed, "resamples": resamples, "level": level}
    return statistics.intervals_table(pooled, list(METRICS), ["localizer", "model", "subset", "split"], "photograph", **options)
