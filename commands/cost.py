"""What each method of params.yaml costs on this machine -> results/cost.parquet, which the report shows.

Parameters, multiply-adds, milliseconds and peak memory of one picture at 256x256, 1920x1080 and 12 megapixels, on this
CPU and on a GPU where there is one, and the licences of docs/licences.md. Times differ from run to run, so this is no
stage: `dvc repro` gives the same tables with it and without.
"""

from pathlib import Path

import torch

from pipeline import command, params, tables
from pipeline.errors import ParameterError
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
    licences = cost.licences(Path("docs/licences.md").read_text(encoding="utf-8"), tasks)
    devices = ["cpu", *(["gpu"] if torch.cuda.is_available() else [])]
    rows = []
    with Progress("cost", len(names) * len(arguments.sizes) * len(devices)) as progress:
        for name in names:
            for device in devices:
                for size in arguments.sizes:
                    hyperparameters = {
                        key: "none" if key in ("backbone_weights", "perceptual_weights") else value
                        for key, value in there[name].hyperparameters.items()
                    }
                    row = cost.measure(name, hyperparameters, size, device, arguments.seconds, arguments.gib)
                    rows.append({"task": tasks[name]} | row | licences[name])
                    progress.add()
    table = cost.table(rows)
    tables.write(arguments.out, table)
    print(table.drop(columns=["height", "width", "task"]).to_string(index=False))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="methods of params.yaml; all if not given")
    parser.add_argument("--sizes", nargs="+", choices=cost.SIZES, default=list(cost.SIZES), help="of the pictures")
    parser.add_argument("--seconds", type=float, default=300, help="that one measurement may take")
    parser.add_argument("--gib", type=float, default=5, help="memory that one measurement may hold on a CPU")
    parser.add_argument("--out", default="results/cost.parquet", help="table to write")
    command.run(main, parser.parse_args())
