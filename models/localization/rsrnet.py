"""RSRNet: inharmonious region localization by recurrent self-reasoning, 50.48M parameters in this design.

Wu, Niu, Liang, Zhang, "Inharmonious Region Localization via Recurrent Self-Reasoning", BMVC 2022. No public code was
found, so most numbers are ours.

Published (abstract and poster): a UNet with a recurrent module in its bottleneck that alternates an assignment step (by
a background style feature and a multi-scale similarity map) and an update step (a convolutional GRU, whose equations
are given); its mask guides the decoder's attention; the result is G · M_dec + (1 - G) · M_rsr.

Our choices: ResNet-34 encoder and plain decoder; three iterations; a learned, supervised first assignment; style as
mean and deviation; similarity as cosine on the three coarse levels; all widths; attention as skip · (1 + M); a gate per
pixel; the loss. Where an ablation leaves something open, this is what happens: without recurrence, one assignment
follows whose evidence a plain convolution reads in the GRU's place; without the gate, the decoder's mask is the
prediction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize
from models.layers.input_size import require_divisible, require_statistics
from models.layers.resnet_unet import STRIDE, ResNetEncoder, UNetDecoder, channels_of
from models.losses.region import RegionLoss

EPSILON = 1e-5


def background_style(feature: Tensor, weight: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over the pixels of the soft background.

    feature (N, C, H, W), weight (N, 1, H, W) in [0, 1], 1 = background -> (N, 2C): means, then deviations.
    """
    count = weight.sum((2, 3), keepdim=True) + EPSILON
    mean = (weight * feature).sum((2, 3), keepdim=True) / count
    variance = (weight * (feature - mean) ** 2).sum((2, 3), keepdim=True) / count
    return torch.cat([mean, (variance + EPSILON).sqrt()], dim=1).flatten(1)


def local_style(feature: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over the 3x3 pixels around each pixel (fewer at the border).

    (N, C, H, W) -> (N, 2C, H, W): means, then deviations.
    """
    mean = F.avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=False)
    square = F.avg_pool2d(feature**2, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([mean, ((square - mean**2).clamp_min(0) + EPSILON).sqrt()], dim=1)


class StyleSimilarity(nn.Module):
    """How much each place looks like the background, per level: cosine of local and background style."""

    def __init__(self, channels: tuple[int, ...], projected: int):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(inputs, projected, 1) for inputs in channels)

    def project(self, levels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What doesn't change between iterations: per level the projected feature and its local style, of norm 1."""
        features = [projection(level).float() for projection, level in zip(self.projections, levels)]
        return [(feature, F.normalize(local_style(feature), dim=1)) for feature in features]

    def forward(self, projected: list[tuple[Tensor, Tensor]], mask: Tensor) -> Tensor:
        """mask (N, 1, h, w), 1 = foreground -> (N, levels, h, w) in [-1, 1]."""
        maps = []
        for feature, local in projected:
            background = 1 - F.interpolate(mask, feature.shape[2:], mode="bilinear")
            style = F.normalize(background_style(feature, background), dim=1)
            # no matrix product: autocast would take one to half precision, and variances want float32
            similarity = (local * style[..., None, None]).sum(1, keepdim=True)
            maps.append(F.adaptive_avg_pool2d(similarity, (mask.shape[2], mask.shape[3])))
        return torch.cat(maps, dim=1)


class ConvGRU(nn.Module):
    """The published update: Z, R and the candidate state are 3x3 convolutions of [state, evidence]."""

    def __init__(self, state: int, evidence: int):
        super().__init__()
        self.update = nn.Conv2d(state + evidence, state, 3, padding=1)
        self.reset = nn.Conv2d(state + evidence, state, 3, padding=1)
        self.candidate = nn.Conv2d(state + evidence, state, 3, padding=1)

    def forward(self, state: Tensor, evidence: Tensor) -> Tensor:
        both = torch.cat([state, evidence], dim=1)
        update, reset = self.update(both).sigmoid(), self.reset(both).sigmoid()
        candidate = self.candidate(torch.cat([reset * state, evidence], dim=1)).tanh()
        return (1 - update) * state + update * candidate


class PlainUpdate(nn.Module):
    """The ablation's update: the candidate alone, as if Z and R were 1."""

    def __init__(self, state: int, evidence: int):
        super().__init__()
        self.candidate = nn.Conv2d(state + evidence, state, 3, padding=1)

    def forward(self, state: Tensor, evidence: Tensor) -> Tensor:
        return self.candidate(torch.cat([state, evidence], dim=1)).tanh()


class RecurrentSelfReasoning(nn.Module):
    """Soft two-means clustering of the bottleneck's pixels, learned: assign, update, assign, ..."""

    def __init__(self, width: int, iterations: int, recurrent: bool, detach_assignment: bool):
        super().__init__()
        *_, c2, c3, c4 = channels_of(width)
        state, evidence = 2 * width, 2 * width + 3 + 1  # content, three similarities, the last assignment
        self.iterations = iterations if recurrent else 1
        self.detach_assignment = detach_assignment
        self.start = nn.Conv2d(c4, state, 3, padding=1)
        self.content = nn.Sequential(nn.Conv2d(c4, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.similarity = StyleSimilarity((c2, c3, c4), width)
        self.update = (ConvGRU if recurrent else PlainUpdate)(state, evidence)
        self.head = nn.Sequential(nn.Conv2d(state, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """The encoder's five features -> the assignments M_0 ... M_K, (N, 1, H/16, W/16) in [0, 1], 1 = foreground."""
        content = self.content(levels[-1])
        projected = self.similarity.project(levels[2:])
        state = self.start(levels[-1]).tanh()
        masks = [self.head(state).float().sigmoid()]
        for _ in range(self.iterations):
            last = masks[-1].detach() if self.detach_assignment else masks[-1]
            evidence = torch.cat([content, self.similarity(projected, last), last], dim=1)
            state = self.update(state, evidence)
            masks.append(self.head(state).float().sigmoid())
        return masks


class RSRNet(Model):
    """`width`: channels at full resolution (64 ours); every other width follows it. `backbone_weights`: "none",
    "imagenet" (ResNet-34), or the path of that state dict.

    For ablations. `iterations`: K, at least 1. `recurrent`: assign again and again; without, there is one assignment,
    whatever `iterations` says. `gate`, `attention_guidance`: whether the network has these parts. `detach_assignment`: no
    gradient through M_{k-1}.
    `bce_weight`, `ssim_weight`, `iou_weight`: the terms of L_seg.
    """

    task = "localization"
    players = ("network",)

    def __init__(
        self,
        width: int = 64,
        backbone_weights: str = "none",
        iterations: int = 3,
        recurrent: bool = True,
        gate: bool = True,
        attention_guidance: bool = True,
        detach_assignment: bool = False,
        bce_weight: float = 1.0,
        ssim_weight: float = 1.0,
        iou_weight: float = 1.0,
    ):
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations = {iterations}, expected at least 1 (without reasoning, this is unet)")
        self.normalize = ImageNetNormalize()
        self.encoder = ResNetEncoder(width, backbone_weights)
        self.reasoning = RecurrentSelfReasoning(width, iterations, recurrent, detach_assignment)
        self.decoder = UNetDecoder(width)
        self.head = nn.Conv2d(width, 1, 1)
        self.gate = self._gate(width) if gate else None
        self.attention_guidance = attention_guidance
        self.region_loss = RegionLoss(bce_weight, ssim_weight, iou_weight)

    @staticmethod
    def _gate(width: int) -> nn.Sequential:
        hidden = max(1, width // 2)
        return nn.Sequential(
            nn.Conv2d(width + 2, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 1),
        )

    def _reason(self, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor]:
        """Assignments M_0 ... M_K (N, 1, H/16, W/16), decoder feature (N, width, H, W), logits of M_dec."""
        composite = batch["composite"]
        require_divisible(composite, STRIDE)
        if self.training:
            require_statistics(composite, STRIDE)
        levels = self.encoder(self.normalize(composite))
        masks = self.reasoning(levels)
        if self.attention_guidance:
            skips = [
                level * (1 + F.interpolate(masks[-1], level.shape[2:], mode="bilinear").to(level.dtype))
                for level in levels[:-1]
            ]
            levels = [*skips, levels[-1]]
        feature = self.decoder(levels)
        return masks, feature, self.head(feature)

    def _combine(self, feature: Tensor, decoded: Tensor, reasoned: Tensor) -> tuple[Tensor, Tensor]:
        """M_fnl and G, both (N, 1, H, W) in [0, 1], from the decoder's feature and the two full-size masks."""
        assert self.gate is not None  # who combines has one
        gate = self.gate(torch.cat([feature, decoded, reasoned], dim=1)).float().sigmoid()
        return gate * decoded + (1 - gate) * reasoned, gate

    def forward(self, batch: Batch) -> Tensor:
        """composite (N, 3, H, W) in [0, 1], H and W divisible by 16 -> probability (N, 1, H, W) of foreground.

        Raises ValueError for other sizes, and in training for one image of 16x16."""
        masks, feature, logits = self._reason(batch)
        decoded = logits.float().sigmoid()
        if self.gate is None:
            return decoded
        return self._combine(feature, decoded, F.interpolate(masks[-1], decoded.shape[2:], mode="bilinear"))[0]

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_seg(M_fnl) + L_seg(M_dec) + the mean over k of L_seg(M_k, brought to full size).

        Parts: combined, decoder, reasoning; beside them, to be watched, the mean of G (gate_mean: at 0 or 1 one of the
        two masks is ignored) and the soft IoU of each assignment (iou_0 ... iou_K). No combined and no gate_mean
        without the gate. With iou_weight 0 there is no soft IoU to tell.
        """
        self.require_player(player)
        mask = batch["mask"]
        masks, feature, logits = self._reason(batch)
        total, _ = self.region_loss(logits, mask, logits=True)
        parts = {"decoder": total.detach()}

        full = [F.interpolate(assignment, mask.shape[2:], mode="bilinear") for assignment in masks]
        losses, terms = zip(*(self.region_loss(assignment, mask) for assignment in full))
        reasoning = sum(losses) / len(losses)
        total, parts["reasoning"] = total + reasoning, reasoning.detach()
        parts |= {f"iou_{k}": 1 - term["iou"] for k, term in enumerate(terms) if "iou" in term}

        if self.gate is not None:
            final, gate = self._combine(feature, logits.float().sigmoid(), full[-1])
            combined, _ = self.region_loss(final, mask)
            total, parts["combined"], parts["gate_mean"] = total + combined, combined.detach(), gate.detach().mean()
        return total, parts
