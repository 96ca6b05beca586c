"""Region-wise contrastive harmonization: a residual U-Net whose decoder takes the background's style from its encoder.

Liang and Pun, "Image Harmonization with Region-wise Contrastive Learning", 2022: external style fusion (eqs 4-7), a
contrastive loss between patches of the harmonized foreground and of the real background (eqs 8-12), and the whole loss
(eq. 13).

No code was published. The backbone's blocks are those of the same group's S2CRNet, which give the published 28.37M
parameters (28,366,583, and 1,920 of the style fusion). Where the paper is silent or contradicts itself:
- The fusion's statistics are taken over background pixels alone, and both regions are masked again before they are
  added. Its scale is read as 1 + s: the s and b that the paper starts at 0 would otherwise shut the layer.
- fusion "literal" subtracts the encoder background's mean from the decoder's foreground and divides by its deviation, as
  eq. 4 says; "own_first" normalizes the foreground by its own statistics and then gives it the encoder background's,
  as the text describes. "adain" and "rain" are the alternatives that the paper compares with: the decoder's foreground
  takes the decoder background's statistics without parameters and with the background left as it is, or by RAIN.
- Without a background, a foreground's own statistics stand in for it.
- The output is pasted, in the losses as well. Images are in [0, 1] throughout.
- Patches are 8x8 pixels of the image, centred on cells of 4x4 (shifted inwards at the border). Cells are drawn with
  replacement among those whose first pixel lies in the region; in a region too thin for that, among those that it
  touches. An image that lacks a region has no contrastive loss.
- The patches' encoder is 192 -> 256 -> 256 with ReLU between and L2 normalization behind.
- contrast "literal": the undefined queries v_bg and v_fg of eq. 11 are the normalized means of the encoded real
  background and of the encoded harmonized foreground, the arguments that eq. 12 has. This rewards foreground patches
  for being unlike each other. "goal" (ours) does what the text claims: each patch of the harmonized foreground is drawn
  to one of the real background, and away from those of the composite's foreground.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model, sum_of
from models.layers.input_size import require_divisible, require_statistics
from models.layers.normalization import RAIN, mask_at
from models.layers.region_statistics import region_statistics
from models.layers.spatial_separated_attention import SpatialSeparatedAttention
from models.losses.foreground import foreground_mse, foreground_normalized

CELL, PATCH = 4, 8
ENCODED = 256
TEMPERATURE = 0.07


class Residual(nn.Module):
    """relu(x + norm(conv3x3(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.norm(self.conv(features)), inplace=True)


def _convolutions(before: int, after: int) -> nn.Sequential:
    first = nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    return nn.Sequential(*first, *(Residual(after) for _ in range(3)))


class Up(nn.Module):
    """Double the size and halve the channels, join with the skip, attend by region (S2AM), and convolve."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.up = nn.Sequential(nn.ConvTranspose2d(before, after, 2, 2), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
        self.attention = SpatialSeparatedAttention(2 * after)
        self.convolutions = _convolutions(2 * after, after)

    def forward(self, features: Tensor, skip: Tensor, mask: Tensor) -> Tensor:
        """(N, after, 2 h, 2 w) from (N, before, h, w), a skip of that size, and the mask of the image."""
        return self.convolutions(self.attention(torch.cat([skip, self.up(features)], dim=1), mask))


class StyleFusion(nn.Module):
    """(1 + s_f) * D_f + b_f in the foreground and (1 + s_b) * D_b + b_b in the background (eqs 4-7).

    D_b is the decoder's background, normalized. D_f is the decoder's foreground less the mean of the encoder's background
    over its deviation; with `own_first` it is normalized itself, times that deviation, plus that mean.
    """

    foreground_scale: nn.Parameter
    foreground_shift: nn.Parameter
    background_scale: nn.Parameter
    background_shift: nn.Parameter

    def __init__(self, channels: int, own_first: bool = False):
        super().__init__()
        self.own_first = own_first
        for name in ("foreground_scale", "foreground_shift", "background_scale", "background_shift"):
            self.register_parameter(name, nn.Parameter(torch.zeros(channels, 1, 1)))

    def forward(self, decoded: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w), as the two features. mask: (N, 1, h, w), 0 or 1, 1 = foreground."""
        outside = 1 - mask
        mean, deviation = region_statistics(decoded, outside)
        # one affine map for each region, so that the features are passed over once
        background = _affine((1 + self.background_scale) / deviation, mean, self.background_shift)
        own, style = region_statistics(decoded, mask), region_statistics(encoded, outside)
        there = outside.amax((1, 2, 3), keepdim=True) > 0
        mean, deviation = (torch.where(there, of_style, of_own) for of_style, of_own in zip(style, own))
        scale = 1 + self.foreground_scale
        if self.own_first:
            shift = scale * mean + self.foreground_shift
            foreground = _affine(scale * deviation / own[1], own[0], shift)
        else:
            foreground = _affine(scale / deviation, mean, self.foreground_shift)
        slope, shift = (mask * inner + outside * outer for inner, outer in zip(foreground, background))
        return (decoded * slope + shift).to(decoded.dtype)


def _affine(slope: Tensor, centre: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """slope * (x - centre) + shift as slope and offset."""
    return slope, shift - slope * centre


class AdaIN(nn.Module):
    """The decoder's foreground with the statistics of the decoder's background; no parameters."""

    def forward(self, decoded: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w), as the first features; the encoder's are not looked at."""
        own, style = region_statistics(decoded, mask), region_statistics(decoded, 1 - mask)
        there = (mask == 0).flatten(1).any(1).view(-1, 1, 1, 1)
        restyled = (decoded - own[0]) / own[1] * style[1] + style[0]
        return torch.where((mask > 0) & there, restyled.to(decoded.dtype), decoded)


class DecoderRAIN(RAIN):
    def forward(  # type: ignore[override]  # called as the other ways of fusion are
        self, decoded: Tensor, encoded: Tensor, mask: Tensor
    ) -> Tensor:
        """(N, C, h, w), as the first features; the encoder's are not looked at."""
        return super().forward(decoded, mask)


FUSIONS = {
    "literal": StyleFusion,
    "own_first": lambda channels: StyleFusion(channels, own_first=True),
    "adain": lambda channels: AdaIN(),
    "rain": DecoderRAIN,
}


class ResUNet(nn.Module):
    def __init__(self, width: int, levels: int, fusion: str):
        super().__init__()
        channels = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(_convolutions(before, after) for before, after in zip([4, *channels], channels))
        pairs = list(zip(channels[:0:-1], channels[-2::-1]))
        self.up = nn.ModuleList(Up(before, after) for before, after in pairs)
        self.fusions = nn.ModuleList(FUSIONS[fusion](after) for _, after in pairs) if fusion != "none" else None
        self.head = nn.Conv2d(width, 3, 1)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, 3, H, W), unbounded. image: (N, 4, H, W), composite and mask."""
        features, skips = image, []
        for level, block in enumerate(self.down):
            features = block(F.max_pool2d(features, 2) if level else features)
            skips.append(features)
        skips.pop()
        for number, up in enumerate(self.up):
            skip = skips.pop()
            features = up(features, skip, mask)
            if self.fusions is not None:
                features = self.fusions[number](features, skip, mask_at(mask, skip.shape[2:]))
        return self.head(features)


class PatchEncoder(nn.Sequential):
    """Patches (N, K, 192) to vectors of length 1 (N, K, 256)."""

    def __init__(self):
        inputs = 3 * PATCH**2
        super().__init__(nn.Linear(inputs, ENCODED), nn.ReLU(inplace=True), nn.Linear(ENCODED, ENCODED))

    def forward(self, patches: Tensor) -> Tensor:
        return F.normalize(super().forward(patches), dim=2)


def draw_corners(region: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where `count` patches of a region lie, and in which images it is empty: top and left (N, K, 2), and (N,) bool.

    region: (N, 1, H, W), 0 or 1, sides multiples of 4 and at least 8. Drawn from torch's global generator.
    """
    height, width = region.shape[2:]
    cells, touched = region[:, :, ::CELL, ::CELL].flatten(1), F.max_pool2d(region, CELL).flatten(1)
    empty = touched.amax(1) == 0
    weights = torch.where(cells.amax(1, keepdim=True) > 0, cells, touched) + empty[:, None]
    drawn = torch.multinomial(weights, count, replacement=True)
    columns = width // CELL
    corners = torch.stack([drawn // columns, drawn % columns], dim=2) * CELL + (CELL - PATCH) // 2
    furthest = corners.new_tensor([height - PATCH, width - PATCH])
    return corners.clamp(min=0).minimum(furthest), empty


def patches_at(image: Tensor, corners: Tensor) -> Tensor:
    """(N, K, 192): 8x8 patches of (N, 3, H, W) whose top and left are (N, K, 2), by channel, row, column."""
    steps = torch.arange(PATCH, device=image.device)
    rows = (corners[:, :, 0, None] + steps)[:, :, None, :, None]  # (N, K, 1, 8, 1)
    columns = (corners[:, :, 1, None] + steps)[:, :, None, None, :]
    images = torch.arange(len(image), device=image.device).view(-1, 1, 1, 1, 1)
    channels = torch.arange(image.shape[1], device=image.device).view(1, 1, -1, 1, 1)
    return image[images, channels, rows, columns].flatten(2)


def contrast_of_means(foreground: Tensor, background: Tensor) -> Tensor:
    """Eq. 11 with the means as queries, per image: (N,). foreground, background: (N, K, E), rows of length 1."""
    queries = (F.normalize(vectors.mean(1), dim=1)[:, :, None] for vectors in (foreground, background))
    negative, positive = (
        (vectors @ query)[..., 0] / TEMPERATURE for vectors, query in zip((foreground, background), queries)
    )
    against = negative.logsumexp(1, keepdim=True)
    # -log(e^p / (e^p + e^a)) = softplus(a - p)
    return F.softplus(against - positive).mean(1)


def contrast_of_patches(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """InfoNCE of each anchor with its positive and all negatives, per image: (N,). All (N, K, E), rows of length 1."""
    positive = (anchors * positives).sum(2) / TEMPERATURE
    against = (anchors @ negatives.transpose(1, 2) / TEMPERATURE).logsumexp(2)
    return F.softplus(against - positive).mean(1)


class RegionContrastive(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        width: int = 32,
        levels: int = 5,
        fusion: Literal["literal", "own_first", "adain", "rain", "none"] = "literal",
        contrast: Literal["literal", "goal"] = "literal",
        patches: int = 256,
        l1_weight: float = 0.4,
        pixel_weight: float = 0.5,
        contrastive_weight: float = 0.1,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """width: channels of the first level. levels: one more than halvings. patches: K.
        fusion: how the decoder gives the foreground the background's style. contrast: what the contrastive loss compares.
        l1_weight, pixel_weight, contrastive_weight: those of eq. 13, of the whole image's L1, the foreground's, and the
        contrastive loss; at 0 a term is left out.
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022, weighted as the foreground's
        L1 is, in the place of both L1 terms (not of the paper). global_skip: draw what is added to the composite, as a
        variant of S2AM does, beginning with next to nothing: its head is drawn a hundredth as large (not of the paper)."""
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels = {levels}, expected 2 or more")
        if patches < 1:
            raise ValueError(f"patches = {patches}, expected 1 or more")
        self.levels, self.contrast, self.patches = levels, contrast, patches
        self.reconstruction, self.global_skip = reconstruction, global_skip
        self.weights = {"l1": l1_weight, "pixel": pixel_weight, "contrastive": contrastive_weight}
        self.unet = ResUNet(width, levels, fusion)
        if global_skip:
            with torch.no_grad():
                self.unet.head.weight *= 0.01
        self.encoder = PatchEncoder() if contrastive_weight else None

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), clipped to [0, 1], the composite outside the mask. Raises ValueError where H or W is not divisible
        by 2 ** (levels - 1), or below 3 * 2 ** (levels - 2), and in training for one image of 2 ** (levels - 1) pixels a
        side."""
        return self._draw(batch).clamp(0, 1)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 13 on the pasted output, unclipped, in [0, 1]."""
        self.require_player(player)
        drawn, mask = self._draw(batch), batch["mask"]
        if self.reconstruction == "foreground_mse":
            parts = {"pixel": foreground_mse(drawn, batch["real"], mask)}
        else:
            error = (drawn - batch["real"]).abs()
            parts = {"l1": error.mean(), "pixel": foreground_normalized(error * mask, mask)}
        if self.encoder is not None:
            parts["contrastive"] = self._contrastive(drawn, batch).mean()
        loss = sum_of(self.weights[name] * part for name, part in parts.items())
        return loss, {name: part.detach() for name, part in parts.items()}

    def predictor_parameters(self) -> list[nn.Parameter]:
        """The U-Net's: what a prediction needs, and what the paper counts."""
        return list(self.unet.parameters())

    def _draw(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), pasted, unbounded inside the mask; float32 also under autocast."""
        composite, mask = batch["composite"], batch["mask"]
        stride = 2 ** (self.levels - 1)
        require_divisible(composite, stride)
        if self.training:
            require_statistics(composite, stride)
        drawn = self.unet(torch.cat([composite, mask], dim=1), mask).float()
        return composite + drawn * mask if self.global_skip else torch.lerp(composite, drawn, mask)

    def _contrastive(self, drawn: Tensor, batch: Batch) -> Tensor:
        """Per image, 0 where a region is missing: (N,)."""
        mask, real = batch["mask"], batch["real"]
        inside, no_foreground = draw_corners(mask, self.patches)
        outside, no_background = draw_corners(1 - mask, self.patches)
        with torch.autocast(drawn.device.type, enabled=False):  # a temperature of 0.07 has no digits to lose
            foreground, background = self._encode(drawn, inside), self._encode(real, outside)
            if self.contrast == "literal":
                loss = contrast_of_means(foreground, background)
            else:
                loss = contrast_of_patches(foreground, background, self._encode(batch["composite"], inside))
        return loss.where(~(no_foreground | no_background), 0.0)

    def _encode(self, image: Tensor, corners: Tensor) -> Tensor:
        assert self.encoder is not None  # the contrastive loss has one
        return self.encoder(patches_at(image.float(), corners))
