"""What the networks that split a picture into reflectance and illumination share: their convolutional coders.

Guo et al., "Intrinsic Image Harmonization", CVPR 2021 (IIH) and "Image Harmonization With Transformer", ICCV 2021
(D-HT). The blocks are those of their released code. Convolutions pad by reflection, and the activation is a LeakyReLU
of slope 0.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.normalization import InstanceNorm

SLOPE = 0.2


class PictureNorm(nn.Module):
    """Normalize all features of a picture at once: (x - mean) / (deviation + 1e-5) * gamma + beta.

    Mean and deviation are taken over channels, height and width. The deviation is the unbiased one, and 1e-5 is added
    to it and not to the variance, as released; so this differs from nn.LayerNorm and nn.GroupNorm. gamma and beta are
    per channel. gamma starts as a draw from [0, 1).
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) in the features' dtype; statistics in float32."""
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        deviation, mean = torch.std_mean(exact, dim=(1, 2, 3), keepdim=True)
        # one scale and one shift a channel, so that the features are passed over once and no second copy is kept for
        # the gradient
        scale = self.gamma.view(-1, 1, 1) / (deviation + self.eps)
        return torch.addcmul(self.beta.view(-1, 1, 1) - mean * scale, exact, scale).to(features.dtype)


class Block(nn.Module):
    """A convolution that pads by reflection, a norm if there is one, and an activation ("leaky", "tanh", "relu" or
    none)."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int = 1,
        norm: nn.Module | None = None,
        activation: str = "leaky",
    ):
        super().__init__()
        self.norm = norm  # registered before the convolution, as released
        self.conv = nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, padding_mode="reflect")
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv(features)
        if self.norm is not None:
            features = self.norm(features)
        match self.activation:
            case "leaky":
                return F.leaky_relu(features, SLOPE, inplace=True)
            case "relu":
                return F.relu(features, inplace=True)
            case "tanh":
                return features.tanh()
        return features


class Residual(nn.Module):
    """x + two blocks 3x3 with picture norm, the second without activation."""

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.Sequential(
            Block(channels, channels, 3, norm=PictureNorm(channels)),
            Block(channels, channels, 3, norm=PictureNorm(channels), activation="none"),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.blocks(features)


def content_encoder(
    width: int, halvings: int = 2, residuals: int = 0, norm: type[nn.Module] | None = InstanceNorm
) -> nn.Sequential:
    """Picture and mask (N, 4, H, W) -> features (N, width * 2 ** halvings, H / 2 ** halvings, W / 2 ** halvings).

    A 7x7 convolution to `width` channels; 4x4 convolutions of stride 2, each of which doubles the channels; then
    residual blocks. norm: what follows each convolution before the residual blocks; InstanceNorm has no parameters.
    """
    channels = [width * 2**level for level in range(halvings + 1)]

    def normed(count: int) -> nn.Module | None:
        return None if norm is None else norm(count)

    layers = [Block(4, width, 7, norm=normed(width))]
    layers += [Block(before, after, 4, 2, normed(after)) for before, after in zip(channels, channels[1:])]
    return nn.Sequential(*layers, *(Residual(channels[-1]) for _ in range(residuals)))


class ContentDecoder(nn.Module):
    """Features (N, 4 * width, H / 4, W / 4) -> a map (N, 3, H, W) in [-1, 1].

    Twice: double the size by nearest neighbour and halve the channels by a 5x5 convolution with picture norm. Then a
    7x7 convolution and tanh.
    """

    def __init__(self, width: int):
        super().__init__()
        self.first = Block(4 * width, 2 * width, 5, norm=PictureNorm(2 * width))
        self.second = Block(2 * width, width, 5, norm=PictureNorm(width))
        self.head = Block(width, 3, 7, activation="none")

    def forward(self, features: Tensor) -> Tensor:
        """float32, also under autocast."""
        features = self.first(F.interpolate(features, scale_factor=2, mode="nearest"))
        features = self.second(F.interpolate(features, scale_factor=2, mode="nearest"))
        return self.head(features).float().tanh()

    def quieten(self) -> None:
        """Let the head begin at a hundredth of its draw, so that the map begins near 0."""
        with torch.no_grad():
            self.head.conv.weight *= 0.01
