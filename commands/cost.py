"""What each method of params.yaml costs on this machine -> results/cost.parquet, which the report shows.

Parameters, multiply-adds, milliseconds and peak memory of one picture at 256x256, 1920x1080 and 12 megapixels, on this
CPU and on a GPU where there is one, and the licences of docs/licences.md. Times differ from run to run, so this is no
stage: `dvc repro` gives the same tables with it and without. Each measurement is written as it is made; those that the
table has already, of the same hyperparameters on the same processor, are not made again.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline import command, params, tables
from pipeline.errors import ParameterError, UserError
from pipeline.networks import cost
from pipeline.progress import Progress

PARAMS = ("models",)


def main(arguments) -> None:
    blocks = params.load().models
    # pictures made elsewhere have no network here to measure
    there = {name: block for name, block in blocks.items() if block.outputs is None}
    names = arguments.models or list(there)
    if unknown := [name for name in names if name not in there]:
        raise ParameterError(
            f"{unknown[0]!r} is no method of params.yaml that runs here; there are: {', '.join(there)}"
        )
    tasks = {name: params.task_of(name) for name in names}
    page = Path("docs/licences.md").read_text(encoding="utf-8")
    licences = cost.licences(page, tasks)
    here = {device: cost.processor(device) for device in ("cpu", *(["gpu"] if torch.cuda.is_available() else []))}
    hyperparameters = {name: _without_weights(block.hyperparameters) for name, block in there.items()}
    out, rows = Path(arguments.out), []
    with _only_writer(out):
        if out.is_file():
            rows = cost.kept(tables.read(out), hyperparameters, here).to_dict("records")
            rows = [row | cost.licences(page, {row["model"]: row["task"]})[row["model"]] for row in rows]
        known = {(row["model"], row["device"], row["size"]) for row in rows}
        wanted = [(name, device, size) for name in names for device in here for size in arguments.sizes]
        if arguments.again:
            rows = [row for row in rows if (row["model"], row["device"], row["size"]) not in wanted]
        else:
            wanted = [key for key in wanted if key not in known]
        with Progress("cost", len(wanted)) as progress:
            for name, device, size in wanted:
                row = cost.measure(name, hyperparameters[name], size, device, arguments.seconds, arguments.gib)
                rows.append({"task": tasks[name]} | row | licences[name])
                tables.write(out, cost.table(rows))  # what an ended command has measured is kept
                progress.add()
        table = cost.table(rows)
        tables.write(out, table)
        print(table.drop(columns=["height", "width", "task", "hyperparameters", "processor"]).to_string(index=False))


@contextlib.contextmanager
def _only_writer(table: Path) -> Iterator[None]:
    """Two commands that measure at once would disturb each other's times, and the later would write over the earlier's rows.

    Raises UserError when another command holds the table.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table.with_name(f".{table.name}.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{table}: another `commands.cost` is writing it; wait until that ends, or give another --out"
            ) from None
        yield


def _without_weights(hyperparameters: dict) -> dict:
    """Neither time nor memory depends on weights, and files of them may be missing."""
    return {
        key: "none" if key in ("backbone_weights", "perceptual_weights") else value
        for key, value in hyperparameters.items()
    }


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="methods of params.yaml; all if not given")
    parser.add_argument("--sizes", nargs="+", choices=cost.SIZES, default=list(cost.SIZES), help="of the pictures")
    parser.add_argument("--seconds", type=float, default=300, help="that one measurement may take")
    parser.add_argument("--gib", type=float, default=5, help="memory that one measurement may hold on a CPU")
    parser.add_argument("--again", action="store_true", help="measure what the table has already, too")
    parser.add_argument("--out", default="results/cost.parquet", help="table to write")
    command.run(main, parser.parse_args())
