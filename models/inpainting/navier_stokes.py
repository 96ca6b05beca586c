"""Bertalmio, Bertozzi and Sapiro 2001, "Navier-Stokes, fluid dynamics, and image and video inpainting", as in OpenCV.

OpenCV works on 8 bits: the image is rounded to 0..255 on its way in. Radius 3 as in most comparisons.
"""

import cv2
import numpy as np

from models.arrays import ArrayMethod, Item
from models.layers.array_fill import fill_hole


class NavierStokes(ArrayMethod):
    task = "inpainting"

    def __init__(self, radius: int = 3):
        """radius: of the neighbourhood that a filled pixel is computed from, in pixels."""
        self.radius = radius

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1], multiples of 1/255 in the hole. Raises ValueError for an image that is all hole."""

        def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
            levels = (image * 255).round().astype(np.uint8)
            return cv2.inpaint(levels, hole.astype(np.uint8), self.radius, cv2.INPAINT_NS) / np.float32(255)

        return fill_hole(item["image"], item["hole"], fill)
