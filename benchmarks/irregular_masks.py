"""Masks per second on one core, against a plain reading of the same generators in the same run.

    python -m benchmarks.irregular_masks [--size 256] [--masks 4]

Ours is `generate`. The plain reading draws the same recipes into the same buckets with scikit-image polygons and
discs, walks the random walk step by step, and measures the whole mask after every piece. Both make the same masks
per kind and bucket by turns. Times are processor seconds: the median over the seeds of a bucket, then the mean over
the six buckets. "share" is the mean hole share of each: how far the two agree on what they draw. The last line is
`build`: every kind in every bucket, with encoding, measuring and writing the PNG files.
"""

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.draw
import skimage.morphology

from benchmarks.record import record
from pipeline import seeds
from pipeline.irregular_masks import BUCKETS, KINDS, generate
from pipeline.irregular_masks.buckets import pixel_bounds
from pipeline.irregular_masks.dataset import build
from pipeline.irregular_masks.pieces import Box, Piece, Stroke
from pipeline.irregular_masks.recipes import Canvas, recipe


def plain_paint(mask: np.ndarray, piece: Piece, target: int) -> None:
    if isinstance(piece, Box):
        mask[piece.top : piece.bottom, piece.left : piece.right] = True
    elif isinstance(piece, Stroke):
        radius = (piece.width + 1) / 2
        points = np.asarray(piece.points, float)[:, ::-1]
        for point in points:
            mask[skimage.draw.disk(point, radius, shape=mask.shape)] = True
        for start, end in itertools.pairwise(points):
            along = end - start
            if not along.any():
                continue
            across = radius * np.array([-along[1], along[0]]) / np.hypot(*along)
            corners = np.array([start + across, end + across, end - across, start - across])
            mask[skimage.draw.polygon(corners[:, 0], corners[:, 1], shape=mask.shape)] = True
    else:
        added = mask.sum()
        for pixel in piece.pixels:
            y, x = divmod(int(pixel), mask.shape[1])
            if not mask[y, x]:
                mask[y, x] = True
                added += 1
                if added >= target:
                    break


def plain_generate(kind: str, size: int, ratio: tuple[float, float], seed: int) -> np.ndarray:
    fewest, most = pixel_bounds(ratio, size, size)
    rng = seeds.rng(seed, kind, size, size, *ratio, True)
    target = int(rng.integers(fewest, most, endpoint=True))
    mask = np.zeros((size, size), bool)
    for piece in recipe(kind)(rng, Canvas(size, size, size / 256, target)):
        if piece is None:
            continue
        plain_paint(mask, piece, target)
        if mask.mean() >= target / mask.size:
            break
    ellipse = skimage.morphology.disk(1)
    for _ in range(30):
        if mask.sum() <= most:
            break
        mask = skimage.morphology.erosion(mask, ellipse)
    return mask


def seconds(function, *arguments) -> tuple[float, float]:
    start = time.process_time()
    mask = function(*arguments)
    return time.process_time() - start, float(mask.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--masks", type=int, default=4, help="masks per kind and bucket")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for kind in KINDS:
        generate(kind, arguments.size, arguments.size, BUCKETS[0])

    print(f"{arguments.size}x{arguments.size}, {len(BUCKETS)} buckets, {arguments.masks} masks each")
    print(f"{'kind':16}{'masks/s':>10}{'plain':>10}{'ratio':>8}{'share':>8}{'plain':>8}")
    means = []
    for kind in KINDS:
        measured = []
        for bucket in BUCKETS:
            turns = []
            for seed in range(arguments.masks):
                ours = seconds(generate, kind, arguments.size, arguments.size, bucket, seed)
                turns.append((ours, seconds(plain_generate, kind, arguments.size, bucket, seed)))
            times, shares = np.moveaxis(np.array(turns), 2, 0)
            measured.append([*np.median(times, axis=0), *shares.mean(axis=0)])
        means.append(np.mean(measured, axis=0))
        ours, plain, share, plain_share = means[-1]
        record("irregular_masks", kind, "plain time / ours", plain / ours, "higher")
        record("irregular_masks", kind, "masks/s", 1 / ours, "higher")
        print(f"{kind:16}{1 / ours:10.0f}{1 / plain:10.1f}{plain / ours:8.1f}{share:8.3f}{plain_share:8.3f}")
    ours, plain, share, plain_share = np.mean(means, axis=0)
    speedup = math.exp(np.mean([math.log(row[1] / row[0]) for row in means]))
    print(f"{'all kinds':16}{1 / ours:10.0f}{1 / plain:10.1f}{plain / ours:8.1f}{share:8.3f}{plain_share:8.3f}")
    print(f"geometric mean of the ratios {speedup:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        counts = {"test": 2 * len(KINDS)}
        rows = build(Path(folder), kinds=KINDS, per_bucket=counts, size=arguments.size, border="both", seed=0)
        print(f"{'build, to disk':16}{len(rows) / (time.process_time() - start):10.0f}")


if __name__ == "__main__":
    main()
