"""EdgeConnect: Nazeri, Ng, Joseph, Qureshi and Ebrahimi, "EdgeConnect: Generative Image Inpainting with Adversarial
Edge Learning", ICCV workshops 2019.

One generator completes the edges of the gray image, a second one paints between them. Facts and order of layers from
the authors' released code, loss weights from its example configuration (the paper's). Three phases: "edge" trains the
edge generator alone; "inpaint" the painter on true Canny edges; "joint" the painter on predicted edges, which replace
Canny's in the hole. The released code leaves the edge generator fixed in "joint"; the paper trains it along at a lower
rate, without its discriminator (`edges_in_joint`).

Departures: random Canny scales (sigma 0 in the released code) and training without edges (-1) are left out.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.base import Batch, Model, sum_of
from models.layers.edges import canny_edges, gray
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible
from models.layers.spectral import SpectralPatchDiscriminator
from models.losses.adversarial import DrawnOnce, cross_entropy_for_discriminator, cross_entropy_for_generator, frozen
from models.losses.perceptual import VGGFeatures, perceptual_distance, style_distance

PERCEPTUAL_LAYERS = (1, 6, 11, 20, 29)  # relu1_1 ... relu5_1 of VGG-19
STYLE_LAYERS = (8, 17, 26, 31)  # relu2_2, relu3_4, relu4_4, relu5_2
PAINTER_NORMS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, wrap: Callable[[nn.Module], nn.Module], norm: type[nn.Module], bias: bool):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(2),
            wrap(nn.Conv2d(channels, channels, 3, dilation=2, bias=bias)),
            *(norm(channels), nn.ReLU(inplace=True)),
            nn.ReflectionPad2d(1),
            wrap(nn.Conv2d(channels, channels, 3, bias=bias)),
            norm(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class Generator(nn.Module):
    """Two halvings, residual blocks, two doublings; linear output (N, after, H, W). `spectral` normalizes all
    convolutions but the last."""

    def __init__(
        self,
        before: int,
        after: int,
        width: int,
        blocks: int,
        spectral: bool,
        norm: type[nn.Module] = nn.InstanceNorm2d,
    ):
        super().__init__()
        wrap = spectral_norm if spectral else nn.Identity()

        def normalized(layer: nn.Module, channels: int) -> list[nn.Module]:
            return [wrap(layer), norm(channels), nn.ReLU(inplace=True)]

        self.encoder = nn.Sequential(
            *(nn.ReflectionPad2d(3), *normalized(nn.Conv2d(before, width, 7), width)),
            *normalized(nn.Conv2d(width, 2 * width, 4, 2, 1), 2 * width),
            *normalized(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), 4 * width),
        )
        self.middle = nn.Sequential(*(ResidualBlock(4 * width, wrap, norm, bias=not spectral) for _ in range(blocks)))
        self.decoder = nn.Sequential(
            *normalized(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), 2 * width),
            *normalized(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), width),
            *(nn.ReflectionPad2d(3), nn.Conv2d(width, after, 7)),
        )
        initialize_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.middle(self.encoder(image)))


class EdgeConnect(Model):
    task = "inpainting"
    players = ("generator", "discriminator")
    phases = ("edge", "inpaint", "joint")

    def __init__(
        self,
        width: int = 64,
        blocks: int = 8,
        discriminator_width: int = 64,
        sigma: float = 2.0,
        edges_in_joint: Literal["fixed", "trained"] = "fixed",
        adversarial: bool = True,
        painter_norm: Literal["instance", "batch"] = "instance",
        perceptual_weights: str = "torchvision",
    ):
        """width: channels of both generators' first layer. blocks: residual blocks in each. discriminator_width:
        channels of both discriminators' first layer. sigma: of Canny's Gaussian, in pixels.
        edges_in_joint: whether the edge generator trains along in the last phase.
        adversarial: train the painter against a discriminator; without, which is not of the paper, that one is not built.
        The edge generator always has its own.
        painter_norm: the painter's normalization. Instance normalization (published) takes every picture's mean colour
        away, and what is painted misses it; batch normalization keeps it.
        perceptual_weights: VGG-19 for the perceptual and style terms: "torchvision", the path of a .pth or
        .safetensors file, or "none", which leaves both terms out.
        """
        super().__init__()
        self.sigma, self.edges_in_joint, self.phase = sigma, edges_in_joint, self.phases[0]
        self.drawn_once = DrawnOnce()
        self.perceptual_features = None
        if perceptual_weights != "none":
            layers = sorted(PERCEPTUAL_LAYERS + STYLE_LAYERS)
            self.perceptual_features = VGGFeatures("vgg19", perceptual_weights, layers, normalize=False)
        self.edge_generator = Generator(3, 1, width, blocks, spectral=True)
        self.edge_discriminator = _discriminator(2, discriminator_width)
        self.painter = Generator(4, 3, width, blocks, spectral=False, norm=PAINTER_NORMS[painter_norm])
        self.image_discriminator = _discriminator(3, discriminator_width) if adversarial else None

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], on edges that are predicted in the hole. Canny sees valid pixels only, so that the
        hole's border makes no edges. Raises ValueError where H or W is not divisible by 4, or below 12."""
        image, hole = batch["image"], (batch["hole"] > 0.5).to(batch["image"].dtype)
        image = torch.where(hole > 0.5, torch.zeros_like(image), image)
        luminance = gray(image)
        edges = canny_edges(luminance, self.sigma, hole)
        predicted = self.draw_edges(luminance, edges, hole).sigmoid()
        return self.paint(image, predicted * hole + edges * (1 - hole), hole)

    def draw_edges(self, luminance: Tensor, edges: Tensor, hole: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of the completed edges."""
        _require_size(luminance)
        return self.edge_generator(torch.cat([luminance * (1 - hole) + hole, edges * (1 - hole), hole], dim=1)).float()

    def paint(self, image: Tensor, edges: Tensor, hole: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1]."""
        _require_size(image)
        return (self.painter(torch.cat([image * (1 - hole) + hole, edges], dim=1)).float().tanh() + 1) / 2

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What `player` minimizes in the phase last entered ("edge" before any). The real image is batch["image"].

        Parts, unweighted. Edge generator: adversarial (weight 1), feature_matching (10). Painter: l1 over the whole
        image divided by the hole's share (1), adversarial (0.1), perceptual (0.1), style of the hole (250).
        Discriminators: binary cross-entropies real and fake (1/2 each).
        """
        self.require_player(player)
        image, hole = batch["image"], batch["hole"]
        if min(image.shape[2:]) < 32:
            raise ValueError(f"edgeconnect trains on sides of 32 pixels or more, got {tuple(image.shape[2:])}")
        if player == "discriminator":
            opponent = self.edge_discriminator if self.phase == "edge" else self.image_discriminator
            if opponent is None:
                raise ValueError(
                    f"adversarial is false: the discriminator has nothing to train in phase {self.phase!r}"
                )
            with torch.no_grad():
                true, drawn = self.drawn_once.take(image, lambda: self._draw_for_training(image, hole))
            return _judge(opponent, true, drawn)
        true, drawn = self._draw_for_training(image, hole)
        self.drawn_once.hand_on(image, (true, drawn.detach()))
        return self._edge_loss(true, drawn) if self.phase == "edge" else self._paint_loss(true, drawn, hole)

    def _draw_for_training(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """What the phase's discriminator reads, true and drawn: luminance and edges (N, 2, H, W), or images (N, 3, H, W)."""
        luminance = gray(image)
        edges = canny_edges(luminance, self.sigma)
        if self.phase == "edge":
            predicted = self.draw_edges(luminance, edges, hole).sigmoid()
            return torch.cat([luminance, edges], dim=1), torch.cat([luminance, predicted], dim=1)
        if self.phase == "joint":
            with nullcontext() if self.edges_in_joint == "trained" else torch.no_grad():
                predicted = self.draw_edges(luminance, edges, hole).sigmoid()
            edges = predicted * hole + edges * (1 - hole)
        return image, self.paint(image, edges, hole)

    def _edge_loss(self, true: Tensor, drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with frozen(self.edge_discriminator):
            wanted, given = self.edge_discriminator(true), self.edge_discriminator(drawn)
        parts = {
            "adversarial": cross_entropy_for_generator(given[-1]),
            "feature_matching": sum((tap - target.detach()).abs().mean() for tap, target in zip(given, wanted)),
        }
        total = parts["adversarial"] + 10 * parts["feature_matching"]
        return total, {name: part.detach() for name, part in parts.items()}

    def _paint_loss(self, image: Tensor, painted: Tensor, hole: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = {"l1": 1.0, "adversarial": 0.1, "perceptual": 0.1, "style": 250.0}
        parts = {"l1": (painted - image).abs().mean() / hole.mean().clamp(min=1 / hole.numel())}
        if self.image_discriminator is not None:
            with frozen(self.image_discriminator):
                parts["adversarial"] = cross_entropy_for_generator(self.image_discriminator(painted)[-1])
        if self.perceptual_features is not None:
            parts["perceptual"] = perceptual_distance(*self._features(painted, image, PERCEPTUAL_LAYERS))
            parts["style"] = style_distance(*self._features(painted * hole, image * hole, STYLE_LAYERS))
        total = sum_of(weights[name] * part for name, part in parts.items())
        return total, {name: part.detach() for name, part in parts.items()}

    def _features(self, drawn: Tensor, real: Tensor, layers: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        assert self.perceptual_features is not None  # without them the two terms are left out
        with torch.no_grad():
            wanted = dict(zip(self.perceptual_features.layers, self.perceptual_features(real)))
        given = dict(zip(self.perceptual_features.layers, self.perceptual_features(drawn)))
        return [given[layer] for layer in layers], [wanted[layer] for layer in layers]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """Those of both networks on the player's side; `enter` says which of them move."""
        self.require_player(player)
        sides = {
            "generator": (self.edge_generator, self.painter),
            "discriminator": (self.edge_discriminator, self.image_discriminator),
        }
        return [parameter for network in sides[player] if network is not None for parameter in network.parameters()]

    def predictor_parameters(self) -> list[nn.Parameter]:
        """What inference uses: both generators."""
        return self.parameters_of("generator")

    def enter(self, phase: str) -> None:
        """Thaws the networks that the phase trains and freezes the others."""
        super().enter(phase)
        self.phase, self.drawn_once = phase, DrawnOnce()
        edge = phase == "edge"
        self.edge_generator.requires_grad_(edge or (phase == "joint" and self.edges_in_joint == "trained"))
        self.edge_discriminator.requires_grad_(edge)
        self.painter.requires_grad_(not edge)
        if self.image_discriminator is not None:
            self.image_discriminator.requires_grad_(not edge)


def _require_size(image: Tensor) -> None:
    require_divisible(image, 4)
    if min(image.shape[2:]) < 12:
        raise ValueError(
            f"edgeconnect takes sides of 12 pixels or more, got {tuple(image.shape[2:])}: at a quarter of the size its "
            "padding mirrors 2 pixels"
        )


def _discriminator(before: int, width: int) -> SpectralPatchDiscriminator:
    widths = [width, 2 * width, 4 * width, 8 * width, 1]
    return SpectralPatchDiscriminator(before, widths, [2, 2, 2, 1, 1], 4, 1, bias=False, activate_last=False)


def _judge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    true, false = discriminator(torch.cat([real, fake.detach()]))[-1].chunk(2)
    parts = dict(zip(("real", "fake"), cross_entropy_for_discriminator(true, false)))
    return (parts["real"] + parts["fake"]) / 2, {name: part.detach() for name, part in parts.items()}
