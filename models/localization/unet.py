"""UNet for region localization: ResNet-34 encoder of five levels, plain decoder, 48.75M parameters.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015. The variant in the benchmark's table is not published; this is the network that stands
in the same authors' public code (AustNet's plain UNet: published there, our choice for the table). Its loss is not
published either: L_seg, our choice, so that the loss sets no network apart; ssim_weight = iou_weight = 0 is plain
cross-entropy.
"""

from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible, require_statistics
from models.layers.resnet_unet import STRIDE, ResNetEncoder, UNetDecoder
from models.losses.region import RegionLoss


class UNet(Model):
    """`width`: channels at full resolution (64 published). `backbone_weights`: "none", "imagenet" (published;
    ResNet-34), or the path of that state dict. `bce_weight`, `ssim_weight`, `iou_weight`: the terms of L_seg."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        backbone_weights: str = "none",
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        self.normalize = ImageNetNormalize()
        self.encoder = ResNetEncoder(width, backbone_weights)
        self.decoder = UNetDecoder(width)
        self.head = nn.Conv2d(width, 1, 1)
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 16 -> (N, 1, H, W). Raises ValueError for other
        sizes, and in training for one image of 16x16."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training:
            require_statistics(composite, STRIDE)
        return self.head(self.decoder(self.encoder(self.normalize(composite))))

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 16 -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
