"""A stage in plain processes, for a machine without Ray.

    python -m benchmarks.one_gpu.stage train rainnet --data data/composites/HCOCO

is `python -m stages.train rainnet --data data/composites/HCOCO` with Ray's parts put in place by what needs no cluster:
the plain training and prediction loops, and a pool of processes for maps. The results are the same.
"""

import multiprocessing
import runpy
import sys
from pathlib import Path

import cv2

from pipeline.networks import predictor, ray_train
from pipeline.networks.loop import train_plain
from pipeline.progress import Progress
from pipeline.running import cluster, parallel


def pooled_map(function, items, *, describe: str, unit: str = "images", chunk: int = 4):
    """`parallel.ordered_map` by a pool of processes, one per core that this process may use."""
    context = multiprocessing.get_context("spawn")
    with (
        Progress(describe, len(items), unit) as progress,
        context.Pool(cluster.cpus(), cv2.setNumThreads, (1,)) as pool,
    ):
        for result in pool.imap(function, items, chunk):
            progress.add()
            yield result


def predict_all(build_model, build_data, out: Path, *, batch_size: int, device: str, describe: str, **how):
    """`predictor.predict_all` in this process."""
    return predictor.predict_plain(build_model, build_data, out, batch_size=batch_size, device=device, **how)


def main() -> None:
    name = sys.argv.pop(1)
    parallel.ordered_map = parallel.spread = pooled_map
    predictor.predict_all = predict_all
    ray_train.train = train_plain
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
