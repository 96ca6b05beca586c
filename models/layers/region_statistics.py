"""Mean and deviation of features over a region."""

import torch
from torch import Tensor

EPS = 1e-5


def region_statistics(features: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per image and channel, twice (N, C, 1, 1), float32.

    features: (N, C, h, w). region: (N, 1, h, w), 0 or 1, 1 = in. Sums are divided by the area + 1e-5 and the deviation
    is sqrt(variance + 1e-5), as in RainNet's released code; an empty region gives 0 and sqrt(1e-5).
    """
    features, region = features.to(torch.promote_types(features.dtype, torch.float32)), region.float()
    area = region.sum((2, 3), keepdim=True) + EPS
    mean = (features * region).sum((2, 3), keepdim=True) / area
    variance = ((features - mean).square() * region).sum((2, 3), keepdim=True) / area
    return mean, (variance + EPS).sqrt()
