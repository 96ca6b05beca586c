"""SegFormer: a hierarchical transformer (MiT) without positional codes and an all-MLP decoder, 27.35M parameters as B2.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021. The network is the transformers library's (Apache-2.0), built from its configuration. LICENCE:
the authors' code and their ImageNet weights (`nvidia/mit-b*`) are under NVIDIA's non-commercial source code licence;
this file uses neither unless `backbone_weights` asks for the weights. The variant and the loss behind the benchmark's
table are not published: B2 and L_seg, our choices.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize
from models.losses.region import RegionLoss

# depths of the four stages, their widths, the decoder's width
VARIANTS = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
SMALLEST_SIDE = 32  # below it the first stage's keys and values, reduced 8x at 1/4 of the size, have no pixel


def load_encoder(network: SegformerForSemanticSegmentation, source: str, variant: str) -> None:
    """Fill the encoder from a checkpoint folder (config.json beside the weights) or, for "imagenet", from the
    library's cache or the net. Raises ValueError, one line, if that can't be done."""
    if source == "none":
        return
    name = f"nvidia/mit-{variant}" if source == "imagenet" else source
    try:
        loaded: Any = SegformerModel.from_pretrained(
            name, local_files_only=source != "imagenet", output_loading_info=True
        )
        encoder, report = loaded
        network.segformer.load_state_dict(encoder.state_dict())
    except Exception as error:  # from "no network" to a tensor of another shape, each library with its own error
        raise ValueError(
            f"backbone_weights = {source!r}: no weights of MiT-{variant.upper()} to be had from {name} "
            f"({type(error).__name__}); give the path of a folder with that model's config.json and "
            "model.safetensors, or take 'none'"
        ) from error
    if report["missing_keys"]:  # the library would leave these at random values
        raise ValueError(f"backbone_weights = {source!r} has no tensor {min(report['missing_keys'])}")


class SegFormer(Model):
    """`variant`: size of the encoder, "b0" to "b5". `backbone_weights`: "none", "imagenet" (non-commercial licence, see above), or a checkpoint
    folder of the MiT encoder. `drop_path`: highest rate of stochastic depth (0.1 published). `bce_weight`,
    `ssim_weight`, `iou_weight`: the terms of L_seg."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b2",
        backbone_weights: str = "none",
        drop_path: float = 0.1,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path = {drop_path}, expected a rate from 0 to below 1")
        depths, widths, decoder = VARIANTS[variant]
        self.normalize = ImageNetNormalize()
        self.network = SegformerForSemanticSegmentation(
            SegformerConfig(  # type: ignore[call-arg]  # num_labels is a property of its base
                depths=depths, hidden_sizes=widths, decoder_hidden_size=decoder, num_labels=1, drop_path_rate=drop_path
            )
        )
        load_encoder(self.network, backbone_weights, variant)
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], sides of 32 and more -> (N, 1, H, W). Raises ValueError for smaller."""
        composite = batch["composite"]
        height, width = composite.shape[2:]
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"segformer needs sides of at least {SMALLEST_SIDE} pixels, got {height}x{width}")
        coarse = self.network(pixel_values=self.normalize(composite)).logits
        return F.interpolate(coarse, (height, width), mode="bilinear")

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], sides of 32 and more -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
