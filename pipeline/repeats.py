"""Several trainings of one network, each from a seed of its own, as tables tell them apart.

Repeat 1 is the training that there is without repeats; its folders are named after the method. Those of repeat 2 are
called `<method>@2`.
"""

import numpy as np
import pandas as pd

COLUMN = "repeat"
"""A column of per-image scores: 1, 2, ... for a network trained from several seeds, 1 for every other method."""


def folder_name(model: str, repeat: int) -> str:
    """How a repeat's weights, predictions and index are called in artifacts/. No method's name has an @."""
    return model if repeat == 1 else f"{model}@{repeat}"


def parse(name: str) -> tuple[str, int]:
    """Method and repeat of a name that `folder_name` made; of any other name, the name itself and 1."""
    model, at, repeat = name.partition("@")
    return (model, int(repeat)) if at and repeat.isdecimal() else (name, 1)


def averaged(scores: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Scores with one row per model and image: the mean of each number over the repeats, without the column `repeat`.

    key: the columns that tell images apart, `split` and `image_id`, say. Columns without numbers are those of the first
    repeat. A value that some repeat lacks (NaN) is the mean of the others. Without further repeats nothing changes.
    """
    if COLUMN not in scores:
        return scores
    if (scores[COLUMN] == 1).all():
        return scores.drop(columns=COLUMN)
    index = ["model", *key]
    first = scores[scores[COLUMN] == 1].drop(columns=COLUMN)
    numbers = [name for name in first if name not in index and pd.api.types.is_float_dtype(first[name])]
    means = scores.groupby(index)[numbers].mean()
    return first.assign(
        **means.loc[pd.MultiIndex.from_frame(first[index])].reset_index(drop=True).set_axis(first.index)
    )


def order_by_seed(scores: pd.DataFrame, metric: str, higher_is_better: bool) -> pd.DataFrame:
    """Pairs of models whose order by a metric's mean depends on which of their trainings are compared.

    scores: per-image rows of one split with model, repeat and the metric. Returns columns first, second, ahead (pairs of a
    training of `first` and one of `second` in which first is better) and pairs; `first` is better over all repeats.
    """
    means = scores.groupby(["model", COLUMN])[metric].mean()
    sign = 1 if higher_is_better else -1
    order = (sign * means.groupby("model").mean()).sort_values(ascending=False, kind="stable").index
    rows = []
    for place, first in enumerate(order):
        for second in order[place + 1 :]:
            gaps = sign * (means[first].to_numpy()[:, None] - means[second].to_numpy()[None, :])
            ahead = int((gaps > 0).sum())
            if gaps.size > 1 and ahead < gaps.size and np.isfinite(gaps).all():
                rows.append({"first": first, "second": second, "ahead": ahead, "pairs": gaps.size})
    return pd.DataFrame(rows, columns=["first", "second", "ahead", "pairs"])
