"""One network on its training split -> artifacts/models/<model>/."""

import functools
from pathlib import Path

from pipeline import command, params
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.networks import ray_train
from pipeline.networks.loop import Job, publish
from pipeline.running import run_folders

PARAMS = ("seed", "image_size", "training", "models.{model}.hyperparameters", "models.{model}.training")
PARAMS_OF_TASK = {"localization": ("localization.max_foreground",), "inpainting": ("inpainting.mask_augmentation",)}


def main(arguments) -> None:
    name, data = arguments.model, [Path(one) for one in arguments.data]
    task = params.task_of(name)
    parameters = params.load().only(PARAMS + PARAMS_OF_TASK.get(task, ()), model=name)
    block, size = parameters.models[name], parameters.image_size
    if block.training is None:
        raise ParameterError(
            f"models.{name}.training is missing; a method without training has only `python -m stages.infer {name}`"
        )
    options = {}
    if task == "localization":
        options = {"max_foreground": parameters.localization.max_foreground}
    elif task == "inpainting":
        options = {"mask_augmentation": parameters.inpainting.mask_augmentation}
    training, hyperparameters = block.training, block.hyperparameters
    start_from = Path(training.start_from).absolute() if training.start_from else None
    if start_from is not None and "backbone_weights" in hyperparameters:
        hyperparameters = hyperparameters | {"backbone_weights": "none"}  # which start_from would write over
    build_model = functools.partial(params.build_model, name, hyperparameters)
    model = build_model()  # its code then counts as part of the run; wrong hyperparameters are refused at once
    phases = type(model).phases
    begins_with = [start_from] if start_from else []

    def folder_of(what: str, until: int) -> Path:
        """The run folder of what depends on the phases up to this number; of weights to start from the content counts."""
        part = training.model_copy(
            update={
                "start_from": None,
                "phases": {key: one for key, one in training.phases.items() if key not in phases[until + 1 :]},
            }
        )
        depends_on = (
            parameters.seed,
            size,
            parameters.training,
            hyperparameters,
            part,
            options,
            what,
            *begins_with,
            *datasets.manifests(data),
        )
        return run_folders.run_folder(name, *depends_on)

    job = Job(
        name=name,
        seed=parameters.seed,
        shared=parameters.training,
        own=training,
        build_model=build_model,
        build_data=functools.partial(datasets.for_training, task, [one.absolute() for one in data], size, **options),
        folder=folder_of("training", len(phases)),
        start_from=start_from,
        phase_ends=tuple(folder_of(f"end of {phase}", number) for number, phase in enumerate(phases[:-1])),
    )
    ray_train.train(job)
    publish(job, Path(arguments.out or f"artifacts/models/{name}"))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml that has a training block")
    parser.add_argument(
        "--data", nargs="+", required=True, help="sub-datasets of composites, or source and masks for inpainting"
    )
    parser.add_argument("--out", help="folder to write (artifacts/models/<model> if not given)")
    command.run(main, parser.parse_args())
