"""The report: one HTML page that needs no file beside it, no script from elsewhere and no network.

What it says is gathered here and laid out by page.html.j2 (with page.css and page.js written into it). The same inputs
on the same machine give the same bytes: there is no date in it; durations come from the trainings themselves.
"""

import math
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline import tables as parquet
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.report import (
    buckets,
    comparisons,
    maps,
    numbers,
    perceptual,
    plots,
    provenance,
    samples,
    sheets,
    thresholds,
    variants,
)
from pipeline.scoring import columns
from pipeline.tasks import METRICS, TASKS

HERE = Path(__file__).parent
MAX_BYTES = 20_000_000
TABLES = (*numbers.RESULT_TABLES, "differences_by_size")
"""Tables of a task that the page carries as CSV and names as files beside it."""
WORST = 4
"""Images shown per method among its worst."""

SAMPLES = 3
"""Composites shown per sub-dataset and transfer."""

HISTOGRAMS = {
    "foreground_ratio": ("foreground share", True),
    "colour_difference": ("mean colour difference inside (CIE76)", False),
    "hue_rotation": ("mean hue rotation inside, degrees", False),
}
"""Columns of pairs.parquet that the data sheet draws: title, and whether they are shares."""

ASKS = {
    "localization": "Given a composite, where is the pasted region? A method gives a probability for every pixel.",
    "harmonization": "Given a composite and its mask, the foreground is repainted to fit. Outside the mask nothing is changed, byte for byte.",
    "inpainting": "Given a photograph with irregular holes, they are filled. Outside the holes nothing is changed, byte for byte.",
}
ERRORS = f"mean absolute difference from the truth, black 0 to bright {sheets.ERROR_CEILING} of 255 and above"


def render(
    parameters, *, results: Path, artifacts: Path, data: Path, file: Path, presets: Path, under_way: dict | None = None
) -> str:
    """The page.

    parameters: params.Params of the run, from `file`; `presets` is the folder of what it is compared with.
    results, artifacts, data: the folders that the stages before wrote, from the working folder.
    under_way: what stands above the results of a run that hasn't ended (pipeline/report/under_way.py).

    Raises UserError naming the file, when a table or a picture is missing, and when the page would pass MAX_BYTES.
    """
    read = {task: numbers.read_results(task, results / task, artifacts / "index" / task) for task in parameters.tasks}
    tasks = [
        _task(task_results, parameters, artifacts, results / name) | _beside(task_results, results)
        for name, task_results in read.items()
    ]
    subsets = [_subset(name, subset, data, parameters) for name, subset in parameters.subsets.items()]
    masks = _masks(data / "irregular_masks") if parameters.irregular_masks is not None else None
    for task in tasks:
        folder = results / task["name"]
        task |= variants.sections(read[task["name"]], folder)
        weighed = TASKS[task["name"]].perceptual
        task["perceptual"] = (
            perceptual.section(read[task["name"]], parquet.read(folder / "perceptual.parquet")) if weighed else None
        )
        curves = folder / "curves.parquet"
        at_threshold = TASKS[task["name"]].at_own_threshold
        task["thresholds"] = thresholds.section(read[task["name"]], parquet.read(curves)) if at_threshold else None
    stated = [data / "composites" / subset["name"] / "pairs.parquet" for subset in subsets]
    stated += [data / "irregular_masks" / name for name in ("masks.parquet", "assigned.parquet") if masks]
    stated += [results / task / "per_image.parquet" for task in parameters.tasks]
    run = {
        "revision": provenance.revision(Path(".")),
        "preset": provenance.preset(file, presets),
        "machine": provenance.machine(),
        "libraries": provenance.libraries(),
        "tables": [numbers.fingerprint(table) for table in stated],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    html = (
        environment.get_template("page.html.j2")
        .render(
            style=Markup((HERE / "page.css").read_text()),
            script=Markup((HERE / "page.js").read_text()),
            size=parameters.image_size,
            level=parameters.evaluation.confidence,
            resamples=parameters.evaluation.bootstrap,
            tasks=tasks,
            subsets=subsets,
            masks=masks,
            run=run,
            columns=_columns(),
            under_way=under_way,
        )
        .strip()
    )
    weight = len(html.encode())
    if weight > MAX_BYTES:
        limit, rows = f"{MAX_BYTES / 1e6:.0f} MB", parameters.report.sheet_rows
        raise UserError(
            f"the report would have {weight / 1e6:.1f} MB, the limit is {limit}; lower report.sheet_rows = {rows} in {file}"
        )
    return html


def _task(results: numbers.Results, parameters, artifacts: Path, folder: Path) -> dict:
    shown = sheets.Shown(results, artifacts / "predictions", parameters.image_size)
    trainings = [numbers.read_training(artifacts / "models" / name) for name in results.trained]
    look = plots.styles(results)
    task = TASKS[results.task]
    steps = [plots.by_steps(results, task.size_column, metric) for metric in task.charted]
    kinds = [plots.by_kind(results, by, results.leading) for by in reversed(task.kinds)]
    overlaps = numbers.overlaps(folder / "overlaps.parquet")
    carried, too_large = numbers.embedded(folder, TABLES)
    other_splits = sorted(split for split in set(results.summary["split"]) - {"test"} if not datasets.side_of(split))
    return {
        "asks": ASKS[task.name],
        "metrics": [(name, METRICS[name].label, METRICS[name].meaning) for name in task.metrics],
        "second": "errors" if task.region else "found and missed",
        "second_means": ERRORS if task.region else "white: found; orange: false alarm; blue: missed (threshold 0.5)",
        "name": results.task,
        "overview": numbers.overview(results),
        "seeds": numbers.seeds(results),
        "leading": METRICS[results.leading].label,
        "headline": numbers.score_table(results, "All"),
        "overlaps": [sentence for name in parameters.subsets for sentence in overlaps.get(name, [])],
        "subsets": [numbers.score_table(results, subset) for subset in results.subsets]
        if len(results.subsets) > 1
        else [],
        "only_subset": results.subsets[0],
        "buckets": buckets.tables(results, folder) if task.size_bins is None else [],
        "real": [
            numbers.score_table(results, "All", split) | {"overlaps": overlaps.get(split, [])} for split in other_splits
        ],
        "styles": [
            {"model": model, "key": Markup(plots.key(look[model])), "trained": model in results.trained}
            for model in results.order
        ],
        "breakdowns": [Markup(chart) for chart in (*steps, *kinds) if chart],
        "size_chart": Markup(chart) if (chart := plots.size_against_quality(results)) else None,
        "curves": [Markup(chart) for chart in plots.training_curves(results, trainings)] if trainings else [],
        "trainings": numbers.training_rows(trainings, parameters.models),
        "samples": samples.section(results, parquet.read(drawn), shown)
        if (drawn := folder / "samples.parquet").is_file()
        else None,
        "maps": maps.gallery(results, shown),
        "sheet": sheets.contact_sheet(shown, parameters.report.sheet_rows),
        "worst": [
            {"model": model, "trained": model in results.trained, "strips": sheets.worst(shown, model, WORST)}
            for model in results.order
        ],
        "tables": TABLES,
        "embedded": carried,
        "too_large": too_large,
    }


def _beside(results: numbers.Results, folder: Path) -> dict:
    return {
        "published": comparisons.published(folder / "published", results.task),
        "detectability": comparisons.detectability(folder / "detectability", results.trained)
        if results.task == "harmonization"
        else [],
        "cost": _cost(results, folder / "cost.parquet"),
        "study": comparisons.study(folder / "study", results.order),
    }


def _cost(results: numbers.Results, file: Path) -> dict | None:
    """What the task's methods cost, where commands.cost has measured it: charts of quality against time, and rows."""
    if not file.is_file():
        return None
    table = parquet.read(file)
    table = table[table["model"].isin(results.order)]
    if table.empty:
        return None
    charts = [
        plots.quality_against_time(results, part, f"{device}, {size}")
        for (device, size), part in table.groupby(["device", "size"], sort=False)
    ]
    return {
        "charts": [Markup(chart) for chart in charts if chart],
        "rows": numbers.cost_rows(table, results),
        "processors": sorted(set(table["processor"])),
    }


def _columns() -> dict:
    """The dictionary of the tables' columns."""
    return {
        "metrics": [
            {"column": metric.name, "label": metric.label, "tasks": ", ".join(columns.tasks_of(metric.name)), "meaning": metric.meaning,
             "better": "higher" if metric.higher_is_better else "lower"}
            for metric in METRICS.values()
        ],
        "tables": list(columns.TABLES.items()),
        "other": list(columns.MEANINGS.items()),
    }  # fmt: skip


def _subset(name: str, subset, data: Path, parameters) -> dict:
    folder = data / "composites" / name
    pairs, rejected = parquet.read(folder / "pairs.parquet"), parquet.read(folder / "rejected.parquet")
    made = subset.recipe != "iharmony4"
    bounds, references = {}, None
    if made:
        filters = parameters.composites.rendering.filters
        bounds = {
            "foreground_ratio": (filters.foreground_ratio.low, filters.foreground_ratio.high),
            "colour_difference": (filters.colour_difference.low, filters.colour_difference.high),
            "hue_rotation": (filters.max_hue_rotation,),
        }
        references = data / "sources" / subset.references
    else:
        rejected = rejected.rename(columns={"reason": "rule"}).assign(value=math.nan)
        rejected["rule"] = [_without_file(rule) for rule in rejected["rule"]]
    drawn = [column for column in HISTOGRAMS if column in pairs and pairs[column].notna().any()]
    return {
        "name": name,
        "recipe": subset.recipe,
        "made": made,
        "source": subset.source if made else subset.path,
        "references": subset.references if made else "",
        "histograms": [
            Markup(plots.histogram(pairs[column], HISTOGRAMS[column][0], bounds.get(column), HISTOGRAMS[column][1]))
            for column in drawn
        ],
        "transfers": sheets.transfer_sheet(folder, pairs, references, SAMPLES),
    } | numbers.counts(pairs, rejected)


def _without_file(reason: str) -> str:
    """Why a file can't be used, without its name, so that equal reasons are counted together."""
    return reason.rpartition(": ")[2]


def _masks(root: Path) -> dict:
    masks, assigned = parquet.read(root / "masks.parquet"), parquet.read(root / "assigned.parquet")
    by_split = masks["split"].value_counts().sort_index()
    return sheets.mask_sheet(root, masks) | {
        "by_split": [{"split": split, "n": int(n)} for split, n in by_split.items()],
        "n_assigned": len(assigned),
        "n_photographs": assigned["image_id"].nunique(),
    }
