"""All methods of one task -> results/<task>/: per_image.parquet, summary.parquet and what is derived from them."""

import json
from pathlib import Path

from pipeline import atomic, command, evaluation, params, tables

PARAMS = ("seed", "image_size", "evaluation")


def main(arguments) -> None:
    task = arguments.task
    parameters = params.load().only(PARAMS)
    options = {"seed": parameters.seed, "resamples": parameters.evaluation.bootstrap, "level": parameters.evaluation.confidence}
    methods = evaluation.indexes(Path("artifacts/index") / task)
    scores = evaluation.per_image(task, methods, Path("artifacts/predictions"), parameters.image_size)
    means = evaluation.summary(task, scores, methods)
    with atomic.folder(arguments.out or f"results/{task}") as out:
        tables.write(out / "per_image.parquet", scores)
        tables.write(out / "summary.parquet", means)
        tables.write(out / "intervals.parquet", evaluation.intervals(task, scores, **options))
        tables.write(out / "differences.parquet", evaluation.differences(task, scores, **options))
        tables.write(out / "ranks.parquet", evaluation.ranks(task, scores, **options))
        tables.write(out / "breakdowns.parquet", evaluation.breakdowns(task, scores, **options))
        if (overlaps := evaluation.overlaps(methods)) is not None:
            tables.write(out / "overlaps.parquet", overlaps)
        (out / "metrics.json").write_text(json.dumps(evaluation.headline(task, means), indent=1) + "\n")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=["localization", "harmonization", "inpainting"])
    parser.add_argument("--out", help="folder to write (results/<task> if not given)")
    command.run(main, parser.parse_args())
