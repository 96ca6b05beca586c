"""A task's scores as the tables that papers print: methods by sub-dataset, bucket, size or protocol.

The best mean of a column is bold and the second underlined. A dagger marks a mean whose paired difference from the best can't
be told from 0 at the level of the run's intervals.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline import tables
from pipeline.errors import ParameterError, UserError
from pipeline.scoring.protocols import SEAM
from pipeline.tasks import METRICS, TASKS

BY = ("subset", "bucket", "size", "protocol")
FORMATS = ("latex", "markdown", "csv")
TIED = "†"


@dataclass(frozen=True)
class PaperTable:
    """Means with their marks. `means` has a row per method and columns (group, metric)."""

    means: pd.DataFrame
    best: pd.DataFrame
    """bool, as `means`: the best of its column."""
    second: pd.DataFrame
    tied: pd.DataFrame
    """bool: not the best, and its difference from the best can't be told from 0."""
    caption: str


def read(task: str, results: Path, by: str, metrics: list[str] | None) -> PaperTable:
    """The table of one task from results/<task>/. `metrics`: columns, or None for those that the task leads with.

    Raises ParameterError for a metric or grouping that the task hasn't, UserError naming a table that is missing.
    """
    known = TASKS[task]
    metrics = list(metrics or known.metrics)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ParameterError(f"--metrics {unknown[0]!r}: expected some of {', '.join(known.metrics)}")
    if by == "bucket" and known.size_bins is not None:
        raise ParameterError(f"--by bucket: {task} has no holes; use --by size")
    summary, per_image = tables.read(results / "summary.parquet"), tables.read(results / "per_image.parquet")
    if lacking := [name for name in metrics if name not in summary]:
        raise ParameterError(f"--metrics {lacking[0]!r}: {results / 'summary.parquet'} has no such column")
    tested = summary[summary["split"] == "test"]
    pooled = tested[tested["subset"] == "All"].set_index("model")
    order = list(pooled.sort_values(known.leading, ascending=not METRICS[known.leading].higher_is_better).index)
    if by == "subset":
        groups = [*sorted(set(tested["subset"]) - {"All"}), "All"]
        groups = groups[-1:] if len(groups) == 2 else groups  # one sub-dataset is all there is
        long = tested.melt(["model", "subset"], metrics, "metric", "mean").rename(columns={"subset": "group"})
        pairs = tables.read(results / "differences.parquet").rename(columns={"subset": "group"})
    elif by == "protocol":
        named = tables.read(results / "protocols.parquet")
        long = named[(named["split"] == "test") & (named["subset"] == "All")].rename(columns={"protocol": "group"})
        groups, pairs = list(dict.fromkeys(long["group"])), None
    else:
        breakdowns = tables.read(results / "breakdowns.parquet")
        long = breakdowns[breakdowns["by"] == known.size_column].rename(columns={"value": "group"})
        groups = sorted(set(long["group"]), key=lambda text: float(str(text).split("-")[0].rstrip("%")))
        pairs = tables.read(results / "differences_by_size.parquet").rename(columns={"value": "group"})
    long = long[long["metric"].isin(metrics)]
    columns = pd.MultiIndex.from_product([groups, metrics], names=["group", "metric"])
    means = long.pivot(index="model", columns=["group", "metric"], values="mean").reindex(index=order, columns=columns)
    means = means.dropna(axis="columns", how="all").astype(float)
    if means.empty:
        raise UserError(f"{results}: no method has a mean by {by} there")
    best, second, tied = (pd.DataFrame(False, means.index, means.columns) for _ in range(3))
    for group, metric in means.columns:
        column = (
            means[group, metric].dropna().sort_values(ascending=not METRICS[metric].higher_is_better, kind="stable")
        )
        shown = [number(value, metric) for value in column]
        for name, text in zip(column.index, shown):
            best.loc[name, (group, metric)] = text == shown[0]
        behind = [name for name, text in zip(column.index, shown) if text != shown[0]]
        if behind:
            next_best = shown[len(shown) - len(behind)]
            for name, text in zip(column.index, shown):
                second.loc[name, (group, metric)] = text == next_best
        if pairs is not None:
            of_best = pairs[
                (pairs["group"] == group) & (pairs["metric"] == metric) & (pairs["first"] == column.index[0])
            ]
            undecided = set(of_best[~((of_best["low"] > 0) | (of_best["high"] < 0))]["second"])
            for name in behind:
                tied.loc[name, (group, metric)] = name in undecided
    photographs = per_image[per_image["split"] == "test"]["photograph"].nunique()
    images = per_image[per_image["split"] == "test"]["image_id"].nunique()
    digest = hashlib.sha256((results / "per_image.parquet").read_bytes()).hexdigest()[:12]
    protocol = "protocols as named" if by == "protocol" else "protocol seam-256"
    caption = (
        f"{task.capitalize()}, {protocol}, split test: {images} images of {photographs} photographs "
        f"(per-image scores sha256 {digest}){_reservations(results, pooled, by)}. Best bold, second underlined"
        + (f"; {TIED}: not told apart from the best at 95%." if pairs is not None else ".")
    )
    return PaperTable(means, best, second, tied, caption)


def _reservations(results: Path, pooled: pd.DataFrame, by: str) -> str:
    """What a caption must say beside the protocol: the size of the pictures where it isn't the protocol's (of seam-256), and
    how many trainings the means of a network are over where there are several."""
    said = []
    file = results / "protocols.parquet"
    if by != "protocol" and file.is_file():
        named = tables.read(file)
        of_seam = named[(named["protocol"] == SEAM) & (named["split"] == "test")]
        said += sorted(set(of_seam["caveat"]) - {""})
    repeated = pooled[pooled["n_repeats"] > 1] if "n_repeats" in pooled else pooled[:0]
    said += [f"{model}: mean of {row['n_repeats']} trainings" for model, row in repeated.iterrows()]
    return "".join(f"; {text}" for text in said)


def number(value: float, metric: str) -> str:
    """A mean with the metric's decimals; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{METRICS[metric].decimals}f}"


def heading(metric: str) -> str:
    """A metric's label with an arrow towards the better."""
    return f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}"


def written(table: PaperTable, form: str) -> str:
    """The table as LaTeX (packages booktabs and graphicx), Markdown or CSV; CSV has full numbers and no marks.

    In LaTeX a table that is wider than the text shrinks to its width.
    """
    if form == "csv":
        flat = table.means.copy()
        flat.columns = [f"{group} {metric}" for group, metric in flat.columns]
        return flat.to_csv(index_label="method")
    if form == "markdown":
        return _markdown(table)
    return _latex(table)


def _cells(table: PaperTable, bold: str, underlined: str, tied: str) -> list[list[str]]:
    rows = []
    for name in table.means.index:
        row = []
        for key in table.means.columns:
            text = number(table.means.loc[name, key], key[1])
            if table.best.loc[name, key]:
                text = bold.format(text)
            elif table.second.loc[name, key]:
                text = underlined.format(text)
            row.append(text + (tied if table.tied.loc[name, key] else ""))
        rows.append(row)
    return rows


def _markdown(table: PaperTable) -> str:
    groups = dict.fromkeys(group for group, _ in table.means.columns)
    heads = [
        f"{group}: {heading(metric)}" if len(groups) > 1 else heading(metric) for group, metric in table.means.columns
    ]
    lines = [f"| method | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, cells in zip(table.means.index, _cells(table, "**{}**", "<u>{}</u>", TIED)):
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", table.caption, ""])


def _latex(table: PaperTable) -> str:
    def escaped(text: str) -> str:
        for character in "\\&%$#_{}":
            text = text.replace(character, rf"\{character}")
        return (
            text.replace(TIED, r"$^\dagger$")
            .replace("–", "--")
            .replace("↑", r"$\uparrow$")
            .replace("↓", r"$\downarrow$")
        )

    columns = list(table.means.columns)
    groups = list(dict.fromkeys(group for group, _ in columns))
    spans = [(group, sum(1 for other, _ in columns if other == group)) for group in groups]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.caption)}}}"]
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    if len(groups) > 1:
        lines.append(
            " & ".join(["", *(rf"\multicolumn{{{count}}}{{c}}{{{escaped(str(group))}}}" for group, count in spans)])
            + r" \\"
        )
        ends = list(itertools.accumulate(count for _, count in spans))
        lines.append(" ".join(rf"\cmidrule(lr){{{end - count + 2}-{end + 1}}}" for end, (_, count) in zip(ends, spans)))
    lines.append(" & ".join(["method", *(escaped(heading(metric)) for _, metric in columns)]) + r" \\")
    lines.append(r"\midrule")
    for name, cells in zip(table.means.index, _cells(table, r"\textbf{{{}}}", r"\underline{{{}}}", r"$^\dagger$")):
        lines.append(" & ".join([escaped(name), *(cell.replace("–", "--") for cell in cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])
