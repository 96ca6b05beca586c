"""PConv: Liu, Reda, Shih, Wang, Tao and Catanzaro, "Image Inpainting for Irregular Holes Using Partial Convolutions",
ECCV 2018.

A U-Net of partial convolutions. 8 levels at 256 pixels as in the comparisons of RFR-Net (33 M parameters); the
PyTorch port of naoto0804 has 7. Loss weights are the paper's. Images are standardized by ImageNet's statistics inside,
and the loss is computed in that space, as in the port. Departures from the port: window sums are scaled by the
window's full size (NVIDIA's layer) where the port leaves that factor out; no bias below batch normalization, as in the
33 M version; total variation over the hole and one pixel around it (the paper) where the port takes the whole
composite. Decoder levels are registered in the port's order.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Batch, Model, sum_of
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible, require_statistics
from models.layers.partial_conv import PartialConv2d
from models.losses.perceptual import POOLS_1_TO_3, VGGFeatures, raw_and_composite_terms
from models.losses.pixel import hole_and_valid_l1, total_variation

LOSS_WEIGHTS = {"hole": 6.0, "valid": 1.0, "perceptual": 0.05, "style": 120.0, "variation": 0.1}


class PartialBlock(nn.Module):
    """Partial convolution, then batch normalization and activation where there are any."""

    def __init__(self, partial: PartialConv2d, norm: bool, activation: nn.Module | None):
        super().__init__()
        nn.init.kaiming_normal_(partial.weight, mode="fan_in")
        if partial.bias is not None:
            nn.init.zeros_(partial.bias)
        self.partial = partial
        self.norm = nn.BatchNorm2d(partial.out_channels) if norm else None
        self.activation = activation

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self._activated(*self.partial(features, mask))

    def over_enlarged(self, below: Tensor, beside: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._activated(*self.partial.over_enlarged(below, beside, masks))

    def _activated(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        features = features if self.norm is None else self.norm(features)
        return features if self.activation is None else self.activation(features), mask


class PConv(Model):
    task = "inpainting"
    players = ("generator",)
    phases = ("train", "finetune")

    def __init__(self, width: int = 64, levels: int = 8, perceptual_weights: str = "torchvision"):
        """width: channels of the first level; they double up to 8 times that.
        levels: halvings, at least 2; H and W must be divisible by 2 to the power of levels (8 levels: 256).
        perceptual_weights: VGG-16 for the perceptual and style terms: "torchvision", the path of a .pth or
        .safetensors file, or "none", which leaves both terms out.
        Raises ValueError for fewer than 2 levels.
        """
        super().__init__()
        if levels < 2:
            raise ValueError(f"pconv: levels = {levels}, expected at least 2")
        self.normalize = ImageNetNormalize()
        self.perceptual_features = None
        if perceptual_weights != "none":
            # what it is given is standardized already
            self.perceptual_features = VGGFeatures("vgg16", perceptual_weights, POOLS_1_TO_3, normalize=False)
        channels = [3] + [width * min(2**level, 8) for level in range(levels)]
        self.encoder = nn.ModuleList()
        for level in range(1, levels + 1):
            side = {1: 7, 2: 5, 3: 5}.get(level, 3)
            partial = PartialConv2d(channels[level - 1], channels[level], side, 2, side // 2, bias=False)
            self.encoder.append(PartialBlock(partial, level > 1, nn.ReLU(inplace=True)))
        self.decoder = nn.ModuleDict()
        for level in [*range(5, levels + 1), *range(min(4, levels), 0, -1)]:
            last = level == 1
            sources = (channels[level], channels[level - 1])
            partial = PartialConv2d(sources, channels[level - 1], 3, 1, 1, bias=last)
            activation = None if last else nn.LeakyReLU(0.2, inplace=True)
            self.decoder[str(level)] = PartialBlock(partial, not last, activation)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]. Raises ValueError where H or W is not divisible by 2 to the power of levels."""
        raw = self.draw(self.normalize(batch["image"]), batch["hole"])
        return (raw * self.normalize.std + self.normalize.mean).clamp(0, 1)

    def draw(self, image: Tensor, hole: Tensor) -> Tensor:
        """Standardized image (N, 3, H, W), hole (N, 1, H, W; 1 = hole) -> standardized output (N, 3, H, W)."""
        require_divisible(image, 2 ** len(self.encoder))
        innermost = cast("PartialBlock", self.encoder[-1]).norm
        if innermost is not None and innermost.training:
            require_statistics(image, 2 ** len(self.encoder))
        mask = (hole <= 0.5).to(image.dtype)
        features = torch.where(hole > 0.5, torch.zeros_like(image), image)
        skips = [(features, mask)]
        for block in self.encoder:
            features, mask = block(features, mask)
            skips.append((features, mask))
        features, mask = skips.pop()
        for level in range(len(skips), 0, -1):
            skip, skip_mask = skips.pop()
            features, mask = cast("PartialBlock", self.decoder[str(level)]).over_enlarged(
                features, skip, [mask, skip_mask]
            )
        return features.float()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The paper's eq. 7: the weighted sum of hole, valid, perceptual, style and variation, and these parts
        unweighted. The real image is batch["image"], hole included."""
        self.require_player(player)
        real, hole = self.normalize(batch["image"]), batch["hole"]
        raw = self.draw(real, hole)
        composite = torch.where(hole > 0.5, raw, real)
        terms = dict(zip(("hole", "valid"), hole_and_valid_l1(raw, real, hole)))
        if self.perceptual_features is not None:
            both = raw_and_composite_terms(self.perceptual_features, raw, composite, real)
            terms["perceptual"], terms["style"] = both
        terms["variation"] = total_variation(composite, region=F.max_pool2d(hole, 3, 1, 1))
        total = sum_of(LOSS_WEIGHTS[name] * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}

    def enter(self, phase: str) -> None:
        """ "finetune" keeps the encoder's batch statistics; its scale and shift still train."""
        super().enter(phase)
        if phase == "finetune":
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
