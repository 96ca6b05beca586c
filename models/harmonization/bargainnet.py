"""BargainNet: a gated U-Net that is told the background's domain code.

Cong et al., "BargainNet: Background-Guided Domain Translation for Image Harmonization", ICME 2021.

Layers, losses and weights are those of the released code. Departures from the released code: one optimizer moves
generator and encoder, where the code has two alike; triplet distances are those between whole codes, where the code's
layout makes them differences of single components; and the background code of a prediction comes from the composite (it
is the same background), while in training it is that of the real image, as released.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.initialization import initialize_normal
from models.layers.partial_conv import PartialConv2d
from models.layers.unet import UNet
from models.losses.foreground import foreground_mse

KERNEL = 3
SMALLEST_SCALE = 0.001


class Stage(nn.Module):
    """A partial convolution 3x3, stride 2, no padding, and a norm."""

    def __init__(self, before: int, after: int, bias: bool, norm: nn.Module | None):
        super().__init__()
        self.conv = PartialConv2d(before, after, KERNEL, stride=2, bias=bias)
        self.norm = norm

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        features, mask = self.conv(features, mask)
        return (features if self.norm is None else self.norm(features)), mask


class DomainEncoder(nn.Module):
    """The domain code of a region: width to 8 * width channels, then the mean over the whole map.

    Batch normalization after all convolutions but the first and last, ReLU after all but the last.
    """

    def __init__(self, width: int = 64, levels: int = 5, code: int = 16):
        super().__init__()
        channels = [width * min(2**level, 8) for level in range(levels)]
        self.stages = nn.ModuleList(
            Stage(before, after, level == 0, nn.BatchNorm2d(after) if 0 < level < levels - 1 else None)
            for level, (before, after) in enumerate(zip([3, *channels], channels))
        )
        self.head = nn.Conv2d(channels[-1], code, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, code). image: (N, 3, H, W) in [-1, 1]; mask: (N, 1, H, W), 1 = the region.

        Raises ValueError for images below 2 ** (levels + 1) - 1 pixels a side.
        """
        least = 2 ** (len(self.stages) + 1) - 1
        for name, size in zip(("height", "width"), image.shape[2:]):
            if size < least:
                levels = len(self.stages)
                raise ValueError(f"{name} {size} is below {least}, the least for a domain encoder of {levels} levels")
        features = image
        for stage in self.stages:
            features, mask = stage(features, mask)
            features = features if stage is self.stages[-1] else F.relu(features)
        return self.head(features.mean((2, 3), keepdim=True)).flatten(1)


class Generator(nn.Module):
    """The gated U-Net on composite, mask and the background's code, spread over the image and scaled."""

    def __init__(self, levels: int, width: int, dropout: float, code: int, global_skip: bool):
        super().__init__()
        self.global_skip = global_skip
        self.scale = nn.Parameter(torch.tensor([0.1]))
        self.unet = UNet(
            in_channels=4 + code,
            norm=lambda position, channels: nn.BatchNorm2d(channels),
            bias=False,
            levels=levels,
            width=width,
            dropout=dropout,
            order=("gate", "down", "inside", "up"),
        )

    def forward(self, composite: Tensor, mask: Tensor, code: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1], as the composite, with a global skip unbounded. mask: (N, 1, H, W). code: (N, code)."""
        scaled = (code * self.scale.clamp(min=SMALLEST_SCALE))[:, :, None, None]
        maps = scaled.expand(-1, -1, *composite.shape[2:]).to(composite.dtype)
        drawn = self.unet(torch.cat([composite, mask, maps], dim=1)).float()
        return composite + drawn if self.global_skip else drawn.tanh()


class BargainNet(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        levels: int = 8,
        width: int = 64,
        dropout: float = 0.5,
        code: int = 16,
        encoder_levels: int = 5,
        triplet_weight: float = 0.01,
        margin: float = 0.1,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """levels: log2 of the image's size at most. width: channels of the first level of generator and encoder. code:
        numbers in a domain code. triplet_weight, margin: of the two triplet losses, with images in [-1, 1].
        dropout: of the generator's inner levels. encoder_levels: convolutions of the domain encoder.
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: draw what is added to the composite, without tanh, as a variant of S2AM does (not of the paper)."""
        super().__init__()
        self.triplet_weight, self.margin, self.reconstruction = triplet_weight, margin, reconstruction
        self.encoder = DomainEncoder(width, encoder_levels, code)
        self.generator = Generator(levels, width, dropout, code, global_skip)
        initialize_normal(self)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 2 ** levels, or too
        small for the domain encoder."""
        composite, mask = batch["composite"] * 2 - 1, batch["mask"]
        return (self.generator(composite, mask, self.encoder(composite, 1 - mask)).clamp(-1, 1) + 1) / 2

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 of the unpasted output in [-1, 1], and two triplets of domain codes: the output's foreground nearer to the
        real foreground, and nearer to the background, than the composite's foreground is."""
        self.require_player(player)
        composite, real, mask = batch["composite"] * 2 - 1, batch["real"] * 2 - 1, batch["mask"]
        background, foreground = self.encoder(real, 1 - mask), self.encoder(real, mask)
        drawn = self.generator(composite, mask, background)
        harmonized, before = self.encoder(drawn, mask), self.encoder(composite, mask)
        if self.reconstruction == "foreground_mse":
            error = foreground_mse(torch.lerp(composite, drawn, mask), real, mask)
        else:
            error = F.l1_loss(drawn, real)
        parts = {
            "reconstruction": error,
            "to_foreground": F.triplet_margin_loss(foreground, harmonized, before, self.margin),
            "to_background": F.triplet_margin_loss(harmonized, background, before, self.margin),
        }
        loss = parts["reconstruction"] + self.triplet_weight * (parts["to_foreground"] + parts["to_background"])
        return loss, {name: part.detach() for name, part in parts.items()}
