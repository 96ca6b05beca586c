"""Resampling features: the periodic traces that resizing or rotating leaves in a patch, read from its projections.

Bunk et al., "Detection and Localization of Image Forgeries using Resampling Features and Deep Learning", CVPR
workshops 2017; Bappy et al., "Hybrid LSTM and Encoder-Decoder Architecture for Detection of Image Forgeries", IEEE TIP
28, 2019. Facts from the released code of the latter, which calls scikit-image's `radon` once per patch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import sum_of

AT_ONCE = 2  # pictures, on a CPU: what is computed on the way stays in its cache
SMALLEST = 1e-16  # keeps the features of a patch without any detail at -1


class ResamplingFeatures(nn.Module):
    """Features of all square patches of a batch of images at once.

    Per patch: the square root of the absolute 3x3 Laplacian of each channel (the patch's border mirrored), averaged
    over channels; its Radon transform at `angles` angles from 0 to below 180 degrees; the magnitudes of the Fourier
    transform along each projection, divided by their mean over the angles, minus 1.

    patch: side of a patch in pixels.

    The Radon transform and the Fourier transform are linear, so both together are one fixed matrix, built once: the
    fast Fourier transform of the Radon transform's own. Differences are taken of values in 0 to 255, where float32
    holds those of an 8-bit picture exactly, as the released code does; a smooth patch would otherwise get the Laplacian
    of its rounding errors, which the division by the mean magnitude blows up to the features of a texture. For the same
    reason the transforms are in float64.

    Half of the matrix suffices. Turning a patch by 180 degrees about its centre pixel turns every projection around. So a
    spectrum whose phase counts from the centre has a real part that sees sums of opposite pixels alone, and an imaginary
    part that sees their differences. Magnitudes don't depend on where the phase counts from.
    """

    of_sums: Tensor
    of_differences: Tensor

    def __init__(self, patch: int = 32, angles: int = 10):
        super().__init__()
        if patch < 2 or angles < 1:
            raise ValueError(f"patch = {patch}, angles = {angles}, expected at least 2 and 1")
        projections = radon_operator(patch, np.arange(angles) * (180 / angles))
        bins = projections.shape[1]
        spectrum = np.fft.rfft(projections, axis=1)
        spectrum *= np.exp(2j * np.pi * np.arange(spectrum.shape[1]) * (bins // 2) / bins)[:, None]
        self.patch, self.angles, self.frequencies = patch, angles, spectrum.shape[1]
        self.size = self.angles * self.frequencies
        inner, outer = around_centre(torch.arange(patch * patch, device="cpu").view(1, patch, patch))
        pairs = inner.shape[1] // 2
        spectrum = spectrum.reshape(-1, patch * patch)
        of_sums = spectrum.real[:, torch.cat([inner[0, : pairs + 1], outer[0]]).numpy()]
        of_differences = spectrum.imag[:, torch.cat([inner[0, :pairs], outer[0]]).numpy()]
        # rebuilt from `patch` and `angles`, so they are no part of the state dict
        self.register_buffer("of_sums", torch.from_numpy(of_sums.copy()), persistent=False)
        self.register_buffer("of_differences", torch.from_numpy(of_differences.copy()), persistent=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(N, patches, angles * frequencies) float32, patches row by row, frequencies of the first angle first.

        image: (N, C, H, W) in [0, 1], H and W multiples of `patch`. Without gradient.
        """
        if image.device.type == "cpu" and len(image) > AT_ONCE:
            return torch.cat([self(pictures) for pictures in image.split(AT_ONCE)])
        count, channels, height, width = image.shape
        rows, columns, side = height // self.patch, width // self.patch, self.patch
        with torch.autocast(image.device.type, enabled=False):
            patches = (image.float() * 255).reshape(count, channels, rows, side, columns, side)
            patches = patches.permute(1, 0, 2, 4, 3, 5).reshape(channels, -1, side, side)
            detail = sum_of(laplacian(channel).abs_().sqrt_() for channel in patches) / channels
            inner, outer = around_centre(detail)
            pairs = inner.shape[1] // 2
            ahead, opposite = inner[:, :pairs], inner[:, pairs + 1 :].flip(1)
            # float32 until here, half the bytes to mirror; sums and differences are in float64
            sums = torch.cat([ahead.double() + opposite, inner[:, pairs : pairs + 1], outer], dim=1)
            differences = torch.cat([ahead.double() - opposite, outer], dim=1)
            real, imaginary = sums @ self.of_sums.t(), differences @ self.of_differences.t()
            magnitude = torch.hypot(real, imaginary).view(-1, self.angles, self.frequencies)
            features = magnitude / (magnitude.mean(1, keepdim=True) + SMALLEST) - 1
        return features.view(count, rows * columns, self.size).float()


def laplacian(image: Tensor) -> Tensor:
    """The four neighbours' sum minus four times the pixel, (N, H, W); beyond the border lies its mirror image.

    In this order a flat image gets exactly 0, whatever its value.
    """
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")  # at a depth of one pixel mirroring repeats the border
    total = padded[:, :-2, 1:-1] + padded[:, 1:-1, :-2]
    return total.sub_(image, alpha=4).add_(padded[:, 1:-1, 2:]).add_(padded[:, 2:, 1:-1])


def around_centre(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (N, side, side) that have an opposite about the centre pixel (side // 2, side // 2), and those that have none.

    The first, (N, an odd number): row by row, so that the k-th from the front lies opposite the k-th from the back, and the
    centre is in the middle. The second, (N, 2 side - 1, or 0 where side is odd): the first row and column.
    """
    if patches.shape[1] % 2:
        return patches.flatten(1), patches.new_zeros(len(patches), 0)
    return patches[:, 1:, 1:].flatten(1), torch.cat([patches[:, 0], patches[:, 1:, 0]], dim=1)


def radon_operator(side: int, degrees: np.ndarray) -> np.ndarray:
    """The Radon transform of a square image of `side` pixels as a matrix: float64 (angles, bins, side * side).

    It is `skimage.transform.radon(image, degrees, circle=False)` for every image: the image is padded with zeros to a
    square of ceil(sqrt(2) * side) pixels, rotated about its centre pixel with bilinear interpolation, and summed over
    rows.
    """
    bins = side + int(np.ceil(np.sqrt(2) * side - side))
    before = bins // 2 - side // 2
    centre = bins // 2
    row, column = np.mgrid[:bins, :bins]
    operator = np.zeros((len(degrees), bins, side * side))
    for index, angle in enumerate(np.deg2rad(degrees)):
        # where in the image, before padding, a pixel of the rotated one comes from
        x = np.cos(angle) * (column - centre) + np.sin(angle) * (row - centre) + centre - before
        y = -np.sin(angle) * (column - centre) + np.cos(angle) * (row - centre) + centre - before
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        for x_corner, x_share in ((left, left + 1 - x), (left + 1, x - left)):
            for y_corner, y_share in ((top, top + 1 - y), (top + 1, y - top)):
                inside = (x_corner >= 0) & (x_corner < side) & (y_corner >= 0) & (y_corner < side)
                pixel = y_corner[inside] * side + x_corner[inside]
                np.add.at(operator[index], (column[inside], pixel), (x_share * y_share)[inside])
    return operator
