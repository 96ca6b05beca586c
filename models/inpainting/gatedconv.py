"""GatedConv (DeepFill v2): Yu, Lin, Yang, Shen, Lu and Huang, "Free-Form Image Inpainting with Gated Convolution",
ICCV 2019.

Two stages of gated convolutions, the second with a branch of contextual attention, against a discriminator on
patches. Facts from the authors' TensorFlow code, its "same" zero padding included; layers in its order. The user guide
stays out: no edge sketch is read. Its gated convolution splits one convolution's channels into feature and gate, so the
nominal widths are halved (4.05 M parameters); the PyTorch port of csqiangwen gives each its own convolution of full
width (16.17 M). `layout` holds both; "port" takes from it the widths, the 4-channel inputs with the hole set to 1, and
the gated last layer, not its losses.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.base import Batch, Model, sum_of
from models.layers.aligned_nearest import resize_aligned_nearest
from models.layers.attention import contextual_attention
from models.layers.input_size import require_divisible
from models.layers.same_padding import SamePad2d
from models.layers.spectral import SpectralPatchDiscriminator
from models.losses.adversarial import (
    frozen,
    hinge_for_discriminator,
    hinge_for_generator,
)


class GatedConv2d(nn.Module):
    """activation(feature) x sigmoid(gate), both from a convolution over the input; size / stride pixels out."""

    def __init__(
        self, before: int, after: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1,
        activation: nn.Module | None = None, up: bool = False,
    ):  # fmt: skip
        """after: channels out. up: double the size first, by nearest neighbour."""
        super().__init__()
        self.up = nn.Upsample(scale_factor=2) if up else nn.Identity()
        self.pad = SamePad2d(kernel_size, stride, dilation)
        self.convolution = nn.Conv2d(before, 2 * after, kernel_size, stride, dilation=dilation)
        self.activation = nn.ELU() if activation is None else activation

    def forward(self, features: Tensor) -> Tensor:
        features, gate = self.convolution(self.pad(self.up(features))).chunk(2, dim=1)
        return self.activation(features) * gate.sigmoid()


class GatedGenerator(nn.Module):
    """Both stages. c: channels of the first layer. inputs: channels of the first and second stage's input."""

    def __init__(self, c: int, inputs: tuple[int, int], gate_output: bool):
        super().__init__()
        self.coarse = nn.Sequential(
            GatedConv2d(inputs[0], c, 5),
            *(GatedConv2d(c, 2 * c, stride=2), GatedConv2d(2 * c, 2 * c)),
            *(GatedConv2d(2 * c, 4 * c, stride=2), GatedConv2d(4 * c, 4 * c), GatedConv2d(4 * c, 4 * c)),
            *(GatedConv2d(4 * c, 4 * c, dilation=dilation) for dilation in (2, 4, 8, 16)),
            *_decoder(4 * c, c, gate_output),
        )
        self.hallucination = nn.Sequential(
            *(GatedConv2d(inputs[1], c, 5), GatedConv2d(c, c, stride=2)),
            *(GatedConv2d(c, 2 * c), GatedConv2d(2 * c, 2 * c, stride=2)),
            *(GatedConv2d(2 * c, 4 * c), GatedConv2d(4 * c, 4 * c)),
            *(GatedConv2d(4 * c, 4 * c, dilation=dilation) for dilation in (2, 4, 8, 16)),
        )
        self.before_attention = nn.Sequential(
            *(GatedConv2d(inputs[1], c, 5), GatedConv2d(c, c, stride=2)),
            *(GatedConv2d(c, 2 * c), GatedConv2d(2 * c, 4 * c, stride=2)),
            *(GatedConv2d(4 * c, 4 * c), GatedConv2d(4 * c, 4 * c, activation=nn.ReLU())),
        )
        self.after_attention = nn.Sequential(GatedConv2d(4 * c, 4 * c), GatedConv2d(4 * c, 4 * c))
        self.combination = nn.Sequential(*_decoder(8 * c, c, gate_output))


class GatedConv(Model):
    task = "inpainting"

    def __init__(
        self,
        width: int = 48,
        layout: Literal["official", "port"] = "official",
        discriminator_width: int = 64,
        adversarial: bool = True,
    ):
        """width: nominal channels of the first layer, a multiple of 4; layout "official" halves all of them.
        layout: "official", the authors' graph, or "port", that of a PyTorch port.
        discriminator_width: channels of the discriminator's first layer. adversarial: train against the discriminator;
        without, which is not of the paper, only the L1 terms are trained and it is not built.
        Raises ValueError for another width.
        """
        super().__init__()
        self.players = ("generator", "discriminator") if adversarial else ("generator",)
        if width < 4 or width % 4:
            raise ValueError(f"gatedconv: width = {width}, expected a multiple of 4")
        self.layout = layout
        official = layout == "official"
        self.generator = GatedGenerator(width // 2 if official else width, (5, 3) if official else (4, 4), not official)
        if adversarial:
            widths = [discriminator_width * factor for factor in (1, 2, 4, 4, 4, 4)]
            # the released code activates the logits, too
            self.discriminator = SpectralPatchDiscriminator(
                4, widths, [2] * 6, 5, "same", bias=True, activate_last=True
            )

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the second stage. Raises ValueError where H or W is not divisible by 8."""
        return (self.draw(batch["image"], batch["hole"])[1] + 1) / 2

    def draw(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """image (N, 3, H, W) in [0, 1], hole (N, 1, H, W; 1 = hole) -> both stages' images in [-1, 1]."""
        require_divisible(image, 8)
        generator, official = self.generator, self.layout == "official"
        hole = (hole > 0.5).to(image.dtype)
        image = torch.where(hole > 0.5, torch.zeros_like(image), image)
        known = 2 * image - 1 if official else image
        masked = known * (1 - hole) if official else known + hole
        ones = [torch.ones_like(hole)] if official else []
        coarse = generator.coarse(torch.cat([masked, *ones, hole], dim=1)).tanh()
        # the port pastes its coarse image, in [-1, 1], into an input in [0, 1]; here both have the input's range
        pasted = (coarse if official else (coarse + 1) / 2) * hole + known * (1 - hole)
        second = pasted if official else torch.cat([pasted, hole], dim=1)
        features = generator.before_attention(second)
        small_hole = resize_aligned_nearest(hole, features.shape[2:])
        features = generator.after_attention(contextual_attention(features, small_hole))
        fine = generator.combination(torch.cat([generator.hallucination(second), features], dim=1)).tanh()
        return coarse.float(), fine.float()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """generator: L1 of each stage over the whole image in [-1, 1] (parts coarse, fine) plus the hinge loss on the
        composite (adversarial), all with weight 1. discriminator: half the hinge loss, images judged beside their
        hole. The real image is batch["image"], hole included."""
        real, hole = 2 * batch["image"] - 1, batch["hole"]
        if player == "generator":
            coarse, fine = self.draw(batch["image"], hole)
            parts = {"coarse": (coarse - real).abs().mean(), "fine": (fine - real).abs().mean()}
            if "discriminator" in self.players:
                with frozen(self.discriminator):
                    logits = self.discriminator(torch.cat([torch.where(hole > 0.5, fine, real), hole], dim=1))[-1]
                parts["adversarial"] = hinge_for_generator(logits.float())
            return sum_of(parts.values()), {name: part.detach() for name, part in parts.items()}
        self.parameters_of(player)  # refuses an unknown player
        with torch.no_grad():
            fake = torch.where(hole > 0.5, self.draw(batch["image"], hole)[1], real)
        judged = torch.cat([torch.cat([real, fake]), hole.repeat(2, 1, 1, 1)], dim=1)
        hinge = hinge_for_discriminator(*self.discriminator(judged)[-1].float().chunk(2))
        return hinge / 2, {"hinge": hinge.detach()}


def _decoder(before: int, c: int, gate_output: bool) -> list[nn.Module]:
    plain = nn.Sequential(SamePad2d(3), nn.Conv2d(c // 2, 3, 3))
    last = GatedConv2d(c // 2, 3, activation=nn.Identity()) if gate_output else plain
    return [
        *(GatedConv2d(before, 4 * c), GatedConv2d(4 * c, 4 * c)),
        *(GatedConv2d(4 * c, 2 * c, up=True), GatedConv2d(2 * c, 2 * c)),
        *(GatedConv2d(2 * c, c, up=True), GatedConv2d(c, c // 2)),
        last,
    ]
