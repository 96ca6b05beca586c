"""HRNet-OCR: a high-resolution backbone and object-contextual representations, 70.35M parameters at W48.

Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, on HRNet (Sun et al., CVPR
2019). The backbone is timm's (Apache-2.0; its ImageNet weights MIT, those of w18_small Apache-2.0), the head is ours:
layers, widths, dropout and the 0.4 of the auxiliary loss are published. Ours: two soft regions, background and
foreground, whose logits' difference is the prediction; L_seg on both heads; width W48 (the benchmark's table doesn't
say).
"""

from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize, load_backbone
from models.layers.input_size import require_divisible, require_statistics
from models.losses.region import RegionLoss

REGIONS = 2  # background, foreground
STRIDE = 32


def _conv(inputs: int, outputs: int, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def gather_regions(feature: Tensor, regions: Tensor) -> Tensor:
    """One feature per region: the mean of feature (N, C, H, W), weighted by a softmax over space of the region's
    logits (N, K, H, W). Returns (N, C, K, 1), a picture of K pixels."""
    weight = regions.flatten(2).float().softmax(dim=2)
    return torch.einsum("nkp,ncp->nck", weight, feature.flatten(2).float()).unsqueeze(-1)


class ObjectAttention(nn.Module):
    """Each pixel's mixture of the region features, by scaled dot products."""

    def __init__(self, channels: int, keys: int):
        super().__init__()
        self.query = nn.Sequential(_conv(channels, keys), _conv(keys, keys))
        self.key = nn.Sequential(_conv(channels, keys), _conv(keys, keys))
        self.value = _conv(channels, keys)
        self.out = _conv(keys, channels)

    def forward(self, feature: Tensor, regions: Tensor) -> Tensor:
        """feature (N, C, H, W), regions (N, C, K, 1) -> context (N, C, H, W)."""
        query = self.query(feature)
        pixels = query.flatten(2).transpose(1, 2)  # (N, HW, keys)
        key, value = self.key(regions).flatten(2).transpose(1, 2), self.value(regions).flatten(2).transpose(1, 2)
        context = F.scaled_dot_product_attention(pixels, key, value)  # softmax over the K regions
        return self.out(context.transpose(1, 2).reshape_as(query))


class OCRHead(nn.Module):
    """Soft regions, region features, attention of pixels to regions, prediction."""

    def __init__(self, inputs: int, channels: int, keys: int, dropout: float = 0.05):
        super().__init__()
        self.regions = nn.Sequential(_conv(inputs, inputs, bias=True), nn.Conv2d(inputs, REGIONS, 1))
        self.pixels = _conv(inputs, channels, kernel=3, bias=True)
        self.attention = ObjectAttention(channels, keys)
        self.fuse = nn.Sequential(_conv(2 * channels, channels), nn.Dropout2d(dropout))
        self.classifier = nn.Conv2d(channels, REGIONS, 1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, H, W) -> logits of the prediction and of the soft regions, both (N, 2, H, W)."""
        regions = self.regions(feature)
        pixels = self.pixels(feature)
        context = self.attention(pixels, gather_regions(pixels, regions))
        return self.classifier(self.fuse(torch.cat([context, pixels], dim=1))), regions


class HRNetOCR(Model):
    """`variant`: width of HRNet's finest branch (w48 published for OCR; w18_small for trials). `backbone_weights`:
    "none", "imagenet" (timm's), or the path of that state dict. `channels` and `keys`: of the OCR head (512 and 256
    published). `aux_weight`: of the soft regions' loss (0.4 published). `bce_weight`, `ssim_weight`, `iou_weight`: the
    terms of L_seg."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        variant: Literal["w18_small", "w18", "w32", "w48"] = "w48",
        backbone_weights: str = "none",
        channels: int = 512,
        keys: int = 256,
        aux_weight: float = 0.4,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if aux_weight < 0:
            raise ValueError(f"aux_weight = {aux_weight}, expected at least 0")
        self.normalize = ImageNetNormalize()
        # the four raw branches, without the stem's feature and the classifier's extra channels
        options: dict[str, Any] = {"features_only": True, "feature_location": "", "out_indices": (1, 2, 3, 4)}
        name = f"hrnet_{variant}"
        backbone: Any = timm.create_model(name, pretrained=False, **options)
        self.backbone = backbone
        load_backbone(
            self.backbone,
            backbone_weights,
            lambda: timm.create_model(name, pretrained=True, **options).state_dict(),
            file=f"timm's weights of {backbone.default_cfg['architecture']}.{backbone.default_cfg['tag']}",
        )
        self.head = OCRHead(sum(backbone.feature_info.channels()), channels, keys)
        self.aux_weight = aux_weight
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, H, W) of foreground against background, of the prediction and of the soft regions."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training:
            require_statistics(composite, STRIDE)
        branches = self.backbone(self.normalize(composite))
        fine = branches[0].shape[2:]
        feature = torch.cat([branches[0], *(F.interpolate(x, fine, mode="bilinear") for x in branches[1:])], dim=1)
        prediction, regions = (
            F.interpolate(logits[:, 1:] - logits[:, :1], composite.shape[2:], mode="bilinear")
            for logits in self.head(feature)
        )
        return prediction, regions

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> probability (N, 1, H, W) of foreground.

        Raises ValueError for other sizes, and in training for one image of 32x32."""
        return self._logits(batch)[0].float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the prediction plus `aux_weight` times L_seg of the soft regions; parts main, aux."""
        self.require_player(player)
        main, aux = (self.region_loss(logits, batch["mask"], logits=True)[0] for logits in self._logits(batch))
        return main + self.aux_weight * aux, {"main": main.detach(), "aux": aux.detach()}
