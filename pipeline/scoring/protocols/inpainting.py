"""Public evaluators of filled images, as records: what differs between two of them is a field."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.metrics import inpainting as inpainting_metrics
from pipeline.metrics import ssim as structural
from pipeline.metrics.inputs import check_image, check_mask, check_same_size
from pipeline.scoring.protocols.preparation import peak_signal_to_noise
from pipeline.scoring.protocols.rows import SEAM, Row


@dataclass(frozen=True)
class Protocol:
    """What an evaluator of filled images looks at."""

    name: str
    source: str
    composited: bool
    """Whether pixels outside the hole are the photograph's."""
    scores: Literal["seam", "edgeconnect", "lama"]
    caveat: str = ""
    """What sets the scores of predictions saved by inference apart from this evaluator's own; "" for nothing known."""


PROTOCOLS = (
    Protocol(SEAM, "; RFR publishes no metric code", True, "seam"),
    Protocol("unpasted", "seam-256 on the network's whole output", False, "seam"),
    Protocol("edgeconnect", "knazeri/edge-connect: scripts/metrics.py (also used for PRVS)", True, "edgeconnect"),
    Protocol(
        "lama",
        "advimman/lama: SSIM with zero padding, the one metric it shares with the others",
        True,
        "lama",
        caveat="its own masks and picture sizes are others",
    ),
)


def score(
    prediction: np.ndarray, image: np.ndarray, hole: np.ndarray, protocols: tuple[Protocol, ...] = PROTOCOLS
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
        rows += [Row(protocol.name, *score) for score in SCORES[protocol.scores](output, image)]
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
        ("psnr", peak_signal_to_noise(float(np.square(difference).mean()), 1.0, 0.0)),
        ("mae", float(difference.sum()) / total if total else 0.0),
    ]


def _inpainting_lama(output, image) -> list[tuple[str, float]]:
    (ssim_map,) = structural.maps(output, image, structural.CONSTANTS_255)
    return [("ssim", float(ssim_map.mean()))]


SCORES = {"seam": _inpainting_seam, "edgeconnect": _inpainting_edgeconnect, "lama": _inpainting_lama}
