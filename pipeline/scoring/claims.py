"""Does one method beat another? A claim about two means, held against per-image scores."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline import repeats, tables
from pipeline.errors import ParameterError, UserError
from pipeline.scoring import statistics
from pipeline.scoring.statistics import Difference, Resampling

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "not decidable"


@dataclass(frozen=True)
class Claim:
    """That the mean score of `first` lies below (or above) that of `second`."""

    first: str
    below: bool
    second: str


@dataclass(frozen=True)
class Answer:
    """What the scores say of a claim."""

    verdict: str
    difference: Difference
    """Mean of first - second over the images that both have, with its interval over photographs."""
    photographs_needed: int | None
    """About how many photographs would decide the claim if the mean stayed as it is; None where it is decided, or where
    the mean is exactly 0."""


def parse(text: str) -> Claim:
    """ "rainnet < dovenet" -> Claim. Raises ParameterError for another form."""
    match = re.fullmatch(r"\s*([\w.-]+)\s*([<>])\s*([\w.-]+)\s*", text)
    if match is None:
        raise ParameterError(
            f"{text!r} is no claim; write two methods and < or > between them, such as 'rainnet < dovenet'"
        )
    if match[1] == match[3]:
        raise ParameterError(f"{text!r} compares {match[1]} with itself")
    return Claim(match[1], match[2] == "<", match[3])


def read_scores(file: Path, metric: str) -> pd.DataFrame:
    """Per-image scores with the columns model, image_id, photograph and the metric.

    file: per_image.parquet of a run, or any Parquet or CSV table with a row per image and method: columns image_id (or
    image), model (or method) and the metric. Without a column photograph, the photograph of an image is the part of its id
    before the first underscore, as iHarmony4 names its composites; where ids have none, each image is its own.

    Raises UserError naming the file and the column that is missing or holds text.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        table = tables.read(file) if file.suffix == ".parquet" else pd.read_csv(file)
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read as a table: {str(error).splitlines()[0]}") from None
    table = table.rename(columns={"method": "model", "image": "image_id"})
    for column in ("model", "image_id", metric):
        if column not in table:
            raise UserError(f"{file} has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    # some tables name images by their files
    ids = table["image_id"].astype(str).str.replace(r"\.(jpg|jpeg|png)$", "", regex=True)
    table = table.assign(image_id=ids, model=table["model"].astype(str))
    if not pd.api.types.is_numeric_dtype(table[metric]):
        raise UserError(f"{file}: the column {metric!r} holds text, expected numbers")
    if "photograph" not in table:
        table = table.assign(photograph=table["image_id"].str.split("_").str[0])
    return table


def ask(scores: pd.DataFrame, claim: Claim, metric: str, resampling: Resampling) -> Answer:
    """Hold a claim against scores as `read_scores` gives them (one split, one sub-dataset or several pooled).

    Supported: the interval of the paired difference lies on the claimed side of 0. Contradicted: on the other. Fewer
    photographs than `least_photographs` decide nothing: resamples of two or three of them show too little spread. Raises
    UserError for a method that has no scores, or for two methods that were not scored on the same images.
    """
    both = scores[scores["model"].isin([claim.first, claim.second])]
    for name in (claim.first, claim.second):
        if not (both["model"] == name).any():
            there = ", ".join(sorted(scores["model"].unique()))
            raise UserError(f"{name} has no scores here; there are {there or 'none'}")
    pairs = statistics.paired_table(both, metric, "image_id", "photograph", resampling=resampling)
    (row,) = pairs[pairs["first"] == claim.first].to_dict("records")
    difference = Difference(**{key: row[key] for key in Difference._fields})
    least = least_photographs(resampling.level)
    if difference.n_groups < least:
        needed = None if difference.mean == 0 else max(least, photographs_needed(difference) or least)
        return Answer(UNDECIDED, difference, needed)
    if difference.high < 0:
        return Answer(SUPPORTED if claim.below else CONTRADICTED, difference, None)
    if difference.low > 0:
        return Answer(CONTRADICTED if claim.below else SUPPORTED, difference, None)
    return Answer(UNDECIDED, difference, photographs_needed(difference))


def least_photographs(level: float) -> int:
    """The fewest photographs that can decide a claim at a level: were the methods equally good, n photographs would all
    favour the same one with the chance 2 / 2^n, which must be 1 - level or less. 6 at 95%."""
    return math.ceil(1 - math.log2(1 - level))


def over_seeds(scores: pd.DataFrame, claim: Claim, metric: str) -> str:
    """A sentence on the trainings that the answer is over. `scores` as in `ask`; without a column `repeat` each method has
    one."""
    both = scores[scores["model"].isin([claim.first, claim.second])]
    if repeats.COLUMN not in both:
        both = both.assign(**{repeats.COLUMN: 1})
    means = both.groupby(["model", repeats.COLUMN])[metric].mean()
    first, second = (means[name].to_numpy() for name in (claim.first, claim.second))
    said = f"training seeds: {len(first)} of {claim.first}, {len(second)} of {claim.second}"
    if len(first) == len(second) == 1:
        return f"{said}; how much of the difference is the seed's is not known"
    below = first[:, None] < second[None, :]
    as_claimed = int((below if claim.below else first[:, None] > second[None, :]).sum())
    return f"{said}; the means stand as claimed in {as_claimed} of {below.size} pairs of trainings"


def photographs_needed(difference: Difference) -> int | None:
    """About how many photographs would take 0 out of the interval, if the mean and the spread stayed as they are.

    The width of an interval falls with the root of the number of photographs.
    """
    half = (difference.high - difference.low) / 2
    if not math.isfinite(half) or difference.mean == 0:
        return None
    return max(difference.n_groups + 1, math.ceil(difference.n_groups * (half / abs(difference.mean)) ** 2))


def under_protocols(table: pd.DataFrame, claim: Claim, metric: str, subset: str) -> tuple[list[str], list[str]]:
    """Protocols (of protocols.parquet) under which the two means stand as claimed, and those under which they don't.
    A protocol that has no value for one of the two is in neither list."""
    part = table[(table["subset"] == subset) & (table["split"] == "test") & (table["metric"] == metric)]
    wide = part.pivot(index="protocol", columns="model", values="mean")
    if not {claim.first, claim.second} <= set(wide.columns):
        return [], []
    wide = wide[[claim.first, claim.second]].dropna()
    below = wide[claim.first] < wide[claim.second]
    equal = wide[claim.first] == wide[claim.second]
    as_claimed = (below if claim.below else ~below) & ~equal
    return list(wide.index[as_claimed]), list(wide.index[~as_claimed])
