"""LPIPS and FID: how alike pictures are to networks that learnt to see. Neither rewards blur, as PSNR does.

Both names stand for numbers from certain published weights, so a file is used only when its SHA-256 is that of a
published one (`PUBLISHED`). Nothing is downloaded: the files are named in params.yaml (evaluation.perceptual), and LPIPS's
linear layers come with torchmetrics. Without weights there is no number, and perceptual.parquet says why.

LPIPS (Zhang et al. 2018, version 0.1) is a distance of two pictures of the same scene, mean over images; FID (Heusel et
al. 2017) is the distance of two sets of pictures, each seen as one normal distribution of Inception features.
"""

import functools
import hashlib
import importlib.util
import statistics as plain_statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from pipeline import repeats, seeds, tables
from pipeline.data import datasets
from pipeline.errors import ParameterError
from pipeline.scoring import statistics
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import TASKS

FEATURES = 2048
"""Numbers that Inception gives for a picture; FID's covariances have so many rows and columns."""

FID_RESAMPLES = 20
"""Most resamples of a FID: each is an SVD of up to 2048 x 2048 numbers. They give a standard deviation, not percentiles."""

IMAGE = ["model", "split", "image_id"]
"""Columns that name one prediction."""

METRIC_NAMES = {"lpips": "LPIPS", "fid": "FID"}

COLUMNS = {
    "task": str, "metric": str, "model": str, "by": str, "value": str, "split": str, "n_images": int, "n_photographs": int,
    "score": float, "low": float, "high": float, "n_resamples": int, "why_not": str,
}  # fmt: skip


class Published(NamedTuple):
    """A published weights file."""

    metric: str
    network: str
    """alex or vgg (LPIPS's backbones), inception (FID)."""
    usual_name: str


PUBLISHED = {
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02": Published(
        "lpips", "alex", "alexnet-owt-7be5be79.pth"
    ),
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0": Published("lpips", "vgg", "vgg16-397923af.pth"),
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": Published(
        "fid", "inception", "weights-inception-2015-12-05-6726825d.pth"
    ),
}
"""Files by SHA-256: torchvision's AlexNet and VGG-16 of ImageNet, and the Inception network of the TensorFlow FID."""

HEADS = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
"""SHA-256 of LPIPS 0.1's linear layers, as the torchmetrics wheel carries them."""


@dataclass(frozen=True)
class Weights:
    """A weights file that was checked against `PUBLISHED`."""

    metric: str
    network: str
    file: Path
    sha256: str

    @property
    def source(self) -> str:
        """What a table's metadata say of a column made with these weights."""
        heads = f"; linear layers 0.1 of sha256 {HEADS[self.network]}" if self.metric == "lpips" else ""
        return f"{self.network}, weights of sha256 {self.sha256}{heads}"


class Chosen(NamedTuple):
    """The weights that a run has; None: without that metric."""

    lpips: Weights | None
    fid: Weights | None

    @property
    def metadata(self) -> dict[str, str]:
        """For a table's metadata: each metric that has weights, and which."""
        return {weights.metric: weights.source for weights in self if weights is not None}


def choose(lpips: str | None, fid: str | None) -> Chosen:
    """The weights at the paths of evaluation.perceptual.lpips and .fid.

    Raises ParameterError, naming the parameter and the file, where it is missing or isn't a published one, and where a
    library lacks or has changed what the metric needs.
    """
    return Chosen(_checked("lpips", lpips), _checked("fid", fid))


def _checked(metric: str, path: str | None) -> Weights | None:
    if path is None:
        return None
    file, where = Path(path).absolute(), f"params.yaml: evaluation.perceptual.{metric} = {path!r}"
    expected = " or ".join(weights.usual_name for weights in PUBLISHED.values() if weights.metric == metric)
    if not file.is_file():
        raise ParameterError(
            f"{where}: no such file; expected {expected}, or null to do without {METRIC_NAMES[metric]}"
        )
    sha256 = _sha256(file)
    published = PUBLISHED.get(sha256)
    if published is None or published.metric != metric:
        raise ParameterError(
            f"{where}: sha256 {sha256} is not that of {expected}; other weights would give other numbers under the name {METRIC_NAMES[metric]}"
        )
    if metric == "lpips" and _sha256(_heads_file(published.network)) != HEADS[published.network]:
        raise ParameterError(
            f"{where}: torchmetrics brings other linear layers than those of LPIPS 0.1 ({_heads_file(published.network)})"
        )
    if metric == "fid":
        try:
            import torch_fidelity  # noqa: F401
        except ModuleNotFoundError:
            raise ParameterError(
                f"{where}: FID needs the package torch-fidelity; install it with `pip install torch-fidelity`"
            ) from None
    return Weights(metric, published.network, file, sha256)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _heads_file(network: str) -> Path:
    library = importlib.util.find_spec("torchmetrics")  # found, not imported: its import takes seconds
    assert library is not None and library.origin is not None  # a dependency of this project
    return Path(library.origin).parent / "functional/image/lpips_models" / f"{network}.pth"


# ---- what the networks see


def lpips(weights: Weights, prediction: np.ndarray, truth: np.ndarray) -> float:
    """LPIPS of two uint8 RGB pictures (H, W, 3) at their own size: 0 where they are the same, higher where they differ."""
    import torch

    network = _network(weights)
    first, second = (
        torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1 for picture in (prediction, truth)
    )
    with _same_sums_everywhere(), torch.inference_mode():
        return float(network(first, second))


def features(weights: Weights, picture: np.ndarray) -> np.ndarray:
    """Inception's features of one uint8 RGB picture (H, W, 3), which it sees at 299 x 299 pixels: float32 (FEATURES,)."""
    import torch

    with _same_sums_everywhere(), torch.inference_mode():
        return _network(weights)(torch.from_numpy(picture).permute(2, 0, 1)[None])[0][0].numpy()


class _same_sums_everywhere:
    """One thread: a sum over several depends on their number, and tables must not."""

    def __enter__(self):
        import torch

        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_):
        import torch

        torch.set_num_threads(self.threads)


@functools.cache
def _network(weights: Weights):
    """The network, once a process."""
    import torch

    if weights.metric == "fid":
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights.file)
        )
    # torchmetrics' public class downloads the backbone; the network below it takes a file that is here
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(net=cast(Literal["alex", "vgg"], weights.network), pnet_rand=True)
    backbone = torch.load(weights.file, map_location="cpu", weights_only=True)
    layers = {name: backbone[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()}
    network.net.load_state_dict(layers)
    return network.eval()


# ---- FID


def frechet_distance(predicted: np.ndarray, real: np.ndarray, counts: np.ndarray | None = None) -> float:
    """FID of two sets of features (n, d), of the same n items: squared distance of the means, plus the trace of
    S1 + S2 - 2 (S1 S2)^(1/2) with sample covariances S (division by n - 1). counts: how often each item counts, once
    without.

    The trace of the root is the sum of the singular values of A B^T, where S1 = A^T A and S2 = B^T B: no covariance
    is formed, and no complex root taken. Needs two items.
    """
    counts = np.ones(len(predicted)) if counts is None else counts
    kept, n = counts > 0, counts.sum()
    share = counts[kept, None] / n
    means, roots, total = [], [], 0.0
    for values in (predicted, real):
        values = values[kept].astype(np.float64)
        means.append((share * values).sum(axis=0))
        root = (values - means[-1]) * np.sqrt(share * n / (n - 1))
        total += float(np.square(root).sum())
        # the triangle of a QR decomposition has the same product with itself, in fewer rows
        roots.append(np.asarray(np.linalg.qr(root, mode="r")) if root.shape[0] > root.shape[1] else root)
    crossed = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + total - 2 * float(crossed))


class _Fid(NamedTuple):
    """One FID with its interval, for `fid_interval`."""

    predicted: np.ndarray
    real: np.ndarray
    photographs: np.ndarray
    resampling: Resampling


class FidInterval(NamedTuple):
    score: float
    low: float
    high: float
    n_resamples: int


def fid_interval(work: _Fid) -> FidInterval:
    """FID and the normal interval about it whose standard deviation is that over resamples of the photographs.

    Percentiles of the resamples would lie above the estimate, often without it: a resample has fewer different pictures,
    and FID grows as they become fewer. Their spread doesn't have that fault. With fewer than two photographs there is no
    interval (NaN). All methods see the same resamples.
    """
    score = frechet_distance(work.predicted, work.real)
    names, codes = np.unique(work.photographs, return_inverse=True)
    many = min(work.resampling.resamples, FID_RESAMPLES)
    if len(names) < 2 or many < 2:
        return FidInterval(score, np.nan, np.nan, 0)
    resampled = []
    for number in range(many):
        drawn = seeds.rng(work.resampling.seed, "FID", number).integers(len(names), size=len(names))
        counts = np.bincount(drawn, minlength=len(names))[codes].astype(np.float64)
        if counts.sum() > 1:
            resampled.append(frechet_distance(work.predicted, work.real, counts))
    half = plain_statistics.NormalDist().inv_cdf((1 + work.resampling.level) / 2) * float(np.std(resampled, ddof=1))
    return FidInterval(score, max(0.0, score - half), score + half, len(resampled))


# ---- the table


class Seen(NamedTuple):
    """Inception's features of every prediction and its truth, rows as in `about`."""

    about: pd.DataFrame
    """At least the columns IMAGE."""
    predicted: np.ndarray
    real: np.ndarray


def table(
    task: str,
    scores: pd.DataFrame,
    chosen: Chosen,
    minimum: int,
    resampling: Resampling,
    see: Callable[[Weights], Seen],
    spread: Callable[[Callable, list], Iterable] = map,
) -> pd.DataFrame:
    """perceptual.parquet: a row per metric, split, model and set of images with the columns COLUMNS.

    by, value: "subset" and a sub-dataset or "All", or "hole_ratio_bucket" and a bucket. score: mean LPIPS with its
    bootstrap interval over photographs (and trainings of a network that has several), or FID with that of `fid_interval`. FID
    is of the predictions against the real pictures of the same items, of a network with several trainings those of the
    first. It is refused (NaN) below `minimum` different photographs. why_not: why there is no score, "" where there is a
    score; a metric without weights has one row, of no model.

    scores: per_image.parquet's rows, with the column lpips where `chosen` has weights for it. see: gives the features; it
    is called, for the first trainings, where there are weights and some set is large enough. spread: a map, see
    evaluation.score.
    """
    rows = []
    for metric in TASKS[task].perceptual:
        if getattr(chosen, metric) is None:
            why = f"evaluation.perceptual.{metric} is null: no weights, no {METRIC_NAMES[metric]}"
            rows.append(_row(task, metric, ("", "", "", ""), 0, 0, {"why_not": why}))
    if chosen.lpips is not None and "lpips" in TASKS[task].perceptual:
        for head, part in _groups(task, scores):
            (mean,) = statistics.model_intervals(part, ["lpips"], "photograph", resampling=resampling)
            score = {"score": mean.mean, "low": mean.low, "high": mean.high, "n_resamples": resampling.resamples}
            rows.append(_row(task, "lpips", head, part["image_id"].nunique(), part["photograph"].nunique(), score))
    if chosen.fid is not None and "fid" in TASKS[task].perceptual:
        first = scores[scores[repeats.COLUMN] == 1]
        at_size = first[[datasets.side_of(split) is None for split in first["split"]]]
        groups = list(_groups(task, at_size))
        enough = [part["photograph"].nunique() >= minimum for _, part in groups]
        work = []
        if any(enough):
            seen = see(chosen.fid)
            row_of = {key: row for row, key in enumerate(seen.about[IMAGE].itertuples(index=False, name=None))}
            for (_, part), kept in zip(groups, enough):
                if kept:
                    at = [row_of[key] for key in part[IMAGE].itertuples(index=False, name=None)]
                    work.append(_Fid(seen.predicted[at], seen.real[at], part["photograph"].to_numpy(), resampling))
        intervals = iter(spread(fid_interval, work))
        for (head, part), kept in zip(groups, enough):
            n = part["photograph"].nunique()
            why = f"n = {n:,} photographs; FID is refused below {minimum:,} (evaluation.perceptual.fid_minimum)"
            rows.append(_row(task, "fid", head, len(part), n, next(intervals)._asdict() if kept else {"why_not": why}))
    return tables.frame(rows, COLUMNS)


def _groups(task: str, frame: pd.DataFrame):
    """((model, by, value, split), rows) of every set of images that a score is of."""
    by = ["subset"] + ([TASKS[task].size_column] if TASKS[task].size_bins is None else [])
    for (split, model), part in frame.groupby(["split", "model"]):
        yield (model, "subset", "All", split), part
        for column in by:
            for value, inside in part.groupby(column):
                yield (model, column, value, split), inside


def _row(task: str, metric: str, head: tuple, n_images: int, n_photographs: int, score: dict) -> dict:
    model, by, value, split = head
    nothing = {"score": np.nan, "low": np.nan, "high": np.nan, "n_resamples": 0, "why_not": ""}
    about = {"task": task, "metric": metric, "model": model, "by": by, "value": value, "split": split}
    return about | {"n_images": n_images, "n_photographs": int(n_photographs)} | nothing | score
