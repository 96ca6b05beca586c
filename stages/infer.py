"""One method over its test splits -> artifacts/predictions/<model>/<split>/ and artifacts/index/<task>/<model>.json."""

import functools
import hashlib
import json
from pathlib import Path

from pipeline import atomic, command, params, tables
from pipeline.data import datasets
from pipeline.networks import devices, predictor

PARAMS = ("image_size", "inference", "training.device", "models.{model}.hyperparameters")
PARAMS_OF_TASK = {"localization": ("localization.max_foreground",)}


def main(arguments) -> None:
    name, data = arguments.model, [Path(one).absolute() for one in arguments.data]
    task = params.task_of(name)
    parameters = params.load().only(PARAMS + PARAMS_OF_TASK.get(task, ()), model=name)
    weights = Path(arguments.weights).absolute() if arguments.weights else None
    build = functools.partial(predictor.ready_model, name, parameters.models[name].hyperparameters, weights)
    n_parameters = sum(one.numel() for one in build().predictor_parameters())
    options = {"max_foreground": parameters.localization.max_foreground} if task == "localization" else {}
    device = devices.resolve_device(parameters.training.device, 1) if weights else "cpu"
    splits = {}
    out = Path(arguments.out or f"artifacts/predictions/{name}")
    with atomic.folder(out) as folder:
        size, sides = parameters.image_size, parameters.inference.resolutions
        for split in [*datasets.test_splits(task, data), *map(datasets.at_side, sides)]:
            (folder / split).mkdir()
            manifest = folder / split / "predictions.parquet"
            build_data = functools.partial(datasets.for_testing, task, data, size, split, **options)
            predictions = predictor.predict_all(
                build,
                build_data,
                folder / split,
                batch_size=max(1, parameters.inference.batch_size * size**2 // (datasets.side_of(split) or size) ** 2),
                device=device,
                describe=f"infer {name} {split}",
            )
            tables.write(manifest, predictions)
            splits[split] = {
                "n_images": len(predictions),
                "n_scored": datasets.scored(task, build_data()),
                "predictions": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            }
    index = {
        "task": task,
        "model": name,
        "n_parameters": n_parameters,
        "trained": weights is not None,
        "data": arguments.data,
        "options": options,
        "truth": [hashlib.sha256(one.read_bytes()).hexdigest() for one in datasets.manifests(data)],
        "splits": splits,
    }
    with atomic.file(arguments.index or f"artifacts/index/{task}/{name}.json") as path:
        path.write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml")
    parser.add_argument("--data", nargs="+", required=True, help="sub-datasets of composites and real sets, or source and masks for inpainting")
    parser.add_argument("--weights", help="safetensors of a trained network; a method without training has none")
    parser.add_argument("--out", help="folder to write (artifacts/predictions/<model> if not given)")
    parser.add_argument("--index", help="file to write (artifacts/index/<task>/<model>.json if not given)")
    command.run(main, parser.parse_args())
