"""What one trained localizer finds in composites, before and after each harmonizer -> artifacts/detectability/<localizer>.parquet."""

import functools
from pathlib import Path

from pipeline import command, params, tables
from pipeline.detectability import localizer_scores
from pipeline.errors import ParameterError
from pipeline.networks import devices, predictor

PARAMS = (
    "image_size",
    "inference.batch_size",
    "training.device",
    "models.{model}.hyperparameters",
    "localization.max_foreground",
)


def main(arguments) -> None:
    name = arguments.model
    if (task := params.task_of(name)) != "localization":
        raise ParameterError(f"{name} is a method of {task}; localizers detect")
    parameters = params.load().only(PARAMS, model=name)
    table = Path(arguments.out or f"artifacts/detectability/{name}.parquet")
    shown = {
        "data": [Path(path).absolute() for path in arguments.data],
        "predictions": Path("artifacts/predictions").absolute(),
        "models": arguments.harmonized,
        "size": parameters.image_size,
        "max_foreground": parameters.localization.max_foreground,
    }
    scores = localizer_scores.look(
        name,
        functools.partial(
            predictor.ready_model, name, parameters.models[name].hyperparameters, Path(arguments.weights).absolute()
        ),
        shown,
        table.with_name(f".{table.stem}.maps").absolute(),
        batch_size=parameters.inference.batch_size,
        device=devices.resolve_device(parameters.training.device, 1),
    )
    tables.write(table, scores)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a localizer of params.yaml that was trained")
    parser.add_argument("--weights", required=True, help="its safetensors")
    parser.add_argument("--data", nargs="+", required=True, help="sub-datasets of composites and real sets")
    parser.add_argument(
        "--harmonized",
        nargs="+",
        required=True,
        help="harmonization methods whose predictions stand in artifacts/predictions",
    )
    parser.add_argument("--out", help="file to write (artifacts/detectability/<localizer>.parquet if not given)")
    command.run(main, parser.parse_args())
