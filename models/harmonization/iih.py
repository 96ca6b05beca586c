"""IIH: harmonization as the product of a reflectance, and of an illumination that is changed in the foreground.

Guo et al., "Intrinsic Image Harmonization", CVPR 2021. Released code: zhenglab/IntrinsicHarmony, tag v1.0
("base_lt_gd", the base model with lighting and guiding). The state dict has the order and the shapes of the released
one: 33,775,982 parameters. The paper states 40.86 million: that is the network with 6 residual blocks in the guiding's
encoder (40,863,086), where the released options have none.

What the released code fixes and the paper leaves open is taken from the code:
- Pictures are in [0, 1]; convolutions pad by reflection, and so do the patches of the recomposition.
- The norm of decoders and residual blocks is PictureNorm (models/layers/intrinsic.py), not a common layer norm.
- The softmax of the guiding has a factor of 10 and runs over all places. Those of the foreground take part as zero
  vectors.
- The illumination's recomposition sends no gradient into the guiding.
- The gradient of the second loss is that of the sum over the channels, its absolute value is compared, and zeros lie
  before the first row and column.
The released code's network fits 256 pixels alone, whose masks it draws at 64 and 32 pixels; here masks follow the
features' sizes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model, sum_of
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible
from models.layers.intrinsic import (
    SLOPE,
    Block,
    ContentDecoder,
    PictureNorm,
    content_encoder,
)
from models.layers.normalization import mask_at
from models.losses.foreground import foreground_mse
from models.losses.structural_similarity import contrast_structure_map

STRIDE, LEAST = 8, 16
EPS = 1e-8
GREY = 0.2989, 0.5870, 0.1140
MATCH_SCALE = 10
PATCH, PATCH_STRIDE = 4, 2


class Lighting(nn.Module):
    """The light of the foreground and that of the background, as codes of a few numbers.

    An encoder without norm, the mean of its features over a region, and one linear layer for both regions.
    """

    def __init__(self, width: int, code: int):
        super().__init__()
        self.encoder = content_encoder(width, norm=None)
        self.code = nn.Linear(4 * width, code)

    def forward(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(N, code) of the foreground and (N, code) of the background. inputs: (N, 4, H, W), picture and mask. mask:
        (N, 1, H / 4, W / 4), 0 or 1, 1 = foreground. A region without a pixel gives the code of zero features."""
        features = self.encoder(inputs).float()
        foreground, background = (
            (features * region).sum((2, 3)) / (region.sum((2, 3)) + EPS) for region in (mask, 1 - mask)
        )
        return self.code(foreground), self.code(background)


class Relight(nn.Module):
    """Exchange the foreground's light for the background's.

    Each light code becomes an intensity (C numbers) and, by a softmax over three, the shares of three parts (3 C
    numbers). The features become three parts by a convolution. In the foreground the output is the sum over the parts
    of part * share_background / share_foreground, plus intensity_background - intensity_foreground. The background
    stays.
    """

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.channels = channels
        self.light = nn.Linear(code, 4 * channels)
        self.parts = Block(channels, 3 * channels, 3, norm=nn.GroupNorm(3, 3 * channels))

    def forward(self, features: Tensor, codes: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """(N, C, h, w) from features of that shape, the two codes (foreground's first), and the mask (N, 1, h, w)."""
        (own_intensity, own_shares), (intensity, shares) = (self._read(code) for code in codes)
        ratio = (shares / (own_shares + EPS))[..., None, None]
        parts = self.parts(features).unflatten(1, (3, self.channels))
        relit = (intensity - own_intensity)[..., None, None]
        for index in range(3):
            relit = torch.addcmul(relit, parts[:, index].to(ratio.dtype), ratio[:, index])
        return torch.where(mask > 0, relit.to(features.dtype), features)

    def _read(self, code: Tensor) -> tuple[Tensor, Tensor]:
        light = F.leaky_relu(self.light(code).float(), SLOPE)
        intensity, shares = light.split([self.channels, 3 * self.channels], dim=1)
        return intensity, shares.unflatten(1, (3, self.channels)).softmax(dim=1)


class LightingBlock(nn.Module):
    """x + norm(relight(conv(leaky(norm(relight(conv(x))))))). Both norms are one layer, with one gamma and beta."""

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.relight_first = Relight(channels, code)
        self.conv_first = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.relight_second = Relight(channels, code)
        self.conv_second = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.norm = PictureNorm(channels)

    def forward(self, features: Tensor, codes: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        inner = self.norm(self.relight_first(self.conv_first(features), codes, mask))
        inner = self.conv_second(F.leaky_relu(inner, SLOPE, inplace=True))
        return features + self.norm(self.relight_second(inner, codes, mask))


class Guiding(nn.Module):
    """Which places of the background each place of the foreground resembles, at an eighth of the size.

    An encoder with picture norm gives each place a vector in [-1, 1]. Foreground and background vectors, each less its
    own mean, are multiplied and divided by channels - 1. Ten times these covariances go through a softmax over all
    places.
    """

    def __init__(self, width: int, residuals: int):
        super().__init__()
        half, channels = width // 2, 4 * width
        self.encoder = content_encoder(half, halvings=3, residuals=residuals, norm=PictureNorm)
        self.head = Block(8 * half, channels, 3, activation="tanh")

    def forward(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The match (N, S, T), float32: the share of each place s in what is put at place t; its columns sum to 1, and
        those of the background are uniform. And the mean over the channels of the vectors, (N, 1, H / 8, W / 8).
        inputs: (N, 4, H, W). mask: (N, 1, H / 8, W / 8), 0 or 1, 1 = foreground."""
        vectors = self.head(self.encoder(inputs))
        with torch.autocast(inputs.device.type, enabled=False):  # a softmax of scale 10 has no digits to lose
            vectors = vectors.float()
            centred = vectors - vectors.mean(1, keepdim=True)
            foreground, background = ((centred * region).flatten(2) for region in (mask, 1 - mask))
            covariance = background.transpose(1, 2) @ foreground / (vectors.shape[1] - 1)
            return (MATCH_SCALE * covariance).softmax(dim=1), vectors.mean(1, keepdim=True)


class Recomposition(nn.Module):
    """x + relu(conv([x, what the match makes of the patches of x]))."""

    def __init__(self, channels: int):
        super().__init__()
        self.join = Block(2 * channels, channels, 3, activation="relu")

    def forward(self, features: Tensor, match: Tensor) -> Tensor:
        """(N, C, h, w) from features of that shape and a match (N, h w / 4, h w / 4). Each place has a patch of 4x4 at
        a stride of 2; those put down overlap four times, and their sum is divided by 4."""
        patches = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), PATCH, stride=PATCH_STRIDE)
        put = F.fold(patches @ match.to(patches.dtype), features.shape[2:], PATCH, padding=1, stride=PATCH_STRIDE)
        return features + self.join(torch.cat([features, put.to(features.dtype) / 4], dim=1))


class IIH(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        reflectance_residuals: int = 4,
        lighting_blocks: int = 4,
        light_code: int = 8,
        guiding_residuals: int = 0,
        recompositions: int = 2,
        l1_weight: float = 100.0,
        reflectance_gradient_weight: float = 10.0,
        illumination_weight: float = 1.0,
        smoothness_weight: float = 10.0,
        guiding_weight: float = 100.0,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """width: channels of the first convolution, an even number; the features have four times as many.
        reflectance_residuals: residual blocks at the end of the reflectance's encoder. lighting_blocks: blocks that
        relight the illumination's features. light_code: numbers in a light's code. guiding_residuals: residual blocks
        of the guiding's encoder (6 in the paper). recompositions: blocks that recompose the features of either branch
        by the match. l1_weight: of the reconstruction. reflectance_gradient_weight, illumination_weight,
        smoothness_weight, guiding_weight: of the four other losses that `loss` names. These are the weights of v1.0;
        the journal's later code has 20, 10 and 1 for gradient, illumination and smoothness.
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: add the composite to the reflectance, whose product with the illumination is doubled, so
        that training begins near the composite (not of the paper)."""
        super().__init__()
        if width % 2:
            raise ValueError(f"IIH: width = {width}, expected an even number (the guiding begins with half of it)")
        self.weights = {
            reconstruction: l1_weight,
            "reflectance_gradient": reflectance_gradient_weight,
            "illumination": illumination_weight,
            "smoothness": smoothness_weight,
            "guiding": guiding_weight,
        }
        self.reconstruction, self.global_skip = reconstruction, global_skip
        channels = 4 * width
        self.reflectance_encoder = content_encoder(width, residuals=reflectance_residuals)
        self.reflectance_decoder = ContentDecoder(width)
        self.illumination_encoder = content_encoder(width)
        self.illumination_decoder = ContentDecoder(width)
        self.lighting = Lighting(width, light_code)
        self.lighting_blocks = nn.ModuleList(LightingBlock(channels, light_code) for _ in range(lighting_blocks))
        self.guiding = Guiding(width, guiding_residuals)
        self.reflectance_recompositions = nn.ModuleList(Recomposition(channels) for _ in range(recompositions))
        self.illumination_recompositions = nn.ModuleList(Recomposition(channels) for _ in range(recompositions))
        initialize_normal(self)
        if global_skip:
            self.reflectance_decoder.quieten()
            self.illumination_decoder.quieten()

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 8 or below 16.
        Memory grows with the square of the number of pixels: the match has (H W / 64) ** 2 entries."""
        reflectance, illumination, _ = self._decompose(batch)
        return self._product(reflectance, illumination).clamp(0, 1)

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """reflectance and illumination, whose product is the prediction (its half, with global_skip)."""
        reflectance, illumination, _ = self._decompose(batch)
        return {"reflectance": reflectance.clamp(0, 1), "illumination": illumination}

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Five losses on [0, 1], unpasted: L1 of the output (or what `reconstruction` asks for); L1 between the
        gradients of reflectance and real picture; squared error between illumination and real picture; the mean
        absolute second differences of the illumination; and (1 - contrast-structure similarity) / 2 between the
        guiding's mean vector and the grey real picture at an eighth of the size."""
        self.require_player(player)
        reflectance, illumination, guide = self._decompose(batch)
        drawn, real = self._product(reflectance, illumination), batch["real"]
        if self.reconstruction == "foreground_mse":
            error = foreground_mse(torch.lerp(batch["composite"], drawn, batch["mask"]), real, batch["mask"])
        else:
            error = F.l1_loss(drawn, real)
        small = F.interpolate(real, size=guide.shape[2:], mode="nearest")
        grey = (small * small.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
        parts = {
            self.reconstruction: error,
            "reflectance_gradient": gradient_l1(reflectance, real),
            "illumination": F.mse_loss(illumination, real),
            "smoothness": second_differences(illumination),
            "guiding": (1 - contrast_structure_map(guide, grey).mean()) / 2,
        }
        loss = sum_of(self.weights[name] * part for name, part in parts.items())
        return loss, {name: part.detach() for name, part in parts.items()}

    def _product(self, reflectance: Tensor, illumination: Tensor) -> Tensor:
        return reflectance * illumination * (2 if self.global_skip else 1)

    def _decompose(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Reflectance and illumination, (N, 3, H, W), in [0, 1] (with global_skip the reflectance may leave it), and
        the guiding's mean vector, (N, 1, H / 8, W / 8); float32 also under autocast."""
        composite, mask = batch["composite"], batch["mask"]
        require_divisible(composite, STRIDE)
        height, width = composite.shape[2:]
        for name, size in (("height", height), ("width", width)):
            if size < LEAST:
                raise ValueError(f"{name} {size} is below {LEAST}, the least for the reflection padding of IIH")
        inputs = torch.cat([composite, mask], dim=1)
        small, smaller = (mask_at(mask, (height // by, width // by)) for by in (4, 8))
        match, guide = self.guiding(inputs, smaller)

        reflectance = self.reflectance_encoder(inputs)
        for recompose in self.reflectance_recompositions:
            reflectance = recompose(reflectance, match)
        reflectance = self.reflectance_decoder(reflectance)
        reflectance = composite + reflectance if self.global_skip else reflectance / 2 + 0.5

        illumination, codes = self.illumination_encoder(inputs), self.lighting(inputs, small)
        for relight in self.lighting_blocks:
            illumination = relight(illumination, codes, small)
        for recompose in self.illumination_recompositions:
            illumination = recompose(illumination, match.detach())
        return reflectance, self.illumination_decoder(illumination) / 2 + 0.5, guide


def gradient_l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean difference of the absolute horizontal gradients, plus that of the vertical ones; pictures (N, 3, H, W).

    A gradient is that of the sum over the channels, each pixel less the one before it, with zeros before the first."""
    total = first.new_zeros(())
    for axis in (2, 3):
        gradients = [
            image.sum(1, keepdim=True).diff(dim=axis, prepend=image.new_zeros(()).expand(*_edge(image, axis))).abs()
            for image in (first, second)
        ]
        total = total + F.l1_loss(gradients[0], gradients[1])
    return total


def _edge(image: Tensor, axis: int) -> tuple[int, ...]:
    """Shape of one row or column of a map with one channel."""
    shape = [len(image), 1, *image.shape[2:]]
    shape[axis] = 1
    return tuple(shape)


def second_differences(image: Tensor) -> Tensor:
    """Mean absolute second differences of a map (N, C, H, W), summed over the four pairs of axes."""
    return sum_of(image.diff(dim=first).diff(dim=second).abs().mean() for first in (2, 3) for second in (2, 3))
