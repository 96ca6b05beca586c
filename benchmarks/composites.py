"""Synthesis of composites on Ray workers: speed-up, memory, and what all of HCOCO would cost.

    python -m benchmarks.composites [--pairs 500] [--rounds 3] [--only speed-up memory cost]

Photographs are crops of those in scikit-image's and scikit-learn's wheels, one ellipse each, recoloured after one
another by the four transfers; every candidate passes, so that each object is one pair. Each measurement is a process
of its own with a Ray of its own, started and warmed up before the clock runs.

speed-up: the same pairs with one worker and with two, by turns; medians of wall time, from the first object to the
    finished folder. It needs two idle cores: the load average before each round is printed beside it, and what a pair
    costs the workers and the driving process in processor time, which other programs hardly change.
memory: the peak of the driving process and of the largest worker, with pairs of 96 pixels and ten times as many.
cost: processor seconds per pair in pictures of 640x480 on one worker, and those of the driving process over the longest
    run above, which more cores don't shorten; projected to HCOCO's 42,828 pairs. On one core both add up, on more the
    slower of the two decides.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline import images, seeds
from pipeline.data import ingest
from pipeline.data.composites.build import build
from pipeline.data.sources.base import Instance, Photograph
from pipeline.params import schema

HCOCO_PAIRS = 42828
PARTS = ("speed-up", "memory", "cost")
SUBSET = {
    "recipe": "transfer", "source": "crops", "references": "crops", "prefix": "c",
    "composites_per_object": 1, "max_per_object": 1, "same_category": True,
}  # fmt: skip
RENDERING = {
    "methods": ["reinhard", "xiao", "fecker", "pitie"], "jpeg_quality": 95, "jpeg_subsampling": "4:4:4",
    "filters": {"foreground_ratio": {"low": 0, "high": 1}, "min_pixels": 1, "colour_difference": {"low": 0, "high": 1000},
                "max_clipped": 1, "max_hue_rotation": 360, "max_area_ratio": 1000, "attempts": 8},
}  # fmt: skip


def crops(out: Path, count: int, height: int, width: int) -> Path:
    """A source of `count` photographs with one object each."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    originals = [
        data.astronaut(),
        data.coffee(),
        data.chelsea(),
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg"),
    ]
    files, photographs = out.with_name(f"{out.name}-files"), []
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        rng = seeds.rng("crop", number)
        original = originals[number % len(originals)]
        side = rng.uniform(0.4, 0.9)
        high, wide = int(original.shape[0] * side), int(original.shape[1] * side)
        top, left = rng.integers(original.shape[0] - high), rng.integers(original.shape[1] - wide)
        name = f"p{number:06d}"
        images.write_jpeg(
            files / f"{name}.jpg",
            cv2.resize(original[top : top + high, left : left + wide], (width, height), interpolation=cv2.INTER_AREA),
        )
        centre, radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.15, 0.35)
        mask = np.hypot(y / height - centre[0], x / width - centre[1]) < radius
        split = ("train", "train", "val", "test")[number % 4]
        photographs.append(
            Photograph(
                name, files / f"{name}.jpg", split, name, "", (Instance("1", "object", "", lambda mask=mask: mask),)
            )
        )
    ingest.ingest(
        photographs, [], out, source="crops", seed=0, validation_share=0.0, test_share=0.0, longest_side=None, min_side=8,
        max_pixels=10**7, max_rejected=0.0,
    )  # fmt: skip
    return out


def measure(source: Path, workers: int) -> dict:
    """Run a synthesis in a process of its own: wall seconds, processor seconds per pair of the workers (`cpu`) and of the
    driving process (`own`), and both peaks in MB."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "SEAMBENCH_CPUS": str(workers)
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.composites", "--measure", source],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_measured(source: Path) -> dict:
    import psutil

    from pipeline.running import cluster, parallel

    subset, rendering = schema.Subset.model_validate(SUBSET), schema.Rendering.model_validate(RENDERING)
    spent, largest, over = [], [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::work"):
                        largest[0] = max(largest[0], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def parallel_map(work, plan):
        for result, seconds in parallel.ordered_map(
            functools.partial(_timed, work), plan, describe="benchmark", unit="objects"
        ):
            spent.append(seconds)
            yield result

    with cluster.session(), tempfile.TemporaryDirectory() as folder:
        list(parallel.ordered_map(_warm, range(8 * cluster.cpus()), describe="warm up", chunk=1))
        threading.Thread(target=watch, daemon=True).start()
        start, own = time.perf_counter(), time.process_time()
        options = {"subset": subset, "rendering": rendering, "source": source, "references": source, "seed": 1}
        build(
            Path(folder) / "HCOCO", name="HCOCO", staging=Path(folder) / "staging", parallel_map=parallel_map, **options
        )
        wall, own = time.perf_counter() - start, time.process_time() - own
        over.set()
    # of this program alone: the peak that getrusage tells is never below that of the process that started this one
    driver = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return {
        "wall": wall,
        "pairs": len(spent),
        "cpu": float(np.mean(spent)),
        "own": own / len(spent),
        "driver": driver / 1e6,
        "worker": largest[0] / 1e6,
    }


def _timed(work, item) -> tuple:
    start = time.thread_time()
    result = work(item)
    return result, time.thread_time() - start


def _warm(_) -> None:
    import pipeline.data.composites.build  # noqa: F401

    time.sleep(0.2)


def show(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="Synthesis of composites: speed-up, memory, cost.")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3, help="of one worker and two, by turns")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (all if not given)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(run_measured(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root, many = Path(folder), None
        if "speed-up" in arguments.only:
            speed_up(root, arguments.pairs, arguments.rounds)
        if "memory" in arguments.only:
            many = memory(root, arguments.pairs)
        if "cost" in arguments.only:
            cost(root, arguments.pairs, many)


def speed_up(root: Path, pairs: int, rounds: int) -> None:
    source = crops(root / "speed", pairs, 256, 256)
    rows, walls = (
        [["round", "load", "1 worker s", "2 workers s", "speed-up", "worker ms 1", "2", "driver ms 1", "2"]],
        {1: [], 2: []},
    )
    for round_ in range(1, rounds + 1):
        load = os.getloadavg()[0]
        one_worker, two_workers = measure(source, 1), measure(source, 2)
        walls[1].append(one_worker["wall"])
        walls[2].append(two_workers["wall"])
        spent = [f"{1e3 * each[key]:.1f}" for key in ("cpu", "own") for each in (one_worker, two_workers)]
        rows.append(
            [
                str(round_),
                f"{load:.1f}",
                f"{one_worker['wall']:.1f}",
                f"{two_workers['wall']:.1f}",
                f"{one_worker['wall'] / two_workers['wall']:.2f}",
                *spent,
            ]
        )
    ratio = np.median(walls[1]) / np.median(walls[2])
    rows.append(
        ["median", "", *(f"{np.median(walls[workers]):.1f}" for workers in (1, 2)), f"{ratio:.2f}", "", "", "", ""]
    )
    print(
        f"{pairs} pairs of 256x256; two workers at least 1.7 times one: {'yes' if ratio >= 1.7 else 'NO'}; processor ms are per pair"
    )
    show(rows)


def memory(root: Path, pairs: int) -> dict:
    """Prints the growth and returns what the longer run was measured at."""
    few, many = (measure(crops(root / f"memory{count}", count, 96, 96), 1) for count in (pairs, 10 * pairs))
    rows = [["pairs", "driver MB", "worker MB"]]
    rows += [[str(run["pairs"]), f"{run['driver']:.0f}", f"{run['worker']:.0f}"] for run in (few, many)]
    growth = [many[key] / few[key] for key in ("driver", "worker")]
    rows.append(["growth", *(f"{factor:.2f}" for factor in growth)])
    print(f"peak memory, pairs of 96x96; at most 1.2 times: {'yes' if max(growth) <= 1.2 else 'NO'}")
    show(rows)
    return many


def cost(root: Path, pairs: int, many: dict | None) -> None:
    full = measure(crops(root / "full", max(pairs // 5, 8), 480, 640), 1)
    own = (many or full)["own"]
    print(
        f"640x480: {1e3 * full['cpu']:.0f} ms a pair, {1e3 * own:.1f} ms of the driving process; HCOCO's {HCOCO_PAIRS:,} pairs:"
    )
    rows = [["cores", "minutes", "core hours", "limited by"]]
    for cores in (1, 16, 256):
        work, driving = HCOCO_PAIRS * full["cpu"] / cores, HCOCO_PAIRS * own
        seconds = work + driving if cores == 1 else max(work, driving)
        rows.append(
            [
                str(cores),
                f"{seconds / 60:.1f}",
                f"{cores * seconds / 3600:.1f}",
                "workers" if work > driving else "driving process",
            ]
        )
    show(rows)


if __name__ == "__main__":
    main()
