"""SPAN: manipulation-trace features, and a pyramid of local self-attention with growing reach, 4.05M parameters.

Hu, Zhang, Jiang, Chaudhuri, Yang, Nevatia, "SPAN: Spatial Pyramid Attention Network for Image Manipulation
Localization", ECCV 2020; where paper and the authors' code differ, the code (get_model_1010_resize, which their
evaluator builds). The features are ManTra-Net's. Each of five blocks lets every pixel attend to itself and its eight
neighbours at a distance of 1, 3, 9, 27, 81 pixels.

Published: the architecture and binary cross-entropy, on features that ManTra-Net's training made and that stay
frozen. Our choices: all is trained from scratch (`backbone_weights` and `freeze_features` are the published way);
L_seg, the loss that the other localizers have, by default (`ssim_weight` = `iou_weight` = 0 is the published loss);
the map comes back from `attention_size` to the input's size by bilinear interpolation.

The state dict lists its tensors in the order of the released file, with the kernels as (out, in, height, width).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from models.base import Batch, Model
from models.layers.manipulation_features import (
    ManipulationFeatures,
    UnitNormConv,
    initialize_as_keras,
)
from models.losses.region import RegionLoss

NEIGHBOURS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
SCALE = 8.0  # what the published code divides scores by, at 32 channels and at any other number


def neighbour_places(height: int, width: int, dilation: int) -> list[tuple[tuple, tuple]]:
    """For each of the nine neighbours two indices into (..., H, W): the pixels whose neighbour lies in the picture, and
    these neighbours. Both are empty for a distance that isn't below the side."""

    def along(size: int, shift: int) -> tuple[slice, slice]:
        inside = max(size - abs(shift), 0)
        here, there = (0, shift) if shift >= 0 else (-shift, 0)
        return slice(here, here + inside), slice(there, there + inside)

    places = []
    for row, column in NEIGHBOURS:
        (here_y, there_y), (here_x, there_x) = along(height, row * dilation), along(width, column * dilation)
        places.append(((..., here_y, here_x), (..., there_y, there_x)))
    return places


def neighbourhood_attention(query: Tensor, key: Tensor, value: Tensor, dilation: int) -> Tensor:
    """Attention of every pixel over 3x3 pixels at distance `dilation`, each of which has keys and values of its own.

    query: (N, C, H, W). key, value: (N, 9 C, H, W), C channels per neighbour, neighbours row by row. Returns (N, C,
    H, W) in float32, the softmax's dtype. A neighbour beyond the border has the score 0 and the value 0; it takes its
    share of the softmax, as published.
    """
    return _NeighbourhoodAttention.apply(query, key, value, dilation)


class _NeighbourhoodAttention(torch.autograd.Function):
    """Loops over neighbours, as gathering them would copy keys and values; with a gradient of its own, as autograd's
    would fill a map with zeros for each of the slices."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, dilation: int) -> Tensor:
        count, _, height, width = query.shape
        dtype = torch.promote_types(query.dtype, torch.float32)
        places = neighbour_places(height, width, dilation)
        scores = query.new_zeros(count, len(NEIGHBOURS), height, width, dtype=dtype)
        for number, ((here, there), keys) in enumerate(zip(places, key.chunk(9, dim=1))):
            scores[:, number][here] = (query[here] * keys[there]).sum(1, dtype=dtype)
        weights = (scores / SCALE).softmax(dim=1)
        attended = query.new_zeros(query.shape, dtype=dtype)
        for (here, there), weight, values in zip(places, weights.split(1, dim=1), value.chunk(9, dim=1)):
            attended[here].addcmul_(weight[here], values[there].to(dtype))
        ctx.places = places
        ctx.save_for_backward(query, key, value, weights)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        query, key, value, weights = ctx.saved_tensors
        to_weights, to_value = torch.zeros_like(weights), torch.zeros_like(value)
        for number, (here, there) in enumerate(ctx.places):
            own = slice(number * query.shape[1], (number + 1) * query.shape[1])
            to_weights[:, number][here] = (gradient[here] * value[:, own][there]).sum(1)
            to_value[:, own][there] = (gradient[here] * weights[:, number : number + 1][here]).to(value.dtype)
        to_scores = weights * (to_weights - (to_weights * weights).sum(1, keepdim=True)) / SCALE
        to_query, to_key = torch.zeros_like(query, dtype=weights.dtype), torch.zeros_like(key)
        for number, (here, there) in enumerate(ctx.places):
            own = slice(number * query.shape[1], (number + 1) * query.shape[1])
            score = to_scores[:, number : number + 1][here]
            to_query[here].addcmul_(score, key[:, own][there].to(weights.dtype))
            to_key[:, own][there] = (score * query[here]).to(key.dtype)
        return to_query.to(query.dtype), to_key, to_value, None


class AttentionBlock(nn.Module):
    """Local self-attention and three 3x3 convolutions with ReLUs, each of the two added to what it read."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.key = nn.Conv2d(channels, 9 * channels, 1, bias=False)
        self.value = nn.Conv2d(channels, 9 * channels, 1, bias=False)
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), float32."""
        # keys and values are 18 times as large as the features: computed again for the gradient rather than kept
        if torch.is_grad_enabled():
            attended = features + checkpoint(self._attend, features, use_reentrant=False)
        else:
            attended = features + self._attend(features)
        return attended + self.convs(attended)

    def _attend(self, features: Tensor) -> Tensor:
        return neighbourhood_attention(self.query(features), self.key(features), self.value(features), self.dilation)


def resize_from_corner(features: Tensor, size: int) -> Tensor:
    """Bilinear resizing of (N, C, H, W) to size x size as TensorFlow 1 has it: output pixel i lies at i * H / size."""
    height, width = features.shape[2:]
    if (height, width) == (size, size):
        return features
    steps = torch.arange(size, device=features.device, dtype=torch.float32) / size
    # in grid_sample's coordinates -1 is the first pixel and 1 the last; what lies beyond the last one is the last one
    y = steps * height * 2 / max(height - 1, 1) - 1
    x = steps * width * 2 / max(width - 1, 1) - 1
    grid = torch.stack([x.expand(size, -1), y[:, None].expand(-1, size)], dim=2)
    return F.grid_sample(
        features.float(), grid.expand(len(features), -1, -1, -1), padding_mode="border", align_corners=True
    )


class SPAN(Model):
    """`width`: channels of the features' first block (32 published). `channels`: of the attention (32 published).
    `dilations`: distance of the neighbours in pixels, one per block (1, 3, 9, 27, 81 published). `attention_size`:
    side in pixels to which features are resized before the attention (224 in the published evaluation; 0: they keep
    the picture's size, as in the authors' get_model_1010). `backbone_weights`: "none", or the path of a state dict of
    `mantranet` or of this network, whose features are taken. `freeze_features`: leave the features as they are and
    train the rest. `bce_weight`, `ssim_weight`, `iou_weight`: the terms of L_seg (1, 0, 0 published)."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 32,
        channels: int = 32,
        dilations: tuple[int, ...] = (1, 3, 9, 27, 81),
        attention_size: int = 224,
        backbone_weights: str = "none",
        freeze_features: bool = False,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if attention_size < 0 or any(dilation < 1 for dilation in dilations):
            raise ValueError(
                f"attention_size = {attention_size}, dilations = {tuple(dilations)}: expected a size of at least 0 and "
                "distances of at least 1 pixel"
            )
        self.features = ManipulationFeatures(width, backbone_weights).requires_grad_(not freeze_features)
        self.adapt = UnitNormConv(self.features.channels, channels)
        self.blocks = nn.Sequential(*(AttentionBlock(channels, dilation) for dilation in dilations))
        sizes = (channels, channels, channels // 2, channels // 4, channels // 8, 1)
        if sizes[-2] < 1:
            raise ValueError(f"channels = {channels}: the head ends with an eighth of them, expected at least 8")
        self.head = nn.Sequential()
        for before, after in zip(sizes, sizes[1:]):
            self.head.extend([nn.Conv2d(before, after, 5, padding=2), nn.ReLU(inplace=True)])
        self.head.pop(-1)  # logits
        initialize_as_keras(self.blocks)
        initialize_as_keras(self.head)
        self.attention_size = attention_size
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1] -> (N, 1, H, W). Raises ValueError for a side of 1 pixel."""
        composite = batch["composite"]
        features = self.adapt(self.features(composite)).float()
        if self.attention_size:  # after the 1x1 convolution, with which it commutes: fewer channels to resize
            features = resize_from_corner(features, self.attention_size)
        logits = self.head(self.blocks(features)).float()
        if logits.shape[2:] != composite.shape[2:]:
            logits = F.interpolate(logits, composite.shape[2:], mode="bilinear")
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], sides of at least 2 -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
