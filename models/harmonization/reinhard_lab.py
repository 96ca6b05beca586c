"""Statistics matching in CIELab, as the Reinhard baseline of the library libcom.

Reinhard et al., "Color Transfer between Images", IEEE Computer Graphics and Applications 2001, match mean and standard deviation in l-alpha-beta; this variant works in OpenCV's 8-bit CIELab.
Departures from libcom: values out of range are clipped, where libcom takes their absolute value; a channel without
any spread in the foreground is shifted and not scaled.
"""

import cv2
import numpy as np

from models.arrays import ArrayMethod, Item
from models.layers.array_recolor import recolor_foreground


class ReinhardLab(ArrayMethod):
    task = "harmonization"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: multiples of 1/255 in the foreground, the composite elsewhere."""
        return recolor_foreground(item["composite"], item["mask"], _match_statistics)


def _match_statistics(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Foreground pixels (n, 3) of uint8 RGB (H, W, 3) with the background's mean and deviation per Lab channel."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    foreground, background = lab[inside], lab[~inside]
    spread = foreground.std(axis=0)
    gain = np.divide(background.std(axis=0), spread, out=np.ones(3), where=spread > 0)
    matched = (foreground - foreground.mean(axis=0)) * gain + background.mean(axis=0)
    levels = matched.round().clip(0, 255).astype(np.uint8)
    return cv2.cvtColor(levels[None], cv2.COLOR_LAB2RGB)[0]
