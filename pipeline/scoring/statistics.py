"""How far a mean can be trusted: bootstrap intervals, paired differences between models, ranks with ties.

Scores of images are not independent when several composites are made from one photograph, so photographs (groups),
not images, are drawn with replacement. All models and metrics see the same draws: what a seed decides is which
photographs enter resample i, and nothing else does. A network that was trained from several seeds (a column `repeat`) has a
mean over its trainings too; a resample then also draws as many of them, with replacement.

NaN marks an image that a metric excludes; it never enters a mean, and the number of excluded images is returned
beside every mean. An infinite score is an error.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline import repeats, seeds
from pipeline.errors import UserError


@dataclass(frozen=True)
class Resampling:
    """How bootstrap intervals are taken."""

    seed: int
    """Decides which photographs enter which resample, and nothing else."""
    resamples: int = 1000
    level: float = 0.95
    """Share of the resampled means that lie inside an interval."""

    def __post_init__(self):
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ValueError(
                f"resamples = {self.resamples}, level = {self.level}; expected at least 1, and a share between 0 and 1"
            )


class Interval(NamedTuple):
    """A mean over images with its bootstrap percentile interval; NaN throughout where nothing can be said."""

    mean: float
    low: float
    high: float
    n: int
    """Images that entered the mean."""
    n_excluded: int
    """Images left out because the metric is undefined there (NaN)."""
    n_groups: int
    """Photographs that the images come from; with fewer than 2 there is no interval (low = high = NaN)."""


class Difference(NamedTuple):
    """Mean of first - second over the images that both have a score for, with its interval."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided: twice the share (1 + k) / (1 + resamples) of resamples on the rarer side of 0, at most 1; a mean of
    exactly 0 counts for both sides."""
    n: int
    n_excluded: int
    n_groups: int


def mean_interval(values, groups=None, *, resampling: Resampling) -> Interval:
    """Mean of `values` (images,) with its interval over `groups` (images,), for example photograph names.

    Without groups every image is its own. `level` is the share of resampled means inside the interval.
    """
    column = np.asarray(values, dtype=np.float64)[:, None]
    return mean_intervals(column, groups, resampling=resampling)[0]


def mean_intervals(values, groups=None, *, resampling: Resampling) -> list[Interval]:
    """`mean_interval` of each column of `values` (images, columns), all on the same draws."""
    values, codes = _checked(values, groups)
    means, n, n_groups, resampled = _resample(values, codes, resampling.seed, resampling.resamples)
    low, high = _percentiles(resampled, n_groups, resampling.level)
    columns = (means, low, high, n, len(values) - n, n_groups)
    return [Interval(*column) for column in zip(*(column.tolist() for column in columns))]


def paired_difference(first, second, groups=None, *, resampling: Resampling) -> Difference:
    """Mean of first - second, two models' scores (images,) of the same images in the same order."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores of {first.size} and {second.size} images; both models need the same images")
    for scores in (first, second):
        _refuse_infinite(scores)
    return _paired_differences((first - second)[:, None], groups, resampling)[0]


def rank(
    scores: pd.DataFrame,
    groups=None,
    *,
    higher_is_better: bool,
    resampling: Resampling,
) -> pd.DataFrame:
    """Ranks of the models in the columns of `scores` (one row per image), best first.

    One model is better than another when the interval of their paired difference leaves out 0. A model's `rank` is 1
    plus the number of models that are better than it: models that nobody beats share rank 1. Being tied is not
    transitive, so `rank_worst`, the number of models it does not beat (itself included), is given too: the ranks that
    the data allow it are rank..rank_worst.

    Returns columns model, mean, low, high, n, n_excluded, n_groups, rank, rank_worst.
    """
    columns = list(scores.columns)
    if len(set(columns)) != len(columns):
        raise ValueError(f"models named twice: {sorted({name for name in columns if columns.count(name) > 1})}")
    values, positions = scores.to_numpy(dtype=np.float64), _trainings(scores)
    _refuse_infinite(values)
    names = list(positions)
    sign = 1 if higher_is_better else -1
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    better = np.zeros((len(names), len(names)), dtype=bool)  # [i, j]: i is better than j
    if pairs:
        differences, cells = _differences_of(scores, [(names[i], names[j]) for i, j in pairs], resampling)
        for (i, j), difference in zip(pairs, _paired_differences(sign * differences, groups, resampling, cells)):
            better[i, j], better[j, i] = difference.low > 0, difference.high < 0
    result = intervals_of_models(scores, groups, resampling=resampling).reset_index(drop=True)
    result.insert(0, "model", names)
    result["rank"] = 1 + better.sum(axis=0)
    result["rank_worst"] = len(names) - better.sum(axis=1)
    order = (-sign * result["mean"]).argsort(kind="stable")  # NaN means come last
    return result.iloc[order].reset_index(drop=True)


def intervals_of_models(scores: pd.DataFrame, groups=None, *, resampling: Resampling) -> pd.DataFrame:
    """The fields of Interval for each model in the columns of `scores` (one row per image), which are its index. A model
    with several trainings has a column (model, repeat) for each; its row is of their mean."""
    positions = _trainings(scores)
    placed = [position for name in positions for position in positions[name]]
    cells, start = [], 0
    for name, columns in positions.items():
        cells.append(Cell(slice(start, start + len(columns)), _shares(name, len(columns), resampling)))
        start += len(columns)
    values = scores.to_numpy(dtype=np.float64)[:, placed]
    means, n, n_groups, resampled = _contracted(values, groups, resampling, cells)
    low, high = _percentiles(resampled, n_groups, resampling.level)
    columns_of_table = (means, low, high, n, len(values) - n, n_groups)
    rows = zip(*(column.tolist() for column in columns_of_table))
    return pd.DataFrame([Interval(*row) for row in rows], columns=Interval._fields, index=list(positions))


def intervals_table(
    table: pd.DataFrame, metrics: list[str], by: list[str], group: str | None = None, *, resampling: Resampling
) -> pd.DataFrame:
    """One row per combination of the columns `by` (model among them) and metric: `by`, metric, Interval, and of several
    trainings n_repeats and repeat_sd, the standard deviation (n - 1) of their means.

    `group` names the column that tells photographs apart; without it every row is its own.
    """
    rows = []
    for key, part in table.groupby(by, sort=True, dropna=False):
        intervals = model_intervals(part, metrics, group, resampling=resampling)
        spread = _spread(part, metrics)
        rows += [
            (*key, metric, *interval, *of_trainings)
            for metric, interval, of_trainings in zip(metrics, intervals, spread)
        ]
    return pd.DataFrame(rows, columns=[*by, "metric", *Interval._fields, "n_repeats", "repeat_sd"])


def paired_table(
    table: pd.DataFrame, metric: str, image: str = "image_id", group: str | None = None, *, resampling: Resampling
) -> pd.DataFrame:
    """Every ordered pair of models of one sub-dataset: first, second, Difference (first - second).

    `table` holds a row per (model, image). Raises UserError if an image occurs twice for a model, or if a model lacks
    an image that another has (fewer images would be compared than the table claims).
    """
    scores, groups = wide(table, metric, image, group)
    names = list(_trainings(scores))
    pairs = [(first, second) for first in names for second in names if first != second]
    if not pairs:
        return pd.DataFrame(columns=["first", "second", *Difference._fields])
    differences, cells = _differences_of(scores, pairs, resampling)
    estimates = _paired_differences(differences, groups, resampling, cells)
    rows = [(*pair, *difference) for pair, difference in zip(pairs, estimates)]
    return pd.DataFrame(rows, columns=["first", "second", *Difference._fields])


def wide(
    table: pd.DataFrame, metric: str, image: str = "image_id", group: str | None = None
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Scores with a row per image and a column per model, and the images' groups; complete or UserError. Where models have
    several trainings (a column `repeat`) there is a column for each, (model, repeat)."""
    if _repeated(table):
        scores, groups = wide(
            table.assign(model=list(zip(table["model"], table[repeats.COLUMN]))).drop(columns=repeats.COLUMN),
            metric,
            image,
            group,
        )
        return scores, groups
    twice = table.duplicated(["model", image])
    if twice.any():
        row = table[twice].iloc[0]
        raise UserError(f"{int(twice.sum())} scores occur twice, such as {row[image]!r} of {row['model']!r}")
    counts = table.groupby("model")[image].nunique()
    scores = table.pivot(index=image, columns="model", values=metric)
    if (counts != len(scores)).any():
        short = counts.idxmin()
        raise UserError(f"model {short!r} has scores for {counts[short]} of {len(scores)} images")
    if group is None:
        return scores, None
    return scores, table.drop_duplicates(image).set_index(image)[group].loc[scores.index].to_numpy()


def _paired_differences(
    differences: np.ndarray, groups, resampling: Resampling, cells: "list[Cell] | None" = None
) -> list[Difference]:
    count = len(differences)
    means, n, n_groups, resampled = _contracted(differences, groups, resampling, cells)
    low, high = _percentiles(resampled, n_groups, resampling.level)
    drawn = (~np.isnan(resampled)).sum(axis=0)
    rarer = np.minimum((resampled <= 0).sum(axis=0), (resampled >= 0).sum(axis=0))
    p = np.where(n_groups < 2, np.nan, np.minimum(1, 2 * (1 + rarer) / (1 + drawn)))
    columns = (means, low, high, p, n, count - n, n_groups)
    return [Difference(*column) for column in zip(*(column.tolist() for column in columns))]


class Cell(NamedTuple):
    """Columns that are one quantity measured in several trainings, and how often a resample draws each of them."""

    columns: slice
    shares: np.ndarray
    """(resamples, columns), rows sum to 1."""


def _contracted(values, groups, resampling: Resampling, cells: list[Cell] | None):
    """As `_resample`, one column per cell: the mean over its trainings, and in a resample over those that it drew. Without
    cells every column is its own."""
    values, codes = _checked(values, groups)
    means, n, n_groups, resampled = _resample(values, codes, resampling.seed, resampling.resamples)
    if cells is None:
        return means, n, n_groups, resampled
    starts = [cell.columns.start for cell in cells]
    # where there is one training, its column times 1.0 is the column itself
    drawn = np.stack([(resampled[:, cell.columns] * cell.shares).sum(axis=1) for cell in cells], axis=1)
    return np.array([means[cell.columns].mean() for cell in cells]), n[starts], n_groups[starts], drawn


def _shares(model: str, repeats: int, resampling: Resampling) -> np.ndarray:
    """How often each of a model's trainings is drawn in each resample, (resamples, repeats), rows sum to 1."""
    rng = seeds.rng("bootstrap of repeats", resampling.seed, model)
    return rng.multinomial(repeats, [1 / repeats] * repeats, size=resampling.resamples) / repeats


def _trainings(scores: pd.DataFrame) -> dict[str, list[int]]:
    """The positions of each model's columns in what `wide` returns."""
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(scores.columns):
        positions.setdefault(name[0] if isinstance(name, tuple) else name, []).append(position)
    return positions


def _differences_of(
    scores: pd.DataFrame, pairs: list[tuple[str, str]], resampling: Resampling
) -> tuple[np.ndarray, list[Cell]]:
    """first - second for every pair of models and of their trainings, and the cells that belong together."""
    values, positions = scores.to_numpy(dtype=np.float64), _trainings(scores)
    _refuse_infinite(values)
    shares = {name: _shares(name, len(columns), resampling) for name, columns in positions.items()}
    parts, cells, start = [], [], 0
    for first, second in pairs:
        left, right = values[:, positions[first]], values[:, positions[second]]
        parts.append((left[:, :, None] - right[:, None, :]).reshape(len(values), left.shape[1] * right.shape[1]))
        drawn = (shares[first][:, :, None] * shares[second][:, None, :]).reshape(resampling.resamples, -1)
        cells.append(Cell(slice(start, start + drawn.shape[1]), drawn))
        start += drawn.shape[1]
    return np.concatenate(parts, axis=1), cells


def model_intervals(
    part: pd.DataFrame, metrics: list[str], group: str | None = None, *, resampling: Resampling
) -> list[Interval]:
    """`mean_intervals` of one model's rows; of several trainings (a column `repeat`) over images and trainings. Resamples
    draw photographs and, independently of them, trainings. `n` counts images, not rows."""
    if not _repeated(part):
        return mean_intervals(part[metrics], None if group is None else part[group], resampling=resampling)
    keys = [column for column in ("split", "image_id") if column in part]
    order = part.sort_values([repeats.COLUMN, *keys], kind="stable")
    count = order[repeats.COLUMN].nunique()
    first = order[order[repeats.COLUMN] == order[repeats.COLUMN].iloc[0]]
    images = len(first)
    ids = first["image_id"].to_numpy()
    if len(order) != images * count or not (order["image_id"].to_numpy().reshape(count, images) == ids).all():
        raise UserError(f"the trainings of {part['model'].iloc[0]} were not scored on the same images")
    values = order[metrics].to_numpy(dtype=np.float64).reshape(count, images, len(metrics))
    values = values.transpose(1, 2, 0).reshape(images, len(metrics) * count)
    shares = _shares(str(part["model"].iloc[0]), count, resampling)
    cells = [Cell(slice(number * count, (number + 1) * count), shares) for number in range(len(metrics))]
    means, n, n_groups, resampled = _contracted(
        values, None if group is None else first[group].to_numpy(), resampling, cells
    )
    low, high = _percentiles(resampled, n_groups, resampling.level)
    columns = (means, low, high, n, images - n, n_groups)
    return [Interval(*column) for column in zip(*(column.tolist() for column in columns))]


def _repeated(table: pd.DataFrame) -> bool:
    return repeats.COLUMN in table and table[repeats.COLUMN].nunique() > 1


def _spread(part: pd.DataFrame, metrics: list[str]) -> list[tuple[int, float]]:
    """Of each metric the number of trainings and the standard deviation (n - 1) of their means; NaN for a single one."""
    if repeats.COLUMN not in part:
        return [(1, float("nan"))] * len(metrics)
    means = part.groupby(repeats.COLUMN)[metrics].mean()
    return [(len(means), float(means[metric].std(ddof=1))) for metric in metrics]


def _checked(values, groups) -> tuple[np.ndarray, np.ndarray]:
    """Values as float64 (images, columns) and an integer per image for its group, 0 .. groups - 1."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"scores have shape {values.shape}, expected (images, columns)")
    _refuse_infinite(values)
    if groups is None:
        return values, np.arange(len(values))
    groups = np.asarray(groups)
    if groups.shape != values.shape[:1]:
        raise ValueError(f"{groups.size} groups for {len(values)} images")
    if pd.isna(groups).any():
        raise ValueError(f"{int(pd.isna(groups).sum())} images have no group")
    return values, np.unique(groups, return_inverse=True)[1]


def _refuse_infinite(values: np.ndarray) -> None:
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise ValueError(f"{infinite} scores are infinite; a score is finite, or NaN where a metric excludes the image")


def _resample(values: np.ndarray, codes: np.ndarray, seed: int, resamples: int):
    """Means (columns,), images used, groups used, and resampled means (resamples, columns).

    A group enters with the sum and the number of its scores, so a resample is one row of "how often is each group
    drawn" times two small matrices. A resample that draws no score at all is NaN.
    """
    used = ~np.isnan(values)
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    sums, counts = np.zeros((n_groups, values.shape[1])), np.zeros((n_groups, values.shape[1]))
    np.add.at(sums, codes, np.where(used, values, 0))
    np.add.at(counts, codes, used)
    with np.errstate(invalid="ignore"):
        means = sums.sum(axis=0) / counts.sum(axis=0)
    rng = seeds.rng("bootstrap", seed)
    resampled = np.full((resamples, values.shape[1]), np.nan)
    chunk = max(1, 2**22 // max(n_groups, 1))  # bounds the memory at 32 MiB
    for start in range(0, resamples if n_groups else 0, chunk):
        rows = min(chunk, resamples - start)
        draws = rng.integers(0, n_groups, (rows, n_groups)) + n_groups * np.arange(rows)[:, None]
        times = np.bincount(draws.ravel(), minlength=rows * n_groups).reshape(rows, n_groups).astype(np.float64)
        with np.errstate(invalid="ignore"):
            resampled[start : start + rows] = (times @ sums) / (times @ counts)
    return means, used.sum(axis=0), (counts > 0).sum(axis=0), resampled


def _percentiles(resampled: np.ndarray, n_groups: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval per column; NaN with fewer than 2 groups, of which no spread can be seen."""
    ends = np.full((2, resampled.shape[1]), np.nan)
    enough = n_groups >= 2
    ends[:, enough] = np.nanquantile(resampled[:, enough], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1]
