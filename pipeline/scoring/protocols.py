"""The public evaluation protocols by name: one prediction scored under all of them side by side.

A protocol is a record; what differs between public evaluators is a field of it. Sources: specs/harmonization.md 6.1
and 6.3, specs/localization.md 3, specs/inpainting.md 14, and the evaluators named in each record. Where the table of
6.1 and a file differ, the file counts: IIH's fMSE masks both images before it squares.

What no record can repeat, because it happens before or around the scoring: the input a network was given (each code
resizes it its own way), data sets stored again in smaller size (RainNet, HDNet, saic), dropout left on (DoveNet),
scores of whole batches (S2CRNet's training log, AustNet's validation), epochs chosen on the test set (HDNet). And
predictions as inference saves them are rounded to 8 bits, which leaves truncation and unrounded scores nothing to act
on. What of this concerns a record, its `caveat` says.
"""

import io
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from pipeline.metrics import inpainting as inpainting_metrics
from pipeline.metrics import localization as localization_metrics
from pipeline.metrics import ssim as structural
from pipeline.metrics.harmonization import PSNR_CAP, squared_differences
from pipeline.metrics.inputs import (
    check_image,
    check_mask,
    check_probability,
    check_same_size,
)

SEAM = "seam-256"

class Row(NamedTuple):
    """One score: the protocol's name, the metric and its value (NaN: the protocol has no value for this image)."""

    protocol: str
    metric: str
    value: float


@dataclass(frozen=True)
class Harmonization:
    """How an evaluator of harmonized images prepares them and what it computes."""

    name: str
    image_filter: Literal["bilinear", "bicubic", "opencv"]
    """How images come to the prediction's size: Pillow (antialiased) or OpenCV linear (not)."""
    mask_filter: Literal["nearest", "dither", "bilinear", "opencv"]
    """nearest: cut at 128, then nearest; dither: Pillow's 1-bit conversion, which dithers grey edges, then nearest;
    bilinear (Pillow) and opencv (linear) leave a soft mask."""
    background: Literal["composite", "real", "raw"]
    """What the prediction is pasted on; raw: not at all."""
    rounding: Literal["nearest", "truncated", "jpeg", "float"]
    """8-bit values by rounding or truncation, the same read back from JPEG (real image too), or none."""
    peak: Literal["255", "output", "composite", "target"]
    """PSNR's numerator: 255, max - min of the output, max - min of the composite, or max of the real image."""
    source: str
    epsilon: float = 0.0
    """Added to the MSE in PSNR, and to 3 * area in fMSE."""
    mse: Literal["all", "masked"] = "all"
    """masked: differences outside the mask count as 0 (the mean still runs over all pixels)."""
    fmse: Literal["masked", "whole"] | None = "masked"
    """Numerator over 3 * area: squared differences inside the mask, or (whole) of the entire image."""
    fpsnr: bool = False
    ssim: Literal["seam", "iih", "cdtnet", "pctnet", "skimage"] | None = None
    around: str = ""
    """What its authors do around the scoring, see the head of this file."""

    @property
    def caveat(self) -> str:
        """What sets the scores of predictions saved by inference apart from this evaluator's own; "" for nothing known."""
        found = []
        if self.image_filter != "bilinear":
            found.append(f"its code resizes the network's input {'in OpenCV' if self.image_filter == 'opencv' else 'bicubic'}; ours was resized bilinear")
        if self.rounding in ("truncated", "float"):
            acts = "truncates" if self.rounding == "truncated" else "doesn't round"
            found.append(f"it {acts}, and saved predictions are rounded already")
        return "; ".join([*found, *([self.around] if self.around else [])])


HARMONIZATION = (
    Harmonization(
        SEAM, "bilinear", "nearest", "composite", "nearest", "255", "specs/harmonization.md 6.3", ssim="seam"
    ),
    Harmonization("iharmony4", "bicubic", "dither", "raw", "nearest", "composite", "iHarmony4: evaluation.py"),
    Harmonization("dovenet", "bicubic", "dither", "raw", "nearest", "output", "specs/harmonization.md 6.3: old tables"),
    Harmonization(
        "dovenet-test", "bilinear", "nearest", "raw", "truncated", "output", "iHarmony4: DoveNet/test.py", fmse=None,
        around="its network runs in training mode unless told otherwise",
    ),
    Harmonization("bargainnet", "bilinear", "nearest", "raw", "truncated", "output", "BargainNet: test.py"),
    Harmonization(
        "rainnet", "bilinear", "nearest", "real", "truncated", "255", "RainNet: evaluate.py", fmse=None,
        around="its data set was stored again, smaller",
    ),
    Harmonization(
        "hdnet", "bilinear", "nearest", "real", "truncated", "255", "HDNet: train_evaluate.py", fmse="whole",
        around="its data set was stored again, smaller, and its epoch chosen on the test set",
    ),
    Harmonization(
        "saic", "opencv", "opencv", "raw", "float", "target", "saic-vul: iharm/inference/metrics.py", epsilon=1e-6,
        around="its HAdobe5k was stored again, smaller",
    ),
    Harmonization(
        "cdtnet", "opencv", "opencv", "raw", "float", "target", "CDTNet: iharm/inference/metrics.py", epsilon=1e-6,
        fpsnr=True, ssim="cdtnet", around="its HAdobe5k was stored again, smaller",
    ),
    Harmonization(
        "pctnet", "opencv", "opencv", "raw", "float", "255", "PCT-Net: iharm/inference/metrics.py", epsilon=1e-6,
        mse="masked", ssim="pctnet", around="its HAdobe5k was stored again, smaller",
    ),
    Harmonization(
        "iih", "bicubic", "dither", "composite", "jpeg", "255",
        "IntrinsicHarmony: evaluation/ih_evaluation.py, util/util.py (JPEG quality 100)", fpsnr=True, ssim="iih",
    ),
    Harmonization(
        "s2am", "bilinear", "bilinear", "composite", "truncated", "output", "S2AM's notebook; soft mask: likely",
        fmse=None,
    ),
    Harmonization(
        "s2crnet", "bilinear", "bilinear", "composite", "truncated", "255", "S2CRNet: test; pasting: likely",
        fmse=None, ssim="skimage",
    ),
)


class HarmonizationTruth:
    """What a composite, its real image and its mask are under each protocol, resized once for the predictions of all models.

    composite, real: uint8 RGB at original resolution. mask: uint8 (0..255) or bool there. size: (height, width) of the
    predictions. Raises ValueError, one line, for other dtypes or sizes.
    """

    def __init__(
        self,
        composite: np.ndarray,
        real: np.ndarray,
        mask: np.ndarray,
        size: tuple[int, int],
        protocols: tuple[Harmonization, ...] = HARMONIZATION,
    ):
        check_image("composite", composite)
        check_image("real", real)
        mask = _grey_mask(mask)
        check_same_size("composite", composite, "real", real)
        check_same_size("composite", composite, "mask", mask)
        self.protocols = protocols
        filters = {one.image_filter for one in protocols}
        self.composites = {kind: _resized_image(composite, size, kind) for kind in filters}
        self.targets = {(kind, False): _resized_image(real, size, kind) for kind in filters}
        jpeg = {one.image_filter for one in protocols if one.rounding == "jpeg"}
        self.targets |= {(kind, True): _from_jpeg(self.targets[kind, False]) for kind in jpeg}
        self.weights = {kind: _resized_mask(mask, size, kind) for kind in {one.mask_filter for one in protocols}}

    def score(self, prediction: np.ndarray) -> list[Row]:
        """Scores of one prediction, as the network drew it, unpasted: uint8 RGB (H, W, 3) as saved, or float in [0, 1],
        on which alone truncation can act. Raises ValueError, one line, for another dtype or size."""
        drawn = _levels(prediction)
        check_same_size("prediction", drawn, "the size to score at", next(iter(self.weights.values())))
        seen, rows = {}, []
        for protocol in self.protocols:
            view = protocol.image_filter, protocol.mask_filter, protocol.background, protocol.rounding
            if view not in seen:
                seen[view] = self._seen(drawn, *view)
            composite = self.composites[protocol.image_filter]
            rows += [Row(protocol.name, *one) for one in _harmonization_scores(protocol, seen[view], composite)]
        return rows

    def _seen(self, drawn: np.ndarray, image_filter: str, mask_filter: str, background: str, rounding: str) -> "_Seen":
        target, weight = self.targets[image_filter, rounding == "jpeg"], self.weights[mask_filter]
        output = drawn
        if background != "raw":
            behind = self.targets[image_filter, False] if background == "real" else self.composites[image_filter]
            output = _pasted(drawn, behind, weight, hard=mask_filter in ("nearest", "dither"))
        output = _stored(output, rounding)
        if output.dtype == np.uint8:
            # exact: three squared 8-bit differences are below 2^24
            squared = cv2.transform(squared_differences(output, target).astype(np.float32), THIRDS * 3).astype(np.float64) / 3
        else:
            squared = cv2.transform(np.square(output - target), THIRDS)
        return _Seen(output, target, weight, float(squared.mean()), float((squared * weight).sum()), float(weight.sum()))


class _Seen(NamedTuple):
    """One prediction as a protocol looks at it."""

    output: np.ndarray
    """(H, W, 3) in 0..255, uint8 or, where it isn't rounded, float64."""
    target: np.ndarray
    """uint8 (H, W, 3)"""
    weight: np.ndarray
    """float64 (H, W), the mask in [0, 1]"""
    mse: float
    masked: float
    """Sum over the pixels of weight times squared difference, mean over the channels."""
    area: float


def harmonization(
    prediction: np.ndarray,
    composite: np.ndarray,
    real: np.ndarray,
    mask: np.ndarray,
    protocols: tuple[Harmonization, ...] = HARMONIZATION,
) -> list[Row]:
    """Score one prediction under every protocol; arguments as of HarmonizationTruth and its `score`, at the prediction's
    size (256x256 in all public protocols).

    Rows of `seam-256` are the values of metrics.harmonization.score. NaN: no foreground is left (fmse, fpsnr, fssim),
    or PSNR's range is that of a constant image. PSNR of identical images is 100, or what the epsilon makes of it.
    Raises ValueError, one line, for other dtypes or sizes.
    """
    size = _levels(prediction).shape[:2]
    return HarmonizationTruth(composite, real, mask, size, protocols).score(prediction)


def _harmonization_scores(protocol: Harmonization, seen: _Seen, composite: np.ndarray) -> list[tuple[str, float]]:
    pixels = seen.weight.size
    mse = seen.mse if protocol.mse == "all" else seen.masked / pixels
    if protocol.peak == "255":
        peak = 255.0
    elif protocol.peak == "target":
        peak = float(seen.target.max())
    else:
        peak = float(np.ptp(seen.output if protocol.peak == "output" else composite))
    scores = [("mse", mse), ("psnr", _psnr(mse, peak, protocol.epsilon))]
    if protocol.fmse:
        numerator = seen.masked if protocol.fmse == "masked" else seen.mse * pixels
        fmse = numerator / (seen.area + protocol.epsilon / 3) if seen.area else math.nan
        scores.append(("fmse", fmse))
        if protocol.fpsnr:
            scores.append(("fpsnr", _psnr(fmse, peak, protocol.epsilon)))
    return scores + (SIMILARITIES[protocol.ssim](seen.output, seen.target, seen.weight) if protocol.ssim else [])


def _psnr(mse: float, peak: float, epsilon: float) -> float:
    if math.isnan(mse) or peak == 0:
        return math.nan
    if mse + epsilon == 0:
        return PSNR_CAP
    value = 10 * math.log10(peak**2 / (mse + epsilon))
    return value if epsilon else min(PSNR_CAP, value)


def _similarity_seam(output, target, weight) -> list[tuple[str, float]]:
    ours, iih = structural.maps(output, target, structural.CONSTANTS_255, structural.CONSTANTS_1)
    return [("ssim", float(ours.mean())), ("fssim", _weighted(ours, weight)), ("fssim_iih", _weighted(iih, weight))]


def _similarity_iih(output, target, weight) -> list[tuple[str, float]]:
    (found,) = structural.maps(output, target, structural.CONSTANTS_1)
    return [("ssim", float(found.mean())), ("fssim", _weighted(found, weight))]


def _similarity_cdtnet(output, target, weight) -> list[tuple[str, float]]:
    """7x7 window, constants for the range of the output."""
    spread = float(np.ptp(output))
    if spread == 0:
        return [("ssim", math.nan), ("fssim", math.nan)]
    constants = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    (found,) = structural.maps(output, target, constants, window=SMALL_GAUSSIAN)
    return [("ssim", float(found.mean())), ("fssim", _weighted(found, weight))]


def _similarity_pctnet(output, target, weight) -> list[tuple[str, float]]:
    """pytorch-msssim's default, no padding, on the output pasted on the real image."""
    if min(target.shape[:2]) < structural.WINDOW:
        return [("ssim", math.nan)]
    pasted = _pasted(output, target, weight, hard=False)
    (found,) = structural.maps(pasted, target, structural.CONSTANTS_255)
    inside = slice(structural.RADIUS, -structural.RADIUS)
    return [("ssim", float(found[inside, inside].mean()))]


def _similarity_skimage(output, target, weight) -> list[tuple[str, float]]:
    """scikit-image's default: uniform 7x7 window, sample covariance."""
    if min(target.shape[:2]) < 7:
        return [("ssim", math.nan)]
    c1, c2 = structural.CONSTANTS_255
    (found,) = structural.maps(output, target, (c1, c2 * 48 / 49), window=SMALL_UNIFORM)
    return [("ssim", float(found[3:-3, 3:-3].mean()))]


SIMILARITIES = {
    "seam": _similarity_seam,
    "iih": _similarity_iih,
    "cdtnet": _similarity_cdtnet,
    "pctnet": _similarity_pctnet,
    "skimage": _similarity_skimage,
}
THIRDS = np.full((1, 3), 1 / 3)
SMALL_GAUSSIAN = structural.Window(structural.gaussian_mean(3), 3)
SMALL_UNIFORM = structural.Window(structural.uniform_mean(3), 3)


def _weighted(values: np.ndarray, weight: np.ndarray) -> float:
    total = float(weight.sum())
    return float((values * weight).sum() / total) if total else math.nan


@dataclass(frozen=True)
class Localization:
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
    """As of Harmonization."""


LOCALIZATION = (
    Localization(SEAM, "specs/localization.md 3.3", "area", stretched=False),
    Localization("seam-256-minmax", "specs/localization.md 3.3, compatibility mode", "area", stretched=True),
    Localization(
        "dirl",
        "bcmi/DIRL-Inharmonious-Region-Localization: evaluation/metrics.py (AP 0 of an empty mask is scikit-learn's)",
        "bilinear",
        stretched=True,
        epsilon=1e-6,
        empty_ap=0.0,
        caveat="its code resizes the network's input bilinear to 224 pixels and scores unrounded maps; saved ones are rounded to 8 bits",
    ),
)


def localization(
    probability: np.ndarray, mask: np.ndarray, protocols: tuple[Localization, ...] = LOCALIZATION
) -> list[Row]:
    """Score one probability map under every protocol: ap, f1, iou, precision, recall.

    probability: uint8 (0..255) as saved, or float in [0, 1], (H, W), at the size to score at. mask: uint8 (0..255) or
    bool, at original resolution. Thresholds are 0.5, strictly above. Raises ValueError, one line, for other dtypes or
    sizes, NaN, or values outside [0, 1].
    """
    if isinstance(probability, np.ndarray) and probability.dtype == np.uint8:
        probability = probability / 255
    check_probability("probability", probability)
    mask = _grey_mask(mask)
    rows = []
    for protocol in protocols:
        foreground = _half(mask, probability.shape, protocol.mask_filter)
        shown = localization_metrics.stretch(probability) if protocol.stretched else probability
        rows += [Row(protocol.name, *one) for one in _localization_scores(protocol, shown, foreground).items()]
    return rows


def _localization_scores(protocol: Localization, probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    if not mask.any() and math.isnan(protocol.empty_ap):
        return dict.fromkeys(("ap", "f1", "iou", "precision", "recall"), math.nan)
    ap = localization_metrics.average_precision(probability, mask) if mask.any() else protocol.empty_ap
    found = probability > 0.5
    if not protocol.epsilon:
        return {"ap": ap, **localization_metrics.at_threshold(found, mask)}
    both, positives, foreground = (float(np.count_nonzero(one)) for one in (found & mask, found, mask))
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
    return _resized_mask(mask, size, "bilinear") > 0.5


@dataclass(frozen=True)
class Inpainting:
    """What an evaluator of filled images looks at."""

    name: str
    source: str
    composited: bool
    """Whether pixels outside the hole are the photograph's."""
    scores: Literal["seam", "edgeconnect", "lama"]
    caveat: str = ""
    """As of Harmonization."""


INPAINTING = (
    Inpainting(SEAM, "specs/inpainting.md 14; RFR publishes no metric code", True, "seam"),
    Inpainting("unpasted", "seam-256 on the network's whole output", False, "seam"),
    Inpainting("edgeconnect", "knazeri/edge-connect: scripts/metrics.py (also used for PRVS)", True, "edgeconnect"),
    Inpainting(
        "lama", "advimman/lama: SSIM with zero padding, the one metric it shares with the others", True, "lama",
        caveat="its own masks and picture sizes are others",
    ),
)


def inpainting(
    prediction: np.ndarray, image: np.ndarray, hole: np.ndarray, protocols: tuple[Inpainting, ...] = INPAINTING
) -> list[Row]:
    """Score one filled image under every protocol.

    prediction: as the network drew it, uint8 RGB (H, W, 3); image: uint8 RGB and hole: bool (H, W; True = hole), as
    the network was given them. Rows of `seam-256` are the values of metrics.inpainting.score but ssim_ec, which is
    EdgeConnect's ssim. NaN: a side is below 51 pixels (edgeconnect's ssim). Raises ValueError, one line, for other
    dtypes or sizes.
    """
    check_image("prediction", prediction)
    check_image("image", image)
    check_mask("hole", hole)
    check_same_size("prediction", prediction, "image", image)
    check_same_size("prediction", prediction, "hole", hole)
    rows = []
    for protocol in protocols:
        output = np.where(hole[..., None], prediction, image) if protocol.composited else prediction
        rows += [Row(protocol.name, *one) for one in INPAINTING_SCORES[protocol.scores](output, image)]
    return rows


def _inpainting_seam(output, image) -> list[tuple[str, float]]:
    scores = inpainting_metrics.score(output, image, edgeconnect=False)
    return [(metric, scores[metric]) for metric in ("ssim", "psnr", "l1")]


def _inpainting_edgeconnect(output, image) -> list[tuple[str, float]]:
    """All on grey images in [0, 1]; its "MAE" is the sum of differences over the sum of both images."""
    first, second = inpainting_metrics.grey(output) / 255, inpainting_metrics.grey(image) / 255
    difference, total = np.abs(first - second), float((first + second).sum())
    return [
        ("ssim", inpainting_metrics.edgeconnect_ssim(output, image)),
        ("psnr", _psnr(float(np.square(difference).mean()), 1.0, 0.0)),
        ("mae", float(difference.sum()) / total if total else 0.0),
    ]


def _inpainting_lama(output, image) -> list[tuple[str, float]]:
    (found,) = structural.maps(output, image, structural.CONSTANTS_255)
    return [("ssim", float(found.mean()))]


INPAINTING_SCORES = {"seam": _inpainting_seam, "edgeconnect": _inpainting_edgeconnect, "lama": _inpainting_lama}


RECORDS = {"localization": LOCALIZATION, "harmonization": HARMONIZATION, "inpainting": INPAINTING}


def chosen(task: str, names: list[str] | None) -> tuple:
    """The task's records of these names, in the order of this file, seam-256 always among them; None: all; []: none."""
    if names is not None and not names:
        return ()
    return tuple(one for one in RECORDS[task] if names is None or one.name in names or one.name == SEAM)


def _levels(prediction: np.ndarray) -> np.ndarray:
    """A prediction (H, W, 3) in 0..255: uint8 as it is, float in [0, 1] as float64."""
    if isinstance(prediction, np.ndarray) and prediction.dtype in (np.float32, np.float64) and prediction.ndim == 3:
        if prediction.shape[2] != 3 or not (prediction.min() >= 0 and prediction.max() <= 1):
            raise ValueError(f"prediction of shape {prediction.shape} is not RGB with every value in [0, 1]")
        return prediction.astype(np.float64) * 255
    check_image("prediction", prediction)
    return prediction


def _grey_mask(mask: np.ndarray) -> np.ndarray:
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8) or mask.size == 0:
        raise ValueError("mask is not a bool or uint8 array of shape (height, width)")
    return mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask


def _resized_image(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """uint8 RGB at `size` = (height, width), rounded to 8 bits as every evaluator does."""
    return image if image.shape[:2] == tuple(size) else _resize(image, size, kind)


def _resized_mask(mask: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
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


def _pasted(drawn: np.ndarray, behind: np.ndarray, weight: np.ndarray, hard: bool) -> np.ndarray:
    """`drawn` where the weight is 1, `behind` where it is 0: of the type of `drawn` if the mask is hard, else float64."""
    if hard:
        return np.where(weight[..., None] > 0, drawn, behind)
    return behind + (drawn.astype(np.float64) - behind) * weight[..., None]


def _stored(image: np.ndarray, kind: str) -> np.ndarray:
    """(H, W, 3) in 0..255 as an evaluator stores it before it looks: uint8, or for "float" as it comes."""
    if image.dtype != np.uint8 and kind != "float":
        image = (np.rint(image) if kind == "nearest" else np.floor(image)).astype(np.uint8)
    return _from_jpeg(image) if kind == "jpeg" else image


def _from_jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100)
    return np.asarray(Image.open(file))
