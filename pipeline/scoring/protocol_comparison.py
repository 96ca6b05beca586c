"""How much of a score is protocol: the means of the same predictions under every named protocol, side by side.

Beside each mean stands its distance from that under seam-256, paired by image, and the models' ranks: where the order of
the models under a protocol isn't theirs under another, a gain between two papers may be the protocol's.
"""

from collections import Counter

import numpy as np
import pandas as pd

from pipeline import repeats
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import protocols, statistics
from pipeline.scoring.statistics import Resampling

LESS_IS_BETTER = {"mse", "fmse", "l1", "mae"}
COLUMNS = {
    "task": "str", "model": "str", "subset": "str", "split": "str", "protocol": "str", "metric": "str", "n_images": "int64",
    "n_excluded": "int64", "mean": "float64", "low": "float64", "high": "float64", "n_repeats": "int64",
    "repeat_sd": "float64", "gap": "float64", "gap_low": "float64",
    "gap_high": "float64", "rank": "int64", "rank_worst": "int64", "caveat": "str",
}  # fmt: skip
HEAD = ["model", repeats.COLUMN, "subset", "split", "image_id", "photograph"]


def table(task: str, scores: pd.DataFrame, size: int, resampling: Resampling) -> pd.DataFrame:
    """One row per split, sub-dataset ("All": all images of the split pooled), protocol, metric and model.

    scores: as evaluation.Scores.by_protocol; without rows the table has none either.

    n_images      images that were scored
    n_excluded    those of them that this metric is undefined for under this protocol, left out of the mean
    mean, low, high              the mean and its bootstrap interval over photographs, and over the trainings of a network
                                 that has several
    n_repeats, repeat_sd         those trainings, and the standard deviation (n - 1) of their means
    gap, gap_low, gap_high       mean over the images of the score less that under seam-256, and its interval; NaN for a
                                 metric that seam-256 lacks
    rank, rank_worst             the model's ranks among the models under this protocol (pipeline/scoring/statistics.py)
    caveat        what sets the value apart from what the protocol's own code would print

    Raises UserError if a training of a model lacks an image that another has, or has one twice.
    """
    columns = [column for column in scores if column not in HEAD]
    caveats = {record.name: _caveat(record, size) for record in protocols.RECORDS[task]}
    parts = []
    pooled = pd.concat([scores, scores.assign(subset="All")])
    own_size = {record.name: record for record in protocols.at_own_size(protocols.RECORDS[task])}
    every, usual = columns, caveats
    for (split, subset), part in pooled.groupby(["split", "subset"], sort=True):
        columns, caveats = every, usual
        if datasets.side_of(split) == datasets.ORIGINAL:
            columns = [column for column in every if column.split(" ")[0] in own_size]
            caveats = {name: _own_size_caveat(record) for name, record in own_size.items()}
        trainings, groups, values = _aligned(part, columns)
        trained = Counter(model for model, _ in trainings)
        for number, column in enumerate(columns):
            protocol, metric = column.split(" ")
            scored = pd.DataFrame(values[:, :, number], columns=pd.MultiIndex.from_tuples(trainings))
            higher = metric not in LESS_IS_BETTER
            ranked = statistics.rank(scored, groups, higher_is_better=higher, resampling=resampling)
            basis = f"{protocols.SEAM} {metric}"
            of_seam = values[:, :, columns.index(basis)] if basis in columns else np.nan
            gap = statistics.intervals_of_models(scored - of_seam, groups, resampling=resampling)
            spread = scored.mean().groupby(level=0).std()
            head = {
                "task": task,
                "subset": subset,
                "split": split,
                "protocol": protocol,
                "metric": metric,
                "n_images": len(scored),
            }
            of_model = gap.loc[ranked["model"]]
            parts.append(
                ranked.assign(
                    **head,
                    n_repeats=[trained[model] for model in ranked["model"]],
                    repeat_sd=spread.loc[ranked["model"]].array,
                    gap=of_model["mean"].array,
                    gap_low=of_model["low"].array,
                    gap_high=of_model["high"].array,
                    caveat=caveats[protocol],
                )
            )
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    return frame[list(COLUMNS)].astype(COLUMNS)


def _caveat(record: protocols.Protocol, size: int) -> str:
    """What the protocol's record says, with the size where it isn't 256 pixels, the size of all published tables."""
    return "; ".join(
        ([f"scored at {size} pixels in place of 256"] if size != 256 else [])
        + ([record.caveat] if record.caveat else [])
    )


def _own_size_caveat(record: protocols.Protocol) -> str:
    caveat = record.caveat_at_own_size if isinstance(record, protocols.harmonization.Protocol) else ""
    return "; ".join(["scored at each picture's own size", *([caveat] if caveat else [])])


def _aligned(part: pd.DataFrame, columns: list[str]) -> tuple[list[tuple[str, int]], np.ndarray, np.ndarray]:
    """(model, repeat) of each training, photographs of the images, and scores (images, trainings, columns) of one split and
    sub-dataset."""
    key = ["model", repeats.COLUMN]
    part = part.sort_values(["image_id", *key], kind="stable")
    names, images = sorted(set(part[key].itertuples(index=False, name=None))), part["image_id"].unique()
    whole = [(image, *name) for image in images for name in names]
    if list(part[["image_id", *key]].itertuples(index=False, name=None)) != whole:
        counts = part.groupby("model").size().to_dict()
        raise UserError(
            f"the models were not scored on the same images, each once: {counts} scores of {len(images)} images"
        )
    return (
        names,
        part["photograph"].to_numpy()[:: len(names)],
        part[columns].to_numpy(float).reshape(len(images), len(names), len(columns)),
    )
