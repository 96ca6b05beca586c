"""H-LSTM: an LSTM that reads resampling features of patches along a Hilbert curve, beside a small residual encoder,
about 2.21M parameters.

Bappy, Simons, Nataraj, Manjunath, Roy-Chowdhury, "Hybrid LSTM and Encoder-Decoder Architecture for Detection of Image
Forgeries", IEEE TIP 28, 2019. Layers and features are those of the authors' released code (TensorFlow). Its variables
carry no gain of batch normalization and one bias per LSTM gate where PyTorch has two, so its files don't load by
position.

Our choices: one logit without a last ReLU, trained by L_seg (`head` "logit"); the released head (`head` "released")
ends in two logits that a ReLU keeps at 0 or above, a softmax over them, and the sigmoid cross-entropy of each against
its class. The released code normalizes its two logits twice in a row, we once. The positions' weights start at the
scale of a linear layer and not at deviation 1; batch normalization follows, so the first output is the same. Evaluation
uses running statistics, the released test script those of its batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.resampling import ResamplingFeatures
from models.losses.region import RegionLoss

STRIDE = 16  # of the encoder
PIXEL_SCALE = 255 / 127  # the released code divides 8-bit pixels by 127


def hilbert_order(side: int) -> Tensor:
    """The place of each patch of a (side, side) grid on the Hilbert curve: int64 (side * side,), patches row by row.

    The curve starts at the top left and ends at the bottom left. Raises ValueError unless `side` is a power of 2.
    """
    if side < 1 or side & (side - 1):
        raise ValueError(f"a Hilbert curve fills squares whose side is a power of 2, not {side}")
    order = torch.zeros(1, 1, dtype=torch.int64)
    while len(order) < side:
        area = order.numel()
        # each quarter holds the smaller curve; the first and the last are mirrored so that ends meet
        top = torch.cat([order.t(), order + area], dim=1)
        bottom = torch.cat([order.flip(0, 1).t() + 3 * area, order + 2 * area], dim=1)
        order = torch.cat([top, bottom])
    return order.flatten()


class ResidualStage(nn.Module):
    """Convolution, a pre-activated residual unit, and a halving: (N, inputs, H, W) -> (N, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )
        self.unit = nn.Sequential(
            *(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3, padding=1)),
            *(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return F.max_pool2d(F.relu(x + self.unit(x)), 2)


class PatchReader(nn.Module):
    """Two LSTM layers over the patches along the Hilbert curve, then a linear layer of its own for each place."""

    place: Tensor
    along_curve: Tensor

    def __init__(self, features: int, hidden: int, outputs: int, grid: int, dropout: float):
        super().__init__()
        self.grid = grid
        place = hilbert_order(grid)
        # recomputed from the grid, so they are no part of the state dict
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("along_curve", place.argsort(), persistent=False)
        self.lstm = nn.LSTM(features, hidden, num_layers=2, batch_first=True, dropout=dropout)
        for layer in range(2):  # TensorFlow's cell adds 1 to the forget gate
            nn.init.zeros_(getattr(self.lstm, f"bias_hh_l{layer}"))
            nn.init.zeros_(getattr(self.lstm, f"bias_ih_l{layer}"))
            with torch.no_grad():
                getattr(self.lstm, f"bias_ih_l{layer}")[hidden : 2 * hidden] = 1
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(grid * grid, hidden, outputs) / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(N, grid * grid, features), patches row by row -> (N, outputs, grid, grid)."""
        read, _ = self.lstm(features[:, self.along_curve])
        read = self.dropout(read)[:, self.place]
        placed = torch.einsum("nph,pho->nop", read, self.weight) + self.bias[:, None]
        return F.relu(self.norm(placed.unflatten(2, (self.grid, self.grid))))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement as a transposed convolution computes it: zeros lie beyond the border and darken it.

    (N, C, H, W) -> (N, C, factor * H, factor * W).
    """
    if factor == 1:
        return x
    x = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=factor, mode="bilinear")
    return x[..., factor:-factor, factor:-factor]


class HLSTM(Model):
    task = "localization"
    players = ("network",)

    def __init__(
        self,
        image_size: int = 256,
        patch: int = 32,
        angles: int = 10,
        width: int = 32,
        hidden: int = 64,
        dropout: float = 0.1,
        head: Literal["logit", "released"] = "logit",
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        """image_size: side of the pictures in pixels; each place of the grid of patches has weights of its own, so that
        no other size can be read. patch: side of a patch in pixels, a multiple of 16; image_size / patch must be a
        power of 2 (8 published). angles: of the Radon transform. width: channels of the encoder's first stage; they
        double with each of its four. hidden: of the LSTM. dropout: share of the LSTM's outputs that training drops.
        head: "logit" for one logit, trained by L_seg; "released" for two non-negative ones, trained by cross-entropy.
        bce_weight, ssim_weight, iou_weight: the terms of L_seg; not used with the released head."""
        super().__init__()
        if patch % STRIDE or patch < STRIDE:
            raise ValueError(f"hlstm: patch = {patch}, expected a multiple of {STRIDE}")
        grid = image_size // patch
        if image_size % patch or grid < 2 or grid & (grid - 1):
            raise ValueError(f"hlstm: image_size / patch = {image_size} / {patch}, expected a power of 2 of at least 2")
        self.image_size, self.head_kind = image_size, head
        self.features = ResamplingFeatures(patch, angles)
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        self.encoder = nn.Sequential(*(ResidualStage(*pair) for pair in zip(channels, channels[1:])))
        self.reader = PatchReader(self.features.size, hidden, width, grid, dropout)
        self.reduce = nn.Sequential(
            nn.Conv2d(8 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        outputs = 1 if head == "logit" else 2
        self.head = nn.Conv2d(2 * width, outputs, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(outputs)
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, image_size, image_size) in [0, 1] -> (N, 1, H, W), with the released head (N, 2, H, W),
        background first. Raises ValueError for other sizes."""
        composite = batch["composite"]
        height, width = composite.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"hlstm reads pictures of {self.image_size}x{self.image_size} pixels, got {height}x{width}; "
                "resize it, or build the network with another image_size"
            )
        read = self.reader(self.features(composite))
        encoded = self.reduce(self.encoder(composite * PIXEL_SCALE))
        joined = torch.cat([encoded, upsample(read, encoded.shape[2] // read.shape[2])], dim=1)
        # the released code enlarges all channels first and then reduces them, which is the same and 16 times the work
        logits = self.head_norm(upsample(self.head(joined), 4))
        return upsample(logits if self.head_kind == "logit" else F.relu(logits), 4).float()

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, image_size, image_size) in [0, 1] -> probability (N, 1, H, W) of foreground.

        Raises ValueError for other sizes."""
        logits = self.logits(batch)
        if self.head_kind == "released":
            logits = logits[:, 1:] - logits[:, :1]  # the softmax of two
        return logits.sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask, parts bce, ssim, iou; with the released head the mean cross-entropy of both logits'
        sigmoids against background and foreground, part cross_entropy."""
        self.require_player(player)
        logits, mask = self.logits(batch), batch["mask"]
        if self.head_kind == "logit":
            return self.region_loss(logits, mask, logits=True)
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat([1 - mask, mask], dim=1).float())
        return loss, {"cross_entropy": loss.detach()}
