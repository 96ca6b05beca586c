"""A small finished project, as the stages before the report leave it, made without networks and without Ray."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pipeline import images, seeds, tables
from pipeline.data import datasets
from pipeline.detectability import credits, localizer_scores
from pipeline.scoring import evaluation, perceptual, protocol_comparison, published, summaries
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import TASKS

ROOT = Path(__file__).resolve().parents[3]
SIZE = 48
METHODS = {
    "localization": {"constant_map": False, "unet": True},
    "harmonization": {"composite": False, "rainnet": True},
    "inpainting": {"mean_fill": False, "pconv": True},
}
"""Task: method, and whether it is trained."""

BUCKETS = ((0.02, "0-10"), (0.15, "10-20"), (0.25, "20-30"))
TRANSFERS = ("reinhard", "xiao")


def build(root: Path, subsets=("HCOCO", "HAdobe5k"), trained: bool = True) -> Path:
    """Write the project to `root`: 4 photographs (2 of them tested), 2 composites of each in each sub-dataset, 3 hole
    masks. Sub-datasets other than HCOCO and HFlickr count as simulated. Without `trained` only methods without
    training are there."""
    methods = {task: {name: kind for name, kind in of.items() if trained or not kind} for task, of in METHODS.items()}
    with contextlib.chdir(root):
        _source(Path("data/sources/photos"))
        for subset in subsets:
            _subset(Path("data/composites") / subset, subset)
        _masks(Path("data/irregular_masks"))
        _parameters(subsets, methods)
        for task, of in methods.items():
            data = (
                ["data/sources/photos", "data/irregular_masks"]
                if task == "inpainting"
                else [f"data/composites/{subset}" for subset in subsets]
            )
            for name, is_trained in of.items():
                _predict(task, name, is_trained, data)
                if is_trained:
                    _training(name, task)
            evaluate(task)
        beside(
            [name for name, is_trained in methods["localization"].items() if is_trained], list(methods["harmonization"])
        )
    return root


def evaluate(task: str) -> None:
    """What stages.evaluate writes, from the working folder."""
    methods = evaluation.indexes(Path("artifacts/index") / task)
    scores, by_protocol, curves = evaluation.score(task, methods, Path("artifacts/predictions"), SIZE, None)
    options = {"resampling": Resampling(1, 50, 0.95)}
    derived = ("intervals", "differences", "differences_by_size", "ranks", "breakdowns")
    made = {name: getattr(summaries, name)(task, scores, **options) for name in derived}
    made |= {"per_image": scores, "summary": summaries.summary(task, scores, methods)}
    made |= {"curves": curves} if len(curves) else {}
    made |= {"protocols": protocol_comparison.table(task, by_protocol, SIZE, **options)}
    if TASKS[task].perceptual:
        made["perceptual"] = perceptual.table(
            task, scores, perceptual.choose(None, None), 2, options["resampling"], see=None
        )
    for name, table in made.items():
        tables.write(Path("results") / task / f"{name}.parquet", table)


def beside(localizers: list[str], harmonizers: list[str]) -> None:
    """What stages.published and stages.detectability write; what was found is made up: less after each harmonizer but
    the composite, which nothing happens to."""
    measured = []
    for task in METHODS:
        names = ["summary", "intervals", *(["breakdowns"] if task == "inpainting" else [])]
        measured.append(
            published.measured(*(tables.read(Path("results") / task / f"{name}.parquet") for name in names))
        )
    compared = published.compare(pd.concat(measured, ignore_index=True))
    for name, table in (
        ("published", published.table()),
        ("compared", compared),
        ("correlations", published.correlations(compared)),
    ):
        tables.write(Path("results/published") / f"{name}.parquet", table)
    if not localizers:
        return
    tested = tables.read(Path("results/harmonization/per_image.parquet")).drop_duplicates("image_id")
    rows = [
        {"localizer": localizer, "model": model, "subset": row.subset, "split": "test", "image_id": row.image_id, "photograph": row.photograph}
        | {f"{measure}_{when}": value for measure, before in (("ap", 0.8), ("inside", 0.5))
           for when, value in (("before", before), ("after", before - gone), ("credit", gone))}
        for localizer in localizers for model, gone in zip(harmonizers, (0.0, 0.25)) for row in tested.itertuples()
    ]  # fmt: skip
    scores = pd.DataFrame(rows)[list(localizer_scores.PER_IMAGE)]
    tables.write(Path("results/detectability/per_image.parquet"), scores)
    tables.write(
        Path("results/detectability/summary.parquet"), credits.summary(scores, resampling=Resampling(1, 50, 0.95))
    )


def photograph(number: int) -> np.ndarray:
    """A smooth picture with a bright square, uint8 RGB (SIZE, SIZE, 3)."""
    rng = seeds.rng("photograph", number)
    y, x = np.mgrid[0 : 1 : SIZE * 1j, 0 : 1 : SIZE * 1j]
    picture = rng.uniform(20, 150, 3) + 80 * np.stack([x * rng.random(), y * rng.random(), x * y], axis=2)
    picture[mask(number)] += 60
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def mask(number: int) -> np.ndarray:
    side = 8 + 6 * number
    inside = np.zeros((SIZE, SIZE), bool)
    inside[6 : 6 + side, 4 : 4 + side] = True
    return inside


def _source(folder: Path) -> None:
    photographs, instances = [], []
    for number in range(4):
        name, split = str(number + 1), "test" if number < 2 else "train"
        images_of = {"image": f"images/{name}.jpg", "mask": f"masks/{name}_1.png"}
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        images.write_jpeg(folder / images_of["image"], photograph(number))
        images.write_png(folder / images_of["mask"], mask(number))
        photographs.append(
            {"image_id": name, "split": split, "group": name, "rendition": "", "image": images_of["image"]}
        )
        instances.append({"instance_id": "1", "image_id": name, "category": "thing", "split": split} | images_of)
    tables.write(folder / "photographs.parquet", pd.DataFrame(photographs))
    tables.write(folder / "instances.parquet", pd.DataFrame(instances))


def _subset(folder: Path, subset: str) -> None:
    simulated = subset not in ("HCOCO", "HFlickr")
    rows = []
    for kind in ("composite_images", "masks", "real_images"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        real = f"{subset[1].lower()}{number + 1}"
        inside = mask(number)
        files = {"mask": f"masks/{real}_1.png", "real": f"real_images/{real}.jpg"}
        images.write_jpeg(folder / files["real"], photograph(number))
        images.write_png(folder / files["mask"], inside)
        for k, transfer in enumerate(TRANSFERS, start=1):
            name = f"{real}_1_{k}"
            shift = seeds.rng("composite", subset, name).integers(-60, 60, 3)
            composite = np.where(
                inside[..., None], np.clip(photograph(number) + shift, 0, 255), photograph(number)
            ).astype(np.uint8)
            images.write_jpeg(folder / f"composite_images/{name}.jpg", composite)
            rows.append(
                files
                | {"pair_id": name, "subset": subset, "split": "test" if number < 2 else "train", "composite": f"composite_images/{name}.jpg",
                   "category": ("thing", "$x^2$ <b>")[k - 1], "foreground_ratio": float(inside.mean()), "source_image": str(number + 1),
                   "reference_image": "" if simulated else str((number + 2) % 4 + 1), "reference_object": "" if simulated else "1",
                   "transfer": "retouch" if simulated else transfer, "seed": k, "simulated": simulated,
                   "colour_difference": float(abs(shift).mean()), "clipped": 0.0, "hue_rotation": 5.0 * k}
            )  # fmt: skip
    tables.write(folder / "pairs.parquet", pd.DataFrame(rows))
    refused = [("clipped", 0.5), ("clipped", 0.75), ("no reference", np.nan)]
    rejected = [
        {"subset": subset, "split": "train", "source_image": "3", "rule": rule, "value": value}
        for rule, value in refused
    ]
    tables.write(folder / "rejected.parquet", pd.DataFrame(rejected))


def _masks(folder: Path) -> None:
    rows = []
    for split in ("train", "test"):
        for share, bucket in BUCKETS:
            hole = np.zeros((SIZE, SIZE), bool)
            hole[: round(share * SIZE)] = True
            name = f"{split}/{bucket}/00000.png"
            (folder / name).parent.mkdir(parents=True)
            images.write_png(folder / name, hole)
            kind = "strokes" if share < 0.2 else "brush"
            rows.append({"mask_id": f"{split}_{bucket}_00000", "split": split, "mask": name, "hole_ratio": float(hole.mean()),
                         "hole_ratio_bucket": bucket, "kind": kind})  # fmt: skip
    masks = pd.DataFrame(rows)
    tables.write(folder / "masks.parquet", masks)
    tested = masks[masks["split"] == "test"].drop(columns=["split", "kind"])
    tables.write(folder / "assigned.parquet", pd.concat([tested.assign(image_id=name) for name in ("1", "2")]))


def _parameters(subsets, methods: dict[str, dict[str, bool]]) -> None:
    yaml = YAML(typ="safe")
    parameters = yaml.load((ROOT / "presets" / "embedded.yaml").read_text())
    source, subset = (
        next(iter(parameters["sources"].values())),
        next(iter(parameters["composites"]["subsets"].values())),
    )
    parameters["image_size"] = SIZE
    parameters["sources"] = {"photos": source}
    parameters["inpainting"]["source"] = "photos"
    subset |= {"source": "photos", "references": "photos"}
    parameters["composites"]["subsets"] = {name: subset | {"prefix": name[1].lower()} for name in subsets}
    parameters["models"] = {name: parameters["models"][name] for of in methods.values() for name in of}
    parameters["report"]["sheet_rows"] = 4
    Path("presets").mkdir()
    for file in (Path("params.yaml"), Path("presets/small.yaml")):
        with open(file, "w") as text:
            yaml.dump(parameters, text)


def _predict(task: str, name: str, trained: bool, data: list[str]) -> None:
    """Predictions of a known quality: a method without training gives a constant, a trained one the truth with noise."""
    options = {"max_foreground": 0.5} if task == "localization" else {}
    folders = [Path(folder) for folder in data]
    dataset = datasets.for_testing(task, folders, SIZE, "test", **options)
    out = Path("artifacts/predictions") / name / "test"
    out.mkdir(parents=True)
    rows = []
    for number, image_id in enumerate(dataset.ids):
        item, noise = dataset.item(number), seeds.rng("prediction", name, image_id).normal(0, 12, (SIZE, SIZE, 3))
        if task == "localization":
            picture = np.where(item["mask"], 170, 60) + 3 * noise[..., 0] if trained else np.full((SIZE, SIZE), 255)
        elif task == "harmonization":
            picture = item["real"] + noise if trained else item["composite"]
        else:
            picture = item["image"] + noise if trained else np.full((SIZE, SIZE, 3), 99)
        file = out / f"{image_id}.png"
        images.write_png(file, np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        rows.append(
            {"image_id": image_id, "prediction": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        )
    tables.write(out / "predictions.parquet", pd.DataFrame(rows))
    index = {
        "task": task,
        "model": name,
        "repeat": 1,
        "n_parameters": 1_234_567 if trained else 0,
        "trained": trained,
        "origin": "trained here" if trained else "no weights",
        "data": data,
        "options": options,
        "threshold": (0.4 if trained else None) if task == "localization" else None,
        "threshold_from": ("best mean F1 on 3 validation images" if trained else "none: nothing to choose on")
        if task == "localization"
        else None,
        "truth": [hashlib.sha256(manifest.read_bytes()).hexdigest() for manifest in datasets.manifests(folders)],
        "splits": {
            "test": {
                "n_images": len(rows),
                "n_scored": len(rows),
                "predictions": hashlib.sha256((out / "predictions.parquet").read_bytes()).hexdigest(),
            }
        },
    }
    file = Path("artifacts/index") / task / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(index))


def _training(name: str, task: str) -> None:
    folder = Path("artifacts/models") / name
    metric = {"localization": "ap", "harmonization": "fmse", "inpainting": "psnr"}[task]
    losses = (
        {"generator_loss": [3.0, 2.0, 1.5], "discriminator_loss": [-0.5, 0.2, 0.1]}
        if name == "rainnet"
        else {"loss": [3.0, 2.0, 1.5]}
    )
    history = {
        "model": [name] * 3,
        "phase": ["train", "train", "finetune"],
        "epoch": [1, 2, 1],
        "step": [10, 20, 30],
        **losses,
    }
    table = pd.DataFrame(history | {f"validation_{metric}": [0.2, np.nan, 0.4]})
    tables.write(folder / "history.parquet", table)
    table.to_csv(folder / "history.csv", index=False)
    facts = {"device": "CPU, 1 threads", "workers": 1, "images_per_second": 12.5, "seconds_of_the_last_run": 125.0}
    (folder / "training.json").write_text(json.dumps(facts))
