"""RFR-Net: Li, Wang, Zhang, Du and Tao, "Recurrent Feature Reasoning for Image Inpainting", CVPR 2020.

The hole is closed in feature space from its rim inwards: a module with shared weights runs several times, each pass
moves the boundary of what is valid, drops what it drew beyond the new boundary, and remembers whom it attended to.
The features of all passes are merged and decoded once.

Layout, order of parameters and default losses are those of the authors' released code, the model behind the published
numbers (31 M parameters; their Table 4 read literally gives 24 M). Where code and paper differ, the hyperparameters
`kca_mode` and `loss_profile` hold both. Departures from the released code: masks have one channel where it carries 64
equal ones; attention is computed for the whole batch at once and its memory is handed from pass to pass instead of
being kept in the module, less what is below 1e-20 of a row's greatest score; the merge keeps running sums instead of all
passes. The numbers stay the same.
"""

from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Batch, Model, sum_of
from models.layers.input_size import require_divisible, require_statistics
from models.layers.memory_format import in_memory_format
from models.layers.partial_conv import PartialConv2d
from models.losses.perceptual import POOLS_1_TO_3, VGGFeatures, raw_and_composite_terms
from models.losses.pixel import hole_and_valid_l1, total_variation

LOSS_WEIGHTS = {
    "code": {"hole": 6.0, "valid": 1.0, "perceptual": 0.05, "style": 120.0, "variation": 0.1},
    "paper": {"hole": 6.0, "valid": 1.0, "perceptual": 0.1, "style": 180.0},  # section 4.1; it has no variation term
}
NEGLIGIBLE = 46.0
"""logits this far below their row's greatest get no attention: 1e-20 of what that one gets"""
Memory = tuple[Tensor, Tensor]
"""attention scores (N, targets, sources) of a pass, and its mask at the targets (N, targets, 1)"""


class KnowledgeConsistentAttention(nn.Module):
    """Attention over all positions of a feature map whose scores are carried on from pass to pass (section 3.3).

    mode "code" (released code): logits f_t . u_j with u_j = f_j / |f_j| summed over the target's 3x3 neighbourhood,
    reconstruction from the unit vectors u_j. mode "paper": cosine of both (eq. 4), mean over the neighbourhood
    (eq. 5 divides by k^2, which fits no window of its own; here by the 9 cells), a softmax scale of 10 as in
    contextual attention (ours: unscaled cosines give a near-uniform softmax), reconstruction from the f_j (eq. 8).
    Both mix with the previous scores by eqs 6-7 with lambda = r / (1 + r) for a learned r >= 0, which is what the
    released formula amounts to. consistent=False forgets the previous pass: the "existing attention" of the ablation.
    """

    def __init__(self, channels: int, mode: str, consistent: bool):
        super().__init__()
        self.mode = mode
        self.ratio = nn.Parameter(torch.ones(1)) if consistent else None
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: Tensor, mask: Tensor, previous: Memory | None) -> tuple[Tensor, Memory | None]:
        """features (N, C, h, w), mask (N, 1, H, W; 1 = valid) of this pass -> features of the same shape, memory."""
        # in float32: the logits grow with the features' norm, and bfloat16 would move them by whole units
        with torch.autocast(features.device.type, enabled=False):
            scores, values = self.scores(features.float())
            memory = None
            if self.ratio is not None:
                scores = self.mix(scores, previous)
                mask = F.interpolate(mask, features.shape[2:], mode="nearest").flatten(2).transpose(1, 2)
                memory = scores, mask
            attended = (values @ scores.transpose(1, 2)).view(features.shape)
        return self.fuse(torch.cat([attended.to(features.dtype), features], dim=1)), memory

    def scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """a' (N, targets, sources), each row a distribution, and the vectors (N, C, sources) that it averages.

        The sum over the target's neighbourhood is taken of the features before the product with the sources: both
        are linear, and a map of C channels is smaller than one of h w channels.
        """
        if self.mode == "code":
            sources = F.normalize((features + 1e-7).flatten(2), dim=1)
            targets = F.avg_pool2d(features, 3, 1, 1, divisor_override=1).flatten(2)
            values = sources
        else:
            unit = F.normalize(features, dim=1)
            sources, values = unit.flatten(2), features.flatten(2)
            targets = 10 * F.avg_pool2d(unit, 3, 1, 1).flatten(2)
        logits = targets.transpose(1, 2) @ sources
        # what is lost to rounding anyway becomes 0: products of denormal numbers take a CPU up to 40 times as long
        negligible = logits < logits.detach().amax(2, keepdim=True) - NEGLIGIBLE
        return logits.masked_fill(negligible, -torch.inf).softmax(dim=2), values

    def mix(self, scores: Tensor, previous: Memory | None) -> Tensor:
        """Eqs 6-7: where the previous pass was valid, part of its scores stays; elsewhere the new ones hold alone."""
        if previous is None:
            return scores
        before, mask = previous
        assert self.ratio is not None  # who mixes is consistent
        ratio = self.ratio.abs() + 1e-7
        return torch.lerp(before, scores, ratio / (mask + ratio))


class ReasoningModule(nn.Module):
    """Encoder, dilated middle and decoder with skip connections, attention after the third layer from the end."""

    def __init__(self, width: int, attention: KnowledgeConsistentAttention | None):
        super().__init__()
        self.down1 = _convolution(width, 2 * width, nn.ReLU(inplace=True), stride=2)
        self.down2 = _convolution(2 * width, 4 * width, nn.ReLU(inplace=True), stride=2)
        self.down3 = _convolution(4 * width, 8 * width, nn.ReLU(inplace=True), stride=2)
        self.middle1 = _convolution(8 * width, 8 * width, nn.ReLU(inplace=True), dilation=2)
        self.middle2 = _convolution(8 * width, 8 * width, nn.ReLU(inplace=True), dilation=2)
        self.middle3 = _convolution(8 * width, 8 * width, nn.ReLU(inplace=True), dilation=2)
        self.attention = attention
        self.middle4 = _convolution(16 * width, 8 * width, nn.LeakyReLU(0.2, inplace=True), dilation=2)
        self.middle5 = _convolution(16 * width, 8 * width, nn.LeakyReLU(0.2, inplace=True), dilation=2)
        self.up3 = _up(16 * width, 8 * width, 0.2)
        self.up2 = _up(12 * width, 4 * width, 0.2)
        self.up1 = _up(6 * width, width, 0.2)

    def forward(self, features: Tensor, mask: Tensor, previous: Memory | None) -> tuple[Tensor, Memory | None]:
        """features (N, width, h, w), h and w divisible by 8; mask (N, 1, h, w) -> features of that shape, memory."""
        half = self.down1(features)
        quarter = self.down2(half)
        eighth = self.down3(quarter)  # and so are the next five
        first = self.middle1(eighth)
        second = self.middle2(first)
        features = self.middle4(torch.cat([self.middle3(second), second], dim=1))
        features = self.middle5(torch.cat([features, first], dim=1))
        features, memory = self.up3(torch.cat([features, eighth], dim=1)), None
        if self.attention is not None:
            features, memory = self.attention(features, mask, previous)
        features = self.up2(torch.cat([features, quarter], dim=1))
        return self.up1(torch.cat([features, half], dim=1)), memory


class FeatureMerge:
    """Running merge of the passes' features (eq. 3): no pass has to be kept.

    "adaptive": sum F_i M_i / sum M_i per position. "average": mean of F_i M_i over all passes, the zeros of holes
    included. "last": the last pass alone. features (N, C, h, w) are 0 where mask (N, 1, h, w) is 0.
    """

    def __init__(self, kind: str, features: Tensor, mask: Tensor):
        self.kind = kind
        self.total, self.last, self.weight, self.mask = features.float(), features, mask, mask
        self.passes = torch.ones_like(mask[:, :, :1, :1])

    def add(self, features: Tensor, mask: Tensor, items: Tensor) -> None:
        """One more pass of the batch items with these indices, in order."""
        every = len(items) == len(self.mask)
        if every:
            self.last, self.mask = features, mask
        else:
            self.last, self.mask = self.last.index_copy(0, items, features), self.mask.index_copy(0, items, mask)
        if self.kind != "last":
            added = features.float(), mask, torch.ones_like(mask[:, :, :1, :1])
            sums = self.total, self.weight, self.passes
            self.total, self.weight, self.passes = (
                whole + more if every else whole.index_add(0, items, more) for whole, more in zip(sums, added)
            )

    def result(self) -> Tensor:
        if self.kind == "last":
            return self.last
        mean = self.total / self.passes
        # 1e-7 below the mean over passes as in the released code: a position that no pass reached stays 0
        return mean / (self.weight / self.passes + 1e-7) if self.kind == "adaptive" else mean


class RFR(Model):
    task = "inpainting"
    players = ("generator",)
    phases = ("train", "finetune")

    def __init__(
        self,
        width: int = 64,
        iter_num: int = 6,
        attention: Literal["none", "contextual", "kca"] = "kca",
        kca_mode: Literal["code", "paper"] = "code",
        merge: Literal["last", "average", "adaptive"] = "adaptive",
        down_samp: int = 1,
        small_hole: bool = False,
        guard: Literal["none", "extra_passes"] = "none",
        loss_profile: Literal["code", "paper"] = "code",
        perceptual_weights: str = "torchvision",
    ):
        """width: channels of the feature map that is reasoned on, a multiple of 8.
        iter_num: passes of the module; changes no parameter.
        attention: after the module's third last layer; "none": bare network, "contextual": previous passes forgotten.
        down_samp: steps of stride 2 before the module, 0 to 3, mirrored after it; the paper's ablation runs them with
        attention "none". The layers of 2 and 3 are not published: copies of the first and the last step are chosen.
        kca_mode: how attention scores are kept from pass to pass, as the released code or as the paper has it.
        merge: how the passes' features are joined; "adaptive" is published, the others are of its ablation.
        small_hole: 5x5 instead of 7x7 partial convolutions after the first layer.
        guard: "extra_passes" goes on, in evaluation only, with images whose hole is not closed after iter_num passes.
        loss_profile: weights of the released code, or of section 4.1.
        perceptual_weights: VGG-16 for the perceptual and style terms: "torchvision", the path of a .pth or
        .safetensors file, or "none", which leaves both terms out.
        Raises ValueError for a width, iter_num or down_samp that cannot be built.
        """
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"rfr: width = {width}, expected a multiple of 8")
        if iter_num < 1:
            raise ValueError(f"rfr: iter_num = {iter_num}, expected at least 1")
        if not 0 <= down_samp <= 3:
            raise ValueError(f"rfr: down_samp = {down_samp}, expected 0 to 3")
        self.iter_num, self.merge, self.down_samp, self.guard = iter_num, merge, down_samp, guard
        self.loss_weights = LOSS_WEIGHTS[loss_profile]
        self.perceptual_features = None
        if perceptual_weights != "none":
            self.perceptual_features = VGGFeatures("vgg16", perceptual_weights, POOLS_1_TO_3, normalize=False)

        side = 5 if small_hole else 7
        self.partial1 = PartialConv2d(3, width, 7, 1 if down_samp == 0 else 2, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        extra = range(down_samp - 1)
        self.extra_partials = nn.ModuleList(PartialConv2d(width, width, 7, 2, 3, bias=False) for _ in extra)
        self.extra_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in extra)
        self.partial2 = PartialConv2d(width, width, side, 1, side // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.area1 = PartialConv2d(width, width, side, 1, side // 2, bias=False)
        self.area2 = PartialConv2d(width, width, side, 1, side // 2, bias=False)
        self.area_norm = nn.BatchNorm2d(width)
        kca = None if attention == "none" else KnowledgeConsistentAttention(8 * width, kca_mode, attention == "kca")
        self.reasoning = ReasoningModule(width, kca)
        self.extra_ups = nn.ModuleList(_up(width, width, 0.01) for _ in extra)
        leaky = nn.LeakyReLU(0.01, inplace=True)
        self.up = _convolution(width, width, leaky) if down_samp == 0 else _up(width, width, 0.01)
        self.tail = PartialConv2d((3, width), width // 2, 3, 1, 1, bias=False)
        self.bottleneck = _bottleneck(width // 2, width // 8)
        self.out = nn.Conv2d(width, 3, 3, 1, 1, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]. H and W must be divisible by 16 (8 times 2 to the power of down_samp, at least 8),
        or ValueError says so."""
        return self.draw(batch["image"], batch["hole"]).clamp(0, 1)

    def draw(self, image: Tensor, hole: Tensor) -> Tensor:
        """The network's output before it is clipped: image (N, 3, H, W), hole (N, 1, H, W) -> (N, 3, H, W)."""
        stride = 8 * 2**self.down_samp
        require_divisible(image, stride)
        if self.training:
            require_statistics(image, stride)
        valid = (hole <= 0.5).to(image.dtype)
        image = torch.where(hole > 0.5, torch.zeros_like(image), image)
        # the layers of few channels and large maps, here and in the passes, are faster in this layout
        image = image.contiguous(memory_format=torch.channels_last)

        features, mask = self._encode(image, valid)
        merged = self._recur(features, mask)
        features = merged.result()
        for up in [*self.extra_ups, self.up]:
            features = up(features)
        mask = F.interpolate(merged.mask, image.shape[2:], mode="nearest")
        features, _ = self.tail(torch.cat([image, features.to(image.dtype)], dim=1), [valid, mask])
        features = F.leaky_relu(features, 0.01)
        return self.out(torch.cat([features, F.relu(features + self.bottleneck(features))], dim=1)).float()

    def _encode(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """F_0 (N, width, h, w) with whatever stands in its hole, and M_0 (N, 1, h, w)."""
        features = image
        for partial, norm in self._encoder():
            features, mask = partial(features, mask)
            features = F.relu(norm(features))
        return features, mask

    def _recur(self, features: Tensor, mask: Tensor) -> FeatureMerge:
        features = features * mask.to(features.dtype)  # after normalization the hole's features are not 0
        items = torch.arange(len(mask), device=mask.device)
        merged, memory = FeatureMerge(self.merge, features, mask), None
        for _ in range(self.iter_num):
            features, mask, memory = self._reason(features, mask, memory)
            merged.add(features, mask, items)
        while self.guard == "extra_passes" and not self.training:
            open_items = _can_grow(mask)
            if not open_items.any():
                break
            features, mask, items = features[open_items], mask[open_items], items[open_items]
            memory = None if memory is None else (memory[0][open_items], memory[1][open_items])
            features, mask, memory = self._reason(features, mask, memory)
            merged.add(features, mask, items)
        return merged

    def _reason(self, features: Tensor, mask: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor, Memory | None]:
        """One pass: identify the next area (section 3.1), fill it (3.2), drop what lies beyond it."""
        features, mask = self.area1(features, mask)
        features, mask = self.area2(features, mask)
        features = F.leaky_relu(self.area_norm(features), 0.01)
        # the module's layers have many channels and small maps: their weights would be turned over in every pass
        features, memory = self.reasoning(in_memory_format(features, torch.contiguous_format), mask, memory)
        features = in_memory_format(features * mask.to(features.dtype), torch.channels_last)
        return features, mask, memory

    def _encoder(self) -> list[tuple[PartialConv2d, nn.BatchNorm2d]]:
        extra = cast("Iterator[tuple[PartialConv2d, nn.BatchNorm2d]]", zip(self.extra_partials, self.extra_norms))
        return [(self.partial1, self.norm1), *extra, (self.partial2, self.norm2)]

    @torch.no_grad()
    def unfilled_fraction(self, hole: Tensor) -> Tensor:
        """Share (N,) of the feature map that `forward` leaves without features, for hole (N, 1, H, W; 1 = hole).

        0 for most holes. Each layer and pass lets valid features reach a fixed number of pixels further (81 in all
        with the published settings); the core of a larger hole comes out flat grey, a limit that the author confirms.
        """
        mask = (hole <= 0.5).float()
        for partial, _ in self._encoder():
            mask = partial.grow(mask)
        for _ in range(self.iter_num):
            mask = self.area2.grow(self.area1.grow(mask))
        while self.guard == "extra_passes" and _can_grow(mask).any():
            mask = self.area2.grow(self.area1.grow(mask))
        return 1 - mask.mean((1, 2, 3))

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Section 3.4: the weighted sum of hole, valid, perceptual, style and (profile "code") variation, and these
        parts unweighted. The real image is batch["image"], hole included."""
        self.require_player(player)
        real, hole = batch["image"], batch["hole"]
        raw = self.draw(real, hole)
        composite = torch.where(hole > 0.5, raw, real)
        terms = dict(zip(("hole", "valid"), hole_and_valid_l1(raw, real, hole)))
        if self.perceptual_features is not None:
            both = raw_and_composite_terms(self.perceptual_features, raw, composite, real)
            terms["perceptual"], terms["style"] = both
        if "variation" in self.loss_weights:
            terms["variation"] = total_variation(composite * hole)
        total = sum_of(self.loss_weights[name] * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}

    def enter(self, phase: str) -> None:
        """ "finetune" keeps the running statistics of every batch normalization; their scale and shift still train."""
        super().enter(phase)
        if phase == "finetune":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()


def _convolution(before: int, after: int, activation: nn.Module, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), activation)


def _up(before: int, after: int, slope: float) -> nn.Sequential:
    transposed = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
    return nn.Sequential(transposed, nn.BatchNorm2d(after), nn.LeakyReLU(slope, inplace=True))


def _bottleneck(channels: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
        *(nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)),
        *(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)),
    )


def _can_grow(mask: Tensor) -> Tensor:
    """(N,) bool: neither full nor empty, so that one more pass reaches further. mask: (N, 1, h, w)."""
    flat = mask.flatten(1)
    return (flat < 1).any(1) & (flat > 0).any(1)
