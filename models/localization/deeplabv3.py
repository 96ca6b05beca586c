"""DeepLabv3: a dilated ResNet and atrous spatial pyramid pooling, 39.63M parameters with ResNet-50.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017. The network is torchvision's
(BSD-3-Clause), with output stride 8, published rates 12/24/36 and one output channel. The backbone and the loss behind
the benchmark's table are not published: ResNet-50 and L_seg, our choices.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, ResNet101_Weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import ASPP

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize, load_backbone
from models.losses.region import RegionLoss

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
PUBLISHED = {"resnet50": ResNet50_Weights.IMAGENET1K_V1, "resnet101": ResNet101_Weights.IMAGENET1K_V1}


class DeepLabv3(Model):
    """`backbone`: "resnet50" or "resnet101". `backbone_weights`: "none", "imagenet" (torchvision's), or the path of that state dict.
    `rates`: dilations of the pyramid (published; 6/12/18 suits the 32x32 map of a 256x256 input).

    `width`: the ResNet's width per group, which narrows its 3x3 convolutions (64 published). `channels`: of the pyramid
    (256 published); less of both makes a small version. `bce_weight`, `ssim_weight`, `iou_weight`: the terms
    of L_seg.
    """

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        backbone: Literal["resnet50", "resnet101"] = "resnet50",
        backbone_weights: str = "none",
        rates: tuple[int, ...] = (12, 24, 36),
        width: int = 64,
        channels: int = 256,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        self.normalize = ImageNetNormalize()
        resnet = ResNet(
            Bottleneck, BLOCKS[backbone], width_per_group=width, replace_stride_with_dilation=[False, True, True]
        )
        self.backbone = IntermediateLayerGetter(resnet, return_layers={"layer4": "out"})
        published = PUBLISHED[backbone]
        load_backbone(
            self.backbone,
            backbone_weights,
            lambda: published.get_state_dict(progress=False, check_hash=True),
            file=published.url.rsplit("/", 1)[1],
        )
        self.classifier = nn.Sequential(
            ASPP(resnet.fc.in_features, rates, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 1),
        )
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], any size -> (N, 1, H, W).

        Raises ValueError in training for a batch of one."""
        composite = batch["composite"]
        if self.training and len(composite) < 2:
            raise ValueError(
                "deeplabv3 can't train on a batch of one: its image-level branch pools each image to one value per "
                "channel, and batch normalization has no variance of one value; give it a batch of 2 or more"
            )
        coarse = self.classifier(self.backbone(self.normalize(composite))["out"])
        return F.interpolate(coarse, composite.shape[2:], mode="bilinear")

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], any size -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
