"""All methods of one task -> results/<task>/: per_image.parquet, summary.parquet and what is derived from them."""

import functools
import json
from pathlib import Path

import pandas as pd

from pipeline import atomic, command, params, tables
from pipeline.running import parallel
from pipeline.scoring import evaluation, perceptual, protocol_comparison, samples, summaries
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import TASKS

PARAMS = ("seed", "image_size", "evaluation")


def main(arguments) -> None:
    task = arguments.task
    parameters = params.load().only(PARAMS)
    resampling = Resampling(parameters.seed, parameters.evaluation.bootstrap, parameters.evaluation.confidence)
    methods = evaluation.indexes(Path("artifacts/index") / task)
    protocols = parameters.evaluation.protocols
    named = getattr(protocols, task)
    wanted = parameters.evaluation.perceptual
    weights = perceptual.choose(wanted.lpips, wanted.fid)
    spread = functools.partial(parallel.spread, describe=f"evaluate {task}")
    predicted, size = Path("artifacts/predictions"), parameters.image_size
    scores, by_protocol, curves = evaluation.score(task, methods, predicted, size, named, spread, lpips=weights.lpips)
    from_weights = {key: text for key, text in weights.metadata.items() if key in scores}
    means = summaries.summary(task, scores, methods)
    first = [
        method for method in methods if method["repeat"] == 1
    ]  # FID and several answers are of one training's pictures
    with atomic.folder(arguments.out or f"results/{task}") as out:
        tables.write(out / "per_image.parquet", scores, from_weights)
        if TASKS[task].at_own_threshold:
            tables.write(out / "curves.parquet", curves)
        tables.write(out / "summary.parquet", means, from_weights)
        tables.write(out / "intervals.parquet", summaries.intervals(task, scores, resampling), from_weights)
        tables.write(out / "differences.parquet", summaries.differences(task, scores, resampling))
        tables.write(out / "differences_by_size.parquet", summaries.differences_by_size(task, scores, resampling))
        tables.write(out / "ranks.parquet", summaries.ranks(task, scores, resampling))
        by_kind = summaries.breakdowns(task, scores, resampling)
        by_resolution = summaries.by_resolution(task, scores, methods, size, resampling)
        tables.write(out / "breakdowns.parquet", pd.concat([by_kind, by_resolution]) if len(by_resolution) else by_kind)
        tables.write(out / "protocols.parquet", protocol_comparison.table(task, by_protocol, size, resampling))
        if TASKS[task].perceptual:
            see = functools.partial(evaluation.features, task, first, predicted, size, spread=spread)
            perceived = perceptual.table(task, scores, weights, wanted.fid_minimum, resampling, see, spread)
            tables.write(out / "perceptual.parquet", perceived, weights.metadata)
        if samples.drawing(first):
            of_samples = samples.per_image(task, first, predicted, size, spread)
            tables.write(out / "samples.parquet", samples.table(task, of_samples, resampling))
        if (overlaps := summaries.overlaps(methods)) is not None:
            tables.write(out / "overlaps.parquet", overlaps)
        (out / "metrics.json").write_text(json.dumps(summaries.headline(task, means), indent=1) + "\n")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--out", help="folder to write (results/<task> if not given)")
    command.run(main, parser.parse_args())
