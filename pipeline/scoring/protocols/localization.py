"""Public evaluators of probability maps, as records: what differs between two of them is a field."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.metrics import localization as localization_metrics
from pipeline.metrics.inputs import check_probability
from pipeline.scoring.protocols.preparation import as_grey_mask, resize_mask
from pipeline.scoring.protocols.rows import SEAM, Row


@dataclass(frozen=True)
class Protocol:
    """How an evaluator of probability maps prepares mask and map."""

    name: str
    source: str
    mask_filter: Literal["area", "bilinear"]
    """How the mask comes to the map's size, before it is cut at half: OpenCV area, or Pillow bilinear."""
    stretched: bool
    """Whether the map is stretched to its own range first."""
    epsilon: float = 0.0
    """Added to the denominators of precision, recall, F1 and IoU."""
    empty_ap: float = math.nan
    """AP of an image whose mask is empty. NaN: excluded, and F1 and IoU with it."""
    caveat: str = ""
    """What sets the scores of predictions saved by inference apart from this evaluator's own; "" for nothing known."""


PROTOCOLS = (
    Protocol(SEAM, "the protocol that Seambench adopts", "area", stretched=False),
    Protocol("seam-256-minmax", "compatibility mode", "area", stretched=True),
    Protocol(
        "dirl",
        "bcmi/DIRL-Inharmonious-Region-Localization: evaluation/metrics.py (AP 0 of an empty mask is scikit-learn's)",
        "bilinear",
        stretched=True,
        epsilon=1e-6,
        empty_ap=0.0,
        caveat="its code resizes the network's input bilinear to 224 pixels and scores unrounded maps; saved ones are rounded to 8 bits",
    ),
)


def score(probability: np.ndarray, mask: np.ndarray, protocols: tuple[Protocol, ...] = PROTOCOLS) -> list[Row]:
    """Score one probability map under every protocol: ap, f1, iou, precision, recall.

    probability: uint8 (0..255) as saved, or float in [0, 1], (H, W), at the size to score at. mask: uint8 (0..255) or
    bool, at original resolution. Thresholds are 0.5, strictly above. Raises ValueError, one line, for other dtypes or
    sizes, NaN, or values outside [0, 1].
    """
    if isinstance(probability, np.ndarray) and probability.dtype == np.uint8:
        probability = probability / 255
    check_probability("probability", probability)
    mask = as_grey_mask(mask)
    rows = []
    for protocol in protocols:
        foreground = _half(mask, probability.shape, protocol.mask_filter)
        shown = localization_metrics.stretch(probability) if protocol.stretched else probability
        rows += [Row(protocol.name, *score) for score in _scores(protocol, shown, foreground).items()]
    return rows


def _scores(protocol: Protocol, probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    if not mask.any() and math.isnan(protocol.empty_ap):
        return dict.fromkeys(("ap", "f1", "iou", "precision", "recall"), math.nan)
    ap = localization_metrics.average_precision(probability, mask) if mask.any() else protocol.empty_ap
    detected = probability > 0.5
    if not protocol.epsilon:
        return {"ap": ap, **localization_metrics.at_threshold(detected, mask)}
    both, positives, foreground = (float(np.count_nonzero(region)) for region in (detected & mask, detected, mask))
    precision, recall = both / (positives + protocol.epsilon), both / (foreground + protocol.epsilon)
    return {
        "ap": ap,
        "f1": 2 * precision * recall / (precision + recall + protocol.epsilon),
        "iou": both / (positives + foreground - both + protocol.epsilon),
        "precision": precision,
        "recall": recall,
    }


def _half(mask: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """The mask at `size`, bool: half of a pixel's area or more (area), more than half of 255 (bilinear)."""
    if kind == "area":
        share = cv2.resize((mask >= 128).astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
        return share >= 0.5
    return resize_mask(mask, size, "bilinear") > 0.5
