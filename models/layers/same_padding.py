"""Zero padding as TensorFlow's "SAME": the output has ceil(size / stride) pixels, and an odd pixel of padding goes to
the bottom and the right. Networks published in TensorFlow need it to see what their weights saw."""

from torch import Tensor, nn
from torch.nn import functional as F


class SamePad2d(nn.Module):
    """Pads (N, C, H, W) with zeros for a convolution of this geometry."""

    def __init__(self, kernel_size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.reach, self.stride = (kernel_size - 1) * dilation + 1, stride

    def forward(self, features: Tensor) -> Tensor:
        height, width = (self._total(size) for size in features.shape[2:])
        return F.pad(features, (width // 2, width - width // 2, height // 2, height - height // 2))

    def _total(self, size: int) -> int:
        return max((-(-size // self.stride) - 1) * self.stride + self.reach - size, 0)
