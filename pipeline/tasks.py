"""The three tasks and their metrics: one record each, which everything else reads.

A new column of results/<task>/per_image.parquet is a function in pipeline/metrics/<task>.py and a record in METRICS here.
Tables, training, charts and pages take names, direction and decimals from the record.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """What is known of one metric, whichever task uses it."""

    name: str
    """The column in tables."""
    label: str
    """How pages and printed tables write it."""
    decimals: int
    higher_is_better: bool
    meaning: str
    """One line for a reader who sees it for the first time."""


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "ap",
            "AP",
            3,
            True,
            "average precision over the pixels of an image, the area under its precision-recall curve",
        ),
        Metric(
            "ap_inverted",
            "AP of the inverse",
            3,
            False,
            "AP of 1 - p, a control: near AP where a map marks contrast and not the region",
        ),
        Metric("f1", "F1", 3, True, "harmonic mean of precision and recall of the pixels above 0.5"),
        Metric("iou", "IoU", 3, True, "intersection over union of the pixels above 0.5 and the mask"),
        Metric("precision", "precision", 3, True, "share of the pixels above 0.5 that lie in the mask"),
        Metric("recall", "recall", 3, True, "share of the mask's pixels that are above 0.5"),
        Metric("f1_minmax", "F1 (min-max)", 3, True, "F1 of the map stretched to the range 0 to 1 of its own values"),
        Metric(
            "iou_minmax", "IoU (min-max)", 3, True, "IoU of the map stretched to the range 0 to 1 of its own values"
        ),
        Metric("precision_minmax", "precision (min-max)", 3, True, "precision of the map stretched to its own range"),
        Metric("recall_minmax", "recall (min-max)", 3, True, "recall of the map stretched to its own range"),
        Metric(
            "auc",
            "AUC",
            3,
            True,
            "area under the ROC curve of an image's pixels: how often a pixel in the mask has the higher value",
        ),
        Metric(
            "f1_val",
            "F1 (own threshold)",
            3,
            True,
            "F1 at the method's own threshold, the best one on validation images",
        ),
        Metric(
            "iou_val",
            "IoU (own threshold)",
            3,
            True,
            "IoU at the method's own threshold, the best one on validation images",
        ),
        Metric("mse", "MSE", 1, False, "mean squared error over all pixels and channels, on the scale 0 to 255"),
        Metric("fmse", "fMSE", 1, False, "mean squared error over the foreground alone, on the scale 0 to 255"),
        Metric("psnr", "PSNR", 2, True, "peak signal-to-noise ratio in dB, at most 100"),
        Metric("ssim", "SSIM", 4, True, "structural similarity, Gaussian window of 11 pixels"),
        Metric("fssim", "fSSIM", 4, True, "the structural similarity map's mean over the foreground"),
        Metric(
            "fssim_iih",
            "fSSIM (IIH)",
            4,
            True,
            "fSSIM with the constants of IIH's evaluator, meant for images in 0 to 1",
        ),
        Metric("l1", "L1", 4, False, "mean absolute error over all pixels and channels, on the scale 0 to 1"),
        Metric(
            "ssim_ec",
            "SSIM (EdgeConnect)",
            4,
            True,
            "structural similarity of grey images in a uniform window of 51 pixels",
        ),
        Metric(
            "lpips",
            "LPIPS",
            4,
            False,
            "learned perceptual image patch similarity: distance of two pictures in a network's features",
        ),
        Metric(
            "fid",
            "FID",
            2,
            False,
            "Fréchet Inception distance between all predictions and all real pictures, each a normal distribution",
        ),
    )
}


@dataclass(frozen=True)
class Task:
    """What sets one task apart from the others. Keys of a batch are named as in models/base.py."""

    name: str
    trains_on: Literal["composites", "photographs"]
    """composites: sub-datasets with masks. photographs: a source, and irregular masks."""
    picture: str
    """Key of the picture that a method is given."""
    region: str | None
    """Key of the mask that a method is given beside it, or None. Pixels outside it count as the picture has them."""
    truth: str
    """Key of what a prediction is compared with."""
    metrics: tuple[str, ...]
    """Metrics that summaries and pages show, in their order."""
    leading: str
    """The metric that chooses the best epoch and orders methods."""
    shown_first: str
    """The metric under most protocols; its table of protocols is shown open."""
    shown_beside: tuple[str, ...]
    """Metrics in a second table of means: other readings of the same predictions."""
    at_own_threshold: tuple[str, ...]
    """Metrics of maps at the threshold that is chosen for each method on validation images; none where predictions are
    pictures."""
    charted: tuple[str, ...]
    """Metrics whose breakdown by size is drawn."""
    seam_metrics: tuple[str, ...]
    """Metrics in the rows of the protocol seam-256."""
    perceptual: tuple[Literal["lpips", "fid"], ...]
    """Metrics that need published weights (pipeline/scoring/perceptual.py); none where a prediction is no picture."""
    described_by: tuple[str, ...]
    """Columns of per_image.parquet that say what kind of image a row is."""
    size_column: str
    """Column of the breakdowns that says how much of the image is at stake."""
    size_bins: tuple[float, ...] | None
    """Edges of that column's bins of foreground_ratio, or None where the data have the column themselves."""
    kinds: tuple[str, ...]
    """Further columns by which means are broken down."""
    photograph: str
    """Column of the data that names the photograph an item is of."""
    verb: str
    """What is done to the region, for messages: "nothing to fill"."""

    @property
    def compared_tables(self) -> tuple[str, ...]:
        """Tables of results/<task>/ whose means are held against printed ones; by bucket where papers print them so."""
        return ("summary", "intervals") if self.size_bins else ("summary", "intervals", "breakdowns")


TASKS = {
    task.name: task
    for task in (
        Task(
            name="localization",
            trains_on="composites",
            picture="composite",
            region=None,
            truth="mask",
            metrics=("ap", "f1", "iou"),
            leading="ap",
            shown_first="f1",
            shown_beside=("auc", "f1", "f1_val", "f1_minmax", "iou", "iou_val", "iou_minmax", "ap_inverted"),
            at_own_threshold=("f1_val", "iou_val"),
            charted=("ap", "iou"),
            seam_metrics=("ap", "f1", "iou", "precision", "recall"),
            perceptual=(),
            described_by=("foreground_ratio", "category", "transfer", "simulated"),
            size_column="foreground_share",
            # the field's bins end at 0.50 (the le50 lists); what is above, if it is let in, stands apart
            size_bins=(0.0, 0.05, 0.15, 0.30, 0.50, 1.0),
            kinds=("category", "transfer"),
            photograph="source_image",
            verb="find",
        ),
        Task(
            name="harmonization",
            trains_on="composites",
            picture="composite",
            region="mask",
            truth="real",
            metrics=("mse", "fmse", "psnr", "ssim", "fssim"),
            leading="fmse",
            shown_first="psnr",
            shown_beside=(),
            at_own_threshold=(),
            charted=("fmse", "psnr"),
            seam_metrics=("mse", "psnr", "fmse", "ssim", "fssim", "fssim_iih"),
            perceptual=("lpips", "fid"),
            described_by=("foreground_ratio", "category", "transfer", "simulated"),
            size_column="foreground_share",
            size_bins=(0.0, 0.05, 0.15, 1.0),
            kinds=("category", "transfer"),
            photograph="source_image",
            verb="harmonize",
        ),
        Task(
            name="inpainting",
            trains_on="photographs",
            picture="image",
            region="hole",
            truth="image",
            metrics=("ssim", "psnr", "l1"),
            leading="psnr",
            shown_first="ssim",
            shown_beside=(),
            at_own_threshold=(),
            charted=("ssim", "psnr", "l1"),
            seam_metrics=("ssim", "psnr", "l1"),
            perceptual=("lpips", "fid"),
            described_by=("hole_ratio", "hole_ratio_bucket"),
            size_column="hole_ratio_bucket",
            size_bins=None,
            kinds=(),
            photograph="image_id",
            verb="fill",
        ),
    )
}


def compose(task: str, prediction: np.ndarray, item: dict[str, np.ndarray]) -> np.ndarray:
    """What is scored and shown of a prediction: every pixel outside the mask or the hole is taken from the input.

    prediction: uint8 (H, W, 3), or (H, W) in localization, which has no region and is returned as it is.
    item: the arrays of one image by key; masks are bool (H, W), True = in.
    """
    known = TASKS[task]
    if known.region is None:
        return prediction
    return np.where(item[known.region][..., None], prediction, item[known.picture])


def shown_input(task: str, item: dict[str, np.ndarray]) -> np.ndarray:
    """What a page shows as a method's input: the composite, or the photograph with its hole in grey. Arrays as in `compose`."""
    known = TASKS[task]
    picture = item[known.picture]
    if known.region is not None and known.truth == known.picture:  # what is asked for must not be shown
        return np.where(item[known.region][..., None], np.uint8(128), picture)
    return picture


def share_touched(task: str, prediction: np.ndarray, item: dict[str, np.ndarray]) -> float:
    """Which share of the pixels outside the mask or the hole, 0 to 1, a prediction changed in any channel; 0 where the
    region is everything. Arrays as in `compose`, of a task that has a region."""
    known = TASKS[task]
    assert known.region is not None  # as asked for above
    outside = ~item[known.region]
    changed = (prediction != item[known.picture]).any(axis=2)
    return float(changed[outside].mean()) if outside.any() else 0.0
