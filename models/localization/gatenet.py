"""GateNet: gates decide how much of each encoder level reaches a pyramid decoder and a parallel one; a folded atrous
pyramid stands at the top. 128.63M parameters with ResNet-50, 100.02M with VGG-16.

Zhao, Pang, Zhang, Lu, Zhang, "Suppress and Balance: A Simple Gated Network for Salient Object Detection", ECCV 2020,
and the authors' public code (MIT). Published: both networks, the loss, ImageNet's mean and deviation and a start from
its weights. The state dict has the order and shapes of the released one. The benchmark's table doesn't say which
backbone it has or how it was trained: ResNet-50, which the released training script builds.

The released folding takes square inputs only; ours is the same rearrangement of pixels and takes any rectangle. The
released training also jitters colours, which would destroy what this task looks for.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.backbones import encoder
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible
from models.losses.region import RegionLoss

STRIDE = 32  # the coarsest level lies at 1/16 and is folded by 2
FOLD = 2
DILATIONS = (2, 4, 6)


def _conv(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation),
        nn.BatchNorm2d(outputs),
        nn.PReLU(),
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[2:]
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")


class FoldedPyramid(nn.Module):
    """Atrous spatial pyramid on 2x2 blocks of pixels that are laid into the channels, and taken back out after it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        folded = outputs * FOLD**2
        inner = folded // 2
        self.reduce = _conv(inputs, outputs)
        self.branches = nn.ModuleList([_conv(folded, inner, 1), *(_conv(folded, inner, dilation=d) for d in DILATIONS)])
        self.image = _conv(folded, inner, 1)
        self.fuse = _conv((len(DILATIONS) + 2) * inner, folded, 1)
        self.mix = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W), H and W even -> (N, outputs, H, W)."""
        x = F.pixel_unshuffle(self.reduce(x), FOLD)  # (N, 4 * outputs, H/2, W/2)
        image = self.image(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[2:])
        x = self.fuse(torch.cat([*(branch(x) for branch in self.branches), image], dim=1))
        return self.mix(F.pixel_shuffle(x, FOLD))


class Gate(nn.Module):
    """Two weights in [0, 1] per image: the means of two maps, each through a sigmoid first."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]):
        super().__init__()
        widths = (inputs, *hidden)
        steps = [_conv(a, b) for a, b in zip(widths, widths[1:])]
        self.layers = nn.Sequential(*steps, nn.Conv2d(widths[-1], 2, 3, padding=1))

    def forward(self, encoded: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """An encoder level and what comes from above, at its size -> the pyramid's and the parallel branch's weight,
        each (N, 1, 1, 1)."""
        maps = self.layers(torch.cat([encoded, decoded], dim=1)).float().sigmoid()
        return maps.mean((2, 3), keepdim=True).to(decoded.dtype).chunk(2, dim=1)


class GateNet(Model):
    """`backbone`: "resnet50" (taken for published) or "vgg16". `width`: channels of the backbone's first level and of
    the decoder's finest ones (64 published), even; every other width follows it. `backbone_weights`: "none", "imagenet"
    (published), or the path of torchvision's state dict. `objective`: "published", the sum of both branches'
    cross-entropies, or "region", L_seg in their place."""

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        backbone: Literal["resnet50", "vgg16"] = "resnet50",
        width: int = 64,
        backbone_weights: str = "none",
        objective: Literal["published", "region"] = "published",
    ):
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width = {width}, expected an even number of at least 2")
        reduced = backbone == "vgg16"  # its parallel branch takes each level at half of `width`
        half = width // 2
        self.normalize = ImageNetNormalize()
        # the folded pyramid needs a fine last level, so ResNet's keeps the size of the one before
        self.encoder = encoder(backbone, width, backbone_weights, last_stride=1)
        channels = self.encoder.channels
        # of the five transitions, fine to coarse, and of what the pyramid decoder puts out one level coarser
        kept = (half if reduced else width, width, 2 * width, 4 * width, 8 * width)
        hidden = ((), (width,), (2 * width,), (4 * width, width), (8 * width, 2 * width))
        self.gates = nn.ModuleList(  # finest first, as released; all that follows is coarsest first
            Gate(encoded + decoded, inner) for encoded, decoded, inner in zip(channels, kept, hidden)
        )
        top = nn.Sequential(FoldedPyramid(channels[4], kept[4]), nn.BatchNorm2d(kept[4]), nn.PReLU())
        self.transitions = nn.ModuleList([top, *(_conv(channels[i], kept[i]) for i in (3, 2, 1, 0))])
        self.pyramid = nn.ModuleList([*(_conv(kept[i], kept[i - 1]) for i in (4, 3, 2, 1))])
        self.pyramid.append(nn.Conv2d(kept[0], 1, 3, padding=1))
        self.reductions = nn.ModuleList(_conv(kept[i], half) if reduced else nn.Identity() for i in (4, 3, 2, 1, 0))
        joined = 1 + (5 * half if reduced else sum(kept))
        inner = width if reduced else 4 * width
        self.parallel = nn.Sequential(_conv(joined, inner), _conv(inner, inner), nn.Conv2d(inner, 1, 3, padding=1))
        self.objective = objective
        self.region_loss = RegionLoss()

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> logits (N, 1, H, W) of the pyramid decoder, and
        of both branches together, which are the prediction.

        Raises ValueError for other sizes, and in training for a batch of one."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training and len(composite) < 2:
            raise ValueError(
                "gatenet can't train on a batch of one: its image-level branch pools each image to one value per "
                "channel, and batch normalization has no variance of one value; give it a batch of 2 or more"
            )
        levels = self.encoder(self.normalize(composite))
        decoded, branches = None, []
        for level, gate, transition, step, reduction in zip(
            levels[::-1], self.gates[::-1], self.transitions, self.pyramid, self.reductions
        ):
            kept = transition(level)
            if decoded is None:  # the coarsest level, with nothing above it
                for_pyramid, for_parallel = gate(level, kept)
                decoded = step(for_pyramid * kept)
            else:
                above = _resize(decoded, level)
                for_pyramid, for_parallel = gate(level, above)
                decoded = step(above + for_pyramid * kept)
            branches.append(for_parallel * reduction(kept))
        assert decoded is not None  # there are five levels
        parallel = self.parallel(torch.cat([decoded, *(_resize(branch, decoded) for branch in branches)], dim=1))
        pyramid = _resize(decoded, composite).float()
        return pyramid, pyramid + _resize(parallel, composite).float()

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 32 -> probability (N, 1, H, W) of foreground.

        Raises ValueError for other sizes, and in training for a batch of one."""
        return self.logits(batch)[1].sigmoid()

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the pyramid's map plus loss of the final one; parts pyramid, final."""
        self.require_player(player)
        mask = batch["mask"].float()

        def of(logits: Tensor) -> Tensor:
            if self.objective == "region":
                return self.region_loss(logits, mask, logits=True)[0]
            return F.binary_cross_entropy_with_logits(logits, mask)

        pyramid, final = (of(logits) for logits in self.logits(batch))
        return pyramid + final, {"pyramid": pyramid.detach(), "final": final.detach()}
