"""One method over its test splits -> artifacts/predictions/<model>/<split>/ and artifacts/index/<task>/<model>.json."""

import functools
import hashlib
from pathlib import Path

from pipeline import atomic, command, params, repeats, tables
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.networks import devices, intermediate, own_threshold, predictor
from pipeline.scoring import index, thresholds
from pipeline.tasks import TASKS

PARAMS = ("image_size", "inference", "training.device", "models.{model}.hyperparameters")
PARAMS_OF_TASK = {"localization": ("localization.max_foreground", "training.validation_images")}


def main(arguments) -> None:
    name, data = arguments.model, [Path(path).absolute() for path in arguments.data]
    task = params.task_of(name)
    parameters = params.load().only(PARAMS + PARAMS_OF_TASK.get(task, ()), model=name)
    weights = Path(arguments.weights).absolute() if arguments.weights else None
    if arguments.imported and weights is None:
        raise ParameterError("--imported says that --weights were trained elsewhere; give --weights too")
    build = functools.partial(predictor.ready_model, name, parameters.models[name].hyperparameters, weights)
    model = build()
    n_parameters = sum(parameter.numel() for parameter in model.predictor_parameters())
    samples = parameters.inference.samples if model.stochastic else 1
    trained = index.TRAINED_ON_REAL if model.uses_real_photographs else index.TRAINED
    sha256 = (
        hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None
    )  # of what was loaded, read before hours may pass
    options = {"max_foreground": parameters.localization.max_foreground} if task == "localization" else {}
    device = devices.resolve_device(parameters.training.device, 1) if weights else "cpu"
    splits = {}
    called = repeats.folder_name(name, arguments.repeat)
    out = Path(arguments.out or f"artifacts/predictions/{called}")
    with atomic.folder(out) as folder:
        size, sides = parameters.image_size, parameters.inference.resolutions
        for split in [*datasets.test_splits(task, data), *map(datasets.at_side, sides)]:
            (folder / split).mkdir()
            manifest = folder / split / "predictions.parquet"
            build_data = functools.partial(datasets.for_testing, task, data, size, split, **options)
            several, side = samples if split == "test" else 1, datasets.side_of(split)
            how: dict = {"samples": several} if several > 1 else {}
            together = parameters.inference.batch_size * size**2 // several
            if side == datasets.ORIGINAL:
                how, together = {"full_size": True}, 1
            elif side:
                together //= side**2
            else:
                together //= size**2
            predictions = predictor.predict_all(
                build,
                build_data,
                folder / split,
                batch_size=max(1, together),
                device=device,
                describe=f"infer {name} {split}",
                **how,
            )
            drawn = {}
            if several > 1:
                every = folder / split / "samples.parquet"
                tables.write(every, predictions[["image_id", "sample", "prediction", "sha256"]])
                drawn = {"samples": {"n": several, "predictions": hashlib.sha256(every.read_bytes()).hexdigest()}}
                predictions = predictions[predictions["sample"] == 1].drop(columns="sample")
            tables.write(manifest, predictions)
            splits[split] = index.of_split(task, manifest, predictions, build_data()) | drawn
        if intermediate.has_maps(model):
            intermediate.save(
                model, datasets.for_testing(task, data, size, "test", **options), folder / intermediate.FOLDER
            )
        threshold = None
        if TASKS[task].at_own_threshold:
            threshold = thresholds.OF_IMPORTED
            if not arguments.imported:
                threshold = own_threshold.choose(
                    build,
                    data,
                    size,
                    folder / ".validation",
                    count=parameters.training.validation_images,
                    batch_size=parameters.inference.batch_size,
                    device=device,
                    describe=f"infer {name} val",
                    **options,
                )
    origin = trained if weights is not None else index.WITHOUT_WEIGHTS
    if arguments.imported:
        origin = f"weights: imported, sha256 {sha256}"
    content = index.of_method(
        task,
        name,
        origin=origin,
        n_parameters=n_parameters,
        data=arguments.data,
        options=options,
        splits=splits,
        threshold=threshold,
        repeat=arguments.repeat,
    )
    index.write(arguments.index or f"artifacts/index/{task}/{called}.json", content)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="sub-datasets of composites and real sets, or source and masks for inpainting",
    )
    parser.add_argument("--weights", help="safetensors of a trained network; a method without training has none")
    parser.add_argument(
        "--imported", action="store_true", help="the weights were trained elsewhere, which tables then say"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, help="which of training.repeats the weights are of (1 if not given)"
    )
    parser.add_argument("--out", help="folder to write (artifacts/predictions/<model> if not given)")
    parser.add_argument("--index", help="file to write (artifacts/index/<task>/<model>.json if not given)")
    command.run(main, parser.parse_args())
