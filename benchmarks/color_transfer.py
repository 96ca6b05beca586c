"""Speed of the colour transfers on one core: `python -m benchmarks.color_transfer [--rounds N]`.

Pairs of 256x256 photographs, whole images, bytes in. reinhard, xiao and fecker run against color-matcher's nearest
methods (reinhard, mkl, hm), whose results are left unrounded, while ours end as bytes. pitie runs against the plain
NumPy reading of the same formulas that the tests take as the referee. No photograph has a byte below 1, because
color-matcher's reinhard makes NaN of it.

Rounds go from one to the other; in each, a first call that isn't timed brings code and memory back into the caches.
Times are medians, in CPU time, so that other programs on the machine don't show. "differing" is the share of bytes that
differ from the peer's rounded result, "mean" and "max" by how many grey levels: pitie and its peer have the same
formulas, reinhard and its peer too but for a matrix (ours is iHarmony4's), the other two peers have their own.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
from skimage import data
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from benchmarks.record import record
from pipeline.color_transfer import pitie, transfer
from tests.pipeline.color_transfer import plain

PEERS = {"reinhard": "reinhard", "xiao": "mkl", "fecker": "hm"}
TARGET = 5.0
CALLS = 3  # timed, in each round


def photographs() -> list[np.ndarray]:
    """uint8 RGB (256, 256, 3), at least 1, from the wheels of scikit-image and scikit-learn."""
    images = data.chelsea(), data.coffee(), load_sample_image("china.jpg")
    return [np.maximum(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA), 1) for image in images]


def color_matcher(method: str, target: np.ndarray, reference: np.ndarray) -> Callable[[], np.ndarray]:
    """A call of color-matcher's method on this pair; its result is float (256, 256, 3), in 0..255."""
    from color_matcher import ColorMatcher

    return lambda: ColorMatcher().transfer(target, reference, method)


def plain_pitie(target: np.ndarray, reference: np.ndarray) -> Callable[[], np.ndarray]:
    """A call of the plain reading of pitie's formulas on this pair."""
    mask, reference, rotations = np.ones(target.shape[:2], bool), reference.reshape(-1, 3), pitie.rotations(0)
    return lambda: plain.recolor(target, mask, reference, rotations).reshape(target.shape)


def milliseconds(call: Callable[[], np.ndarray]) -> list[float]:
    """CPU time of CALLS calls after one that isn't timed."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.thread_time()
        call()
        times.append(1000 * (time.thread_time() - start))
    return times


def compare(method: str, pairs: list, peer: Callable, rounds: int) -> list[str]:
    """One row of the table. peer: makes a call from a target and a reference."""
    ours, theirs, differences = [], [], []
    for target, reference in pairs:
        call = peer(target, reference)
        differences.append(transfer(method, target, reference) - np.clip(np.rint(call()), 0, 255))
        for _ in range(rounds):
            theirs += milliseconds(call)
            ours += milliseconds(lambda: transfer(method, target, reference))
    ratio = np.median(theirs) / np.median(ours)
    record("color_transfer", method, "peer's time / ours", ratio, "higher")
    record("color_transfer", method, "ms", float(np.median(ours)), "lower")
    difference = np.abs(differences)
    return [
        f"{np.median(theirs):.2f}",
        f"{np.median(ours):.2f}",
        f"{ratio:.1f}",
        "yes" if ratio >= TARGET else "NO",
        f"{(difference > 0).mean():.4%}",
        f"{difference.mean():.3f}",
        f"{difference.max():.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the colour transfers against peers, one core.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds for each pair (pitie: a fifth of them)")
    rounds = parser.parse_args().rounds
    first, second, third = photographs()
    pairs = [(first, second), (second, third), (third, first)]

    rows = [["method", "peer", "peer ms", "ours ms", "ratio", f">= {TARGET:.0f}", "differing", "mean", "max"]]
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        try:
            import color_matcher as _  # noqa: F401
        except ImportError:
            print("color-matcher is not installed (make bench installs it): only pitie is measured")
        else:
            for method, name in PEERS.items():
                row = compare(method, pairs, lambda *pair, name=name: color_matcher(name, *pair), rounds)
                rows.append([method, f"color-matcher {name}", *row])
        rows.append(["pitie", "plain NumPy", *compare("pitie", pairs, plain_pitie, -(-rounds // 5))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    main()
