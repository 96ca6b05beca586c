"""Ask whether one method beats another: a claim about two means -> supported, contradicted or not decidable, and why.

The claim is "rainnet < dovenet" or "rainnet > dovenet", about the values of the metric: with an error such as fmse, the better
method has the smaller value. The scores are those of this run, or of any table (--table) with a row per image and method.
"""

from pathlib import Path

import models
from pipeline import command, tables
from pipeline.errors import ParameterError, UserError
from pipeline.scoring import claims
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import METRICS, TASKS


def main(arguments) -> None:
    claim = claims.parse(arguments.claim)
    folder = None if arguments.table else Path("results") / _task(claim, arguments.metric)
    file = Path(arguments.table) if folder is None else folder / "per_image.parquet"
    scores = claims.read_scores(file, arguments.metric)
    if "split" in scores:
        scores = scores[scores["split"] == arguments.split]
    if arguments.subset != "All":
        if "subset" not in scores or arguments.subset not in set(scores["subset"]):
            raise UserError(f"{file} has no sub-dataset {arguments.subset!r} in the split {arguments.split}")
        scores = scores[scores["subset"] == arguments.subset]
    resampling = Resampling(arguments.seed, arguments.resamples, arguments.level)
    answer = claims.ask(scores, claim, arguments.metric, resampling)
    difference, decimals = answer.difference, METRICS[arguments.metric].decimals if arguments.metric in METRICS else 4
    label = METRICS[arguments.metric].label if arguments.metric in METRICS else arguments.metric
    print(f"{arguments.claim.strip()} in {label}: {answer.verdict}")
    print(
        f"{claim.first} - {claim.second} = {difference.mean:+.{decimals}f} [{difference.low:+.{decimals}f}, {difference.high:+.{decimals}f}] "
        f"({arguments.level:.0%} interval, {difference.n} images of {difference.n_groups} photographs, {arguments.subset})"
    )
    if answer.verdict == claims.UNDECIDED:
        needed = answer.photographs_needed
        least = claims.least_photographs(arguments.level)
        few = f", as fewer than {least} never do at {arguments.level:.0%}" if difference.n_groups < least else ""
        would = f"about {needed:,} would, if the difference stayed as it is" if needed else "the means are equal"
        print(f"{difference.n_groups} photographs don't decide it{few}; {would}")
    if folder is not None and (folder / "protocols.parquet").is_file() and arguments.split == "test":
        named = tables.read(folder / "protocols.parquet")
        agree, differ = claims.under_protocols(named, claim, arguments.metric, arguments.subset)
        if agree or differ:
            others = f"; not under {', '.join(differ)}" if differ else ""
            print(f"the means stand as claimed under {len(agree)} of {len(agree) + len(differ)} protocols{others}")
    if arguments.table is None:
        print(claims.over_seeds(scores, claim, metric=arguments.metric))


def _task(claim: claims.Claim, metric: str) -> str:
    """The task of a run whose methods the claim names. Raises ParameterError where there is none."""
    if metric not in METRICS:
        raise ParameterError(f"--metric {metric!r}: expected one of {', '.join(METRICS)}")
    tasks = []
    for name in (claim.first, claim.second):
        try:
            tasks.append(models.task_of(name))
        except ValueError:
            continue  # pictures made elsewhere have a name of their own
    fitting = [
        task
        for task in tasks or TASKS
        if metric in TASKS[task].metrics or Path("results", task, "per_image.parquet").is_file()
    ]
    if not fitting or len(set(tasks)) > 1:
        raise ParameterError(
            f"{claim.first} and {claim.second} are not methods of one task that this folder has results of"
        )
    return fitting[0]


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("claim", help='two methods and < or > between them, in quotes: "rainnet < dovenet"')
    parser.add_argument(
        "--metric", required=True, help="a column of the table: ap, f1, iou, mse, fmse, psnr, ssim, l1, ..."
    )
    parser.add_argument("--subset", default="All", help="a sub-dataset; All pools them")
    parser.add_argument("--split", default="test", help="test, or the name of a real set")
    parser.add_argument("--table", help="a Parquet or CSV table of per-image scores from elsewhere")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap over photographs")
    parser.add_argument("--level", type=float, default=0.95, help="of the interval")
    command.run(main, parser.parse_args())
