"""Histogram matching: the foreground takes the background's distribution in each of R, G and B.

It is scikit-image's match_histograms, given the two sets of pixels instead of two pictures.
"""

import numpy as np
from skimage.exposure import match_histograms

from models.arrays import ArrayMethod, Item
from models.layers.array_recolor import recolor_foreground


class Histogram(ArrayMethod):
    task = "harmonization"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: multiples of 1/255 in the foreground, the composite elsewhere."""
        return recolor_foreground(item["composite"], item["mask"], _match_histograms)


def _match_histograms(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    # channel by channel: with a channel axis scikit-image truncates its interpolated values to uint8
    channels = [match_histograms(channel[inside], channel[~inside]) for channel in np.moveaxis(image, 2, 0)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
