"""ManTra-Net: manipulation-trace features, and how far each pixel's differ from those around it, 3.80M parameters.

Wu, AbdAlmageed, Natarajan, "ManTra-Net: Manipulation Tracing Network for Detection and Localization of Image
Forgeries With Anomalous Features", CVPR 2019; where paper and the authors' code differ, the code (their pretrained
model 4). The deviation of a pixel's feature from the mean of a window around it is divided by the feature's standard
deviation over the picture (a Z-score); a convolutional LSTM reads the Z-scores from the smallest window to the whole
picture.

Published: the architecture and binary cross-entropy. Our choices: training of all from scratch, without the
classification of 385 manipulations that comes first in the paper, whose data isn't released; and L_seg, the loss that
the other localizers have, by default (`ssim_weight` = `iou_weight` = 0 is the published loss).

The state dict lists its tensors in the order of the released file, with the kernels as (out, in, height, width).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.manipulation_features import (
    ConstrainedModule,
    ManipulationFeatures,
    UnitNormConv,
    initialize_as_keras,
)
from models.losses.region import RegionLoss

SMALLEST_DEVIATION = 1e-5


def window_mean(features: Tensor, window: int) -> Tensor:
    """Mean of each channel over the window x window pixels around every pixel, of those that lie in the picture.

    features: (N, C, H, W); window: odd. The window is a rectangle, also where the border cuts it, so means over columns
    of means over rows are the mean, and a window of 31 costs 62 additions a pixel instead of 961.
    """
    half = window // 2
    rows = F.avg_pool2d(features, (window, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=False)


class ZScores(ConstrainedModule):
    """Distance of each feature from its mean over a window, in standard deviations of that feature over the picture.

    Standard deviations below a learned floor, at least 0 and at the start 1e-5, are replaced by it. The published
    code adds 1e-6 to the floor.
    """

    def __init__(self, channels: int, windows: tuple[int, ...]):
        super().__init__()
        self.windows = windows
        self.floor = nn.Parameter(torch.full((1, 1, 1, channels), SMALLEST_DEVIATION))

    def project(self) -> None:
        self.floor.clamp_(min=0)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, C, H, W) float32 -> (N, windows + 1, C, H, W), at least 0; last is the whole picture."""
        mean = features.mean((2, 3), keepdim=True)
        variance = (features - mean).square().mean((2, 3), keepdim=True)
        floor = self.floor.clamp(min=0).view(1, -1, 1, 1) + SMALLEST_DEVIATION / 10
        # the root of the larger of the squares, since the root of a variance of 0 has no gradient
        deviation = torch.maximum(variance, floor.square()).sqrt()
        means = [window_mean(features, window) for window in self.windows] + [mean]
        return torch.stack([((mean - features) / deviation).abs() for mean in means], dim=1)


def hard_sigmoid(x: Tensor) -> Tensor:
    """Keras's: 0.2 x + 0.5, cut to [0, 1]. (torch's has the slope 1/6.)"""
    return (0.2 * x + 0.5).clamp(0, 1)


class ConvLSTM(nn.Module):
    """Convolutional LSTM (Shi et al., NeurIPS 2015) as Keras has it: gates in the order input, forget, cell, output,
    hard sigmoids, zeros beyond the border. The forget gate's bias starts at 1, recurrent kernels start orthogonal."""

    def __init__(self, inputs: int, hidden: int, kernel_size: int = 7):
        super().__init__()
        self.padding = kernel_size // 2
        self.kernel = nn.Parameter(nn.init.xavier_uniform_(torch.empty(4 * hidden, inputs, kernel_size, kernel_size)))
        self.recurrent_kernel = nn.Parameter(
            nn.init.orthogonal_(torch.empty(4 * hidden, hidden, kernel_size, kernel_size))
        )
        bias = torch.zeros(4, hidden)
        bias[1] = 1
        self.bias = nn.Parameter(bias.flatten())

    def forward(self, sequence: Tensor) -> Tensor:
        """sequence (N, T, C, H, W) -> the state after its last element, (N, hidden, H, W)."""
        count = len(sequence)
        given = F.conv2d(sequence.flatten(0, 1), self.kernel, self.bias, padding=self.padding)
        given = given.unflatten(0, (count, -1))
        state = cell = None
        for moment in given.unbind(1):
            if state is not None:
                moment = moment + F.conv2d(state, self.recurrent_kernel, padding=self.padding)
            admit, keep, new, show = moment.float().chunk(4, dim=1)
            new = hard_sigmoid(admit) * new.tanh()
            cell = new if cell is None else hard_sigmoid(keep) * cell + new
            state = hard_sigmoid(show) * cell.tanh()
        assert state is not None  # a sequence has elements
        return state


class ManTraNet(Model):
    """`width`: channels of the features' first block (32 published). `channels`: features whose anomaly is measured
    (64 published). `hidden`: channels of the LSTM (8 published). `windows`: sides of the windows in pixels, odd, in
    the order in which the LSTM reads them (7, 15, 31 published; the whole picture always follows).
    `backbone_weights`: "none", or the path of a state dict of this network or of `span`, whose features are taken.
    `freeze_features`: leave the features as they are and train the rest. `bce_weight`, `ssim_weight`, `iou_weight`:
    the terms of L_seg (1, 0, 0 published)."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 32,
        channels: int = 64,
        hidden: int = 8,
        windows: tuple[int, ...] = (7, 15, 31),
        backbone_weights: str = "none",
        freeze_features: bool = False,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if any(window < 1 or window % 2 == 0 for window in windows):
            raise ValueError(f"windows = {tuple(windows)}: expected odd sides of at least 1 pixel")
        self.features = ManipulationFeatures(width, backbone_weights).requires_grad_(not freeze_features)
        self.adapt = UnitNormConv(self.features.channels, channels)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01, affine=False)
        self.scores = ZScores(channels, tuple(windows))
        self.lstm = ConvLSTM(channels, hidden)
        self.head = nn.Conv2d(hidden, 1, 7, padding=3)
        initialize_as_keras(self.head)
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    def logits(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1] -> (N, 1, H, W). Raises ValueError for a side of 1 pixel."""
        features = self.features(batch["composite"])
        with torch.autocast(features.device.type, enabled=False):  # statistics, and differences of near values
            scores = self.scores(self.norm(self.adapt(features)))
        return self.head(self.lstm(scores))

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], sides of at least 2 -> probability (N, 1, H, W) of foreground."""
        return self.logits(batch).float().sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg of the mask; parts bce, ssim, iou."""
        self.require_player(player)
        return self.region_loss(self.logits(batch), batch["mask"], logits=True)
