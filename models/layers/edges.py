"""Edge maps of photographs, as the inpainters that draw edges first read them."""

import numpy as np
import torch
from skimage.feature import canny
from torch import Tensor

LUMINANCE = (0.2125, 0.7154, 0.0721)
"""weights of red, green and blue in scikit-image's rgb2gray, which the released codes use"""


def gray(image: Tensor) -> Tensor:
    """Luminance (N, 1, H, W) in [0, 1] of RGB images (N, 3, H, W) in [0, 1]."""
    return (image * image.new_tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)


def canny_edges(luminance: Tensor, sigma: float, hole: Tensor | None = None) -> Tensor:
    """Canny's edges, 0 or 1, (N, 1, H, W), of gray images (N, 1, H, W) in [0, 1].

    sigma: standard deviation of Canny's Gaussian, in pixels.
    hole: (N, 1, H, W), 1 = hole. With it Canny reads valid pixels alone, so that the hole's border makes no edges.
    No gradient flows through an edge map: it is worked out on the CPU by scikit-image.
    """
    maps = []
    for index, picture in enumerate(luminance[:, 0].detach().float().cpu().numpy()):
        valid = None if hole is None else hole[index, 0].cpu().numpy() <= 0.5
        maps.append(canny(picture, sigma, mask=valid))
    return torch.from_numpy(np.stack(maps))[:, None].to(luminance)
