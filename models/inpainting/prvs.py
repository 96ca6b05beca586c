"""PRVS: Li, He, Zhang, Du and Tao, "Progressive Reconstruction of Visual Structure for Image Inpainting", ICCV 2019.

A U-Net of partial convolutions whose two outermost encoder and decoder levels also rebuild an edge map. Each of these
four layers of visual structure reconstruction (VSR) draws edges on the ring that its window newly reaches, adds them to
the edges it was given, and lets its features read the result. So edges and picture grow into the hole together. The
decoder's two edge maps, of full and of half size, are judged by a discriminator.

Layout, order of parameters and loss weights are those of the authors' released code (55.5 M parameters); its
attention, off by default, is left out. In that code the second decoder level asks for an activation by a name that its
layer doesn't know, and so has none; here it has the LeakyReLU that is meant, unless `strict_code` says otherwise.
Departures from the released code that leave the numbers as they are: masks have one channel per source where it carries
one per feature; the binary cross-entropy is taken of logits; its discriminator reads edges that are multiplied by 4 and
clipped, which does nothing to Canny's 0 and 1.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Batch, Model, sum_of
from models.layers.edges import canny_edges, gray
from models.layers.input_size import require_divisible, require_statistics
from models.layers.partial_conv import PartialConv2d
from models.layers.spectral import SpectralPatchDiscriminator
from models.losses.adversarial import DrawnOnce, cross_entropy_for_discriminator, cross_entropy_for_generator, frozen
from models.losses.perceptual import POOLS_1_TO_3, VGGFeatures, raw_and_composite_terms
from models.losses.pixel import hole_and_valid_l1, total_variation

LOSS_WEIGHTS = {
    "hole": 50.0,
    "valid": 50.0,
    "perceptual": 0.05,
    "style": 150.0,
    "variation": 0.1,
    "adversarial": 0.1,
}
SMALLEST_TRAINING_SIDE = 48
"""pixels; of a half-size edge map of 24 the discriminator's five convolutions leave a single score"""


class Bottleneck(nn.Module):
    """Residual block with 1x1, 3x3 and 1x1 convolutions, the inner ones a quarter as wide."""

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 4
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
            *(nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
            *(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.layers(features))


class StructureLayer(nn.Module):
    """Visual structure reconstruction: grows the edge map by one ring, then reads it beside the features.

    sources: channels of each of the concatenated inputs. edge_width: channels of the edge branch.
    stride: of the feature branch; the edge branch keeps the input's size. up: double the size afterwards.
    """

    def __init__(
        self,
        sources: tuple[int, ...],
        after: int,
        kernel_size: int,
        edge_width: int,
        stride: int = 1,
        up: bool = False,
        norm: bool = True,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        sources, pad = (*sources, 1), kernel_size // 2
        self.edge_partial = PartialConv2d(sources, edge_width, kernel_size, 1, pad, bias=False)
        self.edge_bottleneck = Bottleneck(edge_width)
        self.edge_out = nn.Conv2d(edge_width, 1, 1, bias=False)
        self.partial = PartialConv2d(sources, after, kernel_size, stride, pad)
        self.up = nn.ConvTranspose2d(after, after, 4, 2, 1) if up else nn.Identity()
        self.norm = nn.BatchNorm2d(after) if norm else nn.Identity()
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, features: Tensor, masks: list[Tensor], edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (N, C, H, W); one mask (N, 1, H, W; 1 = valid) per source; edges (N, 1, any size) that are trusted
        where the first mask is valid -> features (N, after, h, w), their mask (N, 1, h, w), edges (N, 1, H, W)."""
        known = masks[0]
        edges = F.interpolate(edges, features.shape[2:], mode="nearest").to(features.dtype)
        drawn, reached = self.edge_partial(torch.cat([features, edges], dim=1), [*masks, known])
        drawn = self.edge_out(self.edge_bottleneck(drawn))
        # what is known stays, and only the ring that this layer opens is drawn
        edges = edges * known.to(edges.dtype) + drawn * (reached - known).to(drawn.dtype)
        features, mask = self.partial(torch.cat([features, edges.to(features.dtype)], dim=1), [*masks, reached])
        features = self.activation(self.norm(self.up(features)))
        size = features.shape[2:]
        mask = F.interpolate(mask, size, mode="nearest") * F.interpolate(reached, size, mode="nearest")
        return features, mask, edges


class PartialLayer(nn.Module):
    """Partial convolution, a transposed convolution that doubles the size if `up`, batch normalization, activation."""

    def __init__(self, sources: tuple[int, ...], after: int, kernel_size: int, stride: int, up: bool):
        super().__init__()
        self.partial = PartialConv2d(sources, after, kernel_size, stride, kernel_size // 2, bias=False)
        self.up = nn.ConvTranspose2d(after, after, 4, 2, 1, bias=False) if up else nn.Identity()
        self.norm = nn.BatchNorm2d(after)
        self.activation = nn.LeakyReLU(0.2, inplace=True) if up else nn.ReLU(inplace=True)

    def forward(self, features: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        features, mask = self.partial(features, masks)
        features = self.activation(self.norm(self.up(features)))
        return features, F.interpolate(mask, features.shape[2:], mode="nearest")


class StructureUNet(nn.Module):
    """`levels` halvings, the first two and their counterparts in the decoder with edges."""

    def __init__(self, width: int, levels: int, strict_code: bool):
        super().__init__()
        channels = [3] + [width * min(2**level, 8) for level in range(levels)]
        self.encoder = nn.ModuleList(
            [
                StructureLayer((3,), channels[1], 7, width, stride=2, activation=nn.ReLU(inplace=True)),
                StructureLayer((channels[1],), channels[2], 5, width, stride=2, activation=nn.ReLU(inplace=True)),
            ]
        )
        for level in range(3, levels + 1):
            kernel = 5 if level == 3 else 3
            self.encoder.append(PartialLayer((channels[level - 1],), channels[level], kernel, 2, up=False))
        self.up = nn.ConvTranspose2d(channels[-1], channels[-1], 4, 2, 1)
        # registered in the released code's order
        self.decoder = nn.ModuleDict()
        for level in [*range(5, levels + 1), *range(min(4, levels), 2, -1)]:
            sources = channels[level], channels[level - 1]
            self.decoder[str(level)] = PartialLayer(sources, channels[level - 1], 3, 1, up=True)
        leaky = None if strict_code else nn.LeakyReLU(0.2, inplace=True)
        self.decoder["2"] = StructureLayer((channels[2], channels[1]), channels[1], 3, width, up=True, activation=leaky)
        self.decoder["1"] = StructureLayer((channels[1], 3), channels[1], 3, width, norm=False)
        self.bottleneck = Bottleneck(width)
        self.out = nn.Conv2d(2 * width, 3, 1)

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image (N, 3, H, W), 0 in the hole; mask (N, 1, H, W; 1 = valid); edges (N, 1, H, W), 0 in the hole ->
        linear image (N, 3, H, W), edge map (N, 1, H / 2, W / 2) and edge map (N, 1, H, W), both linear."""
        features, skips, grown = image, [(image, mask)], []
        for layer in self.encoder:
            if isinstance(layer, StructureLayer):
                features, mask, edges = layer(features, [mask], edges)
                grown.append(edges)
            else:
                features, mask = layer(features, [mask])
            skips.append((features, mask))
        skips.pop()
        features, mask = self.up(features), F.interpolate(mask, scale_factor=2, mode="nearest")
        maps = []
        for level in range(len(self.encoder), 0, -1):
            skip, skip_mask = skips.pop()
            features, layer = torch.cat([features, skip], dim=1), self.decoder[str(level)]
            if isinstance(layer, StructureLayer):
                features, mask, edges = layer(features, [mask, skip_mask], grown.pop())
                maps.append(edges.float())
            else:
                features, mask = layer(features, [mask, skip_mask])
        raw = self.out(torch.cat([self.bottleneck(features), features], dim=1))
        return raw.float(), maps[0], maps[1]


class PRVS(Model):
    task = "inpainting"
    phases = ("train", "finetune")

    def __init__(
        self,
        width: int = 64,
        levels: int = 8,
        discriminator_width: int = 64,
        sigma: float = 2.0,
        training_edges: Literal["truth", "valid"] = "truth",
        strict_code: bool = False,
        adversarial: bool = True,
        perceptual_weights: str = "torchvision",
    ):
        """width: channels of the first level and of the edge branches, a multiple of 4; they double up to 8 times that.
        levels: halvings, at least 3; H and W must be divisible by 2 to the power of levels (8 levels: 256).
        discriminator_width: channels of the edge discriminator's first layer.
        sigma: standard deviation of Canny's Gaussian, in pixels.
        training_edges: what Canny reads for the generator's input while training. "truth" is the whole photograph, its
        edges cut off at the hole (released code); "valid" the valid pixels alone, as at test time.
        strict_code: leave the second decoder level without activation, as the released code does.
        adversarial: train the edge maps against the discriminator. Without it, which is not of the paper, the
        discriminator isn't built and edges learn through the picture alone.
        perceptual_weights: VGG-16 for the perceptual and style terms: "torchvision", the path of a .pth or
        .safetensors file, or "none", which leaves both terms out.
        Raises ValueError for a width or levels that cannot be built.
        """
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"prvs: width = {width}, expected a multiple of 4")
        if levels < 3:
            raise ValueError(f"prvs: levels = {levels}, expected at least 3")
        self.players = ("generator", "discriminator") if adversarial else ("generator",)
        self.sigma, self.training_edges = sigma, training_edges
        self.perceptual_features = None
        if perceptual_weights != "none":
            self.perceptual_features = VGGFeatures("vgg16", perceptual_weights, POOLS_1_TO_3, normalize=False)
        self.generator = StructureUNet(width, levels, strict_code)
        if adversarial:
            widths = [discriminator_width * factor for factor in (1, 2, 4, 8)] + [1]
            strides = [2, 2, 2, 1, 1]
            self.discriminator = SpectralPatchDiscriminator(2, widths, strides, 4, 1, bias=False, activate_last=False)
        self.drawn_once = DrawnOnce()

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]. Canny reads valid pixels alone, so that the hole's border makes no edges. Raises
        ValueError where H or W is not divisible by 2 to the power of levels."""
        image, hole = batch["image"], batch["hole"]
        visible = torch.where(hole > 0.5, torch.zeros_like(image), image)
        return self.draw(image, hole, canny_edges(gray(visible), self.sigma, hole))[0].clamp(0, 1)

    def draw(self, image: Tensor, hole: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Network's output before it is clipped.

        image (N, 3, H, W) in [0, 1], hole (N, 1, H, W; 1 = hole), edges (N, 1, H, W) of 0 and 1; what the last two
        hold inside the hole doesn't matter -> image (N, 3, H, W), edge maps of half and of full size.
        """
        stride = 2 ** len(self.generator.encoder)
        require_divisible(image, stride)
        if cast("PartialLayer", self.generator.encoder[-1]).norm.training:
            require_statistics(image, stride)
        valid = (hole <= 0.5).to(image.dtype)
        image = torch.where(hole > 0.5, torch.zeros_like(image), image)
        return self.generator(image, valid, edges * valid)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What `player` minimizes, and its parts, unweighted. The real image is batch["image"], hole included.

        Generator: hole and valid, absolute errors over all pixels (50 each), perceptual (0.05) and style (150) of
        output and composite, variation of the composite's hole (0.1), adversarial, the cross-entropies of both edge
        maps added (0.1). Discriminator: half of the cross-entropies real and fake, both edge maps added.
        """
        self.require_player(player)
        if min(batch["image"].shape[2:]) < SMALLEST_TRAINING_SIDE and "discriminator" in self.players:
            size = tuple(batch["image"].shape[2:])
            raise ValueError(
                f"prvs trains its edges on sides of {SMALLEST_TRAINING_SIDE} pixels or more, got {size}; "
                "adversarial: false trains without their discriminator"
            )
        return self._discriminator_loss(batch) if player == "discriminator" else self._generator_loss(batch)

    def _generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        real, hole = batch["image"], batch["hole"]
        raw, drawn_edges, luminance, edges = self._draw_for_training(batch)
        composite = torch.where(hole > 0.5, raw, real)
        terms = dict(zip(("hole", "valid"), hole_and_valid_l1(raw, real, hole)))
        if self.perceptual_features is not None:
            both = raw_and_composite_terms(self.perceptual_features, raw, composite, real)
            terms["perceptual"], terms["style"] = both
        terms["variation"] = total_variation(composite * hole)
        if "discriminator" in self.players:
            with frozen(self.discriminator):
                scores = [self.discriminator(_beside(drawn, luminance))[-1] for drawn in drawn_edges]
            terms["adversarial"] = sum_of(cross_entropy_for_generator(score) for score in scores)
            self.drawn_once.hand_on(real, ([drawn.detach() for drawn in drawn_edges], luminance, edges))
        total = sum_of(LOSS_WEIGHTS[name] * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}

    def _discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            drawn_edges, luminance, edges = self.drawn_once.take(
                batch["image"], lambda: self._draw_for_training(batch)[1:]
            )
        totals = {name: torch.zeros((), device=edges.device) for name in ("real", "fake")}
        for drawn in drawn_edges:
            true = F.interpolate(edges, drawn.shape[2:], mode="nearest")
            scores = self.discriminator(torch.cat([_beside(true, luminance), _beside(drawn, luminance)]))[-1]
            for name, entropy in zip(totals, cross_entropy_for_discriminator(*scores.chunk(2))):
                totals[name] = totals[name] + entropy
        return (totals["real"] + totals["fake"]) / 2, {name: value.detach() for name, value in totals.items()}

    def _draw_for_training(self, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Raw image, both edge maps, and of the real image its luminance and its edges."""
        real, hole = batch["image"], batch["hole"]
        luminance = gray(real)
        edges = canny_edges(luminance, self.sigma)
        given = edges if self.training_edges == "truth" else canny_edges(luminance, self.sigma, hole)
        raw, *drawn_edges = self.draw(real, hole, given)
        return raw, drawn_edges, luminance, edges

    def enter(self, phase: str) -> None:
        """ "finetune" keeps the encoder's batch statistics; its scale and shift still train."""
        super().enter(phase)
        if phase == "finetune":
            for module in self.generator.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()


def _beside(edges: Tensor, luminance: Tensor) -> Tensor:
    """What the discriminator reads: edges (N, 1, h, w) and the gray image at their size."""
    return torch.cat([edges, F.interpolate(luminance, edges.shape[2:], mode="nearest")], dim=1)
