"""The boundary of a mask, as a target for networks that predict it."""

import torch.nn.functional as F
from torch import Tensor


def edge_target(mask: Tensor, size: int = 5) -> Tensor:
    """Morphological gradient of masks (N, 1, H, W) in [0, 1]: dilation minus erosion with a square of `size` pixels.

    (N, 1, H, W) in [0, 1], 1 within size // 2 pixels of the boundary. The picture's own border is no boundary.
    """
    dilated = F.max_pool2d(mask, size, 1, size // 2)
    eroded = -F.max_pool2d(-mask, size, 1, size // 2)
    return dilated - eroded
