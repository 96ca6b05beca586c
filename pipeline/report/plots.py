"""The charts of the report: matplotlib's SVG, made to sit in a page.

Charts are drawn in stand-in colours that become CSS variables, so that the page decides what they are in light, in
dark and on paper; text takes the page's font. Each is a panel of about 3.6 x 2.6 inches that a grid lays out side by
side or one below the other. The same data give the same bytes: no date, no random ids.

Networks with training have a colour, methods without it are grey and told apart by marker; both by name.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pipeline.report.numbers import Results, Training, count
from pipeline.tasks import METRICS

WIDTH, HEIGHT = 3.6, 2.6
INK, FAINT, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", PAPER: "--paper"} | {
    f"#0a0b{number:02d}": f"--c{number}" for number in range(1, 7)
}
_COLOURS = [f"#0a0b{number:02d}" for number in range(1, 7)]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 7.5, "axes.linewidth": 0.6, "axes.edgecolor": FAINT, "axes.labelcolor": FAINT,
    "axes.titlesize": 8.5, "axes.titleweight": "normal", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "text.color": INK, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": GRID, "grid.linewidth": 0.5, "axes.axisbelow": True, "path.simplify": False, "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How one method is drawn."""

    colour: str
    marker: str
    dashes: tuple
    variable: str
    """The CSS variable of the colour."""


def styles(results: Results) -> dict[str, Style]:
    """A style for every method: colours for networks with training (after six, the colours come again, dashed)."""
    made = {}
    for number, model in enumerate(results.trained):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = ((), (4, 1.5), (1.2, 1.2))[number // len(_COLOURS) % 3]
        made[model] = Style(colour, "o", dashes, _VARIABLES[colour])
    untrained = sorted(set(results.methods) - set(made))
    for number, model in enumerate(untrained):
        made[model] = Style(FAINT, _MARKERS[1:][number % (len(_MARKERS) - 1)], (2.5, 1.5), "--faint")
    return made


@matplotlib.rc_context(_SETTINGS)
def key(style: Style) -> str:
    """The mark of one method, for the key above a group of charts."""
    figure = Figure(figsize=(0.36, 0.14))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    axes.plot(
        [-0.9, 0, 0.9],
        [0, 0, 0],
        color=style.colour,
        linewidth=1.2,
        dashes=style.dashes,
        markevery=[1],
        **_mark(style, 4.5),
    )
    return _svg(figure, f"key {style}")


@matplotlib.rc_context(_SETTINGS)
def by_steps(results: Results, by: str, metric: str) -> str | None:
    """A metric over an ordered breakdown (foreground share, hole-ratio bucket): one line per method with its interval.

    None when the breakdown has one step only.
    """
    part = results.breakdowns[(results.breakdowns["by"] == by) & (results.breakdowns["metric"] == metric)]
    part = part[part["value"] != "nan"]  # images outside the bins
    values = sorted(part["value"].unique(), key=lambda step: float(re.split("[-%]", step)[0]))
    if len(values) < 2:
        return None
    figure, axes = _panel(f"{METRICS[metric].label} {_arrow(results, metric)}")
    ends = {}
    for place, (model, style) in enumerate(_drawn_in_order(results)):
        rows = part[part["model"] == model].set_index("value").reindex(values)
        at = np.arange(len(values)) + (place - (len(results.methods) - 1) / 2) * min(0.03, 0.3 / len(results.methods))
        _line(axes, at, rows["mean"], style)
        _intervals(axes, at, rows, style)
        ends[model] = rows["mean"].iloc[-1]
    n = part.groupby("value")["n"].max().reindex(values)
    each = n.nunique() == 1
    axes.set_xticks(
        range(len(values)),
        [_short(value) if each else f"{_short(value)}\nn = {int(images)}" for value, images in zip(values, n)],
    )
    axes.set_xlabel(
        f"{by.replace('_', ' ').removesuffix(' bucket')}, %" + (f" (n = {int(n.iloc[0])} each)" if each else "")
    )
    axes.set_xlim(-0.25, len(values) - 0.75)
    _label_ends(axes, ends, styles(results), len(values) - 0.85)
    return _svg(figure, f"{results.task} {by} {metric}")


@matplotlib.rc_context(_SETTINGS)
def by_kind(results: Results, by: str, metric: str, most: int = 12) -> str | None:
    """A metric over an unordered breakdown (transfer, category): a row per value, a mark per method.

    The `most` values with most images are shown, most images first. None when there is one value only.
    """
    part = results.breakdowns[(results.breakdowns["by"] == by) & (results.breakdowns["metric"] == metric)]
    part = part.assign(value=part["value"].replace("", None).fillna("not known"))
    n = part.groupby("value")["n"].max().sort_values(ascending=False, kind="stable").head(most)
    if len(n) < 2:
        return None
    drawn = _drawn_in_order(results)
    # a row is as high as its marks need: each method has a line of its own there, so that equal means don't hide each other
    row = max(0.24, 0.05 * len(drawn) + 0.1)
    figure, axes = _panel(f"{METRICS[metric].label} {_arrow(results, metric)} by {by}", height=0.75 + row * len(n))
    for place, (model, style) in enumerate(drawn):
        rows = part[part["model"] == model].set_index("value").reindex(n.index)
        within = 0.6 * ((place + 0.5) / len(drawn) - 0.5)
        axes.plot(rows["mean"], -np.arange(len(n)) - within, linestyle="none", **_mark(style, 4))
    for edge in range(1, len(n)):
        axes.axhline(0.5 - edge, color=GRID, linewidth=0.5)
    axes.grid(False)
    axes.set_yticks(-np.arange(len(n)), [f"{_at_most(value)} ({images})" for value, images in n.items()])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(-len(n) + 0.4, 0.6)
    _from_zero(axes, "x", part["mean"])
    return _svg(figure, f"{results.task} {by} {metric}")


@matplotlib.rc_context(_SETTINGS)
def size_against_quality(results: Results) -> str | None:
    """Parameters against the leading metric, over all test images, with intervals; methods without parameters stand
    at the left, apart from the logarithmic scale, and those whose size nobody knows are left out. None when no method has parameters."""
    metric = results.leading
    rows = results.intervals[
        (results.intervals["subset"] == "All") & (results.intervals["metric"] == metric)
    ].set_index("model")
    sizes = {model: results.methods[model]["n_parameters"] for model in results.order}
    powers = np.log10([size for size in sizes.values() if size])
    if not len(powers):
        return None
    low, high = np.floor(powers.min() * 2 - 0.2) / 2, np.ceil(powers.max() * 2 + 0.2) / 2
    none = low - 0.45 * (high - low)
    figure, axes = _panel(f"{METRICS[metric].label} {_arrow(results, metric)} by number of parameters")
    look, points = styles(results), {}
    for model, style in _drawn_in_order(results):
        if sizes[model] is None:
            continue
        at = np.log10(sizes[model]) if sizes[model] else none
        _intervals(axes, [at], rows.loc[[model]], style)
        axes.plot([at], [rows.loc[model, "mean"]], linestyle="none", **_mark(style, 5))
        points[model] = at, rows.loc[model, "mean"]
    width = high - none
    axes.set_xlim(none - 0.04 * width, high + 0.2 * width)
    digits = (1, 3) if high - low < 2.5 else (1,)
    ticks = [tick for power in range(12) for tick in np.array(digits) * 10**power if low <= np.log10(tick) <= high]
    axes.set_xticks([none, *np.log10(ticks)], ["none", *(count(tick).replace(".0", "") for tick in ticks)])
    axes.set_xlabel("parameters")
    for column in (True, False):  # names are kept apart within the column of methods without parameters, and outside it
        _label_points(
            axes, {model: place for model, place in points.items() if (place[0] == none) == column}, look, 0.02 * width
        )
    return _svg(figure, f"{results.task} size")


@matplotlib.rc_context(_SETTINGS)
def quality_against_time(results: Results, cost: pd.DataFrame, where: str) -> str | None:
    """Milliseconds for a picture against the leading metric over all test images, for the rows of cost.parquet of one
    device and size (`where` says which). A line joins the Pareto front: methods that no other is both faster and better
    than. None with fewer than two methods that were timed."""
    metric = results.leading
    means = results.intervals[(results.intervals["subset"] == "All") & (results.intervals["metric"] == metric)]
    means = means.set_index("model")["mean"]
    times = cost.set_index("model")["ms"]
    points = {model: (times[model], means[model]) for model in results.order
              if model in times and np.isfinite(times[model]) and np.isfinite(means[model])}  # fmt: skip
    if len(points) < 2:
        return None
    figure, axes = _panel(f"{METRICS[metric].label} {_arrow(results, metric)} by time, {where}")
    look = styles(results)
    front = pareto(points, results.metrics[metric])
    axes.plot(*zip(*(points[model] for model in front)), color=GRID, linewidth=1.4, drawstyle="steps-post", zorder=0)
    axes.set_xscale("log")
    for model, style in _drawn_in_order(results):
        if model in points:
            axes.plot(*points[model], linestyle="none", **_mark(style, 5))
    low, high = (bound([time for time, _ in points.values()]) for bound in (min, max))
    axes.set_xlim(low / 1.4, high * max(2.0, (high / low) ** 0.25))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("milliseconds")
    places = _apart(axes, {model: y for model, (_, y) in points.items()})
    to_data = axes.transAxes + axes.transData.inverted()
    for model, y in places.items():
        place = points[model][0] * (high / low) ** 0.02 * 1.06, to_data.transform((0, y))[1]
        axes.annotate(model, place, color=look[model].colour, fontsize=7.5, va="center", annotation_clip=False)
    return _svg(figure, f"{results.task} cost {where}")


def pareto(points: dict[str, tuple[float, float]], higher_is_better: bool) -> list[str]:
    """Methods that no other is as fast and as good as, and better in one of the two; fastest first. `points`: method ->
    time and quality."""
    sign = 1 if higher_is_better else -1
    front: list[str] = []
    for model in sorted(points, key=lambda name: (points[name][0], -sign * points[name][1], name)):
        if not front or sign * points[model][1] > sign * points[front[-1]][1]:
            front.append(model)
    return front


@matplotlib.rc_context(_SETTINGS)
def over_thresholds(results: Results, curves: pd.DataFrame, across: str, up: str, title: str) -> str:
    """Two columns of curves.parquet against each other, one line per method; both are shares, 0 to 1."""
    figure, axes = _panel(title)
    for model, style in _drawn_in_order(results):
        part = curves[curves["model"] == model].sort_values("threshold", ascending=False)
        if up == "precision":
            part = part[part["recall"] > 0]  # where nothing is found yet, precision means nothing
        axes.plot(part[across], part[up], color=style.colour, linewidth=1.2, dashes=style.dashes)
    if (across, up) == ("false_positive_rate", "recall"):
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=0.8)  # chance
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel(across.replace("_", " "))
    axes.set_ylabel(up.replace("f1", "F1"))
    return _svg(figure, f"{results.task} {across} {up}")


@matplotlib.rc_context(_SETTINGS)
def training_curves(results: Results, trainings: Sequence[Training]) -> list[str]:
    """Two panels of one figure: training loss (log scale) and the leading metric on validation images, per network.

    Networks that were trained for no epoch have no curve; without any there are no panels.
    """
    trainings = [training for training in trainings if len(training.history)]
    if not trainings:
        return []
    look = styles(results)
    figure, axes = _panel("training loss")
    ends, drawn = {}, []
    for training in trainings:
        columns = loss_columns(training.history)
        for number, column in enumerate(columns):
            known, style = training.history.dropna(subset=[column]), look[training.model]
            axes.plot(
                known["step"],
                known[column],
                color=style.colour,
                linewidth=0.9 if number else 1.3,
                dashes=(1, 1) if number else style.dashes,
            )
            name = training.model if len(columns) == 1 else f"{training.model} {column.removesuffix('_loss')}"
            ends[name] = (known["step"].iloc[-1], known[column].iloc[-1])
            drawn.append(known[column].min())
    if min(drawn) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        _few_log_ticks(axes)
    panels = [_finish_curves(figure, axes, ends, look, f"{results.task} loss")]
    metric, ends = f"validation_{results.leading}", {}
    figure, axes = _panel(f"validation {METRICS[results.leading].label} {_arrow(results, results.leading)}")
    for training in trainings:
        if metric in training.history:
            known, style = training.history.dropna(subset=[metric]), look[training.model]
            axes.plot(
                known["step"],
                known[metric],
                color=style.colour,
                linewidth=1.3,
                dashes=style.dashes,
                marker="o",
                markersize=2.2,
            )
            ends[training.model] = (known["step"].iloc[-1], known[metric].iloc[-1])
    return [*panels, _finish_curves(figure, axes, ends, look, f"{results.task} validation")] if ends else panels


def loss_columns(history: pd.DataFrame) -> list[str]:
    """The columns of history.parquet that are losses: `loss`, or with several players a column per player."""
    return ["loss"] if "loss" in history else [column for column in history if column.endswith("_loss")]


@matplotlib.rc_context(_SETTINGS)
def histogram(values: pd.Series, title: str, bounds: tuple[float, float] | None = None, percent: bool = False) -> str:
    """Counts over 24 equal bins, with the median and, dashed, the bounds that a filter sets."""
    values = values.dropna().to_numpy(dtype=float)
    figure, axes = _panel(title, height=0.72 * HEIGHT)
    low, high = min(values.min(), 0.0), max(values.max(), np.finfo(float).eps)
    counts, edges = np.histogram(values, bins=24, range=(low, high))
    axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.9, align="edge", color=_COLOURS[0], linewidth=0)
    for bound in bounds or ():
        if low <= bound <= high * 1.25:
            axes.axvline(bound, color=FAINT, linewidth=0.8, dashes=(3, 2))
    median = float(np.median(values))
    axes.plot([median], [counts.max() * 1.06], marker="v", markersize=4, color=INK, linestyle="none", clip_on=False)
    shown = f"{median:.0%}" if percent else f"{median:.3g}"
    axes.annotate(
        f"median {shown}", (median, counts.max() * 1.06), xytext=(5, -2.5), textcoords="offset points", fontsize=7
    )
    axes.set_ylim(0, counts.max() * 1.18)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if percent:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    return _svg(figure, f"histogram {title} {hashlib.sha256(values.tobytes()).hexdigest()}")


def _panel(title: str, width: float = WIDTH, height: float = HEIGHT):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, pad=7)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _arrow(results: Results, metric: str) -> str:
    return "↑" if results.metrics[metric] else "↓"


def _drawn_in_order(results: Results) -> list[tuple[str, Style]]:
    """Methods with training come last, on top."""
    look = styles(results)
    return [(model, look[model]) for model in sorted(look, key=lambda model: (model in results.trained, model))]


def _mark(style: Style, size: float) -> dict:
    hollow = bool(style.dashes)
    return {"marker": style.marker, "markersize": size, "markeredgecolor": style.colour, "markeredgewidth": 1.0,
            "markerfacecolor": PAPER if hollow else style.colour}  # fmt: skip


def _line(axes, at, values, style: Style) -> None:
    width = 1.0 if style.colour == FAINT else 1.5
    axes.plot(at, values, color=style.colour, linewidth=width, dashes=style.dashes, **_mark(style, 3.5))


def _intervals(axes, at, rows: pd.DataFrame, style: Style) -> None:
    for x, low, high in zip(at, rows["low"], rows["high"]):
        if np.isfinite(low) and np.isfinite(high):
            axes.plot([x, x], [low, high], color=style.colour, linewidth=0.7, alpha=0.55)


def _from_zero(axes, axis: str, values: pd.Series) -> None:
    """Start an axis at zero where that costs less than half of the room."""
    low, high = values.min(), values.max()
    if 0 < low < 0.5 * high:
        (axes.set_xlim if axis == "x" else axes.set_ylim)(0, None)


def _at_most(value: str, letters: int = 26) -> str:
    """A category's name, its middle left out where it would push the chart aside."""
    return value if len(value) <= letters else f"{value[: letters // 2]}…{value[-(letters // 2 - 1) :]}"


def _short(value) -> str:
    """An interval of shares as a tick: 0-10 -> 0–10, 5%-15% -> 5–15."""
    return str(value).replace("%", "").replace("-", "–")


def _few_log_ticks(axes) -> None:
    """1, 2 and 5 of each decade, as many as fit the range."""
    low, high = axes.get_ylim()
    ticks = [
        digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high
    ]
    if len(ticks) < 2:
        ticks = list(MaxNLocator(4).tick_values(low, high)[1:-1])
    axes.set_yticks(ticks if len(ticks) < 8 else [tick for tick in ticks if f"{tick:e}".startswith("1")])


def _finish_curves(figure, axes, ends: dict, look: dict[str, Style], name: str) -> str:
    last = max(step for step, _ in ends.values())
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("step")
    _label_ends(
        axes,
        {model: value for model, (_, value) in ends.items()},
        {model: look[model.split(" ")[0]] for model in ends},
        last,
    )
    return _svg(figure, name)


def _label_ends(axes, ends: dict[str, float], look: dict[str, Style], x: float) -> None:
    """Names at the right ends of lines, pushed apart where they would overlap."""
    places = _apart(axes, {model: value for model, value in ends.items() if np.isfinite(value)})
    for model, y in places.items():
        axes.annotate(
            model,
            (1.015, y),
            xycoords="axes fraction",
            color=look[model].colour,
            fontsize=7,
            va="center",
            annotation_clip=False,
        )


def _label_points(axes, points: dict[str, tuple[float, float]], look: dict[str, Style], gap: float) -> None:
    places = _apart(axes, {model: y for model, (_, y) in points.items() if np.isfinite(y)})
    to_data = axes.transAxes + axes.transData.inverted()
    for model, y in places.items():
        place = points[model][0] + gap, to_data.transform((0, y))[1]
        axes.annotate(model, place, color=look[model].colour, fontsize=7.5, va="center", annotation_clip=False)


def _apart(axes, values: dict[str, float]) -> dict[str, float]:
    """Heights in axes fractions for labels of these data values: near them, in their order, a line of text apart."""
    least = 0.118 / (axes.figure.get_size_inches()[1] - 0.8)
    to_axes = axes.transData + axes.transAxes.inverted()
    order = sorted(values, key=lambda model: (values[model], model))
    wanted = [float(to_axes.transform((0, values[model]))[1]) for model in order]
    placed: list[list] = []  # clusters of labels: [sum of wanted bottoms, count]; a cluster sits at their mean
    for place in wanted:
        placed.append([place, 1])
        while len(placed) > 1 and placed[-2][0] / placed[-2][1] + placed[-2][1] * least > placed[-1][0] / placed[-1][1]:
            total, size = placed.pop()
            placed[-1][0] += total - size * placed[-1][1] * least
            placed[-1][1] += size
    heights = [total / size + step * least for total, size in placed for step in range(size)]
    return dict(zip(order, heights))


def _svg(figure: Figure, name: str) -> str:
    """The figure as an inline <svg>: CSS variables for colours, the page's font, no ids but those it refers to."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" ?font-family: [^;]*;", "", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1)
    svg = re.sub(r">\s+<", "><", svg).replace("\n", " ")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.strip()
