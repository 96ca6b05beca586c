"""Drawing one mask: freely, as its publication does, or into an exact hole-ratio bucket."""

import itertools
import math
import operator

import cv2
import numpy as np

from pipeline import seeds
from pipeline.irregular_masks.buckets import Ratio, fit, pixel_bounds
from pipeline.irregular_masks.pieces import paint
from pipeline.irregular_masks.recipes import WHOLE, Canvas, recipe

FRAME = 50 / 512
"""Width of the frame that border=False keeps free, as a share of the side (NVIDIA: 50 pixels of 512)."""

_MOST_PIECES = 5000
_MOST_DRAWS = 200


def frame_width(side: int) -> int:
    """Pixels of the free frame along a side, rounded up: 50 at 512, 25 at 256."""
    return math.ceil(side * FRAME)


def generate(
    kind: str, height: int, width: int, ratio: Ratio = (0.0, 0.6), seed: int = 0, *, border: bool = True
) -> np.ndarray:
    """A mask whose hole share lies in the ratio: bool (height, width), True = hole, low <= share < high, never 0.

    kind is one of KINDS or REGULAR_KINDS. The published lengths scale with the square root of height * width. With
    border=False no hole pixel lies in the outer frame of 50/512 of each side. The same arguments give the same mask
    everywhere.

    The hole grows piece by piece until it passes a size drawn evenly from the ratio; one that overshoots the ratio is
    eroded, and if erosion jumps over the ratio too, trimmed to that size (docs/protocol.md). No restart is
    ever needed. Raises ValueError for an unknown kind or an impossible ratio or size.
    """
    height, width = operator.index(height), operator.index(width)
    frame_y, frame_x, inner_height, inner_width = _frame(height, width, border)
    drawn_by = recipe(kind)
    fewest, most = pixel_bounds(ratio, height, width, inner_height * inner_width)
    rng = seeds.rng(operator.index(seed), kind, height, width, *map(float, ratio), bool(border))
    target = int(rng.integers(fewest, most, endpoint=True))
    canvas = Canvas(inner_height, inner_width, math.sqrt(height * width) / 256, target, min(frame_y, frame_x))
    hole = np.zeros((inner_height, inner_width), np.uint8)
    count = 0
    for piece in itertools.islice(drawn_by(rng, canvas), _MOST_PIECES):
        if piece is not WHOLE:
            paint(hole, piece, target - count)
            count = cv2.countNonZero(hole)
            if count >= target:
                break
    return _framed(fit(hole, fewest, most, target), frame_y, frame_x)


def draw(
    kind: str, height: int, width: int, rng: np.random.Generator, *, border: bool = True, max_ratio: float = 1.0
) -> np.ndarray:
    """A mask as the published generator draws it, whatever its hole share: bool (height, width), True = hole.

    A draw without a hole, or with a share above `max_ratio`, is drawn again. Raises ValueError for an unknown kind and
    when 200 draws in a row were refused.
    """
    frame_y, frame_x, inner_height, inner_width = _frame(height, width, border)
    canvas = Canvas(inner_height, inner_width, math.sqrt(height * width) / 256, frame=min(frame_y, frame_x))
    drawn_by = recipe(kind)
    for _ in range(_MOST_DRAWS):
        hole = np.zeros((inner_height, inner_width), np.uint8)
        for piece in drawn_by(rng, canvas):
            if piece is WHOLE:
                break
            paint(hole, piece, hole.size)
        if 0 < cv2.countNonZero(hole) <= max_ratio * height * width:
            return _framed(hole, frame_y, frame_x)
    raise ValueError(f"{kind}: {_MOST_DRAWS} draws on {height}x{width} gave no hole share in (0, {max_ratio:g}]")


def _frame(height: int, width: int, border: bool) -> tuple[int, int, int, int]:
    """Frame above and below, frame left and right, height and width of what they leave."""
    if height < 1 or width < 1:
        raise ValueError(f"a mask of {height}x{width} has no pixels")
    frame_y, frame_x = (0, 0) if border else (frame_width(height), frame_width(width))
    inner_height, inner_width = height - 2 * frame_y, width - 2 * frame_x
    if inner_height < 1 or inner_width < 1:
        raise ValueError(
            f"a mask of {height}x{width} has no pixel inside the frame of {frame_y} and {frame_x} of border=False"
        )
    return frame_y, frame_x, inner_height, inner_width


def _framed(hole: np.ndarray, frame_y: int, frame_x: int) -> np.ndarray:
    return np.pad(hole, ((frame_y, frame_y), (frame_x, frame_x))).astype(bool)
