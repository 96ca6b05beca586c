"""What each column of the tables in results/ means, in a line; metrics take theirs from their records.

docs/tables.md and the report's dictionary are written from here (`python -m commands.columns`).
"""

from pipeline.tasks import METRICS, TASKS

TABLES = {
    "per_image": "One row per method and image: its scores.",
    "summary": 'One row per method, split and sub-dataset, and for "All": the means.',
    "intervals": "One row per method, sub-dataset and metric: the mean on test images and its interval.",
    "differences": "One row per two methods, sub-dataset and metric: the paired difference.",
    "differences_by_size": "The paired differences by how much of the image is at stake.",
    "ranks": "One row per method, sub-dataset and metric: the ranks that the data allow.",
    "breakdowns": "Means on test images by one property of the image.",
    "curves": "Localization: one row per method, sub-dataset, split and threshold: means over images.",
    "protocols": "The same predictions scored as public evaluation codes score them.",
    "perceptual": "Harmonization and inpainting: LPIPS and FID by published weights, or why there are none.",
    "samples": "Methods that draw several answers for a hole (inference.samples): scores of the first, the best and their mean.",
}
"""Tables of results/<task>/ and what a row of each is."""

MEANINGS = {
    "task": "localization, harmonization or inpainting",
    "model": "the method, by its name in params.yaml",
    "subset": 'sub-dataset that the image is of; "All" pools the images of all of them',
    "split": "test, or the name of a further test set, or a side in pixels at which all was predicted anew",
    "image_id": "the image, by its name in its data set",
    "photograph": "photograph that the image was made from; bootstrap resamples draw photographs, not images",
    "foreground_ratio": "share of the image's pixels that lie in the mask, 0 to 1",
    "category": "category of the pasted object, where the source knows one",
    "transfer": "colour transfer that made the composite",
    "simulated": "of an image: whether a camera model made it in place of a real rendition or moment; of a mean: the share of such images",
    "hole_ratio": "share of the image's pixels that lie in the hole, 0 to 1",
    "hole_ratio_bucket": "range of hole_ratio in percent",
    "background_touched": "share of the pixels outside the region that the method changed; they are scored as the input has them",
    "repeat": "which training of the network, each from a seed of its own; 1 where there is one, and of methods without training",
    "n_repeats": "trainings that the mean is over",
    "repeat_sd": "standard deviation (n - 1) of the trainings' means; missing where there is one",
    "n_images": "images that the mean is of",
    "n_parameters": "learned numbers of what predicts, discriminators left out; missing where nobody knows",
    "origin": "trained here, without weights, or which weights or pictures were brought along",
    "threshold": "of a localizer: its own, chosen on validation images, which f1_val and iou_val are taken at; of a curve: the row's",
    "threshold_from": "what the threshold was chosen on, or why there is none",
    "false_positive_rate": "share of the pixels outside the mask that are above the threshold",
    "n_excluded": "images left out because the metric is undefined there",
    "n_groups": "photographs that the images come from",
    "n": "images that entered the mean",
    "metric": "column of per_image that the row is about",
    "mean": "mean over images; of two methods: of the first's score less the second's",
    "low": "lower end of the interval of the mean (evaluation.confidence)",
    "high": "upper end of that interval",
    "p": "two-sided p-value of a difference of 0, by bootstrap",
    "first": "one of two methods; of several answers: the score of the first",
    "second": "the other method",
    "by": "property of the image that the row is about",
    "value": "value or range of that property",
    "first_low": "lower end of the interval of the first answer's mean",
    "first_high": "upper end of that interval",
    "best": "of several answers: the score of the best, chosen with the truth in hand",
    "best_low": "lower end of the interval of the best answer's mean",
    "best_high": "upper end of that interval",
    "mean_low": "of several answers: lower end of the interval of their mean score",
    "mean_high": "upper end of that interval",
    "n_samples": "answers that were drawn for each hole",
    "diversity": "mean absolute difference of two answers inside the hole, 0 to 1",
    "score": "LPIPS or FID of the row's images",
    "n_photographs": "photographs that the images come from",
    "n_resamples": "resamples that the interval rests on",
    "why_not": "why there is no score",
    "rank": "best rank of the method that paired differences allow, 1 = best",
    "rank_worst": "worst such rank; equal to rank where the method is tied with none",
    "protocol": "rules of one public evaluation code; seam-256 are this project's",
    "gap": "mean less the mean under seam-256, paired by image",
    "gap_low": "lower end of the gap's interval",
    "gap_high": "upper end of the gap's interval",
    "caveat": "what of the public code this can't repeat",
}
"""Column that is no metric: what it holds."""


def meaning(column: str) -> str:
    """What a column holds. Raises KeyError for a column that nobody described."""
    if column in MEANINGS:
        return MEANINGS[column]
    metric = METRICS[column]
    return f"{metric.label}: {metric.meaning}; {'higher' if metric.higher_is_better else 'lower'} is better"


def tasks_of(metric: str) -> list[str]:
    """Tasks whose tables have a metric as a column."""
    return [
        name
        for name, task in TASKS.items()
        if metric in (*task.metrics, *task.perceptual, *task.seam_metrics, *MORE.get(name, ()))
    ]


MORE = {
    "localization": (
        "ap_inverted",
        "precision",
        "recall",
        "f1_minmax",
        "iou_minmax",
        "precision_minmax",
        "recall_minmax",
        "auc",
        "f1_val",
        "iou_val",
    ),
    "inpainting": ("ssim_ec",),
}
"""Metrics that per_image.parquet has beyond those that a task leads with."""


def page() -> str:
    """docs/tables.md."""
    lines = ["# Tables and their columns", "", "Written by `python -m commands.columns`; not to be edited.", ""]
    lines += ["Each task has these tables in `results/<task>/`.", "", "| table | a row |", "| --- | --- |"]
    lines += [f"| `{name}.parquet` | {text} |" for name, text in TABLES.items()]
    lines += [
        "",
        "## Metrics",
        "",
        "| column | label | tasks | better | what it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric in METRICS.values():
        better = "higher" if metric.higher_is_better else "lower"
        lines.append(
            f"| `{metric.name}` | {metric.label} | {', '.join(tasks_of(metric.name))} | {better} | {metric.meaning} |"
        )
    lines += ["", "## Other columns", "", "| column | what it holds |", "| --- | --- |"]
    lines += [f"| `{name}` | {text} |" for name, text in MEANINGS.items()]
    return "\n".join(lines) + "\n"
