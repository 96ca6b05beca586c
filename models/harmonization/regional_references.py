"""Regional References: each foreground location borrows the appearance of background regions of like content.

Zhu et al., "Image Harmonization by Matching Regional References", 2022: location-to-location translation (LTL, eqs 1-2)
on deep features, patches-to-location translation (PTL, eqs 3-5) on shallow ones, a residual (eq. 7) in place of the
foreground itself (eq. 6), and a loss normalized by the foreground's area (eq. 8).

No code was published. Where the paper is silent or misprinted, this is what was chosen:
- U-Net: convolutions 4x4, stride 2, to width * (1, 2, 4, 8, 16) channels, at most 1024, and back, skips by
  concatenation, the deepest level without one: the only reading of the width table that fits its numbers. Activations,
  biases and initial weights as in models/layers/unet.py, batch normalization after all convolutions but the first, the
  innermost and the head. Decoder outputs then have 16, 32, 64 and 128 pixels at 256, the sizes that the tables name;
  positions are given by these numbers whatever the image's size.
- LTL and PTL act on the concatenation of decoder and encoder features; `features` for the decoder's alone.
- The self-attention layer in LTL has one head, projections of the features' width with biases, logits divided by
  sqrt(C), and a residual. The transfers' own logits (eqs 1 and 4) are undivided as printed (`scaled_logits` divides).
- LTL leaves normalized features in the background, as T_b in the paper is what the instance normalization gave.
- eq. 3 has its square outside the sum: read as the deviation of the patch's background, sqrt(variance + 1e-5).
- A patch's token is one linear projection of its C x p x p normalized values, foreground pixels 0 (`projection` for one
  of its background means). Its size belongs to `image_size`; at other sizes patches keep their pixels.
- Patches with less than 1/16 of background are no references. An image without any reference keeps its features there,
  in LTL and in PTL.
- eq. 8 is divided by the 3 channels as well, as the loss that it follows is; it is taken before clipping to [0, 1].
- Input: ImageNet-normalized composite and the mask.
- The row +Self-Attention is that layer alone at 32; +AdaIN is RAIN at 128 in place of PTL.

Our counts beside the published ones, at width 32, 64, 96 and 128: 7.71 (9.48), 30.82 (37.81), 56.75 (72.39) and 89.69
(117.42) million. What is missing sits in attention parts that the paper does not describe.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible
from models.layers.normalization import RAIN, InstanceNorm, mask_at
from models.layers.region_statistics import EPS, region_statistics
from models.layers.unet import Block, Step
from models.losses.foreground import foreground_mse

MOST_CHANNELS = 1024
PUBLISHED_SIZE = 256
LEAST_BACKGROUND = 1 / 16


class Foreground:
    """The foreground locations of a batch's features, one row an image, as long as the longest.

    `at` (N, L): their positions in row-major order; `real` (N, 1, L): False where a row is filled up.
    """

    def __init__(self, mask: Tensor):
        """mask: (N, 1, h, w), 0 or 1."""
        flat = mask.flatten(1)
        # at least one, so that parameters get a gradient, of zero, also where no image has a foreground
        longest = max(1, int(flat.sum(1).max()))
        self.at = flat.argsort(dim=1, descending=True, stable=True)[:, :longest]
        self.real = flat.gather(1, self.at).bool()[:, None]

    def of(self, features: Tensor) -> Tensor:
        """(N, C, L) from (N, C, h, w)."""
        return features.flatten(2).gather(2, self._indices(features))

    def put(self, tokens: Tensor, features: Tensor, where: Tensor) -> Tensor:
        """The features with tokens (N, C, L) at their locations, in images for which `where` (N,) holds."""
        tokens = torch.where(self.real & where[:, None, None], tokens.to(features.dtype), self.of(features))
        return features.flatten(2).scatter(2, self._indices(features), tokens).view_as(features)

    def _indices(self, features: Tensor) -> Tensor:
        return self.at[:, None].expand(-1, features.shape[1], -1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, usable: Tensor, scale: float) -> Tensor:
    """softmax(scale * queries keys^T) values over the usable keys: (N, L, E), float32.

    queries: (N, L, C); keys: (N, K, C); values: (N, K, E), E at least C; usable: (N, K) bool. Where an image has no
    usable key, all are used. No (L, K) map is kept, and none is made where torch has a kernel that does without.
    """
    with torch.autocast(queries.device.type, enabled=False):
        usable = usable | ~usable.any(dim=1, keepdim=True)
        # those kernels want one width for all; zeros change no product
        missing = values.shape[2] - keys.shape[2]
        queries, keys = (F.pad(vectors.float(), (0, missing)) for vectors in (queries, keys))
        given = queries[:, None], keys[:, None], values.float()[:, None]
        return F.scaled_dot_product_attention(*given, attn_mask=usable[:, None, None], scale=scale)[:, 0]


class SelfAttention(nn.Module):
    """x + project(softmax(q k^T / sqrt(C)) v), one head over all locations."""

    takes_mask = True

    def __init__(self, channels: int):
        super().__init__()
        self.read = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, C, h, w), as the features; the mask is not looked at."""
        queries, keys, values = self.read(_tokens(features)).chunk(3, dim=2)
        everywhere = torch.ones(1, 1, dtype=torch.bool, device=features.device).expand(keys.shape[:2])
        attended = self.project(attend(queries, keys, values, everywhere, features.shape[1] ** -0.5))
        return features + _map(attended, features)


class LocationTransfer(nn.Module):
    """LTL: self-attention, instance normalization, then T_h = Linear([T_f, softmax(T_f T_b^T) T_b]) in the foreground."""

    takes_mask = True

    def __init__(self, channels: int, scaled_logits: bool = False):
        super().__init__()
        self.scale = channels**-0.5 if scaled_logits else 1.0
        self.attention = SelfAttention(channels)
        self.norm = InstanceNorm(channels)
        self.fuse = nn.Linear(2 * channels, channels)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w), as the features. mask: (N, 1, H, W) of any size, above 0.5 = foreground."""
        features, mask = self.norm(self.attention(features)), mask_at(mask, features.shape[2:])
        foreground, background = Foreground(mask), mask.flatten(1) == 0
        own, tokens = foreground.of(features).transpose(1, 2), _tokens(features)
        borrowed = attend(own, tokens, tokens, background, self.scale)
        fused = self.fuse(torch.cat([own, borrowed.to(own.dtype)], dim=2))
        return foreground.put(fused.transpose(1, 2), features, background.any(1))


class PatchTransfer(nn.Module):
    """PTL: foreground content, instance-normalized over the foreground, takes the weighed means and deviations of the
    background in patches whose content is alike.

    Weights softmax(C_f C_b^T) over the patches (eq. 4), result C_f * V + A (eq. 5). Patches are never unfolded: their
    means and deviations are sums over boxes, and their tokens, whose instance normalization differs from patch to patch
    and so can't be left to a convolution, are summed up over the rows of a patch (`_PatchTokens`).
    """

    takes_mask = True

    def __init__(
        self,
        channels: int,
        patch: int,
        stride: int,
        projection: Literal["flattened", "mean"] = "flattened",
        scaled_logits: bool = False,
    ):
        """patch: side in pixels of the features; stride: of the patches, in pixels."""
        super().__init__()
        self.patch, self.stride, self.scale = patch, stride, channels**-0.5 if scaled_logits else 1.0
        # a bias would add the same to all of a row's logits
        self.project = nn.Linear(channels * (patch**2 if projection == "flattened" else 1), channels, bias=False)
        self.flattened = projection == "flattened"

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, h, w), as the features. mask: (N, 1, H, W) of any size, above 0.5 = foreground.

        Raises ValueError where the features are smaller than a patch."""
        for name, size in zip(("height", "width"), features.shape[2:]):
            if size < self.patch:
                raise ValueError(f"features of {name} {size} are below a patch of {self.patch}; set image_size lower")
        mask = mask_at(mask, features.shape[2:])
        foreground = Foreground(mask)
        with torch.autocast(features.device.type, enabled=False):
            own = foreground.of(features).float()[..., None]
            mean, deviation = region_statistics(own, foreground.real[..., None])
            content = ((own - mean) / deviation)[..., 0].transpose(1, 2)  # (N, L, C)
            tokens, means, deviations, usable = self.references(features.float(), 1 - mask)
            appearance = attend(content, tokens, torch.cat([means, deviations], dim=2), usable, self.scale)
            borrowed_mean, borrowed_deviation = appearance.chunk(2, dim=2)
            restyled = content * borrowed_deviation + borrowed_mean
        return foreground.put(restyled.transpose(1, 2), features, usable.any(1))

    def references(self, features: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every patch, row by row: tokens, means and deviations, each (N, K, C), and which are usable, (N, K).

        features: (N, C, h, w), float32. background: (N, 1, h, w), 0 or 1.
        """
        count = self._sums(background)
        usable = count >= LEAST_BACKGROUND * self.patch**2
        count = count.clamp(min=1)
        # about the background's mean, so that the difference of squares below keeps its digits
        centre = region_statistics(features.detach(), background)[0]
        centred = (features - centre) * background
        mean = self._sums(centred) / count
        variance = self._sums(centred.square()) / count - mean.square()
        deviation = (variance.clamp(min=0) + EPS).sqrt()
        mean = (centre + mean) * usable
        if self.flattened:
            weight = self.project.weight.view(-1, features.shape[1], self.patch, self.patch)
            tokens = _PatchTokens.apply(features, background, mean, deviation, weight, self.stride)
        else:
            tokens = self.project(_tokens(mean))
        return tokens, _tokens(mean), _tokens(deviation), usable.flatten(1)

    def _sums(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.patch, self.stride, divisor_override=1)


class _PatchTokens(torch.autograd.Function):
    """sum over channels c and pixels of a patch of weight * background * (x - mean_c) / deviation_c: (N, K, D).

    x: (N, C, h, w); background: (N, 1, h, w); mean, deviation: (N, C, R, S) of the K = R * S patches; weight:
    (D, C, p, p). One row of all patches is laid out at a time, 1/p of the unfolded patches, and again for the gradient.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, background: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor, stride: int
    ) -> Tensor:
        rows = _PatchRows(x, background, mean, deviation, weight.shape[-1], stride)
        out = x.new_zeros(rows.count, weight.shape[0])
        for row, kernel in enumerate(_kernels(weight)):
            out.addmm_(rows.normalized(row), kernel)
        ctx.save_for_backward(x, background, mean, deviation, weight)
        ctx.stride = stride
        return out.view(len(x), -1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, background, mean, deviation, weight = ctx.saved_tensors
        rows = _PatchRows(x, background, mean, deviation, weight.shape[-1], ctx.stride)
        grad = grad.reshape(rows.count, -1)
        grad_x, grad_mean, grad_deviation = (
            torch.zeros_like(rows.x),
            torch.zeros_like(rows.mean),
            torch.zeros_like(rows.mean),
        )
        kernels = _kernels(weight)
        grad_kernels, patch, stride = torch.empty_like(kernels), weight.shape[-1], ctx.stride
        for row, kernel in enumerate(kernels):
            normalized = rows.normalized(row)
            torch.mm(normalized.t(), grad, out=grad_kernels[row])
            grad_row = (grad @ kernel.t()).view(rows.buffer.shape)
            grad_row.mul_(rows.of(rows.background, row)).mul_(rows.inverse)
            grad_mean -= grad_row.sum(3, keepdim=True)
            grad_deviation -= (grad_row * rows.buffer).sum(3, keepdim=True)
            # neighbouring patches overlap; within each of these slices they do not
            for start in range(0, patch, stride):
                length = min(stride, patch - start)
                rows.of(grad_x, row, start, length).add_(grad_row[:, :, :, start : start + length])
        grad_weight = grad_kernels.view(patch, patch, x.shape[1], -1).permute(3, 2, 0, 1)
        back = (gradient.squeeze(3).permute(0, 3, 1, 2) for gradient in (grad_mean, grad_deviation))
        return grad_x.permute(0, 3, 1, 2).contiguous(), None, *back, grad_weight, None


def _kernels(weight: Tensor) -> Tensor:
    """(D, C, p, p) -> one matrix (p * C, D) for each row of a patch."""
    return weight.permute(2, 3, 1, 0).reshape(weight.shape[2], -1, weight.shape[0])


class _PatchRows:
    """Pixels of all patches, one row of the patches at a time; channels last, as tokens want them."""

    def __init__(self, x: Tensor, background: Tensor, mean: Tensor, deviation: Tensor, patch: int, stride: int):
        self.x, self.background, self.mean, deviation = (
            given.permute(0, 2, 3, 1).contiguous() for given in (x, background, mean, deviation)
        )
        self.patch, self.stride = patch, stride
        self.mean, self.inverse = self.mean[:, :, :, None], deviation.reciprocal()[:, :, :, None]  # (N, R, S, 1, C)
        images, self.down, self.across, _, channels = self.mean.shape
        self.count = images * self.down * self.across
        self.buffer = x.new_empty(images, self.down, self.across, patch, channels)

    def of(self, x: Tensor, row: int, start: int = 0, length: int | None = None) -> Tensor:
        """A view (N, R, S, length, C) of x (N, h, w, C): one row of each patch, `length` pixels from `start` on."""
        lines = x[:, row : row + (self.down - 1) * self.stride + 1 : self.stride, start:]
        return lines.unfold(2, length or self.patch, self.stride)[:, :, : self.across].transpose(3, 4)

    def normalized(self, row: int) -> Tensor:
        """(N * K, p * C), in `buffer`, which the next call overwrites."""
        torch.sub(self.of(self.x, row), self.mean, out=self.buffer)
        self.buffer.mul_(self.of(self.background, row)).mul_(self.inverse)
        return self.buffer.view(self.count, -1)


class InPlace(nn.Sequential):
    """Modules on features and mask, one after the other."""

    takes_mask = True

    def forward(  # type: ignore[override]  # the mask goes in beside the features
        self, features: Tensor, mask: Tensor
    ) -> Tensor:
        for module in self:
            features = module(features, mask) if getattr(module, "takes_mask", False) else module(features)
        return features


class RegionalReferences(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        width: int = 32,
        levels: int = 5,
        image_size: int = 256,
        residual: bool = True,
        ltl: tuple[int, ...] = (32,),
        ptl: tuple[int, ...] = (128,),
        self_attention: tuple[int, ...] = (),
        adain: tuple[int, ...] = (),
        patch: int = 8,
        stride: int = 32,
        projection: Literal["flattened", "mean"] = "flattened",
        scaled_logits: bool = False,
        features: Literal["joined", "decoder"] = "joined",
        least_area: float = 100.0,
    ):
        """width: channels of the first level; 32, 64, 96, 128 are the paper's C, x2, x3, x4. levels: halvings. image_size:
        side in pixels that the patches are sized for.
        residual: predict what is added to the composite (RBase), not the foreground (Base).
        ltl, ptl, self_attention, adain: where these modules act, as the side of the decoder's features at 256 pixels (16,
        32, 64, 128 with 5 levels); several at one place follow each other as self-attention, LTL, PTL, AdaIN.
        patch, stride: of PTL, as parts of the side h of its features: 8 and 32 are the paper's h/8, h/32.
        projection: how patches are compared. scaled_logits: divide the logits by the root of their length, which the
        paper's equations don't.
        features: what the modules act on. least_area: A_min of eq. 8, in pixels."""
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels = {levels}, expected 2 or more")
        self.residual, self.least_area, self.levels = residual, least_area, levels
        positions = [PUBLISHED_SIZE >> level for level in range(1, levels)]
        for name, places in {"ltl": ltl, "ptl": ptl, "self_attention": self_attention, "adain": adain}.items():
            for wrong in set(places) - set(positions):
                known = ", ".join(map(str, positions))
                raise ValueError(
                    f"{name} at {wrong}: with {levels} levels the decoder's features have {known} at 256 pixels"
                )

        def modules(position: int, channels: int) -> list[nn.Module]:
            side = image_size * position // PUBLISHED_SIZE
            pixels, step = max(1, side // patch), max(1, side // stride)
            made = {
                "self_attention": lambda: SelfAttention(channels),
                "ltl": lambda: LocationTransfer(channels, scaled_logits),
                "ptl": lambda: PatchTransfer(channels, pixels, step, projection, scaled_logits),
                "adain": lambda: RAIN(channels),
            }
            asked = {"self_attention": self_attention, "ltl": ltl, "ptl": ptl, "adain": adain}
            return [make() for name, make in made.items() if position in asked[name]]

        channels = [min(width * 2**level, MOST_CHANNELS) for level in range(levels)]
        inside, steps = None, []
        for level in range(levels - 1, 0, -1):
            outer, inner, innermost = channels[level - 1], channels[level], level == levels - 1
            down = Step(nn.Conv2d(outer, inner, 4, 2, 1, bias=False), None if innermost else nn.BatchNorm2d(inner))
            conv = nn.ConvTranspose2d(inner if innermost else 2 * inner, outer, 4, 2, 1, bias=False)
            joined = features == "joined"
            here = modules(positions[level - 1], 2 * outer if joined else outer)
            up = Step(conv, nn.BatchNorm2d(outer) if joined or not here else InPlace(nn.BatchNorm2d(outer), *here))
            steps += [down.conv, up.conv]
            gate = InPlace(*here) if joined and here else None
            inside = Block(down, inside, up, gate, 0.0, ("down", "inside", "up", "gate"))
        self.normalize = ImageNetNormalize()
        self.first = nn.Conv2d(4, width, 4, 2, 1, bias=False)
        assert inside is not None  # there are two levels or more
        self.inside = inside
        self.head = nn.ConvTranspose2d(2 * width, 3, 4, 2, 1)
        initialize_normal(nn.ModuleList([self.first, *steps, self.head]))

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), clipped to [0, 1], the composite outside the mask. Raises ValueError where H or W is not divisible
        by 2 ** levels, or too small for PTL's patches."""
        return self._draw(batch).clamp(0, 1)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 8: squared error over the whole image by max(least_area, area of the mask), unclipped, on [0, 1]."""
        self.require_player(player)
        error = foreground_mse(self._draw(batch), batch["real"], batch["mask"], self.least_area)
        return error, {"foreground_mse": error.detach()}

    def _draw(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), unbounded inside the mask; float32 also under autocast."""
        composite, mask = batch["composite"], batch["mask"]
        require_divisible(composite, 2**self.levels)
        joined = self.inside(self.first(torch.cat([self.normalize(composite), mask], dim=1)), mask)
        drawn = self.head(F.relu(joined, inplace=True)).float()
        return composite + drawn * mask if self.residual else torch.lerp(composite, drawn, mask)


def _tokens(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h * w, C)."""
    return features.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, h * w, C) -> (N, C, h, w), laid out in that order, which torch's CPU convolutions need."""
    return tokens.transpose(1, 2).to(like.dtype).reshape(like.shape).contiguous()
