"""A folder of pictures that a method made elsewhere -> artifacts/predictions/<model>/<split>/ and artifacts/index/<task>/<model>.json."""

from pathlib import Path

from pipeline import atomic, command, params
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.running import parallel
from pipeline.scoring import index, outputs, thresholds
from pipeline.tasks import TASKS

PARAMS = (
    "image_size", "inference.resolutions", "models.{model}.outputs", "models.{model}.task", "models.{model}.outputs_side",
    "models.{model}.outputs_filter", "models.{model}.n_parameters",
)  # fmt: skip
PARAMS_OF_TASK = {"localization": ("localization.max_foreground",)}


def main(arguments) -> None:
    name, data = arguments.model, [Path(path).absolute() for path in arguments.data]
    whole = params.load()
    task_of = {key: block.task for key, block in whole.models.items()}
    # a project without localization has none of its parameters
    parameters = whole.only(PARAMS + PARAMS_OF_TASK.get(task_of.get(name) or "", ()), model=name)
    block, task = parameters.models[name], parameters.models[name].task
    if block.outputs is None:
        raise ParameterError(
            f"models.{name}.outputs is missing; a method of this repository is run by `python -m stages.infer {name}`"
        )
    options = {"max_foreground": parameters.localization.max_foreground} if task in PARAMS_OF_TASK else {}
    reading = outputs.Reading(task, Path(block.outputs), block.outputs_side, block.outputs_filter)
    splits = [*datasets.test_splits(task, data), *map(datasets.at_side, parameters.inference.resolutions)]
    with atomic.folder(arguments.out or f"artifacts/predictions/{name}") as folder:
        stated, origin = outputs.take_in(
            reading, data, parameters.image_size, splits, folder, options=options, spread=parallel.spread
        )
    content = index.of_method(
        task,
        name,
        origin=origin,
        n_parameters=block.n_parameters,
        data=arguments.data,
        options=options,
        splits=stated,
        threshold=thresholds.OF_OUTPUTS if TASKS[task].at_own_threshold else None,
    )
    index.write(arguments.index or f"artifacts/index/{task}/{name}.json", content)
    print(f"{name}: {sum(split_content['n_images'] for split_content in stated.values())} images, {origin}")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml with `outputs`")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="sub-datasets of composites and real sets, or source and masks for inpainting",
    )
    parser.add_argument("--out", help="folder to write (artifacts/predictions/<model> if not given)")
    parser.add_argument("--index", help="file to write (artifacts/index/<task>/<model>.json if not given)")
    command.run(main, parser.parse_args())
