"""Deep Image Harmonization (DIH), the 256-pixel network without semantics, and DIH with RAIN.

Tsai et al., "Deep Image Harmonization", CVPR 2017, as its code was rebuilt for iHarmony4 (Cong et al., CVPR 2020).
DIH+RAIN is a row of the comparison in the supplementary of RainNet (Ling et al., CVPR 2021).

Departures from the iHarmony4 code: batch normalization in earnest, where the code never updates it; and the output is
clipped in `forward` alone, so that a value beyond the range still gets a gradient.
DIH+RAIN (`rain`): instance normalization in the encoder, RAIN in the decoder, and the loss on the pasted output. Its
published pretraining of a segmentation branch is left out with that branch.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.input_size import require_divisible
from models.layers.normalization import RAIN, InstanceNorm
from models.losses.foreground import foreground_mse

MULTIPLES = (1, 1, 2, 2, 4, 4, 8)
BOTTLENECK = 4


class Layer(nn.Module):
    """A (transposed) convolution without bias, a norm, ELU."""

    def __init__(self, conv: nn.Module, norm: nn.Module):
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        features = self.conv(features)
        features = self.norm(features, mask) if isinstance(self.norm, RAIN) else self.norm(features)
        return F.elu(features, inplace=True)


class DIH(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        levels: int = 6,
        width: int = 64,
        rain: bool = False,
        reconstruction: Literal["mse", "foreground_mse"] = "mse",
        global_skip: bool = False,
    ):
        """levels: halvings before the 4x4 convolution that the paper calls fc7, 3 to 7: 6 at 256 pixels (8.27M
        parameters), 7 at 512. width: channels of the first level. rain: DIH+RAIN.
        reconstruction: "mse" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: draw what is added to the composite, without tanh, as a variant of S2AM does (not of the paper)."""
        super().__init__()
        if not 3 <= levels <= len(MULTIPLES):
            raise ValueError(f"DIH: levels = {levels}, expected 3 to {len(MULTIPLES)}")
        self.levels, self.rain = levels, rain
        self.reconstruction, self.global_skip = reconstruction, global_skip
        channels = [width * multiple for multiple in MULTIPLES[:levels]]
        encode, decode = (InstanceNorm, RAIN) if rain else (nn.BatchNorm2d, nn.BatchNorm2d)
        self.encoder = nn.ModuleList(
            Layer(nn.Conv2d(before, after, 4, 2, 1, bias=False), encode(after))
            for before, after in zip([4, *channels], channels)
        )
        self.squeeze = nn.Conv2d(channels[-1], 2 * channels[-1], BOTTLENECK)
        first = nn.ConvTranspose2d(2 * channels[-1], channels[-1], BOTTLENECK, bias=False)
        self.decoder = nn.ModuleList([Layer(first, decode(channels[-1]))])
        for before, after in zip(channels[:0:-1], channels[-2::-1]):
            self.decoder.append(Layer(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), decode(after)))
        self.head = nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, 0.0, 0.01)
        assert self.squeeze.bias is not None  # Conv2d's default
        nn.init.zeros_(self.squeeze.bias)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), clipped to [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 2 ** levels
        or below 4 * 2 ** levels."""
        return (self._draw(batch).clamp(-1, 1) + 1) / 2

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error in [-1, 1]; of the whole output, with RAIN of the output pasted. Or what `reconstruction` asks
        for."""
        self.require_player(player)
        drawn, real, mask = self._draw(batch), batch["real"] * 2 - 1, batch["mask"]
        normalized = self.reconstruction == "foreground_mse"
        if self.rain or normalized:
            drawn = torch.lerp(batch["composite"] * 2 - 1, drawn, mask)
        error = foreground_mse(drawn, real, mask) if normalized else F.mse_loss(drawn, real)
        return error, {self.reconstruction: error.detach()}

    def _draw(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), RGB, [-1, 1] where the network keeps to it; float32 also under autocast."""
        composite, mask = batch["composite"], batch["mask"]
        require_divisible(composite, 2**self.levels)
        least = BOTTLENECK * 2**self.levels
        for name, size in zip(("height", "width"), composite.shape[2:]):
            if size < least:
                raise ValueError(f"{name} {size} is below {least}, the least for {self.levels} levels")
        # the published network reads and writes BGR
        features = torch.cat([composite.flip(1) * 2 - 1, mask], dim=1)
        skips = []
        for layer in self.encoder:
            features = layer(features, mask)
            skips.append(features)
        features = self.squeeze(features)
        for layer, skip in zip(self.decoder, reversed(skips)):
            features = layer(features, mask) + skip
        drawn = self.head(features).float().flip(1)
        return composite * 2 - 1 + drawn if self.global_skip else drawn
