"""Saliency without training: the spectral residual.

Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007. What an image's log amplitude
spectrum has beyond its local average is taken as what stands out. It knows nothing of harmony: a localization
network that doesn't beat it finds objects, not pasted ones.

From the paper and the authors' demonstration program: luminance at 64 pixels, residual against a 3x3 mean with
repeated borders, squared magnitude, Gaussian of sigma 2.5, stretched to [0, 1]. Ours: the working picture is
square whatever the input's shape, the Gaussian has 11 taps where the demonstration has 10 (an even number shifts
the map by half a pixel), and the map is brought back to the input's size bilinearly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import Batch, Model

LUMINANCE = (0.299, 0.587, 0.114)  # of R'G'B', ITU-R BT.601
SMALLEST_AMPLITUDE = 1e-6  # below float32's rounding of a 64x64 transform; a flat picture has no logarithm without it


def saliency(luminance: Tensor, sigma: float) -> Tensor:
    """Spectral residual saliency of (N, 1, H, W), unscaled, not negative."""
    spectrum = torch.fft.fft2(luminance)
    log_amplitude = spectrum.abs().clamp_min(SMALLEST_AMPLITUDE).log()
    residual = log_amplitude - F.avg_pool2d(F.pad(log_amplitude, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    back = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle()))
    return _blur(back.abs().square(), sigma)


def _blur(picture: Tensor, sigma: float) -> Tensor:
    reach = int(2 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=picture.device, dtype=picture.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = taps / taps.sum()
    picture = F.conv2d(picture, taps.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(picture, taps.view(1, 1, 1, -1), padding=(0, reach))


class SpectralResidual(Model):
    """`size`: side of the working picture in pixels; `sigma`: of the Gaussian on it, in its pixels."""

    task = "localization"

    def __init__(self, size: int = 64, sigma: float = 2.5):
        super().__init__()
        if size < 8:
            raise ValueError(f"size = {size}, expected at least 8 pixels")
        if not sigma > 0:
            raise ValueError(f"sigma = {sigma}, expected a number of pixels above 0")
        self.size, self.sigma = size, float(sigma)

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1] -> (N, 1, H, W) in [0, 1]; each image's map spans the whole range,
        except that a picture of one colour gets 0 everywhere."""
        with torch.autocast(batch["composite"].device.type, enabled=False):
            composite = batch["composite"].float()
            weights = composite.new_tensor(LUMINANCE).view(1, 3, 1, 1)
            luminance = (composite * weights).sum(1, keepdim=True)
            small = F.interpolate(luminance, (self.size, self.size), mode="bilinear", antialias=True)
            level = saliency(small, self.sigma)
            low, high = level.amin((2, 3), keepdim=True), level.amax((2, 3), keepdim=True)
            flat = small.amax((2, 3), keepdim=True) - small.amin((2, 3), keepdim=True) < 1e-5
            level = torch.where(flat, 0.0, (level - low) / (high - low).clamp_min(1e-12))
            return F.interpolate(level, composite.shape[2:], mode="bilinear").clamp(0, 1)
