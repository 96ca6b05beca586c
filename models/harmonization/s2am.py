"""S2AM: a U-Net with spatial-separated attention on its three outer skips.

Cun and Pun, "Improving the Harmony of the Composite Image by Spatial-Separated Attention Module", IEEE TIP 2020.

Layers, initial weights and loss are those of the released code. Departures from the released code: the loss is not
multiplied by 1e10, which makes no difference to Adam; `global_skip` is its variant "with global skip", which adds the
composite to the output; its head begins at a hundredth of Kaiming's draw, so that training begins near the composite:
at the whole of it the foreground error of labelled photographs was 41% larger after 200 steps than from a head of
zeros.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.spatial_separated_attention import SpatialSeparatedAttention
from models.layers.unet import UNet
from models.losses.foreground import foreground_mse


class S2AM(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        levels: int = 8,
        width: int = 64,
        global_skip: bool = False,
        reconstruction: Literal["mse", "foreground_mse"] = "mse",
    ):
        """levels: log2 of the image's size at most. width: channels of the first level. global_skip: add the composite.
        reconstruction: "foreground_mse" has the loss of Zhu et al. 2022, of the pasted output; not of the paper."""
        super().__init__()
        self.global_skip, self.reconstruction = global_skip, reconstruction
        self.unet = UNet(
            in_channels=4,
            norm=lambda position, channels: nn.BatchNorm2d(channels),
            bias=False,
            gate=SpatialSeparatedAttention,
            levels=levels,
            width=width,
            dropout=0.0,
            order=("down", "up", "inside", "gate"),
        )
        _initialize_kaiming(self)
        if global_skip:
            with torch.no_grad():
                self.unet.up.get_parameter("weight").mul_(0.01)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), clipped to [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 2 ** levels
        or (at 4 levels) is 16."""
        return self._draw(batch).clamp(0, 1)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the whole output, unpasted and unclipped, on [0, 1], or what `reconstruction` asks for."""
        self.require_player(player)
        drawn = self._draw(batch)
        if self.reconstruction == "foreground_mse":
            error = foreground_mse(torch.lerp(batch["composite"], drawn, batch["mask"]), batch["real"], batch["mask"])
        else:
            error = F.mse_loss(drawn, batch["real"])
        return error, {self.reconstruction: error.detach()}

    def _draw(self, batch: Batch) -> Tensor:
        drawn = self.unet(torch.cat([batch["composite"], batch["mask"]], dim=1), batch["mask"]).float()
        return drawn + batch["composite"] if self.global_skip else drawn


def _initialize_kaiming(network: nn.Module) -> None:
    """As released: Kaiming normal by fan-in for convolutions and linear layers, N(1, 0.02) for batch normalization."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)
