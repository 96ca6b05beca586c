"""All methods of one task -> results/<task>/: per_image.parquet, summary.parquet and what is derived from them."""

import functools
import json
from pathlib import Path

import pandas as pd

from pipeline import atomic, command, params, tables
from pipeline.running import parallel
from pipeline.scoring import evaluation, protocol_comparison
from pipeline.tasks import TASKS

PARAMS = ("seed", "image_size", "evaluation")


def main(arguments) -> None:
    task = arguments.task
    parameters = params.load().only(PARAMS)
    options = {"seed": parameters.seed, "resamples": parameters.evaluation.bootstrap, "level": parameters.evaluation.confidence}
    methods = evaluation.indexes(Path("artifacts/index") / task)
    protocols = parameters.evaluation.protocols
    named = getattr(protocols, task)
    scores, by_protocol = evaluation.score(
        task,
        methods,
        Path("artifacts/predictions"),
        parameters.image_size,
        named,
        functools.partial(parallel.spread, describe=f"evaluate {task}"),
    )
    means = evaluation.summary(task, scores, methods)
    with atomic.folder(arguments.out or f"results/{task}") as out:
        tables.write(out / "per_image.parquet", scores)
        tables.write(out / "summary.parquet", means)
        tables.write(out / "intervals.parquet", evaluation.intervals(task, scores, **options))
        tables.write(out / "differences.parquet", evaluation.differences(task, scores, **options))
        tables.write(out / "differences_by_size.parquet", evaluation.differences_by_size(task, scores, **options))
        tables.write(out / "ranks.parquet", evaluation.ranks(task, scores, **options))
        by_kind = evaluation.breakdowns(task, scores, **options)
        by_resolution = evaluation.by_resolution(task, scores, methods, parameters.image_size, **options)
        tables.write(out / "breakdowns.parquet", pd.concat([by_kind, by_resolution]) if len(by_resolution) else by_kind)
        tables.write(out / "protocols.parquet", protocol_comparison.table(task, by_protocol, parameters.image_size, **options))
        if (overlaps := evaluation.overlaps(methods)) is not None:
            tables.write(out / "overlaps.parquet", overlaps)
        (out / "metrics.json").write_text(json.dumps(evaluation.headline(task, means), indent=1) + "\n")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--out", help="folder to write (results/<task> if not given)")
    command.run(main, parser.parse_args())
