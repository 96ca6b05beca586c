"""Hole-ratio buckets, and bringing a hole into one by eroding, dilating or counting (docs/protocol.md)."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline import seeds

Ratio = tuple[float, float]

BUCKETS: tuple[Ratio, ...] = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))
"""Share of hole pixels, from (inclusive) to (exclusive). No bucket holds a mask without a hole."""

_STEP = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
_MOST_STEPS = 30


def bucket_name(ratio: Ratio) -> str:
    """The bucket in whole per cent where it can be: (0.1, 0.2) is "10-20"."""
    return f"{ratio[0] * 100:g}-{ratio[1] * 100:g}"


def bucket_of(ratio: float, buckets: Sequence[Ratio] = BUCKETS) -> str | None:
    """The name of the bucket a hole share lies in, "0-10" to "50-60" (lower end in, upper end out).

    None when no bucket holds it: 0 (a mask without a hole belongs nowhere), and 0.6 or more.
    """
    for low, high in buckets:
        if low <= ratio < high and ratio > 0:
            return bucket_name((low, high))
    return None


def pixel_bounds(ratio: Ratio, height: int, width: int, usable: int | None = None) -> tuple[int, int]:
    """Fewest and most hole pixels n with low <= n / (height * width) < high, at least 1 and at most `usable`.

    Raises ValueError when the ratio is not two numbers 0 <= low < high <= 1, or no such count exists.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a mask of {height}x{width} has no pixels")
    pixels = height * width
    usable = pixels if usable is None else usable
    try:
        low, high = (float(end) for end in ratio)
    except (TypeError, ValueError):
        raise ValueError(f"ratio {ratio!r} is not a pair (low, high) of numbers") from None
    if not 0 <= low < high <= 1:
        raise ValueError(f"ratio ({low:g}, {high:g}) must satisfy 0 <= low < high <= 1")
    fewest, most = math.ceil(low * pixels), math.ceil(high * pixels) - 1
    # low * pixels and n / pixels round differently; the division is what a caller will compare.
    fewest += (fewest / pixels < low) - (fewest > 0 and (fewest - 1) / pixels >= low)
    most += ((most + 1) / pixels < high) - (most / pixels >= high)
    fewest, most = max(fewest, 1), min(most, usable)
    if fewest > most:
        room = f", of which {usable} lie inside the frame that border=False keeps free" if usable < pixels else ""
        whole = f"a hole is 1 to {pixels} whole pixels{room}"
        raise ValueError(f"ratio ({low:g}, {high:g}) is impossible on {height}x{width}: {whole}")
    return fewest, most


def fit(hole: np.ndarray, fewest: int, most: int, target: int) -> np.ndarray:
    """`hole` (uint8 (H, W), 1 = hole) with between `fewest` and `most` hole pixels.

    A hole already between them stays. Otherwise it is eroded or dilated with a 3x3 ellipse until it passes
    `target`, at most 30 times; if that misses the bounds too, it gets exactly `target` pixels.
    """
    count = cv2.countNonZero(hole)
    if fewest <= count <= most:
        return hole
    eroding = count > most
    changed = hole
    for _ in range(_MOST_STEPS):
        changed = (cv2.erode if eroding else cv2.dilate)(changed, _STEP)
        count = cv2.countNonZero(changed)
        if (count <= target) if eroding else (count >= target):
            break
    return changed if fewest <= count <= most else exactly(hole, target)


def exactly(hole: np.ndarray, target: int) -> np.ndarray:
    """`hole` (uint8 (H, W), 1 = hole) with exactly `target` hole pixels.

    Too large, it loses the pixels nearest to its boundary; too small, it gains those nearest to it. Of equally near
    ones the first, read row by row, are changed.
    """
    surplus = cv2.countNonZero(hole) - target
    if surplus < 0:
        return 1 - exactly(1 - hole, hole.size - target)
    if surplus == 0:
        return hole.copy()
    # A frame of valid pixels only where there is no other: a hole must not shrink away from the canvas' edge.
    frame = int(hole.all())
    depth = cv2.distanceTransform(np.pad(hole, frame), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = depth[frame : hole.shape[0] + frame, frame : hole.shape[1] + frame].reshape(-1)
    squared = np.rint(depth * depth).astype(np.int64)
    released = np.cumsum(np.bincount(squared)[1:])  # pixels at a squared distance of at most 1, 2, ...
    last = int(np.searchsorted(released, surplus)) + 1
    kept = squared > last
    layer = np.flatnonzero(squared == last)
    kept[layer[len(layer) - (int(released[last - 1]) - surplus) :]] = True
    return kept.reshape(hole.shape).astype(np.uint8)


def fit_to_ratio(mask: np.ndarray, ratio: Ratio, seed: int = 0) -> np.ndarray:
    """A mask of any origin, bool (H, W) with True = hole, brought to low <= hole share < high.

    What lies in the ratio already comes back unchanged; the rest is eroded or dilated towards a share that `seed`
    draws evenly from the ratio. Raises ValueError for an impossible ratio and for a mask without a hole.
    """
    fewest, most = pixel_bounds(ratio, *mask.shape)
    if not mask.any():
        raise ValueError("the mask has no hole that could be dilated")
    target = int(seeds.rng(int(seed), "fit_to_ratio").integers(fewest, most, endpoint=True))
    return fit(mask.astype(np.uint8), fewest, most, target).astype(bool)
