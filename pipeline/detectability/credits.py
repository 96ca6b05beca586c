"""Can a composite still be told from a photograph once it was harmonized? The tables of what trained localizers say.

A localizer looks at each composite and then at the same composite as each harmonizer repainted it (pipeline/detectability/localizer_scores.py).
What it found before and no longer finds is credited to the harmonizer: the fall of its average precision against the
mask, and of its mean probability inside the mask. No ground truth is needed, so this holds for real composites too. The
measure is ours; a localizer that finds nothing before has nothing to lose, so before and after stand beside each credit.
"""

import pandas as pd

from pipeline.scoring import statistics
from pipeline.scoring.statistics import Resampling

MEASURED = ("_before", "_after", "_credit")
"""How the columns of measures end."""


def summary(scores: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """Means of all measures with bootstrap intervals over photographs: localizer, model, subset, split, metric, mean, low, high,
    n, n_excluded, n_groups. Subset "All" pools the images of a split."""
    metrics = [name for name in scores if name.endswith(MEASURED)]
    pooled = pd.concat([scores, scores.assign(subset="All")])
    return statistics.intervals_table(
        pooled, metrics, ["localizer", "model", "subset", "split"], "photograph", resampling=resampling
    )
