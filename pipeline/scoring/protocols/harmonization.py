"""Public evaluators of harmonized images, as records: what differs between two of them is a field.

Each record names the code that it was read from. Where a paper's table and its code differ, the code counts: IIH's fMSE
masks both images before it squares.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.metrics import ssim as structural
from pipeline.metrics.harmonization import squared_differences
from pipeline.metrics.inputs import check_image, check_same_size
from pipeline.scoring.protocols.preparation import (
    as_grey_mask,
    as_levels,
    as_stored,
    paste,
    peak_signal_to_noise,
    resize_image,
    resize_mask,
    through_jpeg,
    weighted_mean,
)
from pipeline.scoring.protocols.rows import SEAM, Row


@dataclass(frozen=True)
class Protocol:
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
    full_resolution: bool = False
    """Whether its authors print scores at the pictures' own sizes too, so that the split "test@original" has it."""
    around: str = ""
    """What its authors do around the scoring, see the head of this file."""

    @property
    def caveat(self) -> str:
        """What sets the scores of predictions saved by inference apart from this evaluator's own; "" for nothing known."""
        return self._caveat(resized=True)

    @property
    def caveat_at_own_size(self) -> str:
        """The same for predictions at the pictures' own sizes."""
        return self._caveat(resized=False)

    def _caveat(self, resized: bool) -> str:
        caveats = []
        if resized and self.image_filter != "bilinear":
            caveats.append(
                f"its code resizes the network's input {'in OpenCV' if self.image_filter == 'opencv' else 'bicubic'}; ours was resized bilinear"
            )
        if self.rounding in ("truncated", "float"):
            acts = "truncates" if self.rounding == "truncated" else "doesn't round"
            caveats.append(f"it {acts}, and saved predictions are rounded already")
        return "; ".join([*caveats, *([self.around] if self.around else [])])


PROTOCOLS = (
    Protocol(
        SEAM, "bilinear", "nearest", "composite", "nearest", "255", "the protocol that Seambench adopts", ssim="seam"
    ),
    Protocol("iharmony4", "bicubic", "dither", "raw", "nearest", "composite", "iHarmony4: evaluation.py"),
    Protocol("dovenet", "bicubic", "dither", "raw", "nearest", "output", "old tables"),
    Protocol(
        "dovenet-test",
        "bilinear",
        "nearest",
        "raw",
        "truncated",
        "output",
        "iHarmony4: DoveNet/test.py",
        fmse=None,
        around="its network runs in training mode unless told otherwise",
    ),
    Protocol("bargainnet", "bilinear", "nearest", "raw", "truncated", "output", "BargainNet: test.py"),
    Protocol(
        "rainnet",
        "bilinear",
        "nearest",
        "real",
        "truncated",
        "255",
        "RainNet: evaluate.py",
        fmse=None,
        around="its data set was stored again, smaller",
    ),
    Protocol(
        "hdnet",
        "bilinear",
        "nearest",
        "real",
        "truncated",
        "255",
        "HDNet: train_evaluate.py",
        fmse="whole",
        around="its data set was stored again, smaller, and its epoch chosen on the test set",
    ),
    Protocol(
        "saic",
        "opencv",
        "opencv",
        "raw",
        "float",
        "target",
        "saic-vul: iharm/inference/metrics.py",
        epsilon=1e-6,
        around="its HAdobe5k was stored again, smaller",
    ),
    Protocol(
        "cdtnet",
        "opencv",
        "opencv",
        "raw",
        "float",
        "target",
        "CDTNet: iharm/inference/metrics.py",
        epsilon=1e-6,
        fpsnr=True,
        ssim="cdtnet",
        full_resolution=True,
        around="its HAdobe5k was stored again, smaller",
    ),
    Protocol(
        "pctnet",
        "opencv",
        "opencv",
        "raw",
        "float",
        "255",
        "PCT-Net: iharm/inference/metrics.py",
        epsilon=1e-6,
        mse="masked",
        ssim="pctnet",
        full_resolution=True,
        around="its HAdobe5k was stored again, smaller",
    ),
    Protocol(
        "iih",
        "bicubic",
        "dither",
        "composite",
        "jpeg",
        "255",
        "IntrinsicHarmony: evaluation/ih_evaluation.py, util/util.py (JPEG quality 100)",
        fpsnr=True,
        ssim="iih",
    ),
    Protocol(
        "s2am",
        "bilinear",
        "bilinear",
        "composite",
        "truncated",
        "output",
        "S2AM's notebook; soft mask: likely",
        fmse=None,
    ),
    Protocol(
        "s2crnet",
        "bilinear",
        "bilinear",
        "composite",
        "truncated",
        "255",
        "S2CRNet: test; pasting: likely",
        fmse=None,
        ssim="skimage",
    ),
)


class Truth:
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
        protocols: tuple[Protocol, ...] = PROTOCOLS,
    ):
        check_image("composite", composite)
        check_image("real", real)
        mask = as_grey_mask(mask)
        check_same_size("composite", composite, "real", real)
        check_same_size("composite", composite, "mask", mask)
        self.protocols = protocols
        filters = {protocol.image_filter for protocol in protocols}
        self.composites: dict[str, np.ndarray] = {kind: resize_image(composite, size, kind) for kind in filters}
        self.targets: dict[tuple[str, bool], np.ndarray] = {
            (kind, False): resize_image(real, size, kind) for kind in filters
        }
        jpeg = {protocol.image_filter for protocol in protocols if protocol.rounding == "jpeg"}
        self.targets |= {(kind, True): through_jpeg(self.targets[kind, False]) for kind in jpeg}
        self.weights: dict[str, np.ndarray] = {
            kind: resize_mask(mask, size, kind) for kind in {protocol.mask_filter for protocol in protocols}
        }

    def score(self, prediction: np.ndarray) -> list[Row]:
        """Scores of one prediction, as the network drew it, unpasted: uint8 RGB (H, W, 3) as saved, or float in [0, 1],
        on which alone truncation can act. Raises ValueError, one line, for another dtype or size."""
        drawn = as_levels(prediction)
        check_same_size("prediction", drawn, "the size to score at", next(iter(self.weights.values())))
        seen, rows = {}, []
        for protocol in self.protocols:
            view = protocol.image_filter, protocol.mask_filter, protocol.background, protocol.rounding
            if view not in seen:
                seen[view] = self._seen(drawn, *view)
            composite = self.composites[protocol.image_filter]
            rows += [Row(protocol.name, *score) for score in _scores(protocol, seen[view], composite)]
        return rows

    def _seen(self, drawn: np.ndarray, image_filter: str, mask_filter: str, background: str, rounding: str) -> "_Seen":
        target, weight = self.targets[image_filter, rounding == "jpeg"], self.weights[mask_filter]
        output = drawn
        if background != "raw":
            behind = self.targets[image_filter, False] if background == "real" else self.composites[image_filter]
            output = paste(drawn, behind, weight, hard=mask_filter in ("nearest", "dither"))
        output = as_stored(output, rounding)
        if output.dtype == np.uint8:
            # exact: three squared 8-bit differences are below 2^24
            squared: np.ndarray = (
                cv2.transform(squared_differences(output, target).astype(np.float32), THIRDS * 3).astype(np.float64) / 3
            )
        else:
            squared = cv2.transform(np.square(output - target), THIRDS)
        return _Seen(
            output, target, weight, float(squared.mean()), float((squared * weight).sum()), float(weight.sum())
        )


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


def score(
    prediction: np.ndarray,
    composite: np.ndarray,
    real: np.ndarray,
    mask: np.ndarray,
    protocols: tuple[Protocol, ...] = PROTOCOLS,
) -> list[Row]:
    """Score one prediction under every protocol; arguments as of Truth and its `score`, at the prediction's
    size (256x256 in all public protocols).

    Rows of `seam-256` are the values of metrics.harmonization.score. NaN: no foreground is left (fmse, fpsnr, fssim),
    or PSNR's range is that of a constant image. PSNR of identical images is 100, or what the epsilon makes of it.
    Raises ValueError, one line, for other dtypes or sizes.
    """
    size = as_levels(prediction).shape[:2]
    return Truth(composite, real, mask, size, protocols).score(prediction)


def _scores(protocol: Protocol, seen: _Seen, composite: np.ndarray) -> list[tuple[str, float]]:
    pixels = seen.weight.size
    mse = seen.mse if protocol.mse == "all" else seen.masked / pixels
    if protocol.peak == "255":
        peak = 255.0
    elif protocol.peak == "target":
        peak = float(seen.target.max())
    else:
        peak = float(np.ptp(seen.output if protocol.peak == "output" else composite))
    scores = [("mse", mse), ("psnr", peak_signal_to_noise(mse, peak, protocol.epsilon))]
    if protocol.fmse:
        numerator = seen.masked if protocol.fmse == "masked" else seen.mse * pixels
        fmse = numerator / (seen.area + protocol.epsilon / 3) if seen.area else math.nan
        scores.append(("fmse", fmse))
        if protocol.fpsnr:
            scores.append(("fpsnr", peak_signal_to_noise(fmse, peak, protocol.epsilon)))
    return scores + (SIMILARITIES[protocol.ssim](seen.output, seen.target, seen.weight) if protocol.ssim else [])


def _similarity_seam(output, target, weight) -> list[tuple[str, float]]:
    ours, iih = structural.maps(output, target, structural.CONSTANTS_255, structural.CONSTANTS_1)
    return [
        ("ssim", float(ours.mean())),
        ("fssim", weighted_mean(ours, weight)),
        ("fssim_iih", weighted_mean(iih, weight)),
    ]


def _similarity_iih(output, target, weight) -> list[tuple[str, float]]:
    (ssim_map,) = structural.maps(output, target, structural.CONSTANTS_1)
    return [("ssim", float(ssim_map.mean())), ("fssim", weighted_mean(ssim_map, weight))]


def _similarity_cdtnet(output, target, weight) -> list[tuple[str, float]]:
    """7x7 window, constants for the range of the output."""
    spread = float(np.ptp(output))
    if spread == 0:
        return [("ssim", math.nan), ("fssim", math.nan)]
    constants = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    (ssim_map,) = structural.maps(output, target, constants, window=SMALL_GAUSSIAN)
    return [("ssim", float(ssim_map.mean())), ("fssim", weighted_mean(ssim_map, weight))]


def _similarity_pctnet(output, target, weight) -> list[tuple[str, float]]:
    """pytorch-msssim's default, no padding, on the output pasted on the real image."""
    if min(target.shape[:2]) < structural.WINDOW:
        return [("ssim", math.nan)]
    pasted = paste(output, target, weight, hard=False)
    (ssim_map,) = structural.maps(pasted, target, structural.CONSTANTS_255)
    inside = slice(structural.RADIUS, -structural.RADIUS)
    return [("ssim", float(ssim_map[inside, inside].mean()))]


def _similarity_skimage(output, target, weight) -> list[tuple[str, float]]:
    """scikit-image's default: uniform 7x7 window, sample covariance."""
    if min(target.shape[:2]) < 7:
        return [("ssim", math.nan)]
    c1, c2 = structural.CONSTANTS_255
    (ssim_map,) = structural.maps(output, target, (c1, c2 * 48 / 49), window=SMALL_UNIFORM)
    return [("ssim", float(ssim_map[3:-3, 3:-3].mean()))]


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
