"""One network on its training split -> artifacts/models/<model>/."""

import functools
from pathlib import Path

from pipeline import command, params
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.networks import ray_train
from pipeline.networks.loop import Job, publish
from pipeline.running import run_folders

PARAMS = ("seed", "image_size", "training", "models.{model}")
PARAMS_OF_TASK = {"localization": ("localization.max_foreground",), "inpainting": ("inpainting.mask_augmentation",)}


def main(arguments) -> None:
    name, data = arguments.model, [Path(one) for one in arguments.data]
    task = params.task_of(name)
    parameters = params.load().only(PARAMS + PARAMS_OF_TASK.get(task, ()), model=name)
    block, size = parameters.models[name], parameters.image_size
    if block.training is None:
        raise ParameterError(f"models.{name}.training is missing; a method without training has only `python -m stages.infer {name}`")
    options = {}
    if task == "localization":
        options = {"max_foreground": parameters.localization.max_foreground}
    elif task == "inpainting":
        options = {"mask_augmentation": parameters.inpainting.mask_augmentation}
    build_model = functools.partial(params.build_model, name, block.hyperparameters)
    job = Job(
        name=name,
        seed=parameters.seed,
        shared=parameters.training,
        own=block.training,
        build_model=build_model,
        build_data=functools.partial(datasets.for_training, task, [one.absolute() for one in data], size, **options),
        folder=run_folders.run_folder(
            name, parameters.seed, size, parameters.training, block, options, _networks_code(build_model), *datasets.manifests(data)
        ),
    )
    ray_train.train(job)
    publish(job, Path(arguments.out or f"artifacts/models/{name}"))


def _networks_code(build_model) -> str:
    """Import the network's code, which then counts as part of the run; refuse wrong hyperparameters at once."""
    return type(build_model()).__qualname__


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml that has a training block")
    parser.add_argument("--data", nargs="+", required=True, help="sub-datasets of composites, or source and masks for inpainting")
    parser.add_argument("--out", help="folder to write (artifacts/models/<model> if not given)")
    command.run(main, parser.parse_args())
