"""How close a filled image comes to the photograph (protocol `seam-256`, docs/protocol.md)."""

import math

import cv2
import numpy as np

from pipeline.metrics import ssim as structural
from pipeline.metrics.inputs import check_image, check_same_size

METRICS = ("ssim", "psnr", "l1", "ssim_ec")

PSNR_CAP = 100.0
"""dB; the PSNR of identical images, and the most that any image gets."""

EDGECONNECT_WINDOW = 51
EDGECONNECT_MEAN = structural.uniform_mean(EDGECONNECT_WINDOW // 2)

LUMA = np.array([[0.2125, 0.7154, 0.0721]])
"""Weights of R, G, B in scikit-image's `rgb2gray`, which EdgeConnect's script uses."""


def score(prediction: np.ndarray, real: np.ndarray, edgeconnect: bool = True) -> dict[str, float]:
    """Score one filled image; prediction and real are uint8 RGB (H, W, 3). Without `edgeconnect` there is no ssim_ec.

    ssim     equals skimage.metrics.structural_similarity(real / 255, prediction / 255, data_range=1,
             channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    psnr     10 log10(1 / MSE over all pixels and channels on the [0, 1] scale) in dB, capped at 100
    l1       mean absolute difference over all pixels and channels on the [0, 1] scale
    ssim_ec  as EdgeConnect's script: grey images, uniform 51x51 window, sample covariance

    Edges: identical images have ssim 1, psnr 100, l1 0. Constant images are no special case. With a side below
    51 pixels EdgeConnect's window does not fit and ssim_ec is NaN: excluded from means, and counted.

    Raises ValueError, one line, for another dtype or size, or a side below SSIM's window of 11 pixels.
    """
    check_image("prediction", prediction)
    check_image("real", real)
    check_same_size("prediction", prediction, "real", real)
    shortest = min(real.shape[:2])
    if shortest < structural.WINDOW:
        raise ValueError(f"prediction and real have a side of {shortest}, SSIM needs at least {structural.WINDOW}")
    difference = cv2.absdiff(prediction, real)
    mse = float(np.multiply(difference, difference, dtype=np.uint16).mean()) / 255**2
    (similarity,) = structural.maps(prediction, real, structural.CONSTANTS_255)
    inside = slice(structural.RADIUS, -structural.RADIUS)
    scores = {
        "ssim": float(similarity[inside, inside].mean()),
        "psnr": PSNR_CAP if mse == 0 else min(PSNR_CAP, -10 * math.log10(mse)),
        "l1": float(difference.mean()) / 255,
    }
    return scores | {"ssim_ec": edgeconnect_ssim(prediction, real)} if edgeconnect else scores


def edgeconnect_ssim(prediction: np.ndarray, real: np.ndarray) -> float:
    """skimage's structural_similarity(grey, grey, data_range=1, win_size=51) of uint8 RGB; NaN below 51 pixels."""
    if min(real.shape[:2]) < EDGECONNECT_WINDOW:
        return math.nan
    count = EDGECONNECT_WINDOW**2
    c1, c2 = structural.CONSTANTS_255
    (similarity,) = structural.similarity(
        grey(prediction), grey(real), EDGECONNECT_MEAN, [(c1, c2 * (count - 1) / count)]
    )
    inside = slice(EDGECONNECT_WINDOW // 2, -(EDGECONNECT_WINDOW // 2))
    return float(similarity[inside, inside].mean())


def grey(image: np.ndarray) -> np.ndarray:
    """255 times scikit-image's rgb2gray of a uint8 RGB image: float64 (H, W) in 0..255."""
    return cv2.transform(image.astype(np.float64), LUMA)
