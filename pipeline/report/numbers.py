"""The numbers of the report: what evaluation, training and synthesis left, read once and put into rows of text.

Every function returns plain rows (dicts of str and numbers) for the template; nothing is averaged here but what a
sentence says.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pandas as pd

from pipeline import reading, repeats, tables
from pipeline.errors import UserError
from pipeline.scoring import index as scoring_index
from pipeline.tasks import METRICS, TASKS

HERE = (scoring_index.TRAINED, scoring_index.TRAINED_ON_REAL, scoring_index.WITHOUT_WEIGHTS)
"""Origins of predictions of which tables need say no more."""

RESULT_TABLES = ("per_image", "summary", "intervals", "differences", "ranks", "breakdowns")
FEW_PHOTOGRAPHS = 30
"""Below so many test photographs the page says that intervals can't be trusted far."""


@dataclass(frozen=True)
class Results:
    """All that is known of one task: results/<task>/*.parquet and artifacts/index/<task>/*.json (`methods`, by name)."""

    task: str
    methods: dict[str, dict]
    per_image: pd.DataFrame
    summary: pd.DataFrame
    intervals: pd.DataFrame
    differences: pd.DataFrame
    ranks: pd.DataFrame
    breakdowns: pd.DataFrame
    n_repeats: int = 1
    """Trainings of each network. Scores of images are means over them; pictures are those of the first."""
    order_by_seed: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Pairs of methods whose order depends on the training (pipeline/repeats.py)."""

    @property
    def metrics(self) -> dict[str, bool]:
        """The task's headline metrics, and whether more is better."""
        return {name: METRICS[name].higher_is_better for name in TASKS[self.task].metrics}

    @property
    def leading(self) -> str:
        """The metric that orders methods and images."""
        return TASKS[self.task].leading

    @cached_property
    def order(self) -> list[str]:
        """Methods, best first by the leading metric over all test images; a method whose mean is undefined comes last."""
        pooled = self.summary[(self.summary["subset"] == "All") & (self.summary["split"] == "test")]
        return list(pooled.sort_values(self.leading, ascending=not self.metrics[self.leading], kind="stable")["model"])

    @property
    def trained(self) -> list[str]:
        """Methods with training, in alphabetical order (their colours in charts follow it)."""
        return sorted(name for name, method in self.methods.items() if method["trained"])

    @property
    def subsets(self) -> list[str]:
        """Sub-datasets with test images, without "All"."""
        part = self.summary[self.summary["split"] == "test"]
        return sorted(set(part["subset"]) - {"All"})

    @cached_property
    def tested(self) -> pd.DataFrame:
        """Per-image scores of the test split."""
        return self.per_image[self.per_image["split"] == "test"]


def read_results(task: str, results: Path, index: Path) -> Results:
    """Read one task's tables. Raises UserError naming the first file that is missing or doesn't fit the others."""
    files = sorted(index.glob("*.json"))
    if not files:
        raise UserError(f"{index}: no method has predictions there; `dvc repro` makes them")
    methods = {method["model"]: method for method in map(scoring_index.read, files) if method["repeat"] == 1}
    read = {name: tables.read(results / f"{name}.parquet") for name in RESULT_TABLES}
    scores = read["per_image"]
    read["per_image"] = repeats.averaged(scores, ["split", "image_id"])
    odd = sorted(set(methods) ^ set(read["summary"]["model"]))
    if odd:
        raise UserError(
            f"{results / 'summary.parquet'} and {index} name different methods ({odd[0]} is in one only); `dvc repro` evaluates anew"
        )
    known = TASKS[task]
    tested = scores[scores["split"] == "test"]
    by_seed = repeats.order_by_seed(tested, known.leading, METRICS[known.leading].higher_is_better)
    return Results(task, methods, **read, n_repeats=int(scores[repeats.COLUMN].max()), order_by_seed=by_seed)


@dataclass(frozen=True)
class Training:
    """What one training left: the rows of history.parquet and the facts of training.json."""

    model: str
    history: pd.DataFrame
    facts: dict


def read_training(folder: Path) -> Training:
    """Read artifacts/models/<model>. Raises UserError naming the file that is missing."""
    history, facts = tables.read(folder / "history.parquet"), folder / "training.json"
    if not facts.is_file():
        raise UserError(f"{facts}: no such file; `dvc repro train-{folder.name}` makes it")
    return Training(folder.name, history, reading.as_json(facts))


def number(value: float, metric: str) -> str:
    """A score as the page writes it; an undefined score is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{METRICS[metric].decimals}f}"


def change(value: float, metric: str) -> str:
    """A difference of scores as the page writes it, with its sign."""
    return f"{value:+.{METRICS[metric].decimals}f}".replace("-", "−")


def between(low: float, high: float, metric: str) -> str:
    """An interval as the page writes it; empty where there is none (fewer than two photographs)."""
    return (
        f"{number(low, metric)} to {number(high, metric)}".replace("-", "−")
        if math.isfinite(low) and math.isfinite(high)
        else ""
    )


def count(value: float) -> str:
    """A number of parameters: 0, 812, 12.3 k, 4.5 M; a dash where nobody knows."""
    if pd.isna(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def score_table(results: Results, subset: str, split: str = "test") -> dict:
    """One table of means: methods as rows, best first.

    {"metrics": [...], "rows": [...], "n_images", "n_photographs", "simulated" (share of the images), "excluded", ...}; a row holds model, trained,
    parameters, n_images, rank, cells (text, interval, best) and `behind`, its paired difference from the first row in
    the leading metric; `brought` says what was trained or made elsewhere; `excluded` names methods with images that a metric is undefined for. Intervals, ranks and
    differences exist for the test split alone.
    """
    chosen = results.summary[(results.summary["subset"] == subset) & (results.summary["split"] == split)].set_index(
        "model"
    )
    order = [model for model in results.order if model in chosen.index]
    if subset != "All" or split != "test":
        order = list(
            chosen.loc[order]
            .sort_values(results.leading, ascending=not results.metrics[results.leading], kind="stable")
            .index
        )
    stated = split == "test"
    intervals = results.intervals[results.intervals["subset"] == subset].set_index(["model", "metric"])
    ranks = results.ranks[(results.ranks["subset"] == subset) & (results.ranks["metric"] == results.leading)].set_index(
        "model"
    )
    scored = results.per_image[results.per_image["split"] == split]
    scored = scored if subset == "All" else scored[scored["subset"] == subset]
    cells = {
        metric: _cells(chosen[metric], metric, higher, intervals if stated else None)
        for metric, higher in results.metrics.items()
    }
    rows = [
        {
            "model": model,
            "trained": results.methods[model]["trained"],
            "parameters": count(chosen.loc[model, "n_parameters"]),
            "n_images": int(chosen.loc[model, "n_images"]),
            "rank": _rank(ranks.loc[model]) if stated else "",
            "behind": _behind(results, subset, model, order[0]) if stated else "",
            "cells": [{"metric": metric} | cells[metric][model] for metric in results.metrics],
        }
        for model in order
    ]
    return {
        "subset": subset,
        "split": split,
        "leading": METRICS[results.leading].label,
        "metrics": [
            {"column": metric, "name": METRICS[metric].label, "higher": higher}
            for metric, higher in results.metrics.items()
        ],
        "rows": rows,
        "stated": stated,
        "n_images": int(chosen["n_images"].max()),
        "simulated": float(chosen["simulated"].max()) if "simulated" in chosen else 0.0,
        "n_photographs": int(scored["photograph"].nunique()),
        "excluded": _excluded(scored, list(results.metrics), order),
        "brought": [
            f"{model} ({origin})" for model in order if (origin := results.methods[model]["origin"]) not in HERE
        ],
        "on_real": [model for model in order if results.methods[model]["origin"] == scoring_index.TRAINED_ON_REAL],
    }


def _cells(means: pd.Series, metric: str, higher: bool, intervals: pd.DataFrame | None) -> dict[str, dict]:
    best = number(means.max() if higher else means.min(), metric)
    cells = {}
    for model, mean in means.items():
        text = number(mean, metric)
        interval = intervals.loc[(model, metric)] if intervals is not None else None
        cells[model] = {
            "text": text,
            "interval": between(interval["low"], interval["high"], metric) if interval is not None else "",
            "best": text == best and text != "–",
        }
    return cells


def _excluded(scored: pd.DataFrame, metrics: list[str], order: list[str]) -> list[str]:
    """Methods with images that some headline metric is undefined for, and how many."""
    undefined = scored[metrics].isna().any(axis=1).groupby(scored["model"]).sum()
    return [f"{model} {undefined[model]}" for model in order if undefined[model]]


def _rank(row: pd.Series) -> str:
    return str(int(row["rank"])) if row["rank"] == row["rank_worst"] else f"{int(row['rank'])}–{int(row['rank_worst'])}"


def _behind(results: Results, subset: str, model: str, first: str) -> dict | str:
    if model == first:
        return ""
    table, metric = results.differences, results.leading
    row = table[
        (table["subset"] == subset)
        & (table["metric"] == metric)
        & (table["first"] == model)
        & (table["second"] == first)
    ].iloc[0]
    if not math.isfinite(row["mean"]):
        return ""
    tied = not (row["low"] > 0 or row["high"] < 0)
    return {"text": change(row["mean"], metric), "interval": between(row["low"], row["high"], metric), "tied": tied}


def _records(table: pd.DataFrame) -> list[SimpleNamespace]:
    """Rows by name of column, also where a column is called like an attribute of pandas' rows."""
    return [SimpleNamespace(**row) for row in table.to_dict("records")]


def cost_rows(table: pd.DataFrame, results: Results) -> list[dict]:
    """Rows of cost.parquet in words, methods in the order of the task; what was not measured says why."""
    measured = lambda value, decimals: "–" if pd.isna(value) else f"{value:,.{decimals}f}"
    order = {model: place for place, model in enumerate(results.order)}
    ordered = table.assign(place=table["model"].map(order)).sort_values("place", kind="stable")
    return [
        {
            "model": row.model,
            "trained": results.methods[row.model]["trained"],
            "device": row.device,
            "size": row.size,
            "parameters": count(results.methods[row.model]["n_parameters"]),
            "gmacs": measured(row.gmacs, 2),
            "ms": measured(row.ms, 1),
            "peak": measured(row.peak_mib, 0),
            "why_not": row.why_not,
            "licences": (row.code_licence, row.weights_licence, row.data_licence),
        }
        for row in _records(ordered)
    ]


EMBEDDED_BYTES = 1_000_000
"""A CSV longer than this isn't written into the page."""


def embedded(folder: Path, names: Sequence[str]) -> tuple[list[dict], list[str]]:
    """Tables of `folder` as CSV files that a page carries in itself, so that it can be mailed alone: name, rows and address
    (a data: URL) of each; and the names of those longer than EMBEDDED_BYTES."""
    carried, too_large = [], []
    for name in names:
        table = tables.read(folder / f"{name}.parquet")
        address = "data:text/csv;charset=utf-8," + quote(table.to_csv(index=False, float_format="%.7g"), safe=",:/ ()|")
        if len(address) > EMBEDDED_BYTES:
            too_large.append(name)
        else:
            carried.append({"name": name, "rows": len(table), "address": address})
    return carried, too_large


def overlaps(file: Path) -> dict[str, list[str]]:
    """For each sub-dataset of the real iHarmony4, and each further test set that brings a training list, a sentence per
    sub-dataset: how far the list has seen it.

    Empty where evaluation wrote no such table.
    """
    if not file.is_file():
        return {}
    said: dict[str, list[str]] = {}
    for row in tables.read(file).itertuples():
        if not row.composites_train:
            continue
        sentence = f"{row.subset}: {row.photographs_shared:,} of {row.photographs_test:,} test photographs are in its training list too"
        if row.photographs_shared:
            sentence += (
                f", with {row.test_composites_of_shared_photographs:,} of {row.composites_test:,} test composites"
            )
        if row.cameras_shared:
            sentence += f"; {row.test_composites_of_shared_cameras:,} test composites are of the {row.cameras_shared} cameras that it knows"
        if (left_out := getattr(row, "composites_left_out", 0)) > 0:  # missing of real sets, which are only tested
            sentence += f"; {left_out:,.0f} of its composites were left out of training for that"
        said.setdefault(row.set, []).append(sentence)
    return said


def training_rows(trainings: list[Training], blocks: dict) -> list[dict]:
    """The budget of each training, for the table of networks; `blocks` are the models of params.yaml.

    Raises UserError for a network that params.yaml doesn't train.
    """
    rows = []
    for training in trainings:
        if training.model not in blocks or blocks[training.model].training is None:
            problem = f"artifacts/index names {training.model} as trained and params.yaml doesn't train it"
            raise UserError(f"{problem}; `python -m commands.graph` clears what is stale")
        history, facts, own = training.history, training.facts, blocks[training.model].training
        steps = int(history["step"].iloc[-1]) if len(history) else 0
        epochs = history.groupby("phase", sort=False).size() if len(history) else [0]
        rows.append(
            {
                "model": training.model,
                "epochs": " + ".join(map(str, epochs)),
                "steps": f"{steps:,}",
                "images": f"{steps * own.batch_size:,}",
                "batch_size": own.batch_size,
                "optimizer": f"{own.optimization.optimizer}, {own.optimization.learning_rate:g}",
                "hardware": facts["device"] + (f", {facts['workers']} workers" if facts["workers"] > 1 else ""),
                "rate": f"{facts['images_per_second']:.1f}",
                "seconds": duration(facts["seconds_of_the_last_run"]),
            }
        )
    return rows


def seeds(results: Results) -> dict | None:
    """What the page says of several trainings of each network; None where each network was trained once."""
    if results.n_repeats == 1:
        return None
    pooled = results.intervals[
        (results.intervals["subset"] == "All") & (results.intervals["metric"] == results.leading)
    ].set_index("model")
    spreads = [
        f"{model} {number(pooled.loc[model, 'repeat_sd'], results.leading)}"
        for model in results.order
        if pooled.loc[model, "n_repeats"] > 1
    ]
    return {
        "n": results.n_repeats,
        "metric": METRICS[results.leading].label,
        "spreads": spreads,
        "pairs": results.order_by_seed.to_dict("records"),
    }


def duration(seconds: float) -> str:
    """A time span in the two units that matter: 14.2 s, 3 min 5 s, 2 h 4 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def overview(results: Results) -> dict:
    """What a task's paragraph of the overview says."""
    first = results.order[0]
    table = score_table(results, "All")
    leading = list(results.metrics).index(results.leading)
    return {
        "task": results.task,
        "first": first,
        "first_trained": results.methods[first]["trained"],
        "metric": METRICS[results.leading].label,
        "score": table["rows"][0]["cells"][leading],
        "tied": [row["model"] for row in table["rows"][1:] if row["behind"] and row["behind"]["tied"]],
        "n_methods": len(results.order),
        "n_trained": len(results.trained),
        "n_images": table["n_images"],
        "n_photographs": table["n_photographs"],
        "few": table["n_photographs"] < FEW_PHOTOGRAPHS,
    }


def counts(pairs: pd.DataFrame, rejected: pd.DataFrame) -> dict:
    """The data sheet of one sub-dataset in numbers: composites by split, by transfer and by category; rejections.

    `rejected` by rule: how many candidates each rule refused, and the range of the values that it saw.
    """
    splits = [split for split in ("train", "val", "test") if (pairs["split"] == split).any()]
    splits += sorted(set(pairs["split"]) - set(splits))
    by_split = pairs.groupby("split")
    categories = pairs["category"].value_counts()
    rules = (
        rejected.groupby("rule")["value"]
        .agg(["size", "min", "max"])
        .sort_values("size", ascending=False, kind="stable")
    )
    return {
        "splits": splits,
        "n": len(pairs),
        "n_simulated": int(pairs["simulated"].sum()) if "simulated" in pairs else 0,
        "by_split": [
            {
                "split": split,
                "composites": len(part),
                "photographs": part["source_image"].nunique(),
                "objects": part["mask"].nunique(),
            }
            for split, part in ((split, by_split.get_group(split)) for split in splits)
        ],
        "by_transfer": _crossed(pairs, "transfer", splits),
        "by_category": _crossed(pairs, "category", splits)[:12],
        "more_categories": len(categories) - 12,
        "rules": [
            {
                "rule": rule,
                "n": int(row["size"]),
                "values": f"{row['min']:.3g} to {row['max']:.3g}" if math.isfinite(row["min"]) else "",
            }
            for rule, row in rules.iterrows()
        ],
        "n_rejected": len(rejected),
    }


def stated(value) -> str:
    """A text of a table; "" where the table has none (missing values come back as None or NaN)."""
    return value if isinstance(value, str) else ""


def _crossed(pairs: pd.DataFrame, column: str, splits: list[str]) -> list[dict]:
    named = pairs.assign(**{column: [stated(value) or "not known" for value in pairs[column]]})
    crossed = pd.crosstab(named[column], named["split"]).reindex(columns=splits, fill_value=0)
    crossed = crossed.assign(n=crossed.sum(axis=1)).reset_index().sort_values(["n", column], ascending=[False, True])
    return [
        {"value": row[column], "n": int(row["n"]), "of": [int(row[split]) for split in splits]}
        for _, row in crossed.iterrows()
    ]


def fingerprint(file: Path) -> dict:
    """A table of the data by name, number of rows and the beginning of its SHA-256."""
    return {
        "file": file.as_posix(),
        "rows": f"{len(tables.read(file)):,}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
    }
