"""Transfer of mean and covariance in correlated RGB.

Xiao and Ma, "Color Transfer in Correlated Color Space", 2006, as iHarmony4's released code has it: x' = mu2 + U2
diag(sqrt(s2 / s1)) U1^T (x - mu1), where 1 is the target, 2 the reference and U diag(s) U^T a covariance (N - 1).
Departure: eigenvectors have no sign of their own, and the released code takes those that come out, which mirrors
colour axes (two of three in its own sample). Here each axis of the reference points along its partner of the target.
Guards for regions without spread along an axis: eigenvalues are at least 1e-6, stretching is at most tenfold.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.color_transfer.spaces import HALF, affine, convert

SMALLEST_EIGENVALUE = 1e-6
LARGEST_STRETCH = 10.0
ALIGNED = (1, 1, 1)
# what MATLAB's eigenvectors came to in the released sample; other libraries give others
RELEASED = (-1, -1, 1)


def statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64 (3,) and covariance float64 (3, 3), N - 1, of uint8 RGB (N, 3), N >= 2."""
    red, green, blue = planes = np.ascontiguousarray(pixels.T, dtype=np.float64)
    # sums of 8-bit integers and of their products are exact in float64, whatever the order of adding
    total = planes.sum(axis=1)
    rr, gg, bb, rg, rb, gb = red @ red, green @ green, blue @ blue, red @ green, red @ blue, green @ blue
    products = np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])
    count = len(pixels)
    return total / count, (products - np.outer(total, total) / count) / (count - 1)


def mapping(
    pixels: np.ndarray, reference: np.ndarray, signs: Sequence[int] = ALIGNED, largest_stretch: float = LARGEST_STRETCH
) -> np.ndarray:
    """The transfer x' = A x + b as float64 (3, 4): A in the first three columns, b in the last.

    pixels: uint8 RGB (N, 3), N >= 2; reference: uint8 RGB (M, 3), M >= 2; signs: those of the products of partner
    eigenvectors, each 1 or -1, by ascending eigenvalue.
    """
    target_mean, target_covariance = statistics(pixels)
    reference_mean, reference_covariance = statistics(reference)
    target_values, target_axes = np.linalg.eigh(target_covariance)
    reference_values, reference_axes = np.linalg.eigh(reference_covariance)

    opposed = (target_axes * reference_axes).sum(axis=0) < 0
    reference_axes = reference_axes * np.where(opposed, -1, 1) * signs
    stretch = np.sqrt(
        np.maximum(reference_values, SMALLEST_EIGENVALUE) / np.maximum(target_values, SMALLEST_EIGENVALUE)
    )
    matrix = (reference_axes * np.minimum(stretch, largest_stretch)) @ target_axes.T
    return affine(matrix, reference_mean - matrix @ target_mean)


def recolor(
    pixels: np.ndarray, reference: np.ndarray, signs: Sequence[int] = ALIGNED, largest_stretch: float = LARGEST_STRETCH
) -> np.ndarray:
    """The target's colours with the reference's mean and covariance.

    Arguments as for `mapping`. Returns uint8 RGB (N, 3), in the order of `pixels`.
    """
    return convert(pixels, mapping(pixels, reference, signs, largest_stretch) + [0, 0, 0, HALF])
