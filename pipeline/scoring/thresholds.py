"""A localizer's own threshold: the one at which its maps score best on validation images, chosen once for all images.

A map that orders pixels well may stay below 0.5 throughout, and stretching each map to its own range makes a threshold of
every single image. In between stands one threshold for a method, which no test image has a say in.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.metrics import localization


class Threshold(NamedTuple):
    """`value` lies in [0, 1]: a pixel is in where its probability is above it. None where there is none to choose.
    `origin` says in words what it was chosen on, or why there is none."""

    value: float | None
    origin: str


OF_OUTPUTS = Threshold(None, "none: pictures made elsewhere come without those of validation images")
OF_IMPORTED = Threshold(None, "none: weights trained elsewhere may have been trained on the validation images")
NOTHING_TO_CHOOSE_ON = Threshold(None, "none: no validation image has a foreground")


def choose(maps: Iterable[tuple[np.ndarray, np.ndarray]]) -> Threshold:
    """The threshold of the highest mean F1 over these images, one of the levels / 255 that an 8-bit map can have.

    maps: pairs of a probability map, uint8 (H, W), and its mask, bool (H, W). Images with an empty mask are left out.
    Where neighbouring thresholds score alike, as with a map of few values, it is the middle one of the first such run.
    """
    total, count = np.zeros(localization.LEVELS), 0
    for levels, mask in maps:
        if mask.any():
            total += localization.curve(levels, mask)["f1"]
            count += 1
    if not count:
        return NOTHING_TO_CHOOSE_ON
    first = int(np.argmax(total))
    run = int(np.argmin(np.append(total[first:] == total[first], False)))  # thresholds from `first` on that score alike
    best = first + (run - 1) // 2
    images = f"{count} validation image{'' if count == 1 else 's'}"
    return Threshold(best / 255, f"best mean F1 ({total[best] / count:.3f}) on {images}")
