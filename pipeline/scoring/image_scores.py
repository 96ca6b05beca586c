"""From a prediction as the network drew it to a row of metrics, for all three tasks in one place."""

import numpy as np

from pipeline.metrics import harmonization, inpainting, localization

# task: metrics of per_image.parquet that summaries and reports lead with, and whether more of it is better
HEADLINES = {
    "localization": {"ap": True, "f1": True, "iou": True},
    "harmonization": {"mse": False, "fmse": False, "psnr": True, "ssim": True, "fssim": True},
    "inpainting": {"ssim": True, "psnr": True, "l1": False},
}

# the metric by which the best epoch of a training is chosen
SELECTS = {"localization": "ap", "harmonization": "fmse", "inpainting": "psnr"}


def to_uint8(prediction: np.ndarray) -> np.ndarray:
    """Prediction in [0, 1], (C, H, W), to the nearest 8-bit value: (H, W, 3), or (H, W) for one channel."""
    rounded = np.clip(np.rint(prediction * 255.0), 0, 255).astype(np.uint8)
    return rounded[0] if rounded.shape[0] == 1 else np.ascontiguousarray(rounded.transpose(1, 2, 0))


def compose(task: str, prediction: np.ndarray, item: dict[str, np.ndarray]) -> np.ndarray:
    """What is scored and shown: uint8, with every pixel outside the mask or the hole taken from the input."""
    if task == "harmonization":
        return np.where(item["mask"][..., None], prediction, item["composite"])
    if task == "inpainting":
        return np.where(item["hole"][..., None], prediction, item["image"])
    return prediction


def score(task: str, prediction: np.ndarray, item: dict[str, np.ndarray]) -> dict[str, float]:
    """The metrics of one prediction (uint8, as saved) under the adopted protocol seam-256.

    Without ground truth (a harmonization item without "real") there is nothing to score: an empty dict.
    """
    if task == "localization":
        return localization.score(prediction / 255.0, item["mask"])
    composed = compose(task, prediction, item)
    if task == "inpainting":
        return inpainting.score(composed, item["image"])
    return harmonization.score(composed, item["real"], item["mask"]) if "real" in item else {}
