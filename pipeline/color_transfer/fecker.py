"""Cumulative histogram mapping in 8-bit YCbCr, channel by channel.

Fecker, Barkowsky, Kaup, "Histogram-Based Prefiltering for Luminance and Chrominance Compensation of Multiview Video",
2008, as iHarmony4's released code has it: a target level v goes to the largest level u whose cumulative share in the
reference, H2(u), is at most H1(v), or to the lowest level if there is none.
Departure: u is then moved down to the nearest level that the reference holds (up to its lowest, if none is below), and
shares are compared as integers. The released code may end on levels that the reference does not hold. It writes the
mean of no values as 0 where that is the lowest or highest level (specks), changes colours even from an image to itself,
and lets the rounding of float64 sums decide ties; `exact` keeps all three.
Departure for a channel in which the target has one level alone, as the chroma of a grey region: H1 is 1 there, which
leads to the reference's highest level: grey would turn magenta. It goes to the reference's median instead.
"""

import cv2
import numpy as np

from pipeline.color_transfer.spaces import (
    RGB_TO_YCBCR,
    YCBCR_HIGHEST,
    YCBCR_LOWEST,
    YCBCR_TO_RGB,
    convert,
)


def histogram(pixels: np.ndarray, channel: int) -> np.ndarray:
    """Counts int64 (256,) of the levels of one channel of uint8 (N, 3)."""
    return cv2.calcHist([pixels[None]], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


def level_map(target: np.ndarray, reference: np.ndarray, exact: bool = False) -> np.ndarray:
    """The new level, int64 (L,), of each of L levels; levels that the target does not hold get one too.

    target, reference: counts int64 (L,) over the same levels, each with a sum above 0. With `exact`, a level may be -1:
    the mean of no values.
    """
    if exact:
        target_share = np.cumsum(target / target.sum())
        reference_share = np.cumsum(reference / reference.sum())
    else:
        if np.count_nonzero(target) == 1:
            return np.full(len(target), np.searchsorted(2 * np.cumsum(reference), reference.sum()))
        target_share = np.cumsum(target) * reference.sum()
        reference_share = np.cumsum(reference) * target.sum()
    levels = np.maximum(np.searchsorted(reference_share, target_share, side="right") - 1, 0)

    last = len(levels) - 1
    if exact:
        at_the_ends = (levels == 0) | (levels == last)
        return np.where(at_the_ends & (reference[levels] == 0), -1, levels)
    occupied = np.flatnonzero(reference)
    below = np.searchsorted(occupied, levels, side="right") - 1
    return occupied[np.maximum(below, 0)]


def recolor(pixels: np.ndarray, reference: np.ndarray, exact: bool = False) -> np.ndarray:
    """The target's colours with the reference's distribution of Y, of Cb and of Cr.

    pixels: uint8 RGB (N, 3); reference: uint8 RGB (M, 3). Returns uint8 RGB (N, 3), in the order of `pixels`.
    """
    pixels, reference = convert(pixels, RGB_TO_YCBCR), convert(reference, RGB_TO_YCBCR)
    table = np.zeros((256, 1, 3), np.uint8)
    for channel, (lowest, highest) in enumerate(zip(YCBCR_LOWEST, YCBCR_HIGHEST)):
        bins = slice(lowest, highest + 1)
        levels = level_map(histogram(pixels, channel)[bins], histogram(reference, channel)[bins], exact)
        table[bins, 0, channel] = np.where(levels < 0, 0, lowest + levels)
    return convert(cv2.LUT(pixels[None], table)[0], YCBCR_TO_RGB)


def through_ycbcr(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB (N, 3) after the way to 8-bit YCbCr and back, as the released code leaves the background."""
    return convert(convert(pixels, RGB_TO_YCBCR), YCBCR_TO_RGB)
