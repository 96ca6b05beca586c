"""MAGritte: a retoucher repaints composites so that an annotator no longer sees the manipulation; two discriminators
judge what both make. The annotator predicts.

Kniaz, Knyaz, Remondino, "The Point Where Reality Meets Fantasy: Mixed Adversarial Generators for Image Splice
Detection", NeurIPS 2019. Facts from the authors' released code and training script.

The released code has two forms. The defaults here are those of its model file: pix2pix's U-Net of 256 pixels for both
generators and three channels of annotation, each of them the mask (a picture of it). Its training script asks for the
other: `upsampling` "nearest", `annotation` "mask_and_edge", with 9 levels at 512 pixels. Losses and weights are those
of the script in both cases.

The paper needs photographs that nobody manipulated: one discriminator learns from them how retouched pictures should
look, and the annotator learns that there is nothing to find in them. All other localization networks here train on
composites alone. `pristine` false does without: the batch's real images are not read, and the discriminator of
retouched pictures and the terms that need one fall away.

Departures, ours: the annotator's adversarial term has a gradient (weight 0.1), which the released code cuts off by
mistake; losses are taken per image and averaged, where the released code trains on batches of one; the annotator's
running statistics are those of composites alone, as these are what it will be asked about; edges are the morphological
gradient of the mask, 5x5, where the authors' data set brings pictures of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model, sum_of
from models.layers.initialization import initialize_normal
from models.layers.unet import UNet, transposed
from models.losses.adversarial import DrawnOnce, frozen
from models.losses.edge import mask_edge

SMALLEST_PATCH = 32  # side of the smallest picture that a discriminator has an opinion of
NON_EMPTY = 0.001  # share of the annotation from which on there is something to hide


def nearest(inputs: int, outputs: int, bias: bool) -> nn.Module:
    """Doubles height and width by repeating pixels, then convolves 3x3, the border mirrored."""
    return nn.Sequential(
        nn.UpsamplingNearest2d(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3, bias=bias)
    )


class PatchDiscriminator(nn.Module):
    """pix2pix's discriminator of overlapping patches of 70 pixels: (N, channels, H, W) -> (N, 1, H/8 - 2, W/8 - 2)
    logits."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for level, stride in enumerate((2, 2, 1)):
            before, after = width * 2**level, width * 2 ** (level + 1)
            layers.append(nn.Conv2d(before, after, 4, stride, 1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).float()


def balanced_l1(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """What is missed of the foreground over its area, plus what is falsely foreground over the background's area.

    prediction: (N, C, H, W) in [-1, 1]. target: the same shape, 1 = foreground, -1 = background. weights: (C,), of the
    channels. An area of 0 counts as 1. The scalar is the mean over images.
    """
    foreground, background = target.clamp(min=0).sum((2, 3)), -target.clamp(max=0).sum((2, 3))
    missed = (target - prediction).clamp(min=0).sum((2, 3))
    false = (prediction - target).clamp(min=0).sum((2, 3))
    one = torch.ones_like(foreground)
    missed = missed / torch.where(foreground > 0, foreground, one)
    false = false / torch.where(background > 0, background, one)
    return ((missed + false) * weights).sum(1).mean()


class MAGritte(Model):
    task = "localization"
    channel_weights: Tensor

    def __init__(
        self,
        levels: int = 8,
        width: int = 64,
        discriminator_width: int = 64,
        upsampling: Literal["transposed", "nearest"] = "transposed",
        annotation: Literal["mask", "mask_and_edge"] = "mask",
        dropout: float = 0.5,
        pristine: bool = True,
        composite_weight: float = 1.0,
        pristine_weight: float = 1.0,
        retouched_weight: float = 0.0,
        edge_share: float = 0.8,
        annotator_adversarial_weight: float = 0.1,
        retoucher_adversarial_weight: float = 0.1,
        similarity_weight: float = 1.0,
        hiding_weight: float = 10.0,
    ):
        """levels: halvings of both generators; the picture's sides must be divisible by 2 ** levels. width,
        discriminator_width: channels of the first level of the generators and of the discriminators.
        upsampling: how the generators double the size: "transposed" convolutions, or "nearest" and a convolution 3x3.
        annotation: the annotator's channels: "mask" in three copies, or "mask_and_edge". dropout: of the middle levels.
        pristine: train on the batch's real images too. composite_weight, pristine_weight, retouched_weight: of the
        annotator's L1 on composites, pristine and retouched pictures. edge_share: of the edge in that L1; the mask has
        the rest. annotator_adversarial_weight, retoucher_adversarial_weight: of fooling the discriminators.
        similarity_weight: of the L1 between retouched picture and composite. hiding_weight: of what the annotator finds
        in the retouched picture."""
        super().__init__()
        if not 0 <= edge_share <= 1:
            raise ValueError(f"magritte: edge_share = {edge_share}, expected 0 to 1")
        self.pristine = self.uses_real_photographs = pristine
        self.with_edge = annotation == "mask_and_edge"
        self.annotator_weights = composite_weight, pristine_weight, retouched_weight, annotator_adversarial_weight
        self.retoucher_weights = retoucher_adversarial_weight, similarity_weight, hiding_weight
        self.players = ("annotation_discriminator", "retouch_discriminator", "annotator", "retoucher")
        if not pristine:
            self.players = ("annotation_discriminator", "annotator", "retoucher")

        def generator(outputs: int) -> UNet:
            return UNet(
                in_channels=3,
                norm=lambda position, channels: nn.BatchNorm2d(channels),
                bias=False,
                gate=None,
                levels=levels,
                width=width,
                dropout=dropout,
                out_channels=outputs,
                double=transposed if upsampling == "transposed" else nearest,
                head_bias=upsampling == "transposed",
            )

        channels = 2 if self.with_edge else 3
        shares = [1 - edge_share, edge_share] if self.with_edge else [1 / 3] * 3
        self.register_buffer("channel_weights", torch.tensor(shares), persistent=False)
        self.retoucher = generator(4)
        self.annotator = generator(channels)
        self.annotation_discriminator = PatchDiscriminator(3 + channels, discriminator_width)
        if pristine:
            self.retouch_discriminator = PatchDiscriminator(3, discriminator_width)
        initialize_normal(self)
        # within a step the retoucher draws once; the players before it see the drawing without its graph
        self.drawn_once = DrawnOnce()
        self.shown: tuple[Tensor, int, Tensor] | None = None

    def predictor_parameters(self) -> list[nn.Parameter]:
        """The annotator's."""
        return list(self.annotator.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1] -> probability (N, 1, H, W) of foreground. Raises ValueError where H or W is
        not divisible by 2 ** levels."""
        logits = self.annotator(batch["composite"] * 2 - 1).float()
        # (tanh(x) + 1) / 2 of the annotation, written so that the smallest probabilities keep their order
        probability = (2 * logits).sigmoid()
        return probability[:, :1] if self.with_edge else probability.mean(1, keepdim=True)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What `player` minimizes. Parts, unweighted:

        annotation_discriminator, retouch_discriminator: cross-entropies real and fake, 1/2 each. The first tells true
        annotations of retouched pictures from the annotator's, the second pristine from retouched pictures.
        annotator: balanced L1 on composite, pristine and retouched pictures, and adversarial.
        retoucher: adversarial, similarity (L1) and hiding (how far the mean annotation is from "nothing there").
        A term of weight 0 is not computed. Raises ValueError for sides below 32 pixels, and where `pristine` is true
        and the batch has no real images.
        """
        self.require_player(player)
        composite = batch["composite"]
        if min(composite.shape[2:]) < SMALLEST_PATCH:
            size = tuple(composite.shape[2:])
            raise ValueError(f"magritte trains on sides of {SMALLEST_PATCH} pixels or more, got {size}")
        if self.pristine and "real" not in batch:
            raise ValueError("magritte: the batch has no real images, which `pristine` true asks for; set it to false")
        target = self._target(batch["mask"])
        if player == "annotation_discriminator":
            retouched = self._show(composite)
            with torch.no_grad():
                annotation = self._annotate(retouched)
            pairs = torch.cat([retouched, target], dim=1), torch.cat([retouched, annotation], dim=1)
            return _judge(self.annotation_discriminator, *pairs)
        if player == "retouch_discriminator":
            return _judge(self.retouch_discriminator, batch["real"] * 2 - 1, self._show(composite))
        if player == "annotator":
            return self._annotator_loss(batch, target)
        return self._retoucher_loss(composite, target)

    def _annotator_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        on_composite, on_pristine, on_retouched, adversarial = self.annotator_weights
        terms = {}
        if on_pristine and self.pristine:
            annotation = self._annotate(batch["real"] * 2 - 1)
            nothing = torch.full_like(annotation, -1)
            terms["pristine"] = on_pristine, balanced_l1(annotation, nothing, self.channel_weights)
        if on_retouched or adversarial:
            retouched = self._show(batch["composite"])
            annotation = self._annotate(retouched)
            if on_retouched:
                terms["retouched"] = on_retouched, balanced_l1(annotation, target, self.channel_weights)
            if adversarial:
                with frozen(self.annotation_discriminator):
                    judged = self.annotation_discriminator(torch.cat([retouched, annotation], dim=1))
                terms["adversarial"] = adversarial, _cross_entropy(judged, 1)
        annotation = self._annotate(batch["composite"] * 2 - 1, remember=True)
        terms["composite"] = on_composite, balanced_l1(annotation, target, self.channel_weights)
        return _weighted(terms)

    def _retoucher_loss(self, composite: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        adversarial, similarity, hiding = self.retoucher_weights
        retouched = self.drawn_once.take(composite, lambda: self._retouch(composite))
        self.shown = None
        terms = {"similarity": (similarity, (retouched - (composite * 2 - 1)).abs().mean())}
        if hiding:
            with frozen(self.annotator):
                annotated = self._annotate(retouched).mean((1, 2, 3))
            manipulated = ((target + 1) / 2).mean((1, 2, 3)) > NON_EMPTY
            terms["hiding"] = hiding, ((annotated + 1).abs() * manipulated).mean()
        if adversarial and self.pristine:
            with frozen(self.retouch_discriminator):
                terms["adversarial"] = adversarial, _cross_entropy(self.retouch_discriminator(retouched), 1)
        return _weighted(terms)

    def _target(self, mask: Tensor) -> Tensor:
        """The annotation that the mask (N, 1, H, W) asks for, in [-1, 1]."""
        parts = [mask, mask_edge(mask)] if self.with_edge else [mask] * 3
        return torch.cat(parts, dim=1).float() * 2 - 1

    def _annotate(self, picture: Tensor, remember: bool = False) -> Tensor:
        """Annotation (N, channels, H, W) in [-1, 1] of pictures in [-1, 1]; float32 also under autocast. The running
        statistics of the annotator's normalization change only with `remember`."""
        with nullcontext() if remember else _statistics_kept(self.annotator):
            return self.annotator(picture).float().tanh()

    def _retouch(self, composite: Tensor) -> Tensor:
        """The retouched picture (N, 3, H, W) in [-1, 1] of composites in [0, 1]; float32 also under autocast."""
        composite = composite * 2 - 1
        drawn = self.retoucher(composite).float().tanh()
        return torch.lerp(composite, drawn[:, :3], (drawn[:, 3:] + 1) / 2)

    def _show(self, composite: Tensor) -> Tensor:
        """The retouched picture without its graph, drawn in the first turn that asks for it and kept for this step's
        others."""
        version = sum(parameter._version for parameter in self.retoucher.parameters())  # rises when weights change
        if self.shown is None or self.shown[0] is not composite or self.shown[1] != version:
            retouched = self.drawn_once.keep(composite, self.retoucher, lambda: self._retouch(composite))
            self.shown = composite, version, retouched
        return self.shown[2]


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within, batch normalization works as it does otherwise but doesn't move its running statistics."""
    norms = [(layer, layer.momentum) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer, _ in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in norms:
            layer.momentum = momentum


def _cross_entropy(logits: Tensor, label: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _judge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    # apart, not in one batch: batch normalization would mix them
    parts = {"fake": _cross_entropy(discriminator(fake), 0), "real": _cross_entropy(discriminator(real), 1)}
    return (parts["fake"] + parts["real"]) / 2, {name: part.detach() for name, part in parts.items()}


def _weighted(terms: dict[str, tuple[float, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of terms, and the terms alone."""
    total = sum_of(weight * term for weight, term in terms.values())
    return total, {name: term.detach() for name, (_, term) in terms.items()}
