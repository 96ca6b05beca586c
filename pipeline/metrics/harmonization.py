"""How close a harmonized image comes to the real one (protocol `seam-256`, docs/protocol.md)."""

import math

import cv2
import numpy as np

from pipeline.metrics import ssim as structural
from pipeline.metrics.inputs import check_image, check_mask, check_same_size

METRICS = ("mse", "fmse", "psnr", "ssim", "fssim", "fssim_iih")

PSNR_CAP = 100.0
"""dB; the PSNR of identical images, and the most that any image gets."""


def score(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Score one harmonized image.

    prediction, real: uint8 RGB (H, W, 3). mask: bool (H, W), True = foreground.

    mse        mean squared difference over all pixels and channels, in squared grey levels (0..255 scale)
    fmse       the same over the foreground alone
    psnr       10 log10(255^2 / mse) in dB, capped at 100
    ssim       mean of the SSIM map (11x11 Gaussian, sigma 1.5, zero padding, constants for 255) over pixels, channels
    fssim      mean of that map over the foreground
    fssim_iih  the same with constants meant for images in 0..1, as IIH's evaluator has it

    Edges: identical images have psnr 100. An empty mask has no foreground: fmse, fssim and fssim_iih are NaN, that
    is, excluded from means and counted (this depends on the mask alone). A mask that fills the image gives
    fmse = mse and fssim = ssim. Constant images are no special case.

    Raises ValueError, one line, for another dtype or size.
    """
    check_image("prediction", prediction)
    check_image("real", real)
    check_mask("mask", mask)
    check_same_size("prediction", prediction, "real", real)
    check_same_size("prediction", prediction, "mask", mask)
    squared = squared_differences(prediction, real)
    mse = float(squared.mean())
    similarity, similarity_iih = structural.maps(prediction, real, structural.CONSTANTS_255, structural.CONSTANTS_1)
    area = int(np.count_nonzero(mask))
    return {
        "mse": mse,
        "fmse": float(squared[mask].mean()) if area else math.nan,
        "psnr": psnr(mse, 255.0),
        "ssim": float(similarity.mean()),
        "fssim": float(similarity[mask].mean()) if area else math.nan,
        "fssim_iih": float(similarity_iih[mask].mean()) if area else math.nan,
    }


def squared_differences(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared differences of two uint8 images (H, W, 3), exact in uint16, the same shape."""
    difference = cv2.absdiff(image, other)
    return np.multiply(difference, difference, dtype=np.uint16)


def psnr(mse: float, peak: float) -> float:
    """10 log10(peak^2 / mse) in dB, at most 100."""
    return PSNR_CAP if mse == 0 else min(PSNR_CAP, 10 * math.log10(peak**2 / mse))
