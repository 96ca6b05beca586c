"""How well a probability map finds the pasted region (protocol `seam-256`, docs/protocol.md).

AP is scikit-learn's `average_precision_score` over the pixels of one image; F1 and IoU are taken at 0.5 (strictly
above) of the map as it is (`f1`, `iou`) and of the map stretched to its own range (`f1_minmax`, `iou_minmax`), the
convention of the public code (DIRL), kept for comparison with printed tables. `ap_inverted` is the AP of 1 - p, a
control: a method whose inverse scores as well as itself has found a contrast, not the foreground. `auc` is the area
under the ROC curve of the pixels of one image. `f1_val` and `iou_val` are taken at the method's own threshold, the one of
best mean F1 on validation images (pipeline/scoring/thresholds.py).
"""

import numpy as np

from pipeline.metrics.inputs import check_mask, check_probability, check_same_size

METRICS = (
    "ap",
    "ap_inverted",
    "f1",
    "iou",
    "precision",
    "recall",
    "f1_minmax",
    "iou_minmax",
    "precision_minmax",
    "recall_minmax",
    "auc",
    "f1_val",
    "iou_val",
)


LEVELS = 256
"""Values that an 8-bit map can have, and thresholds of its curves."""


def score(probability: np.ndarray, mask: np.ndarray, threshold: float | None = None) -> dict[str, float]:
    """Score one probability map; every value is in [0, 1], larger is better (but for the control, ap_inverted).

    probability: float (H, W) in [0, 1], 1 = inharmonious foreground. mask: bool (H, W), True = foreground. threshold: the
    method's own, in [0, 1]; without one `f1_val` and `iou_val` are NaN.

    Edges: with an empty mask there is nothing to find, and every value is NaN: excluded from means, and counted
    (the exclusion depends on the mask alone, so all models keep the same images). With a mask that fills the image
    both APs are 1 for every map, and `auc` is NaN: there is no background to tell apart. A constant map has both APs = foreground share; raw, it is all foreground above 0.5 and empty
    otherwise; stretched, it is empty. An empty prediction has precision 0, as in scikit-learn.

    Raises ValueError, one line, for another dtype or size, NaN, or values outside [0, 1].
    """
    check_probability("probability", probability)
    check_mask("mask", mask)
    check_same_size("probability", probability, "mask", mask)
    if not mask.any():
        return dict.fromkeys(METRICS, float("nan"))
    raw = at_threshold(probability > 0.5, mask)
    stretched = at_threshold(stretch(probability) > 0.5, mask)
    at_own = (
        dict.fromkeys(("f1", "iou"), float("nan")) if threshold is None else at_threshold(probability > threshold, mask)
    )
    ap, ap_inverted = _average_precisions(probability, mask)
    return {
        "ap": ap,
        "ap_inverted": ap_inverted,
        "f1": raw["f1"],
        "iou": raw["iou"],
        "precision": raw["precision"],
        "recall": raw["recall"],
        **{f"{name}_minmax": value for name, value in stretched.items()},
        "auc": area_under_roc(probability, mask),
        **{f"{name}_val": at_own[name] for name in ("f1", "iou")},
    }


def area_under_roc(probability: np.ndarray, mask: np.ndarray) -> float:
    """The probability that a foreground pixel has a higher value than a background pixel, a tie counting half: the area
    under the ROC curve. NaN where the mask is empty or fills the image."""
    if not mask.any() or mask.all():
        return float("nan")
    levels = eight_bit_levels(probability)
    if levels is None:
        levels = np.unique(probability, return_inverse=True)[1].reshape(mask.shape)
    of_all = np.bincount(levels.ravel())
    foreground = np.bincount(levels[mask], minlength=of_all.size)
    background = of_all - foreground
    # twice the pairs that a value wins: the background below it in full, that of its own value by half
    won = 2 * np.cumsum(background) - background
    return float(np.dot(foreground, won) / (2 * foreground.sum() * background.sum()))


def curve(levels: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What an 8-bit map scores at every threshold: precision, recall, false_positive_rate, f1 and iou, each float64 (256,).

    levels: uint8 (H, W). Entry t is of the pixels strictly above level t (the threshold t / 255), so the last one is of
    none, with precision 0. mask: bool (H, W), not empty; where it fills the image false_positive_rate is NaN.
    """
    of_foreground, of_all = np.bincount(levels[mask], minlength=LEVELS), np.bincount(levels.ravel(), minlength=LEVELS)
    hits, positives = (np.cumsum(counts[::-1])[::-1] - counts for counts in (of_foreground, of_all))
    foreground, pixels = int(of_foreground.sum()), levels.size
    with np.errstate(invalid="ignore", divide="ignore"):
        false_positive_rate = (positives - hits) / np.float64(pixels - foreground)
    return {
        "precision": hits / np.maximum(positives, 1),
        "recall": hits / foreground,
        "false_positive_rate": false_positive_rate,
        "f1": 2 * hits / (positives + foreground),
        "iou": hits / (positives + foreground - hits),
    }


def average_precision(probability: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the foreground pixels of the precision at each one's value: the share of foreground among all pixels
    whose value is at least as high.

    It equals the sum over distinct values, from high to low, of recall step times precision: no interpolation, and
    pixels of equal value enter together. Needs a mask that is not empty.
    """
    return _average_precisions(probability, mask)[0]


def _average_precisions(probability: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """AP of the map, and of the map turned upside down (the order of its values reversed)."""
    levels = eight_bit_levels(probability)
    if levels is not None:
        foreground, pixels = np.bincount(levels[mask], minlength=256), np.bincount(levels.ravel(), minlength=256)
        return _of_counts(foreground[::-1], pixels[::-1]), _of_counts(foreground, pixels)
    pixels, foreground = np.sort(probability, axis=None), np.sort(probability[mask])
    above = foreground.size - np.searchsorted(foreground, foreground), pixels.size - np.searchsorted(pixels, foreground)
    below = np.searchsorted(foreground, foreground, "right"), np.searchsorted(pixels, foreground, "right")
    return float(np.mean(above[0] / above[1])), float(np.mean(below[0] / below[1]))


def _of_counts(foreground: np.ndarray, pixels: np.ndarray) -> float:
    """AP from the numbers of foreground pixels and of all pixels at each value, best value first."""
    precision = np.cumsum(foreground) / np.maximum(np.cumsum(pixels), 1)
    return float(np.dot(foreground, precision) / foreground.sum())


def eight_bit_levels(probability: np.ndarray) -> np.ndarray | None:
    """The map as uint8 if every value is a level / 255 in its own dtype (counting then replaces sorting), else None."""
    real = probability.dtype.type
    levels = np.rint(probability * real(255)).astype(np.uint8)
    return levels if np.array_equal((np.arange(256) / 255).astype(real)[levels], probability) else None


def stretch(probability: np.ndarray) -> np.ndarray:
    """The map stretched to its own range, float64; a range below 0.01 is only shifted to start at 0."""
    shifted = probability.astype(np.float64) - float(probability.min())
    spread = shifted.max()
    return shifted if spread < 0.01 else shifted / spread


def at_threshold(predicted: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """F1, IoU, precision and recall of a bool (H, W) decision against a mask that is not empty."""
    true_positives = int(np.count_nonzero(predicted & mask))
    positives, foreground = int(np.count_nonzero(predicted)), int(np.count_nonzero(mask))
    return {
        "f1": 2 * true_positives / (positives + foreground),
        "iou": true_positives / (positives + foreground - true_positives),
        "precision": true_positives / positives if positives else 0.0,
        "recall": true_positives / foreground,
    }
