"""MFCN: a fully convolutional network with a branch for the pasted surface and one for its edge, 134.27M parameters.

Salloum, Ren, Kuo, "Image Splicing Localization Using a Multi-Task Fully Convolutional Network (MFCN)", Journal of
Visual Communication and Image Representation 51, 2018. No code of the authors is public. Published: VGG-16 as the
trunk, two branches that share it, the sum of their cross-entropies, and the edge-enhanced mask. Our choices: each
branch has the skips of FCN-8s (Long, Shelhamer, Darrell, CVPR 2015), the standard network of this kind; the edge's
target is the morphological gradient of the mask by 5x5 pixels; the edge's positive pixels weigh (negatives /
positives) of the batch, 20 at most; L_seg, the loss that the other localizers have, on the surface (`ssim_weight` =
`iou_weight` = 0 is the published cross-entropy); the surface's probability as the prediction, because average
precision needs a soft map.
"""

from typing import Literal, cast

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize, load_backbone
from models.layers.input_size import require_divisible
from models.losses.edge import balanced_bce, mask_edge
from models.losses.region import RegionLoss

STRIDE = 32
PUBLISHED_FC = (4096, 7, 1)  # channels, kernel, dilation
PUBLISHED = {False: VGG16_Weights.IMAGENET1K_V1, True: VGG16_BN_Weights.IMAGENET1K_V1}


def bilinear_upsampling(factor: int) -> nn.ConvTranspose2d:
    """Transposed convolution of one channel, learned, that starts as bilinear interpolation by `factor`, even."""
    layer = nn.ConvTranspose2d(1, 1, 2 * factor, factor, padding=factor // 2, bias=False)
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    taps = 1 - distance
    with torch.no_grad():
        layer.weight.copy_(taps[:, None] * taps)
    return layer


class Branch(nn.Module):
    """Scores at strides 32, 16 and 8, added from coarse to fine, and brought to full size (FCN-8s)."""

    def __init__(self, coarse: int, middle: int, fine: int):
        super().__init__()
        self.score = nn.Conv2d(coarse, 1, 1)
        self.upsample_coarse = bilinear_upsampling(2)
        self.score_middle = nn.Conv2d(middle, 1, 1)
        self.upsample_middle = bilinear_upsampling(2)
        self.score_fine = nn.Conv2d(fine, 1, 1)
        self.upsample_fine = bilinear_upsampling(8)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """Features at strides 32, 16 and 8 -> logits (N, 1, H, W)."""
        scores = self.upsample_coarse(self.score(coarse)) + self.score_middle(middle)
        scores = self.upsample_middle(scores) + self.score_fine(fine)
        return self.upsample_fine(scores)


def enhance(surface: Tensor, edge: Tensor, threshold: float = 0.5) -> Tensor:
    """The paper's final mask: the pixels above `threshold` in `surface` that lie on edges above `threshold` in `edge`
    or within what such edges enclose. Probabilities (N, 1, H, W) -> 0 or 1, float32, of the same shape."""
    outlines = (edge > threshold).cpu().numpy()
    enclosed = np.stack([[binary_fill_holes(outline) for outline in image] for image in outlines])
    return ((surface > threshold) & torch.from_numpy(enclosed).to(surface.device)).float()


class MFCN(Model):
    """`width`: channels of VGG's first block (64 published). `fc_channels`: of the two convolutions that stand for
    VGG's fully connected layers (4096 published). `fc_kernel`, `fc_dilation`: of the first one (7 and 1 published;
    1024 channels, 3 and 3 reach as far with a sixth of all parameters). `batch_norm`: after every convolution of VGG
    (not published; for training from random weights). `dropout`: after each of the
    two (0.5 published).

    `backbone_weights`: "none", "imagenet" (published; torchvision's VGG-16), or the path of that state dict; the
    fully connected layers are filled from it too where they have the published shape. `edge_weight`: of the edge's
    loss beside the surface's (1 published; 0 trains the surface alone). `prediction`: "surface" is the surface's
    probability, "enhanced" the published binary mask. `bce_weight`, `ssim_weight`, `iou_weight`: the terms of the
    surface's L_seg (1, 0, 0 published).
    """

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        fc_channels: int = 4096,
        fc_kernel: int = 7,
        fc_dilation: int = 1,
        batch_norm: bool = False,
        dropout: float = 0.5,
        backbone_weights: str = "none",
        edge_weight: float = 1.0,
        prediction: Literal["surface", "enhanced"] = "surface",
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if edge_weight < 0:
            raise ValueError(f"edge_weight = {edge_weight}, expected at least 0")
        if fc_kernel % 2 == 0:
            raise ValueError(f"fc_kernel = {fc_kernel}, expected an odd one, which keeps the map's size")
        channels = {count: count * width // 64 for count in cfgs["D"] if count != "M"}
        self.normalize = ImageNetNormalize()
        self.trunk = make_layers([channels.get(entry, entry) for entry in cfgs["D"]], batch_norm)
        fine, middle = channels[256], channels[512]
        self.fc = nn.Sequential(
            nn.Conv2d(middle, fc_channels, fc_kernel, padding=fc_kernel // 2 * fc_dilation, dilation=fc_dilation),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(fc_channels, fc_channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        for layer in [*self.trunk.modules(), *self.fc.modules()]:
            if isinstance(layer, nn.Conv2d):  # as torchvision's VGG starts
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None  # Conv2d's default
                nn.init.zeros_(layer.bias)
        self._load(backbone_weights, PUBLISHED[batch_norm])
        self.surface = Branch(fc_channels, middle, fine)
        self.edge = Branch(fc_channels, middle, fine)
        self.edge_weight, self.prediction = edge_weight, prediction
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def _load(self, source: str, published: VGG16_Weights | VGG16_BN_Weights) -> None:
        """Fill the trunk and, where they have the published shape, the two convolutions from VGG's linear layers."""
        if source == "none":
            return
        first, second = (cast("nn.Conv2d", self.fc[index]) for index in (0, 3))
        vgg = nn.ModuleDict({"features": self.trunk})  # torchvision's names
        convolutionized = (first.out_channels, first.kernel_size[0], first.dilation[0]) == PUBLISHED_FC
        if convolutionized:
            linear = {
                "0": nn.Linear(first.weight[0].numel(), first.out_channels),
                "3": nn.Linear(second.in_channels, second.out_channels),
            }
            vgg["classifier"] = nn.ModuleDict(linear)
        load_backbone(
            vgg,
            source,
            lambda: published.get_state_dict(progress=False, check_hash=True),
            file=published.url.rsplit("/", 1)[1],
        )
        if convolutionized:
            with torch.no_grad():
                for conv, layer in zip((first, second), linear.values()):
                    conv.weight.copy_(layer.weight.view_as(conv.weight))
                    assert conv.bias is not None  # Conv2d's default
                    conv.bias.copy_(layer.bias)

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> surface and edge, each (N, 1, H, W).

        Raises ValueError for other sizes."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        features, taps = self.normalize(composite), []
        for layer in self.trunk:
            features = layer(features)
            if isinstance(layer, nn.MaxPool2d):
                taps.append(features)
        *_, fine, middle, coarse = taps
        coarse = self.fc(coarse)
        return self.surface(coarse, middle, fine), self.edge(coarse, middle, fine)

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> probability (N, 1, H, W) of foreground, or with
        `prediction` = "enhanced" a mask of 0 and 1."""
        surface, edge = (logits.float().sigmoid() for logits in self.logits(batch))
        return surface if self.prediction == "surface" else enhance(surface, edge)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the surface plus `edge_weight` times the balanced cross-entropy of the edge; parts surface, edge."""
        self.require_player(player)
        mask = batch["mask"]
        surface_logits, edge_logits = self.logits(batch)
        surface, _ = self.region_loss(surface_logits, mask, logits=True)
        edge = balanced_bce(edge_logits, mask_edge(mask))
        return surface + self.edge_weight * edge, {"surface": surface.detach(), "edge": edge.detach()}
