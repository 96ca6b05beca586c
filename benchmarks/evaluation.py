"""Time to score the harmonized images of one model on one worker and on two, in the same run.

    python -m benchmarks.evaluation [--images 300] [--side 256]

Pairs of 640x480 pixels (JPEG, masks PNG) and predictions are drawn into a temporary folder; the evaluation reads them as it
reads any other. It is run under seam-256 alone and under all protocols. The last column is the arithmetic for the 7,404
test images of iHarmony4. Starting Ray and its workers is not counted; the evaluation itself only starts them once
what several cores save is more than parallel.START_SECONDS.
"""

import argparse
import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.metrics import picture, region
from pipeline import images, seeds, tables
from pipeline.data import datasets
from pipeline.running import cluster, parallel
from pipeline.scoring import evaluation

IHARMONY4 = 7404


def build(count: int, side: int) -> dict:
    """Write pairs and predictions below the working folder; the index of the one method."""
    data, out, pairs, manifest = Path("data/set"), Path("predictions/drawn/test"), [], []
    for number in range(count):
        rng = seeds.rng("benchmark", number)
        real, mask = picture(rng, 640)[:480], region(rng, 640)[80:560]
        composite = np.where(
            mask[..., None], np.clip(real.astype(int) + rng.integers(-40, 40, 3), 0, 255), real
        ).astype(np.uint8)
        name = f"c{number:05d}_1_1"
        files = {"composite": f"composite/{name}.jpg", "mask": f"mask/{name}.png", "real": f"real/{name}.jpg"}
        images.write_jpeg(data / files["composite"], composite)
        images.write_jpeg(data / files["real"], real)
        images.write_png(data / files["mask"], mask)
        about = {
            "category": "thing",
            "transfer": "none",
            "simulated": False,
            "source_image": name,
            "foreground_ratio": float(mask.mean()),
        }
        pairs.append({"pair_id": name, "subset": "set", "split": "test"} | files | about)
        file = out / f"{name}.png"
        images.write_png(
            file,
            np.clip(
                images.resize(composite, (side, side)).astype(int) + rng.integers(-3, 4, (side, side, 3)), 0, 255
            ).astype(np.uint8),
        )
        manifest.append(
            {"image_id": name, "prediction": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        )
    tables.write(data / "pairs.parquet", pd.DataFrame(pairs))
    tables.write(out / "predictions.parquet", pd.DataFrame(manifest))
    stated = {
        "n_images": count,
        "n_scored": count,
        "predictions": hashlib.sha256((out / "predictions.parquet").read_bytes()).hexdigest(),
    }
    truth = [hashlib.sha256(manifest.read_bytes()).hexdigest() for manifest in datasets.manifests([data])]
    return {"task": "harmonization", "model": "drawn", "n_parameters": 0, "trained": False, "data": [str(data)], "options": {}, "truth": truth,
            "splits": {"test": stated}}  # fmt: skip


def seconds(index: dict, side: int, named: list[str] | None, workers: int) -> tuple[float, evaluation.Scores]:
    """Time of the map over the images alone, once the workers have scored some."""
    os.environ["SEAMBENCH_CPUS"] = str(workers)
    taken = []

    def spread(function, work):
        with cluster.session():
            list(parallel.ordered_map(function, work[:32], describe="warm up"))
            started = time.perf_counter()
            scored = list(parallel.ordered_map(function, work, describe=f"{workers} workers"))
            taken.append(time.perf_counter() - started)
        return scored

    scores = evaluation.score("harmonization", [index], Path("predictions"), side, named, spread)
    return taken[0], scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    table = Table(
        "",
        "one worker s",
        "two workers s",
        "times faster",
        f"{IHARMONY4} images, two workers, s",
        title=f"{arguments.images} images at {arguments.side} pixels",
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        index = build(arguments.images, arguments.side)
        for name, named in (("seam-256", []), ("all protocols", None)):
            (one_worker, alone), (two_workers, shared) = (
                seconds(index, arguments.side, named, workers) for workers in (1, 2)
            )
            assert all(first.equals(second) for first, second in zip(alone, shared)), (
                "the number of workers changed a score"
            )
            table.add_row(
                name,
                f"{one_worker:.1f}",
                f"{two_workers:.1f}",
                f"{one_worker / two_workers:.2f}",
                f"{two_workers * IHARMONY4 / arguments.images:.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
