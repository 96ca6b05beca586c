"""CSA: Liu, Jiang, Xiao and Yang, "Coherent Semantic Attention for Image Inpainting", ICCV 2019 ("Coarse-to-Fine").

A coarse U-Net fills the hole, a second U-Net refines it. In the second one, at an eighth of the size, each feature of
the hole is replaced by a mix of the known feature that is most like it and of the feature generated just before it, in
raster order, so that neighbours cohere. Two discriminators judge pixels and VGG-16 features; the attention's output and
its mirror in the decoder are drawn towards VGG-16 features of the truth.

Facts from the authors' released code, whose layers stand in its order (132 M parameters in both U-Nets). Kept from it:
images in [-1, 1], to VGG-16 as well; the hole filled with the grey of bytes 123, 104, 117; the refining network reads
the coarse picture without passing a gradient back; leaky ReLUs act in place, so that skips carry activated features;
the refining network's output is linear.

Departures: holes of a batch differ and are attended to at once, where the code takes one image at a time. Similarities
below 0 mix with weight 0, where the code divides by a sum that can vanish. The consistency losses and the feature
discriminator's verdict reach the generator, where the code cuts their gradients off by mistake; and the consistency
losses compare features of the hole with features of the hole, where the code compares them with the whole truth's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.base import Batch, Model, sum_of
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible
from models.layers.unet import UNet
from models.losses.adversarial import DrawnOnce, frozen, relativistic_least_squares
from models.losses.perceptual import VGGFeatures

LOSS_WEIGHTS = {
    "coarse": 100.0,
    "fine": 100.0,
    "consistency": 1.0,
    "adversarial": 0.2,
    "feature_adversarial": 0.2,
}
FILL = (123, 104, 117)
"""bytes that the hole holds at the start, red, green and blue"""
HOLE_SHARE = 5 / 16
"""of an averaged hole above which a position of the attention's map counts as hole"""
ATTENTION_LEVEL = 3
POOL_3, RELU_4_3 = 16, 22
"""indices in torchvision's vgg16().features; the code calls the first one relu3_3 but takes it after the pooling"""
SMALLEST_TRAINING_SIDE = 64
"""pixels; of 8x8 VGG features the feature discriminator's three halvings leave a single score"""


def feature_hole(hole: Tensor) -> Tensor:
    """Positions of the attention's map that count as hole: (N, 1, H, W; 1 = hole) -> (N, 1, H / 8, W / 8), 0 or 1.

    The hole is averaged three times over 4x4 windows with stride 2 (beyond the border lies no hole) and cut at 5/16.
    """
    share = hole.float()
    for _ in range(ATTENTION_LEVEL):
        share = F.avg_pool2d(share, 4, 2, 1)
    return (share > HOLE_SHARE).float()


def coherent_attention(features: Tensor, hole: Tensor) -> Tensor:
    """Features (N, C, h, w) whose hole (N, 1, h, w; 1 = hole) is generated anew from known features (section 3.2).

    For the hole's positions i = 1, 2, ... in raster order, with k_i the known feature of greatest cosine with f_i:
    g_1 = k_1 and g_i = (p_i g_(i-1) + m_i k_i) / (p_i + m_i), where p_i = g_(i-1) . f_i / |f_i| and
    m_i = k_i . f_i / |k_i|, each at least 0. Known features stay.

    The gradient is the released code's: the mix's weights are constants, and beside what the mix hands on to the known
    features every position's gradient also passes straight through. An image without a known position stays as it is.

    The recurrence runs position by position, for the whole batch, on the projections of g on all features that are to
    come, which is all that the weights depend on. The features themselves follow from the weights in log2 passes.
    """
    with torch.autocast(features.device.type, enabled=False):  # a recurrence gathers rounding over its whole length
        return _CoherentAttention.apply(features.float(), hole).to(features.dtype)


class _CoherentAttention(torch.autograd.Function):
    """Rows are positions of the whole batch, one after the other: (N h w, C)."""

    @staticmethod
    def forward(ctx, features: Tensor, hole: Tensor) -> Tensor:
        count, channels, height, width = features.shape
        inside = hole.flatten(1) > 0.5
        inside = inside & ~inside.all(1, keepdim=True)
        sizes = inside.sum(1)
        flat = features.flatten(2).transpose(1, 2).contiguous()
        rows = flat.view(-1, channels)
        # each hole's positions in raster order; smaller holes are filled up with known positions, not used afterwards
        targets = inside.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(int(sizes.max()), 1)]
        used = torch.arange(targets.shape[1], device=hole.device) < sizes[:, None]
        offset = height * width * torch.arange(count, device=hole.device)[:, None]
        given = rows[(targets + offset).flatten()].view(*targets.shape, channels)
        best, likeness = _most_similar(given, flat, inside)
        known = rows[(best + offset).flatten()].view(given.shape)
        decay = _decay(known, F.normalize(given, dim=2, eps=1e-8), likeness)
        generated = _accumulate(known * (1 - decay), decay)
        places = (targets + offset)[used]
        ctx.save_for_backward(decay, used, places, best + offset)
        rows = rows.index_copy(0, places, generated[used])
        return rows.view(flat.shape).transpose(1, 2).reshape(features.shape).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        decay, used, places, best = ctx.saved_tensors
        channels = gradient.shape[1]
        flat = gradient.flatten(2).transpose(1, 2).contiguous()
        rows = flat.view(-1, channels)
        # what a generated feature gets, from itself and from all that are generated after it
        generated = rows.new_zeros(*used.shape, channels)
        generated[used] = rows[places]
        generated = _accumulate(generated.flip(1), F.pad(decay, (0, 0, 0, 1))[:, 1:].flip(1)).flip(1)
        # straight through everywhere, once more to known features, which stay, and to those that were mixed
        out = 2 * rows
        out[places] -= rows[places]
        out.index_add_(0, best[used], ((1 - decay) * generated)[used])
        return out.view(flat.shape).transpose(1, 2).reshape(gradient.shape).contiguous(), None


def _most_similar(given: Tensor, flat: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """For features (N, n, C) the index (N, n) of the most similar known position of flat (N, positions, C), and
    m (N, n), their product with the known feature at length 1."""
    products = given @ F.normalize(flat, dim=2, eps=1e-8).transpose(1, 2)
    likeness, best = products.masked_fill_(inside[:, None], -torch.inf).max(dim=2)
    return best, likeness


def _decay(known: Tensor, units: Tensor, likeness: Tensor) -> Tensor:
    """Weights (N, n, 1) of the generated feature before, 0 for the first.

    known (N, n, C): k of each position; units (N, n, C): its own feature at length 1; likeness (N, n): m.
    """
    ahead = (known @ units.transpose(1, 2)).unbind(1)  # of each k its product with every unit
    columns = likeness.clamp(min=1e-8)[:, :, None].unbind(1)
    projections, weights = ahead[0], [torch.zeros_like(columns[0])]
    for index in range(1, len(ahead)):
        before = projections[:, index : index + 1].clamp(min=0)
        weight = before / (before + columns[index])
        projections = torch.lerp(ahead[index], projections, weight)
        weights.append(weight)
    return torch.stack(weights, dim=1)


def _accumulate(values: Tensor, decay: Tensor) -> Tensor:
    """y_i = decay_i y_(i-1) + values_i along the second axis, for values (N, n, C), which are overwritten, and decay
    (N, n, 1), in log2 n passes: each lets a row reach twice as many rows back."""
    reach = 1
    while reach < values.shape[1]:
        values[:, reach:] += decay[:, reach:] * values[:, :-reach]
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return values


class RefineBlock(nn.Module):
    """One level of the refining network: halve, widen, whatever lies inside, narrow, double, join with what came in.

    (N, outer, H, W) -> (N, 2 outer, H, W). `attends`: coherent attention after widening. The innermost has no `inside`.
    """

    def __init__(self, outer: int, inner: int, inside: "RefineBlock | None", attends: bool = False):
        super().__init__()
        self.attends, self.inside = attends, None
        self.down = nn.Conv2d(outer, outer, 4, 2, 3, dilation=2)
        if inside is not None:
            self.down_norm = _instance_norm(outer)
            self.widen = nn.Conv2d(outer, inner, 3, padding=1)
            self.widen_norm = _instance_norm(inner)
            self.inside = inside
            self.narrow = nn.ConvTranspose2d(2 * inner, outer, 3, padding=1)
            self.narrow_norm = _instance_norm(outer)
        self.up = nn.ConvTranspose2d(outer, outer, 4, 2, 1)
        self.up_norm = _instance_norm(outer)

    def forward(self, features: Tensor, hole: Tensor, taps: list[Tensor]) -> Tensor:
        """hole (N, 1, H / 8, W / 8): the attention's. taps: the attention's output and its mirror are added to it."""
        features = F.leaky_relu(features, 0.2, inplace=True)
        deeper = self.down(features)
        if self.inside is not None:
            deeper = self.widen(F.leaky_relu(self.down_norm(deeper), 0.2, inplace=True))
            if self.attends:
                deeper = coherent_attention(deeper, hole)
                taps.append(deeper)
            deeper = self.inside(self.widen_norm(deeper), hole, taps)
            if self.attends:
                taps.append(deeper[:, : deeper.shape[1] // 2])
                deeper = F.relu(deeper)  # not in place: a loss reads what the tap holds
            else:
                deeper = F.relu(deeper, inplace=True)
            deeper = self.narrow_norm(self.narrow(deeper))
        deeper = self.up_norm(self.up(F.relu(deeper, inplace=True)))
        return torch.cat([deeper, features], dim=1)


class RefineUNet(nn.Module):
    """`levels` halvings with coherent attention after the third; linear output."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        channels = [width * min(2**level, 8) for level in range(levels)]
        inside = RefineBlock(channels[-1], channels[-1], None)
        for level in range(levels - 1, 0, -1):
            inside = RefineBlock(channels[level - 1], channels[level], inside, attends=level == ATTENTION_LEVEL)
        self.first = nn.Conv2d(6, width, 3, padding=1)
        self.inside = inside
        self.last = nn.ConvTranspose2d(2 * width, 3, 3, padding=1)

    def forward(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image (N, 6, H, W), hole (N, 1, H / 8, W / 8) -> (N, 3, H, W), the attention's output (N, 8 width, H / 8,
        W / 8) and its mirror in the decoder, of the same shape."""
        taps: list[Tensor] = []
        joined = self.inside(self.first(image), hole, taps)
        attended, mirrored = taps
        return self.last(F.relu(joined, inplace=True)), attended, mirrored


class Drawing(NamedTuple):
    """What is drawn of a batch. As one it looks like a tensor to `DrawnOnce`."""

    coarse: Tensor
    """(N, 3, H, W), in [-1, 1]"""
    fine: Tensor
    """(N, 3, H, W), meant for [-1, 1]"""
    attended: Tensor
    """the attention's output (N, 8 width, H / 8, W / 8)"""
    mirrored: Tensor
    """its mirror in the decoder, of the same shape"""

    @property
    def requires_grad(self) -> bool:
        return self.fine.requires_grad

    def detach(self) -> "Drawing":
        return Drawing(*(part.detach() for part in self))


class CoarseToFine(nn.Module):
    """Both U-Nets, in the released order."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        self.coarse = UNet(
            3,
            lambda _, channels: _instance_norm(channels),
            bias=True,
            gate=None,
            levels=levels,
            width=width,
            dropout=0.0,
            order=("down", "inside", "up", "gate"),
            skip_first=False,
        )
        self.fine = RefineUNet(width, levels)

    def forward(self, image: Tensor, hole: Tensor) -> Drawing:
        """image (N, 3, H, W) in [-1, 1] with its hole filled, hole (N, 1, H, W; 1 = hole)."""
        coarse = self.coarse(image).tanh()
        pasted = torch.where(hole > 0.5, coarse.detach().to(image.dtype), image)
        fine, attended, mirrored = self.fine(torch.cat([pasted, image], dim=1), feature_hole(hole))
        return Drawing(coarse.float(), fine.float(), attended.float(), mirrored.float())


class CSA(Model):
    task = "inpainting"

    def __init__(
        self,
        width: int = 64,
        levels: int = 8,
        discriminator_width: int = 64,
        adversarial: bool = True,
        perceptual_weights: str = "torchvision",
    ):
        """width: channels of both U-Nets' first level; they double up to 8 times that.
        levels: halvings of both, at least 4; H and W must be divisible by 2 to the power of levels (8 levels: 256).
        discriminator_width: channels of the image discriminator's first layer; the feature discriminator has 8 times as
        many.
        adversarial: train against the discriminators. Without, which is not of the paper, they aren't built.
        perceptual_weights: VGG-16 for the consistency losses and the feature discriminator: "torchvision", the path of
        a .pth or .safetensors file, or "none", which leaves both out. The consistency losses compare the network's
        features with VGG-16's 512 channels, so another width than 64 asks for "none".
        Raises ValueError for levels that cannot be built, and for VGG-16 beside a width other than 64.
        """
        super().__init__()
        if levels < 4:
            raise ValueError(f"csa: levels = {levels}, expected at least 4: attention stands after the third halving")
        if perceptual_weights != "none" and width != 64:
            raise ValueError(
                f"csa: width = {width} gives the attention {8 * width} channels, but its consistency losses compare "
                "them with VGG-16's 512: take width 64, or perceptual_weights 'none', which leaves these losses out"
            )
        self.players = ("discriminator", "generator") if adversarial else ("generator",)
        self.levels = levels
        self.perceptual_features = None
        if perceptual_weights != "none":
            self.perceptual_features = VGGFeatures("vgg16", perceptual_weights, (POOL_3, RELU_4_3), normalize=False)
        self.generator = CoarseToFine(width, levels)
        if adversarial:
            judges = {"image": _patch_discriminator(discriminator_width)}
            if self.perceptual_features is not None:
                judges["features"] = _feature_discriminator(8 * discriminator_width)
            self.discriminator = nn.ModuleDict(judges)
        initialize_normal(self)
        self.drawn_once = DrawnOnce()

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the refined image. Raises ValueError where H or W is not divisible by 2 to the power
        of levels."""
        return ((self.draw(batch["image"], batch["hole"]).fine + 1) / 2).clamp(0, 1)

    def draw(self, image: Tensor, hole: Tensor) -> Drawing:
        """image (N, 3, H, W) in [0, 1], hole (N, 1, H, W; 1 = hole)."""
        require_divisible(image, 2**self.levels)
        fill = image.new_tensor(FILL).view(3, 1, 1) / 255
        return self.generator(2 * torch.where(hole > 0.5, fill, image) - 1, hole)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What `player` minimizes, and its parts, unweighted. The real image is batch["image"], hole included.

        Generator: coarse and fine, mean absolute errors in [-1, 1] over the whole image (100 each), consistency, the
        mean squared differences of the attention's output and of its mirror to VGG-16's relu4_3, in the hole, added
        (1), adversarial and feature_adversarial (0.2 each). Discriminator: half of image and features, each the
        relativistic average of squared errors.
        """
        self.require_player(player)
        if min(batch["image"].shape[2:]) < SMALLEST_TRAINING_SIDE and "discriminator" in self.players:
            size = tuple(batch["image"].shape[2:])
            raise ValueError(
                f"csa trains against its discriminators on sides of {SMALLEST_TRAINING_SIDE} pixels or more, got "
                f"{size}; adversarial: false trains without them"
            )
        return self._discriminator_loss(batch) if player == "discriminator" else self._generator_loss(batch)

    def _discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        image, real = batch["image"], 2 * batch["image"] - 1
        fine = self.drawn_once.keep(image, self.generator, lambda: self.draw(image, batch["hole"])).fine
        judges = self.discriminator
        # every image is normalized by itself, so one batch gives the scores of two
        parts = {"image": relativistic_least_squares(*judges["image"](torch.cat([real, fine])).chunk(2))}
        if self.perceptual_features is not None:
            with torch.no_grad():
                features = self.perceptual_features(torch.cat([real, fine]))[0]
            parts["features"] = relativistic_least_squares(*judges["features"](features).chunk(2))
        return sum_of(parts.values()) / 2, {name: part.detach() for name, part in parts.items()}

    def _generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        image, real, hole = batch["image"], 2 * batch["image"] - 1, batch["hole"]
        coarse, fine, attended, mirrored = self.drawn_once.take(image, lambda: self.draw(image, hole))
        parts = {"coarse": (coarse - real).abs().mean(), "fine": (fine - real).abs().mean()}
        if self.perceptual_features is not None:
            with torch.no_grad():
                real_pool, wanted = self.perceptual_features(real)
            inside = feature_hole(hole)
            parts["consistency"] = sum_of(((tap - wanted) * inside).square().mean() for tap in (attended, mirrored))
        if "discriminator" in self.players:
            judges = self.discriminator
            with frozen(judges):
                parts["adversarial"] = relativistic_least_squares(judges["image"](fine), judges["image"](real))
                if self.perceptual_features is not None:
                    fine_pool = self.perceptual_features(fine)[0]
                    scores = judges["features"](fine_pool), judges["features"](real_pool)
                    parts["feature_adversarial"] = relativistic_least_squares(*scores)
        total = sum_of(LOSS_WEIGHTS[name] * part for name, part in parts.items())
        return total, {name: part.detach() for name, part in parts.items()}


def _instance_norm(channels: int) -> nn.Module:
    """Instance normalization with scale and shift. As group normalization with one channel a group it is the same
    formula and takes well under half the time on a CPU."""
    return nn.GroupNorm(channels, channels)


def _patch_discriminator(width: int) -> nn.Sequential:
    """pix2pix's: images (N, 3, H, W) -> scores of 70x70 patches (N, 1, h, w)."""
    layers, before = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)], width
    for after, stride in ((2 * width, 2), (4 * width, 2), (8 * width, 1)):
        layers += [nn.Conv2d(before, after, 4, stride, 1), _instance_norm(after), nn.LeakyReLU(0.2, inplace=True)]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))


def _feature_discriminator(width: int) -> nn.Sequential:
    """VGG-16's features after its third pooling (N, 256, h, w) -> scores (N, width, h / 8, w / 8)."""
    return nn.Sequential(
        *(nn.Conv2d(256, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(width, width, 4, 2, 1), nn.GroupNorm(width, width, affine=False), nn.LeakyReLU(0.2, inplace=True)),
        nn.Conv2d(width, width, 4, 2, 1),
    )
