"""Structural similarity (Wang et al. 2004), one map for all metrics that are made of it.

Variances and covariances are weighted means, without the sample correction N / (N - 1).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

LocalMean = Callable[[np.ndarray, np.ndarray], None]
"""A window: local_mean(source, result) writes the weighted mean around each pixel of `source` into `result`."""

RADIUS = 5
WINDOW = 2 * RADIUS + 1

CONSTANTS_255 = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
"""(C1, C2) for images in 0..255."""

CONSTANTS_1 = (0.01**2, 0.03**2)
"""(C1, C2) for images in 0..1; negligible on images in 0..255, where IIH's evaluator uses them."""

CHANNEL_MEAN = np.full((1, 3), 1 / 3)

STRIPE = 64 * 256 * 3
"""Values computed at a time: it bounds the memory, and fresh memory costs more time here than arithmetic."""


def gaussian_mean(radius: int, sigma: float = 1.5) -> LocalMean:
    """A Gaussian window of 2 radius + 1 pixels, any channel count; what lies outside the image counts as zero."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()

    def local_mean(source: np.ndarray, result: np.ndarray) -> None:
        cv2.sepFilter2D(source, cv2.CV_64F, weights, weights, dst=result, borderType=cv2.BORDER_CONSTANT)

    return local_mean


def uniform_mean(radius: int) -> LocalMean:
    """A window of 2 radius + 1 equal weights, any channel count; what lies outside the image counts as zero."""
    side = 2 * radius + 1

    def local_mean(source: np.ndarray, result: np.ndarray) -> None:
        cv2.blur(source, (side, side), dst=result, borderType=cv2.BORDER_CONSTANT)

    return local_mean


class Window(NamedTuple):
    local_mean: LocalMean
    radius: int


GAUSSIAN = gaussian_mean(RADIUS)
USUAL = Window(GAUSSIAN, RADIUS)


def similarity(
    image: np.ndarray,
    other: np.ndarray,
    local_mean: LocalMean,
    constants: Sequence[tuple[float, float]],
    memory: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yield one SSIM map per pair (C1, C2); a map is overwritten as soon as the next one is asked for.

    image, other: arrays of one shape, and so are the maps. memory: six float64 arrays of that shape to work in.
    For sample statistics, N / (N - 1) times the variances, divide C2 by that factor instead.

    With the sum s and the difference d of the images, 2 var_x + 2 var_y = var_s + var_d and 4 cov = var_s - var_d,
    and likewise for the means: four filtered images instead of five, and exactly 1 where the images agree.
    """
    memory = np.empty((6, *image.shape)) if memory is None else memory
    total, difference, mean_total, mean_difference, variance_total, variance_difference = memory
    np.add(image, other, out=total, dtype=np.float64)
    np.subtract(image, other, out=difference, dtype=np.float64)
    local_mean(total, mean_total)
    local_mean(difference, mean_difference)
    total *= total
    difference *= difference
    local_mean(total, variance_total)
    local_mean(difference, variance_difference)
    mean_total *= mean_total
    mean_difference *= mean_difference
    variance_total -= mean_total
    variance_difference -= mean_difference

    four_means = np.subtract(mean_total, mean_difference, out=total)  # 4 mean_x mean_y
    two_squares = np.add(mean_total, mean_difference, out=mean_total)  # 2 (mean_x^2 + mean_y^2)
    four_covariances = np.subtract(variance_total, variance_difference, out=difference)
    two_variances = np.add(variance_total, variance_difference, out=variance_total)  # 2 (var_x + var_y)
    result, factor = mean_difference, variance_difference
    for c1, c2 in constants:
        np.add(four_means, 2 * c1, out=result)
        result /= np.add(two_squares, 2 * c1, out=factor)
        result *= np.add(four_covariances, 2 * c2, out=factor)
        result /= np.add(two_variances, 2 * c2, out=factor)
        yield result


def maps(
    image: np.ndarray, other: np.ndarray, *constants: tuple[float, float], window: Window = USUAL
) -> list[np.ndarray]:
    """SSIM of two RGB images (H, W, 3) in 0..255, uint8 or float64: float64 (H, W), mean over the channels, one map per
    pair (C1, C2).

    The usual window is 11x11 Gaussian, sigma 1.5; what lies outside the image counts as zero. Where the two images agree
    within a whole window the value is 1, so only the surroundings of their differences are computed.
    """
    result = [np.ones(image.shape[:2]) for _ in constants]
    if image.dtype == other.dtype == np.uint8:
        # uint8: the channels' sum, cut off at 255
        different = cv2.transform(cv2.absdiff(image, other), np.ones((1, 3)))
    else:
        different = (cv2.transform(np.abs(np.subtract(image, other, dtype=np.float64)), np.ones((1, 3))) > 0).view(
            np.uint8
        )
    if not different.any():
        return result
    radius = window.radius
    left, top, box_width, box_height = cv2.boundingRect(different)
    height, width = different.shape
    rows, columns = (top, top + box_height), (left, left + box_width)
    rows, columns = _grow(rows, height, radius), _grow(columns, width, radius)
    seen = _grow(columns, width, radius)
    stripe = max(2 * radius + 1, STRIPE // (3 * (seen[1] - seen[0])))
    memory = np.empty((6, min(stripe + 2 * radius, height), seen[1] - seen[0], 3))
    for start in range(rows[0], rows[1], stripe):
        inner = start, min(start + stripe, rows[1])
        outer = _grow(inner, height, radius)
        around = np.s_[outer[0] : outer[1], seen[0] : seen[1]]
        valid = np.s_[inner[0] - outer[0] : inner[1] - outer[0], columns[0] - seen[0] : columns[1] - seen[0]]
        work = memory[:, : outer[1] - outer[0]]
        for whole, part in zip(result, similarity(image[around], other[around], window.local_mean, constants, work)):
            whole[inner[0] : inner[1], columns[0] : columns[1]] = cv2.transform(part[valid], CHANNEL_MEAN)
    return result


def _grow(extent: tuple[int, int], size: int, radius: int) -> tuple[int, int]:
    """The extent (start, stop) that a window of this radius reaches from this one, within 0..size."""
    return max(extent[0] - radius, 0), min(extent[1] + radius, size)
