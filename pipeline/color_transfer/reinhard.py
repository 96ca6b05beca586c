"""Global transfer of means and standard deviations in l-alpha-beta.

Reinhard, Ashikhmin, Gooch, Shirley, "Color Transfer between Images", IEEE CG&A 2001, as iHarmony4's released code has
it: no gamma removed, statistics over the region's colours that are not black, standard deviations with N - 1, black
stays black. The logarithms are natural here and decimal there, which changes no result.
Departures, all for regions on which that code divides by zero: a channel whose deviation is below 1e-5 (a 65536-pixel
region with one pixel off by one grey level has more) is only shifted; a region with one colour that is not black has
deviation 0; where either region is all black, nothing changes.

Sums run in float32: one byte in 50,000 comes out one grey level off. `exact` takes float64, as the released code does.
"""

import cv2
import numpy as np

from pipeline.color_transfer.spaces import (
    BLOCK,
    FAINTEST,
    LMS_TO_RGB,
    LOG_LMS_TO_LALPHABETA,
    RGB_TO_LMS,
    affine,
    blocks,
    workspace,
)

SMALLEST_DEVIATION = 1e-5
# A steep ratio can throw an outlier anywhere. exp(LARGEST) is far outside any gamut, and sums of it are finite.
LARGEST = 80.0
# the logarithms of colours that aren't black lie between -9 and 0, and the offset of an affine map counts once
FARTHEST = np.array([9.0, 9.0, 9.0, 1.0])


def not_black(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N,): 255 where a colour of uint8 RGB (N, 3) isn't black, else 0."""
    return cv2.bitwise_not(cv2.inRange(pixels[None], (0, 0, 0), (0, 0, 0)))[0]


def statistics(pixels: np.ndarray, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray, bool]:
    """Mean and standard deviation (N - 1), both float64 (3,), in l-alpha-beta of natural logarithms; any black pixel?

    pixels: uint8 RGB (N, 3), not all black; dtype: of the sums. The workspace is left with the logarithms of the last
    block.
    """
    colors = workspace(dtype)
    may_be_black = pixels.min() == 0
    count = 0
    mean, squares = np.zeros(3), np.zeros(3)
    for block in blocks(pixels):
        here, valid = len(pixels[block]), None
        colors.load(pixels[block]).transform(RGB_TO_LMS)
        if may_be_black and colors.values.min() < 2 * FAINTEST:
            valid = not_black(pixels[block])
            here = cv2.countNonZero(valid)
        colors.log()
        if not here:
            continue
        here_mean, deviation = colors.measure(LOG_LMS_TO_LALPHABETA, valid)
        # a running mean and sum of squares, to which each block adds its own
        difference = here_mean - mean
        squares = squares + here * (deviation**2 + difference**2 * (count / (count + here)))
        count += here
        mean = mean + difference * (here / count)
    return mean, np.sqrt(squares / max(count - 1, 1)), count < len(pixels)


def recolor(pixels: np.ndarray, reference: np.ndarray, exact: bool = False) -> np.ndarray:
    """The target's colours with the reference's means and deviations.

    pixels: uint8 RGB (N, 3); reference: uint8 RGB (M, 3). Returns uint8 RGB (N, 3), in the order of `pixels`.
    """
    if not pixels.any() or not reference.any():
        return pixels.copy()

    dtype = np.float64 if exact else np.float32
    reference_mean, reference_deviation, _ = statistics(reference, dtype)
    mean, deviation, black = statistics(pixels, dtype)
    constant = deviation < SMALLEST_DEVIATION
    ratio = np.where(constant, 1.0, reference_deviation / np.where(constant, 1.0, deviation))
    # into l-alpha-beta, channel by channel there, and back: one affine map
    forth, back = LOG_LMS_TO_LALPHABETA, LOG_LMS_TO_LALPHABETA.T
    mapping = affine(back * ratio @ forth, back @ (reference_mean - ratio * mean))
    steep = black or (np.abs(mapping) @ FARTHEST).max() > LARGEST

    result = np.empty_like(pixels)
    colors = workspace(dtype)
    for block in blocks(pixels):
        if len(pixels) > BLOCK:  # or else the only block's logarithms are still there
            colors.load(pixels[block]).transform(RGB_TO_LMS).log()
        colors.transform(mapping)
        if steep:
            colors.clip(-LARGEST, LARGEST)
        colors.exp().transform(LMS_TO_RGB).store(result[block])
    return cv2.copyTo(result[None], not_black(pixels)[None])[0] if black else result
