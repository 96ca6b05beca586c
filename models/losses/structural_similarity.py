"""Structural similarity of maps, and its part that leaves brightness out, as losses take them.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004. The constants
are those for values in [0, 1]. The window is a Gaussian of 11x11 with sigma 1.5. Beyond the border lie zeros, as in the
code of the networks whose losses these are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of two float32 maps (N, 1, H, W) in [0, 1], per pixel, in [-1, 1]."""
    mean_x, mean_y, variances, covariance = _moments(x, y)
    means = mean_x**2 + mean_y**2
    return (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((means + C1) * (variances + C2))


def contrast_structure_map(x: Tensor, y: Tensor) -> Tensor:
    """The factors contrast and structure of structural similarity, per pixel, in [-1, 1]: (2 covariance + C2) / (sum of
    the variances + C2). Two float32 maps (N, 1, H, W)."""
    _, _, variances, covariance = _moments(x, y)
    return (2 * covariance + C2) / (variances + C2)


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In a window about each pixel: mean of x, mean of y, sum of the two variances, covariance; (N, 1, H, W) each."""
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    taps = taps / taps.sum()
    # all maps as the channels of one image: a convolution by channel costs a CPU a 30th of one of single-channel images
    sums = torch.cat([x, y, x * x, y * y, x * y]).transpose(0, 1)
    count = sums.shape[1]
    sums = F.conv2d(sums, taps.view(1, 1, -1, 1).expand(count, -1, -1, -1), padding=(WINDOW // 2, 0), groups=count)
    sums = F.conv2d(sums, taps.view(1, 1, 1, -1).expand(count, -1, -1, -1), padding=(0, WINDOW // 2), groups=count)
    mean_x, mean_y, square_x, square_y, product = sums.transpose(0, 1).chunk(5)
    return mean_x, mean_y, square_x - mean_x**2 + square_y - mean_y**2, product - mean_x * mean_y
