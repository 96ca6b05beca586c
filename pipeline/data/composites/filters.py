"""Which candidates become composites: the replacement, in numbers, of what iHarmony4's makers filtered by eye.

Thresholds are parameters (`composites.rendering.filters`); docs/protocol.md says why these.
"""

from dataclasses import dataclass

import numpy as np
from skimage.color import rgb2lab

CHROMA = 10.0
"""Pixels of a lower CIELAB chroma in either picture have no hue to speak of."""


@dataclass(frozen=True)
class Change:
    """What a composite's foreground differs by from the real one.

    colour_difference: mean CIE76 over the foreground
    clipped: share of foreground pixels newly clipped to 0 or 255 in some channel
    hue_rotation: mean absolute CIELAB hue rotation in degrees over pixels that have a hue in both; 0 if none has
    """

    colour_difference: float
    clipped: float
    hue_rotation: float


def change(real: np.ndarray, composite: np.ndarray, mask: np.ndarray) -> Change:
    """Measure the change inside a mask. uint8 RGB (H, W, 3) twice, bool (H, W) with at least one pixel."""
    before, after = real[mask], composite[mask]
    lab_before, lab_after = _lab(before), _lab(after)
    return Change(
        colour_difference=float(np.linalg.norm(lab_after - lab_before, axis=1).mean()),
        clipped=float((_at_the_ends(after) & ~_at_the_ends(before)).any(axis=1).mean()),
        hue_rotation=_mean_rotation(lab_before[:, 1:], lab_after[:, 1:]),
    )


def refusal(measured: Change, filters) -> tuple[str, float] | None:
    """The first rule that refuses a change and the value it saw, or None. `filters` is params.Filters."""
    if measured.colour_difference < filters.colour_difference.low:
        return "change too small", measured.colour_difference
    if measured.colour_difference > filters.colour_difference.high:
        return "change too large", measured.colour_difference
    if measured.clipped > filters.max_clipped:
        return "clipped", measured.clipped
    if measured.hue_rotation > filters.max_hue_rotation:
        return "hue rotation", measured.hue_rotation
    return None


def refusal_of_object(foreground_ratio: float, pixels: int, filters) -> tuple[str, float] | None:
    """The rule that refuses an object before any composite is made of it, or None."""
    if not filters.foreground_ratio.low <= foreground_ratio <= filters.foreground_ratio.high:
        return "foreground ratio", foreground_ratio
    if pixels < filters.min_pixels:
        return "too few pixels", float(pixels)
    return None


def _mean_rotation(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute angle in degrees between two sets of (a, b) pairs, over those with chroma in both."""
    coloured = (np.hypot(*before.T) > CHROMA) & (np.hypot(*after.T) > CHROMA)
    if not coloured.any():
        return 0.0
    before, after = before[coloured], after[coloured]
    turned = np.abs(np.arctan2(after[:, 1], after[:, 0]) - np.arctan2(before[:, 1], before[:, 0]))
    return float(np.degrees(np.minimum(turned, 2 * np.pi - turned)).mean())


def _at_the_ends(pixels: np.ndarray) -> np.ndarray:
    return (pixels == 0) | (pixels == 255)


def _lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (L 0..100, a, b) of uint8 sRGB (N, 3), D65."""
    return rgb2lab(pixels.astype(np.float32) / 255)  # OpenCV 5 looks this up in a table, up to 0.3 off
