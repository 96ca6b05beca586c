"""Poisson image editing: the foreground keeps its gradients and takes its level from what surrounds it.

Perez et al., "Poisson Image Editing", ACM Transactions on Graphics 2003, by OpenCV's seamlessClone. Cloning a composite into itself changes nothing, since gradients and
border agree already. So the foreground's colours are first carried outward and the background's inward (each pixel
takes the nearest one), and the former is cloned into the latter.

Two things in OpenCV shape the rest. It shrinks the mask by 3 pixels before it decides where the source's gradients
hold, so the mask is grown by 4: without that the seam's own edge is kept, and the result is the composite. And it
solves within the mask's bounding box with the box's rim held fixed, so the background near the foreground may give
way as well; that part is not used. Image and mask are padded so that no grown mask reaches the border.
"""

import cv2
import numpy as np

from models.arrays import ArrayMethod, Item
from models.layers.array_recolor import recolor_foreground

SHRINK = 3
GROW = SHRINK + 1
PAD = GROW + 2


class Poisson(ArrayMethod):
    task = "harmonization"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: multiples of 1/255 in the foreground, the composite elsewhere."""
        return recolor_foreground(item["composite"], item["mask"], _clone)


def _clone(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Foreground pixels (n, 3) of uint8 RGB (H, W, 3) after cloning."""
    around = ((PAD, PAD), (PAD, PAD), (0, 0))
    source = np.pad(_spread(image, inside), around, mode="edge")
    destination = np.pad(_spread(image, ~inside), around, mode="edge")
    mask: np.ndarray = np.pad(inside.astype(np.uint8) * 255, PAD)
    mask = cv2.dilate(mask, np.ones((2 * GROW + 1, 2 * GROW + 1), np.uint8))
    left, top, width, height = cv2.boundingRect(mask)
    # OpenCV puts the bounding box's corner at centre - size // 2
    centre = (left + width // 2, top + height // 2)
    cloned = cv2.seamlessClone(source, destination, mask, centre, cv2.NORMAL_CLONE)
    return cloned[PAD:-PAD, PAD:-PAD][inside]


def _spread(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) in which each pixel has the colour of the nearest known one (bool (H, W), not all False)."""
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((nearest.max() + 1, 3), np.uint8)
    colors[nearest[known]] = image[known]
    return colors[nearest]
