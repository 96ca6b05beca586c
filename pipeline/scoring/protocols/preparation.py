"""What the evaluators of all tasks do to pictures and masks before they score: resizing, pasting, storing."""

import io
import math

import cv2
import numpy as np
from PIL import Image

from pipeline.metrics.harmonization import PSNR_CAP
from pipeline.metrics.inputs import check_image


def as_levels(prediction: np.ndarray) -> np.ndarray:
    """A prediction (H, W, 3) in 0..255: uint8 as it is, float in [0, 1] as float64."""
    if isinstance(prediction, np.ndarray) and prediction.dtype in (np.float32, np.float64) and prediction.ndim == 3:
        if prediction.shape[2] != 3 or not (prediction.min() >= 0 and prediction.max() <= 1):
            raise ValueError(f"prediction of shape {prediction.shape} is not RGB with every value in [0, 1]")
        return prediction.astype(np.float64) * 255
    check_image("prediction", prediction)
    return prediction


def as_grey_mask(mask: np.ndarray) -> np.ndarray:
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8) or mask.size == 0:
        raise ValueError("mask is not a bool or uint8 array of shape (height, width)")
    return mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask


def resize_image(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """uint8 RGB at `size` = (height, width), rounded to 8 bits as every evaluator does."""
    return image if image.shape[:2] == tuple(size) else _resize(image, size, kind)


def resize_mask(mask: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """The mask (uint8) at `size` as weights in [0, 1]; binary for nearest and dither."""
    if kind == "nearest":
        mask = (mask >= 128).astype(np.uint8) * 255
    if kind == "dither":
        bits = Image.fromarray(mask).convert("1")
        return np.asarray(bits.resize(size[::-1], Image.Resampling.NEAREST), dtype=np.float64)
    if kind == "opencv":
        return cv2.resize(mask.astype(np.float64) / 255, size[::-1], interpolation=cv2.INTER_LINEAR)
    return (mask if mask.shape == tuple(size) else _resize(mask, size, kind)) / 255


def _resize(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    if kind == "opencv":
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling[kind.upper()]))


def paste(drawn: np.ndarray, behind: np.ndarray, weight: np.ndarray, hard: bool) -> np.ndarray:
    """`drawn` where the weight is 1, `behind` where it is 0: of the type of `drawn` if the mask is hard, else float64."""
    if hard:
        return np.where(weight[..., None] > 0, drawn, behind)
    return behind + (drawn.astype(np.float64) - behind) * weight[..., None]


def as_stored(image: np.ndarray, kind: str) -> np.ndarray:
    """(H, W, 3) in 0..255 as an evaluator stores it before it looks: uint8, or for "float" as it comes."""
    if image.dtype != np.uint8 and kind != "float":
        image = (np.rint(image) if kind == "nearest" else np.floor(image)).astype(np.uint8)
    return through_jpeg(image) if kind == "jpeg" else image


def through_jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100)
    return np.asarray(Image.open(file))


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum())
    return float((values * weight).sum() / total) if total else math.nan


def peak_signal_to_noise(mse: float, peak: float, epsilon: float) -> float:
    if math.isnan(mse) or peak == 0:
        return math.nan
    if mse + epsilon == 0:
        return PSNR_CAP
    value = 10 * math.log10(peak**2 / (mse + epsilon))
    return value if epsilon else min(PSNR_CAP, value)
