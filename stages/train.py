"""One network on its training split -> artifacts/models/<model>/."""

import functools
from pathlib import Path

from pipeline import command, params, repeats, seeds
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.networks import ray_train
from pipeline.networks.loop import Job, publish
from pipeline.params.schema import Training
from pipeline.running import run_folders

SHARED = ("device", "precision", "workers", "threads", "validation_images")
"""Parameters of `training` that a single training depends on; how many repeats there are is none of them."""
PARAMS = (
    "seed", "image_size", "training.device", "training.precision", "training.workers", "training.threads",
    "training.validation_images",
    "models.{model}.hyperparameters", "models.{model}.training",
)  # fmt: skip
PARAMS_OF_TASK = {"localization": ("localization.max_foreground",), "inpainting": ("inpainting.mask_augmentation",)}


def main(arguments) -> None:
    name, data = arguments.model, [Path(path) for path in arguments.data]
    task = params.task_of(name)
    whole = params.load()
    parameters = whole.only(PARAMS + PARAMS_OF_TASK.get(task, ()), model=name)
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
    shared = Training(**{key: getattr(parameters.training, key) for key in SHARED})
    repeat = arguments.repeat
    seed = parameters.seed if repeat == 1 else seeds.derive(parameters.seed, "repeat", repeat)
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
                "phases": {key: phase for key, phase in training.phases.items() if key not in phases[until + 1 :]},
            }
        )
        depends_on = (
            seed,
            size,
            shared,
            hyperparameters,
            part,
            options,
            what,
            *begins_with,
            *datasets.manifests(data),
        )
        return run_folders.run_folder(repeats.folder_name(name, repeat), *depends_on)

    job = Job(
        name=name,
        seed=seed,
        shared=shared,
        own=training,
        build_model=build_model,
        build_data=functools.partial(
            datasets.for_training,
            task,
            [path.absolute() for path in data],
            size,
            shrunk_in=run_folders.kept("pictures", "shrunk"),
            **options,
        ),
        folder=folder_of("training", len(phases)),
        start_from=start_from,
        phase_ends=tuple(folder_of(f"end of {phase}", number) for number, phase in enumerate(phases[:-1])),
        samples_every=whole.training.samples_every,  # which is no part of PARAMS: nothing that this stage leaves depends on it
    )
    ray_train.train(job)
    publish(job, Path(arguments.out or f"artifacts/models/{repeats.folder_name(name, repeat)}"))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml that has a training block")
    parser.add_argument(
        "--data", nargs="+", required=True, help="sub-datasets of composites, or source and masks for inpainting"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, help="which of training.repeats; each has a seed of its own (1 if not given)"
    )
    parser.add_argument("--out", help="folder to write (artifacts/models/<model> if not given)")
    command.run(main, parser.parse_args())
