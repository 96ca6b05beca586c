"""Saliency without training: the spectral residual.

Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007. What an image's log amplitude
spectrum has beyond its local average is taken as what stands out. It knows nothing of harmony: a localization
network that doesn't beat it finds objects, not pasted ones.

From the paper and the authors' demonstration program: luminance at 64 pixels, residual against a 3x3 mean with
repeated borders, squared magnitude, Gaussian of sigma 2.5, stretched to [0, 1]. Ours: the working picture is
square whatever the input's shape, the Gaussian has 11 taps where the demonstration has 10 (an even number shifts
the map by half a pixel), and the map is brought back to the input's size bilinearly.
"""

import cv2
import numpy as np
from PIL import Image

from models.arrays import ArrayMethod, Item

LUMINANCE = (0.299, 0.587, 0.114)  # of R'G'B', ITU-R BT.601
SMALLEST_AMPLITUDE = 1e-6  # below float32's rounding of a 64x64 transform; a flat picture has no logarithm without it


def saliency(luminance: np.ndarray, sigma: float) -> np.ndarray:
    """Spectral residual saliency of a picture (H, W), unscaled, not negative."""
    spectrum = np.fft.fft2(luminance)
    log_amplitude = np.log(np.maximum(np.abs(spectrum), SMALLEST_AMPLITUDE))
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REPLICATE)
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    return _blur(np.abs(back) ** 2, sigma)


def _blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(2 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    return cv2.sepFilter2D(picture, -1, taps, taps, borderType=cv2.BORDER_CONSTANT)


class SpectralResidual(ArrayMethod):
    """`size`: side of the working picture in pixels; `sigma`: of the Gaussian on it, in its pixels."""

    task = "localization"

    def __init__(self, size: int = 64, sigma: float = 2.5):
        if size < 8:
            raise ValueError(f"size = {size}, expected at least 8 pixels")
        if not sigma > 0:
            raise ValueError(f"sigma = {sigma}, expected a number of pixels above 0")
        self.size, self.sigma = size, float(sigma)

    def draw(self, item: Item) -> np.ndarray:
        """composite (H, W, 3) in [0, 1] -> (H, W) in [0, 1]; the map spans the whole range, except that a picture of one
        colour gets 0 everywhere."""
        composite = item["composite"]
        luminance = Image.fromarray(composite @ np.array(LUMINANCE, np.float32))
        # Pillow's bilinear filter grows with the picture it shrinks, and so doesn't alias
        small = np.asarray(luminance.resize((self.size, self.size), Image.Resampling.BILINEAR))
        level = saliency(small, self.sigma)
        level = np.zeros_like(level) if np.ptp(small) < 1e-5 else (level - level.min()) / max(np.ptp(level), 1e-12)
        height, width = composite.shape[:2]
        return cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1).astype(np.float32)
