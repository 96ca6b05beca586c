"""DoveNet: a gated U-Net against a global and a domain-verification discriminator.

Cong et al., "DoveNet: Deep Image Harmonization via Domain Verification", CVPR 2020. Layers,
losses and weights are those of the released code. It differs from RainNet without RAIN in what is judged: the output as
drawn, not pasted.

As in the released code, the verification score is learned and the discriminators have a gradient penalty. Departures:
discriminators as deep as the generator's levels ask for, so that images smaller than 256 pixels work; and the spectral
norms take one power iteration a step, not one a reading.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.domain_verification import DomainVerificationDiscriminator
from models.layers.initialization import initialize_normal
from models.layers.normalization import InstanceNorm
from models.layers.unet import UNet
from models.losses.adversarial import DrawnOnce, discriminator_game, generator_game
from models.losses.foreground import foreground_mse

PENALTY_WEIGHT = 10.0


class DoveNet(Model):
    task = "harmonization"

    def __init__(
        self,
        norm: Literal["instance", "batch"] = "instance",
        levels: int = 8,
        width: int = 64,
        dropout: float = 0.5,
        adversarial: bool = True,
        discriminator_width: int = 64,
        gradient_penalty: bool = True,
        global_weight: float = 1.0,
        verification_weight: float = 1.0,
        reconstruction_weight: float = 100.0,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """norm: of all networks; the count of the paper is that of "instance", the released weights have "batch".
        levels: log2 of the image's size at most. width: channels of the first level. adversarial: train against the
        discriminators; without, only the reconstruction is trained and they are not built.
        dropout: of the generator's inner levels. discriminator_width: channels of the discriminators' first level.
        gradient_penalty: whether the discriminators have one. global_weight, verification_weight, reconstruction_weight:
        of the three losses, with images in [-1, 1].
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: draw what is added to the composite, without tanh, as a variant of S2AM does (not of the paper)."""
        super().__init__()
        self.reconstruction, self.global_skip = reconstruction, global_skip
        self.weights = global_weight, verification_weight, reconstruction_weight
        self.penalty_weight = PENALTY_WEIGHT if gradient_penalty else 0.0
        self.players = ("discriminator", "generator") if adversarial else ("generator",)
        self.drawn_once = DrawnOnce()
        layer = {"instance": InstanceNorm, "batch": nn.BatchNorm2d}[norm]
        self.generator = UNet(
            in_channels=4,
            norm=lambda position, channels: layer(channels),
            bias=norm == "instance",
            levels=levels,
            width=width,
            dropout=dropout,
            order=("gate", "down", "inside", "up"),
        )
        initialize_normal(self.generator)
        if adversarial:
            self.discriminator = DomainVerificationDiscriminator(levels - 1, discriminator_width, norm)
            initialize_normal(self.discriminator)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 2 ** levels."""
        return (self._draw(batch).clamp(-1, 1) + 1) / 2

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Hinge losses of both discriminators and 100 times the L1 of the unpasted output, in [-1, 1]."""
        self.require_player(player)
        composite, real, mask = batch["composite"] * 2 - 1, batch["real"] * 2 - 1, batch["mask"]
        if player == "discriminator":
            drawn = self.drawn_once.keep(batch["composite"], self.generator, lambda: self._draw(batch))
            return discriminator_game(self.discriminator, real, drawn, mask, self.penalty_weight)
        drawn = self.drawn_once.take(batch["composite"], lambda: self._draw(batch))
        if self.reconstruction == "foreground_mse":
            error = foreground_mse(torch.lerp(composite, drawn, mask), real, mask)
        else:
            error = F.l1_loss(drawn, real)
        parts = {"reconstruction": error}
        loss = self.weights[2] * parts["reconstruction"]
        if "discriminator" in self.players:
            parts["global"], parts["verification"] = generator_game(self.discriminator, drawn, mask)
            loss = loss + self.weights[0] * parts["global"] + self.weights[1] * parts["verification"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _draw(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [-1, 1], with a global skip unbounded; float32 also under autocast, as losses want it."""
        composite = batch["composite"] * 2 - 1
        drawn = self.generator(torch.cat([composite, batch["mask"]], dim=1)).float()
        return composite + drawn if self.global_skip else drawn.tanh()
