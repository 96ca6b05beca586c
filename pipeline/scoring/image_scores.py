"""From a prediction as the network drew it to a row of metrics, for all three tasks in one place."""

from collections.abc import Callable

import numpy as np

from pipeline.metrics import harmonization, inpainting, localization
from pipeline.tasks import compose


def _localization(prediction: np.ndarray, item: dict[str, np.ndarray], threshold: float | None) -> dict[str, float]:
    return localization.score(prediction / 255.0, item["mask"], threshold)


def _harmonization(prediction: np.ndarray, item: dict[str, np.ndarray], threshold: float | None) -> dict[str, float]:
    if "real" not in item:  # a real composite, whose truth nobody knows
        return {}
    return harmonization.score(compose("harmonization", prediction, item), item["real"], item["mask"])


def _inpainting(prediction: np.ndarray, item: dict[str, np.ndarray], threshold: float | None) -> dict[str, float]:
    return inpainting.score(compose("inpainting", prediction, item), item["image"])


SCORES: dict[str, Callable[..., dict[str, float]]] = {
    "localization": _localization,
    "harmonization": _harmonization,
    "inpainting": _inpainting,
}


def score(
    task: str, prediction: np.ndarray, item: dict[str, np.ndarray], threshold: float | None = None
) -> dict[str, float]:
    """The metrics of one prediction (uint8, as saved) under the adopted protocol seam-256. threshold: the method's own, in
    localization (pipeline/scoring/thresholds.py).

    Without ground truth (a harmonization item without "real") there is nothing to score: an empty dict.
    """
    return SCORES[task](prediction, item, threshold)
