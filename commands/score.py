"""A folder of pictures made elsewhere -> their scores on the terminal, with intervals and the difference to the best method here.

Nothing is edited or kept, but for --out. The methods here are those that `make repro` has evaluated.
"""

import functools
import json
import tempfile
from pathlib import Path

import pandas as pd

from pipeline import atomic, command, params, repeats, tables
from pipeline.data import datasets
from pipeline.errors import ParameterError, UserError
from pipeline.running import graph, parallel
from pipeline.scoring import (
    evaluation,
    index,
    outputs,
    protocol_comparison,
    protocols,
    statistics,
    summaries,
    thresholds,
)
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import METRICS, TASKS

PARAMS = ()


def main(arguments) -> None:
    task, name = arguments.task, arguments.name
    parameters = params.load()
    resampling = Resampling(parameters.seed, parameters.evaluation.bootstrap, parameters.evaluation.confidence)
    if name in parameters.models or name in ("", "All"):
        raise ParameterError(
            f"--name {name}: {'params.yaml has a method of this name' if name in parameters.models else 'expected a name'}; give another"
        )
    if arguments.out and Path(arguments.out).exists():
        raise UserError(f"{arguments.out} is there already; remove it or give another name")
    known = [record.name for record in protocols.RECORDS[task]]
    if odd := [protocol for protocol in arguments.protocols if protocol not in known]:
        raise ParameterError(f"--protocols {odd[0]}: expected some of {', '.join(known)}")
    given = graph.folders_of(task, parameters)[1]
    data = [Path(folder).absolute() for folder in given]
    splits = datasets.test_splits(task, data)
    if arguments.split not in splits:
        raise ParameterError(f"--split {arguments.split}: expected one of {', '.join(splits)}")
    options = (
        {"max_foreground": parameters.localization.max_foreground}
        if parameters.localization is not None and TASKS[task].region is None
        else {}
    )
    reading = outputs.Reading(task, Path(arguments.folder), arguments.side, arguments.filter)
    with tempfile.TemporaryDirectory(prefix="seambench-") as temporary:
        predictions = Path(temporary)
        stated, origin = outputs.take_in(
            reading,
            data,
            parameters.image_size,
            [arguments.split],
            predictions / name,
            options=options,
            spread=parallel.spread,
        )
        method = index.of_method(
            task,
            name,
            origin=origin,
            n_parameters=None,
            data=given,
            options=options,
            splits=stated,
            threshold=thresholds.OF_OUTPUTS if TASKS[task].at_own_threshold else None,
        )
        evaluated = evaluation.score(
            task,
            [method],
            predictions,
            parameters.image_size,
            arguments.protocols,
            functools.partial(parallel.spread, describe=f"score {name}"),
            splits=[arguments.split],
        )
    scores = evaluated.per_image
    means = summaries.summary(task, scores, [method])
    # the tables of summaries are of the split "test"; here the split that was asked for stands in its place
    tested = scores.assign(split="test")
    intervals = summaries.intervals(task, tested, resampling)
    ours = _ours(task, method, arguments.split)
    best, differences = None, pd.DataFrame()
    if ours is not None:
        best = _best(task, ours)
        both = pd.concat([tested, ours[ours["model"] == best].assign(split="test")], ignore_index=True)
        differences = summaries.differences(task, both, resampling)
        differences = differences[(differences["first"] == name) & (differences["second"] == best)]
    by_protocol = protocol_comparison.table(task, evaluated.by_protocol, parameters.image_size, resampling)
    print(_page(task, name, origin, means, intervals, best, differences, by_protocol))
    if arguments.out:
        with atomic.folder(arguments.out) as out:
            tables.write(out / "per_image.parquet", scores)
            tables.write(out / "summary.parquet", means)
            tables.write(out / "intervals.parquet", intervals.assign(split=arguments.split))
            tables.write(out / "differences.parquet", differences.assign(split=arguments.split))
            tables.write(out / "protocols.parquet", by_protocol)
        print(f"tables: {arguments.out}")


def _ours(task: str, method: dict, split: str) -> pd.DataFrame | None:
    """Per-image scores of this split by the methods here; None where none was evaluated, or on other data."""
    table, index = Path("results") / task / "per_image.parquet", Path("artifacts/index") / task
    if not table.is_file() or not index.is_dir():
        return None
    for file in sorted(index.glob("*.json")):
        index_entry = json.loads(file.read_text())
        if any(index_entry.get(key) != method[key] for key in ("data", "options", "truth")):
            raise UserError(
                f"{file}: {file.stem} was run on other data than now stand here; `dvc repro` evaluates anew"
            )
    scores = tables.read(table)
    scores = repeats.averaged(scores[scores["split"] == split], ["split", "image_id"]).assign(**{repeats.COLUMN: 1})
    return scores if len(scores) else None


def _best(task: str, scores: pd.DataFrame) -> str:
    metric = TASKS[task].leading
    means = scores.groupby("model")[metric].mean()
    return means.idxmax() if METRICS[metric].higher_is_better else means.idxmin()


def _page(
    task: str,
    name: str,
    origin: str,
    means: pd.DataFrame,
    intervals: pd.DataFrame,
    best: str | None,
    differences: pd.DataFrame,
    by_protocol: pd.DataFrame,
) -> str:
    """The terminal's text."""
    summary = means.set_index("subset")
    lines = [f"{name}: {origin}"]
    if evaluation.TOUCHED in summary:
        lines.append(
            f"background: {summary.loc['All', evaluation.TOUCHED]:.1%} of its pixels were touched, and are scored as the input has them"
        )
    lines.append("")
    rows = []
    for subset in [*sorted(set(summary.index) - {"All"}), "All"]:
        for metric in TASKS[task].metrics:
            (interval,) = intervals[(intervals["subset"] == subset) & (intervals["metric"] == metric)].itertuples()
            row = {
                "subset": subset,
                "metric": f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}",
            }
            row |= {
                "mean": _number(interval.mean, metric),
                "interval": _interval(interval, metric),
                "n": str(interval.n),
            }
            if best is not None:
                (gap,) = differences[(differences["subset"] == subset) & (differences["metric"] == metric)].itertuples()
                row |= {
                    f"less {best}": _number(gap.mean, metric, "+"),
                    "its interval": _interval(gap, metric),
                    "": "tied" if gap.low <= 0 <= gap.high else "",
                }
            rows.append(row)
    lines.append(pd.DataFrame(rows).to_string(index=False, justify="left"))
    if best is None:
        lines += [
            "",
            "No method here was evaluated on this split, so there is nothing to compare with; `make repro` evaluates.",
        ]
    pooled = by_protocol[by_protocol["subset"] == "All"] if len(by_protocol) else by_protocol
    if len(pooled):
        shown = [
            {
                "protocol": row.protocol,
                "metric": row.metric,
                "mean": f"{row.mean:.4f}",
                "interval": f"{row.low:.4f} to {row.high:.4f}",
                "caveat": row.caveat,
            }
            for row in pooled.itertuples()
        ]
        lines += ["", pd.DataFrame(shown).to_string(index=False, justify="left")]
    return "\n".join(lines)


def _number(value: float, metric: str, sign: str = "") -> str:
    return "–" if pd.isna(value) else f"{value:{sign}.{METRICS[metric].decimals}f}"


def _interval(interval: statistics.Interval | statistics.Difference, metric: str) -> str:
    return "" if pd.isna(interval.low) else f"{_number(interval.low, metric)} to {_number(interval.high, metric)}"


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument(
        "folder", help="folder of files named after the images (`python -m commands.hand_out` lists them)"
    )
    parser.add_argument("--name", required=True, help="what tables call it")
    parser.add_argument("--split", default="test", help="test, or a real set")
    parser.add_argument(
        "--side",
        type=int,
        metavar="PIXELS",
        help="side of square files that have neither image_size nor the originals' size",
    )
    parser.add_argument(
        "--filter", choices=list(outputs.FILTERS), default="bilinear", help="what resizes files of another size"
    )
    parser.add_argument(
        "--protocols", nargs="+", default=[], metavar="NAME", help="further public protocols to score under"
    )
    parser.add_argument("--out", help="folder to write the tables to; it must not be there yet")
    command.run(main, parser.parse_args())
