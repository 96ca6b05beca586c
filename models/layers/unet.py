"""The U-Net that DoveNet, RainNet, S2AM and BargainNet share, and CSA's coarse network (pix2pix's at 256 pixels).

With 8 levels at 256 pixels: convolutions 4x4, stride 2 to 64, 128, 256, 512, 512, 512, 512, 512 channels and back,
with skips by concatenation and a gate on the three outer concatenations.

The encoder's leaky ReLUs act in place in the released codes of all four, so that a skip carries the activated feature
although the layers read as if it were the raw one; published weights give another picture without this.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.input_size import require_divisible

Norm = Callable[[int, int], nn.Module]
"""(position, channels) -> layer. Positions count as in RainNet's placement table: the encoder's 1 to levels - 1 from
the outside in (the last of them, the innermost, has no norm), then the decoder's from the inside out."""

GATED = 3


def transposed(inputs: int, outputs: int, bias: bool) -> nn.Module:
    """Doubles height and width by a transposed convolution 4x4."""
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)


class Gate(nn.Module):
    """F <- sigmoid(conv1x1(F)) * F (RainNet's supplementary, eq. 1; "attention block" in DoveNet)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features).sigmoid() * features


class Step(nn.Module):
    """A convolution, or what doubles the size, and its norm."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        features = self.conv(features)
        return features if self.norm is None else _apply(self.norm, features, mask)


class Block(nn.Module):
    """One level: halve, whatever lies inside, double, and join with what came in.

    (N, outer, H, W) -> (N, 2 * outer, H, W). `inside` maps the inner features to twice their channels; None in the
    innermost block.
    """

    down: nn.Module
    inside: nn.Module | None
    up: nn.Module
    gate: nn.Module | None

    def __init__(
        self, down: Step, inside: "Block | None", up: Step, gate: nn.Module | None, dropout: float,
        order: tuple[str, ...], skip_first: bool = True,
    ):  # fmt: skip
        super().__init__()
        parts = {"down": down, "inside": inside, "up": up, "gate": gate}
        for name in order:
            self.add_module(name, parts[name])
        self.dropout, self.skip_first = dropout, skip_first

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        features = F.leaky_relu(features, 0.2, inplace=True)
        deeper = self.down(features, mask)
        if self.inside is not None:
            deeper = self.inside(deeper, mask)
        deeper = self.up(F.relu(deeper, inplace=True), mask)
        deeper = F.dropout(deeper, self.dropout, self.training)
        joined = torch.cat([features, deeper] if self.skip_first else [deeper, features], dim=1)
        return joined if self.gate is None else _apply(self.gate, joined, mask)


class UNet(nn.Module):
    """U8, without the activation after its head.

    levels: halvings, 4 or more; the input's sides must be divisible by 2 ** levels.
    width: channels of the first level; they double to 8 times this.
    norm: builds a normalization layer; bias: of the convolutions beside the head's, which always has one.
    gate: builds a layer for the joined features of levels 1 to 3 from their channels; None for no gates.
    dropout: of the decoder's blocks between the gated ones and the innermost, after their norm.
    order: in which the parts of a block, and of the whole, are registered, as published codes differ in this.
    double: builds the layers that double the size from their channels in and out and whether they have a bias.
    head_bias: of the last of them.
    skip_first: whether a skip concatenates [encoder, decoder] or [decoder, encoder], another thing that they differ in.
    Layers of `norm` and `gate` with an attribute takes_mask are called with the mask beside the features.
    """

    down: nn.Module
    inside: nn.Module
    up: nn.Module

    def __init__(
        self,
        in_channels: int,
        norm: Norm,
        bias: bool,
        gate: Callable[[int], nn.Module] | None = Gate,
        levels: int = 8,
        width: int = 64,
        dropout: float = 0.5,
        order: tuple[str, ...] = ("gate", "down", "inside", "up"),
        out_channels: int = 3,
        double: Callable[[int, int, bool], nn.Module] = transposed,
        head_bias: bool = True,
        skip_first: bool = True,
    ):
        super().__init__()
        if levels < GATED + 1:
            raise ValueError(f"levels = {levels}, expected {GATED + 1} or more")
        self.levels = levels
        channels = [width * min(2**level, 8) for level in range(levels)]
        inside = None
        for level in range(levels - 1, 0, -1):
            outer, inner, innermost = channels[level - 1], channels[level], level == levels - 1
            inside = Block(
                Step(nn.Conv2d(outer, inner, 4, 2, 1, bias=bias), None if innermost else norm(level, inner)),
                inside,
                Step(
                    double(inner if innermost else 2 * inner, outer, bias),
                    norm(2 * levels - 1 - level, outer),
                ),
                gate(2 * outer) if gate is not None and level <= GATED else None,
                dropout if level > GATED and not innermost else 0.0,
                order,
                skip_first,
            )
        parts = {
            "down": nn.Conv2d(in_channels, width, 4, 2, 1, bias=bias),
            "inside": inside,
            "up": double(2 * width, out_channels, head_bias),
        }
        for name in order:
            if name in parts:
                self.add_module(name, parts[name])

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, out_channels, H, W), unbounded.

        image: (N, in_channels, H, W). mask: (N, 1, H, W), 1 = foreground, for the layers that take it.
        Raises ValueError where H or W is not divisible by 2 ** levels.
        """
        require_divisible(image, 2**self.levels)
        joined = self.inside(self.down(image), mask)
        return self.up(F.relu(joined, inplace=True))


def _apply(layer: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    return layer(features, mask) if getattr(layer, "takes_mask", False) else layer(features)
