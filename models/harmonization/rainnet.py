"""RainNet: a U-Net whose decoder gives foreground features the statistics of the background.

Ling et al., "Region-aware Adaptive Instance Normalization for Image Harmonization", CVPR 2021, and its supplementary
(gates: eq. 1; discriminators and losses: eqs 2-9; placement of RAIN: Table 1).

Where text and released code differ, this follows the code: the generator sees the composite alone, and the mask only
through RAIN (`mask_input` for the other reading); the verification score is learned and not l_f . l_b
(`verification`); the discriminators have a gradient penalty that the text does not mention (`gradient_penalty`).
Departures from the code: RAIN where no background is left (see models/layers/normalization.py); discriminators as deep
as the generator's levels ask for, so that images smaller than 256 pixels work; the composite keeps its own background,
where the code's loader puts the real one there; and the spectral norms take one power iteration a step, not one a
reading.
"""

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import Batch, Model
from models.layers.domain_verification import DomainVerificationDiscriminator
from models.layers.initialization import initialize_normal
from models.layers.normalization import RAIN, InstanceNorm
from models.layers.unet import UNet
from models.losses.adversarial import DrawnOnce, discriminator_game, generator_game
from models.losses.foreground import foreground_mse

PENALTY_WEIGHT = 10.0


def rain_positions(placement: str | tuple[int, ...], levels: int = 8) -> frozenset[int]:
    """The positions, among 1 to 2 * (levels - 1), at which a placement puts RAIN and not instance normalization.

    With n = levels - 1, 1 to n are the encoder's norms from the outside in, n + 1 to 2n the decoder's from the inside
    out. Position n is of no effect: the innermost convolution has no norm.
    placement: positions, or a name of the supplementary's Table 1, read as rules so that they hold at any depth (the
    table is for n = 7): Baseline none; RAIN-Decoder all of the decoder and RAIN-Decoder-k its last k; RAIN-Encoder the
    encoder and the decoder's first (the table prints 1-8); RAIN-k the outer k of both; RAIN-Inner-k the inner k of
    both, counted from between n and n + 1.
    Raises ValueError for another name, or a number that does not fit.
    """
    n = levels - 1
    if not isinstance(placement, str):
        wrong = [position for position in placement if not 1 <= position <= 2 * n]
        if wrong:
            raise ValueError(f"placement {wrong[0]}: with {levels} levels, positions are 1 to {2 * n}")
        return frozenset(placement)
    whole = {"Baseline": (), "RAIN-Decoder": range(n + 1, 2 * n + 1), "RAIN-Encoder": range(1, n + 2)}
    if placement in whole:
        return frozenset(whole[placement])
    name = re.fullmatch(r"RAIN-(Decoder-|Inner-|)(\d+)", placement)
    if name is None:
        known = ", ".join([*whole, "RAIN-Decoder-k", "RAIN-k", "RAIN-Inner-k"])
        raise ValueError(f"no placement {placement!r} (known: {known})")
    kind, k = name[1], int(name[2])
    if not 1 <= k <= n:
        raise ValueError(f"placement {placement!r}: with {levels} levels, its number is 1 to {n}")
    last = range(2 * n + 1 - k, 2 * n + 1)
    if kind == "Inner-":
        return frozenset(range(n + 1 - k, n + k + 1))
    return frozenset(last) if kind == "Decoder-" else frozenset([*range(1, k + 1), *last])


class RainNet(Model):
    task = "harmonization"

    def __init__(
        self,
        placement: str | tuple[int, ...] = "RAIN-Decoder",
        levels: int = 8,
        width: int = 64,
        mask_input: bool = False,
        dropout: float = 0.5,
        adversarial: bool = True,
        discriminator_width: int = 64,
        verification: Literal["learned", "inner_product"] = "learned",
        gradient_penalty: bool = True,
        global_weight: float = 1.0,
        verification_weight: float = 1.0,
        reconstruction_weight: float = 100.0,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """placement: see `rain_positions`. levels: log2 of the image's size at most. width: channels of the first
        level. mask_input: give the generator the mask as a fourth channel. adversarial: train against the
        discriminators; without, only the reconstruction is trained and they are not built.
        dropout: of the generator's inner levels. discriminator_width: channels of the discriminators' first level.
        verification: "learned" as released, or "inner_product" as in eq. 5. gradient_penalty: whether the discriminators
        have one, as released. global_weight, verification_weight, reconstruction_weight: lambda 1 to 3 of eq. 9, with
        images in [-1, 1].
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: draw what is added to the composite, without tanh, as a variant of S2AM does (not of the paper)."""
        super().__init__()
        self.reconstruction, self.global_skip = reconstruction, global_skip
        self.mask_input, self.weights = mask_input, (global_weight, verification_weight, reconstruction_weight)
        self.penalty_weight = PENALTY_WEIGHT if gradient_penalty else 0.0
        self.players = ("discriminator", "generator") if adversarial else ("generator",)
        self.drawn_once = DrawnOnce()
        positions = rain_positions(placement, levels)
        self.generator = UNet(
            in_channels=4 if mask_input else 3,
            norm=lambda position, channels: (RAIN if position in positions else InstanceNorm)(channels),
            bias=False,
            levels=levels,
            width=width,
            dropout=dropout,
            order=("down", "inside", "up", "gate"),
        )
        initialize_normal(self.generator)
        if adversarial:
            self.discriminator = DomainVerificationDiscriminator(
                levels - 1, discriminator_width, verification=verification
            )
            initialize_normal(self.discriminator)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 2 ** levels."""
        return (self._draw(batch["composite"] * 2 - 1, batch["mask"]).clamp(-1, 1) + 1) / 2

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eqs 2-9, on the prediction pasted into the composite, in [-1, 1]."""
        self.require_player(player)
        composite, real, mask = batch["composite"] * 2 - 1, batch["real"] * 2 - 1, batch["mask"]

        def draw() -> Tensor:
            return self._draw(composite, mask)

        if player == "discriminator":
            pasted = torch.lerp(composite, self.drawn_once.keep(batch["composite"], self.generator, draw), mask)
            return discriminator_game(self.discriminator, real, pasted, mask, self.penalty_weight)
        pasted = torch.lerp(composite, self.drawn_once.take(batch["composite"], draw), mask)
        error = (
            foreground_mse(pasted, real, mask) if self.reconstruction == "foreground_mse" else F.l1_loss(pasted, real)
        )
        parts = {"reconstruction": error}
        loss = self.weights[2] * parts["reconstruction"]
        if "discriminator" in self.players:
            parts["global"], parts["verification"] = generator_game(self.discriminator, pasted, mask)
            loss = loss + self.weights[0] * parts["global"] + self.weights[1] * parts["verification"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _draw(self, composite: Tensor, mask: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1], as the composite, with a global skip unbounded; float32 also under autocast, as losses
        want it."""
        image = torch.cat([composite, mask], dim=1) if self.mask_input else composite
        drawn = self.generator(image, mask).float()
        return composite + drawn if self.global_skip else drawn.tanh()
