"""PIC: Zheng, Cham and Cai, "Pluralistic Image Completion", CVPR 2019.

A conditional variational autoencoder with adversaries, which draws many completions of one picture. The encoder reads
the visible part and, in training, the hidden part too. Two paths share all weights but those of their last encoder
blocks. The reconstructive path takes its latent from the hidden part (the posterior) and has to give the true picture
back. The generative path takes it from the visible part alone (the prior) and is held to the visible pixels and a
discriminator. The generator adds the latent to the features of the visible part, draws at four scales, and attends at
1/8 of the size to its own features (short term) and to the encoder's (long term).

Layers, initial weights and losses are those of the authors' released code. Its loss of the generative path leaves the
hole to the discriminator, and its two divergences are one-directional. Orthogonal initial weights, which its options
name, reach only the attention's query: the other convolutions are under spectral normalization, where its
initialization finds no weight to set.

Departures: the discriminators leave out parameters that their forward pass never reads. They judge real and drawn
pictures in one batch, which takes one power iteration where the released code takes two. In evaluation no power
iteration is kept, so that a prediction doesn't depend on those before it. At test time the released code draws its
latents from torch's global generator; here a latent depends on the picture, its hole and the seed alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from models.base import Batch, Model, sum_of
from models.layers.input_size import require_divisible
from models.layers.spectral import SpectralConv2d, SpectralConvTranspose2d
from models.losses.adversarial import DrawnOnce, frozen

SCALES = 4
"""scales that the generator draws at: 1/8, 1/4, 1/2 and the full size"""
HALVINGS = 5
SMALLEST_JUDGED = 96
"""pixels; a discriminator's last 3x3 convolution has no padding and works at 1/32 of the size"""


class ResidualBlock(nn.Module):
    """activation, 3x3, activation, 3x3, plus a 1x1 shortcut; `down` averages 2x2 pixels of the sum."""

    def __init__(self, before: int, hidden: int, after: int, down: bool = False, slope: float = 0.1):
        super().__init__()
        self.conv1 = SpectralConv2d(before, hidden, 3, padding=1)
        self.conv2 = SpectralConv2d(hidden, after, 3, padding=1)
        self.bypass = SpectralConv2d(before, after, 1)
        self.down, self.slope = down, slope

    def forward(self, features: Tensor) -> Tensor:
        out = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(features, self.slope)), self.slope))
        if self.down:
            # a 1x1 convolution of means is the mean of a 1x1 convolution, for a quarter of the work
            out, features = F.avg_pool2d(out, 2), F.avg_pool2d(features, 2)
        return out + self.bypass(features)


class FirstBlock(ResidualBlock):
    """The block that reads the picture: no activation before its first convolution; half the size."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after, after, down=True)

    def forward(self, image: Tensor) -> Tensor:
        out = self.conv2(F.leaky_relu(self.conv1(image), self.slope))
        return F.avg_pool2d(out, 2) + self.bypass(F.avg_pool2d(image, 2))


class DecoderBlock(nn.Module):
    """norm, activation, 3x3, norm, activation, transposed 3x3, plus a transposed 3x3 shortcut; twice the size."""

    def __init__(self, before: int, after: int):
        super().__init__()
        twice = {"stride": 2, "padding": 1, "output_padding": 1}
        self.conv1 = SpectralConv2d(before, after, 3, padding=1)
        self.conv2 = SpectralConvTranspose2d(after, after, 3, **twice)
        self.bypass = SpectralConvTranspose2d(before, after, 3, **twice)
        # instance normalization: a group for each channel, which takes a CPU under half the time
        self.norm1 = nn.GroupNorm(before, before)
        self.norm2 = nn.GroupNorm(after, after)

    def forward(self, features: Tensor) -> Tensor:
        out = self.conv1(F.leaky_relu(self.norm1(features), 0.1))
        return self.conv2(F.leaky_relu(self.norm2(out), 0.1)) + self.bypass(features)


class Output(nn.Module):
    """An RGB picture in [-1, 1] from features, of their size."""

    def __init__(self, before: int):
        super().__init__()
        self.conv1 = SpectralConv2d(before, 3, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv1(F.pad(F.leaky_relu(features, 0.1), (1, 1, 1, 1), mode="reflect")).tanh()


class SelfAttention(nn.Module):
    """x + gamma · (x averaged over the positions that it attends to); the short-term attention of section 3.4.

    One 1x1 convolution to a quarter of the channels gives queries and keys. What is averaged are the features
    themselves. gamma starts at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query = nn.Conv2d(channels, channels // 4, 1)
        nn.init.orthogonal_(self.query.weight, gain=0.02)
        assert self.query.bias is not None  # Conv2d's default
        nn.init.zeros_(self.query.bias)

    def forward(self, features: Tensor) -> Tensor:
        (attended,) = self.attend(features, features)
        return features + self.gamma * attended

    def attend(self, features: Tensor, *values: Tensor) -> list[Tensor]:
        """Each of the values, (N, C, h, w), averaged by the same attention, softmax(q_i · q_j) over the positions j.

        The values are averaged together by torch's fused attention, which never holds the h w x h w weights. It asks
        for queries as long as the values, so they get zeros at their end.
        """
        sizes = [value.shape[1] for value in values]
        # in float32: the products of the queries are not scaled, and a softmax of large numbers has no digits to lose
        with torch.autocast(features.device.type, enabled=False):
            queries = _rows(self.query(features.float()))
            stacked = _rows(torch.cat([value.float() for value in values], dim=1))
            queries = F.pad(queries, (0, stacked.shape[-1] - queries.shape[-1]))
            attended = F.scaled_dot_product_attention(queries, queries, stacked, scale=1.0)
        attended = attended[:, 0].transpose(1, 2).unflatten(2, features.shape[2:]).to(features.dtype)
        return list(attended.split(sizes, dim=1))


class ShortLongAttention(SelfAttention):
    """Short- and long-term attention (section 3.4): the same weights also average the encoder's features.

    These stay as they are where the picture is visible; in the hole they are alpha times their average. Both results
    are merged by a residual block. gamma and alpha start at 0.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.merge = ResidualBlock(2 * channels, channels, channels, slope=0.01)

    def forward(  # type: ignore[override]  # called by the decoder, which has them
        self, features: Tensor, encoded: Tensor, visible: Tensor
    ) -> Tensor:
        """features, encoded (N, C, h, w); visible (N, 1, h, w), the share of each position that is visible."""
        short, long = self.attend(features, features, encoded)
        short = features + self.gamma * short
        visible = visible.to(features.dtype)
        long = self.alpha * (1 - visible) * long + visible * encoded
        return self.merge(torch.cat([short, long], dim=1))


class Encoder(nn.Module):
    """A picture to features of half to 1/32 of its size, and features to the distribution of a latent."""

    def __init__(self, width: int, prior_blocks: int):
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(HALVINGS)]
        most = widths[-1]
        self.blocks = nn.ModuleList([FirstBlock(3, width)])
        self.blocks += [ResidualBlock(before, before, after, down=True) for before, after in zip(widths, widths[1:])]
        self.prior_blocks = nn.ModuleList(ResidualBlock(most, most, most) for _ in range(prior_blocks))
        self.posterior = ResidualBlock(most, most, 2 * most)
        self.prior = ResidualBlock(most, most, 2 * most)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, 3, H, W) in [-1, 1] -> features at 1/8 and at 1/32 of its size."""
        for level, block in enumerate(self.blocks):
            image = block(image)
            if level == 2:
                eighth = image
        return eighth, image

    def prior_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, 4 width, h, w) of the latent, from features of the visible part."""
        for block in self.prior_blocks:
            features = block(features)
        return _mean_and_deviation(self.prior(features))

    def posterior_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same, from features of the hidden part."""
        return _mean_and_deviation(self.posterior(features))


class Decoder(nn.Module):
    """A latent and the visible part's features to pictures at four scales."""

    def __init__(self, width: int):
        super().__init__()
        most = 4 * width
        self.from_latent = ResidualBlock(most, most, most)
        self.decoder0 = DecoderBlock(most, most)
        self.decoder1 = DecoderBlock(most, most)
        self.out1 = Output(most)
        self.attention = ShortLongAttention(most)
        self.decoder2 = DecoderBlock(most + 3, most)
        self.out2 = Output(most)
        self.decoder3 = DecoderBlock(most + 3, 2 * width)
        self.out3 = Output(2 * width)
        self.decoder4 = DecoderBlock(2 * width + 3, width)
        self.out4 = Output(width)

    def forward(self, latent: Tensor, encoded: tuple[Tensor, Tensor], visible: Tensor) -> list[Tensor]:
        """Pictures in [-1, 1] at 1/8, 1/4, 1/2 and the full size.

        latent (N, 4 width, H/32, W/32), encoded: the visible part's features at 1/8 and 1/32, visible (N, 1, H, W).
        """
        eighth, smallest = encoded
        features = self.decoder1(self.decoder0(smallest + self.from_latent(latent)))
        features = self.attention(features, eighth, _resized(visible, eighth.shape[2:]))
        images = [self.out1(features)]
        for decoder, out in ((self.decoder2, self.out2), (self.decoder3, self.out3), (self.decoder4, self.out4)):
            features = decoder(torch.cat([features, images[-1]], dim=1))
            images.append(out(features))
        return [image.float() for image in images]


class Generator(nn.Module):
    def __init__(self, width: int, prior_blocks: int):
        super().__init__()
        self.encoder = Encoder(width, prior_blocks)
        self.decoder = Decoder(width)


class Discriminator(nn.Module):
    """Five halving residual blocks, attention at 1/8 of the size, and a map of scores (N, 1, H/32 - 2, W/32 - 2)."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(HALVINGS)]
        self.blocks = nn.ModuleList([FirstBlock(3, width)])
        self.blocks += [ResidualBlock(before, before, after, down=True) for before, after in zip(widths, widths[1:])]
        self.attention = SelfAttention(4 * width)
        self.last_block = ResidualBlock(4 * width, 4 * width, 4 * width)
        self.conv = SpectralConv2d(4 * width, 1, 3)

    def forward(self, image: Tensor) -> Tensor:
        for level, block in enumerate(self.blocks):
            image = block(self.attention(image) if level == 3 else image)
        return self.conv(F.leaky_relu(self.last_block(image), 0.1)).float()


class Discriminators(nn.Module):
    """One for each path that is trained."""

    def __init__(self, width: int, two_paths: bool):
        super().__init__()
        self.generated = Discriminator(width)
        self.reconstructed = Discriminator(width) if two_paths else None


class Paths(NamedTuple):
    """What is drawn in training. It looks like a tensor to `DrawnOnce`."""

    reconstructed: list[Tensor]
    """pictures in [-1, 1] of the reconstructive path, at 1/8, 1/4, 1/2 and the full size; empty if it isn't trained"""
    generated: list[Tensor]
    """those of the generative path"""
    divergences: dict[str, Tensor]
    """means of the Kullback-Leibler divergences, by the names that the loss gives them"""

    @property
    def requires_grad(self) -> bool:
        return self.generated[-1].requires_grad

    def detach(self) -> "Paths":
        reconstructed, generated = ([image.detach() for image in images] for images in self[:2])
        return Paths(reconstructed, generated, {name: value.detach() for name, value in self.divergences.items()})


class PIC(Model):
    task = "inpainting"
    stochastic = True

    def __init__(
        self,
        width: int = 32,
        discriminator_width: int = 32,
        prior_blocks: int = 6,
        paths: Literal["two", "one"] = "two",
        adversarial: bool = True,
        kl_weight: float = 20.0,
        reconstruction_weight: float = 20.0,
        adversarial_weight: float = 1.0,
        prediction: Literal["sample", "mean"] = "sample",
        seed: int = 0,
    ):
        """width: channels of the encoder's first block; most layers have 4 times as many, and so has the latent.
        discriminator_width: the same of both discriminators.
        prior_blocks: residual blocks between the visible part's features and its prior.
        paths: "two": both paths are trained (published). "one", an option of the released code: the generative path
        alone, which then has to give the hole's true content too, and whose prior is held to a fixed distribution.
        adversarial: train against the discriminators; without, which is not of the paper, they are not built.
        kl_weight: of both divergences, which are also multiplied by the number of scales, 4.
        reconstruction_weight: of the L1 terms. adversarial_weight: of the terms of the discriminators.
        prediction: what `forward` gives: "sample": one draw from the prior; "mean": the picture of the prior's mean.
        seed: of the latents drawn in prediction.
        Raises ValueError for widths below 1, a negative number of blocks or a negative seed.
        """
        super().__init__()
        widths = {"width": width, "discriminator_width": discriminator_width}
        for name, value in (widths | {"prior_blocks": prior_blocks, "seed": seed}).items():
            least = 1 if name in widths else 0
            if value < least:
                raise ValueError(f"pic: {name} = {value}, expected at least {least}")
        # the discriminators first, as released: both turns then share one drawing
        self.players = ("discriminator", "generator") if adversarial else ("generator",)
        self.weights = {
            "kl": SCALES * kl_weight,
            "reconstruction": reconstruction_weight,
            "adversarial": adversarial_weight,
        }
        self.two_paths, self.prediction, self.seed = paths == "two", prediction, seed
        self.drawn_once = DrawnOnce()
        self.generator = Generator(width, prior_blocks)
        if adversarial:
            self.discriminator = Discriminators(discriminator_width, self.two_paths)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the picture of one latent, the same each time.

        Raises ValueError where H or W is not divisible by 32, and for 32x32 pixels.
        """
        return next(self._draws(batch, 1))

    def samples(self, batch: Batch, n: int) -> Tensor:
        """(n, N, 3, H, W) in [0, 1]: pictures of n latents for each item, the first that of `forward`.

        The latents are draws from the prior; with prediction "mean" the first is the prior's mean. They are drawn from
        the seed, the number of the sample and a digest of the item's visible pixels (in 8 bits) and hole, so that
        neither order nor company matters. The picture is encoded once, and decoded one sample at a time.
        """
        if n < 1:
            return super().samples(batch, n)  # refuses
        return torch.stack(list(self._draws(batch, n)))

    def _draws(self, batch: Batch, n: int) -> Iterator[Tensor]:
        image, visible = _visible(batch["image"], batch["hole"])
        encoded = self.generator.encoder(image)
        mean, deviation = self.generator.encoder.prior_of(encoded[1])
        digests = _digests(batch["image"], visible)
        for number in range(n):
            latent = mean
            if number or self.prediction == "sample":
                noise = [_noise((self.seed, number, digest), mean.shape[1:]) for digest in digests]
                latent = mean + deviation * torch.stack(noise).to(mean)
            yield (self.generator.decoder(latent, encoded, visible)[-1] + 1) / 2

    def draw_paths(self, image: Tensor, hole: Tensor) -> Paths:
        """The trained paths, with latents from torch's global generator: image (N, 3, H, W) in [0, 1], the hole's
        content included; hole (N, 1, H, W; 1 = hole)."""
        shown, visible = _visible(image, hole)
        encoder, decoder = self.generator.encoder, self.generator.decoder
        # the less is hidden, the narrower the distribution that the latent is held to (section 3.3)
        share = visible.mean((1, 2, 3), keepdim=True) - 1e-5
        deviation = 1 / (1 + (8 * (share - 0.8)).exp())
        if not self.two_paths:
            encoded = encoder(shown)
            prior = Normal(*encoder.prior_of(encoded[1]))
            divergences = {"prior_kl": kl_divergence(_centred(deviation, prior), prior).mean()}
            return Paths([], decoder(prior.rsample(), encoded, visible), divergences)
        hidden = (2 * image - 1) * (1 - visible)
        eighth, smallest = (features.chunk(2) for features in encoder(torch.cat([shown, hidden])))
        prior, posterior = Normal(*encoder.prior_of(smallest[0])), Normal(*encoder.posterior_of(smallest[1]))
        stopped = Normal(posterior.loc.detach(), posterior.scale.detach())
        divergences = {
            "posterior_kl": kl_divergence(_centred(deviation, posterior), posterior).mean(),
            "prior_kl": kl_divergence(stopped, prior).mean(),
        }
        latents = torch.cat([posterior.rsample(), prior.rsample()])
        encoded = torch.cat([eighth[0]] * 2), torch.cat([smallest[0]] * 2)
        drawn = decoder(latents, encoded, torch.cat([visible] * 2))
        reconstructed, generated = (list(images) for images in zip(*(images.chunk(2) for images in drawn)))
        return Paths(reconstructed, generated, divergences)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sums that the released code minimizes, and their parts, unweighted. The real image is batch["image"].

        generator: posterior_kl and prior_kl, means of the two divergences (weight 4 · kl_weight each); reconstructed,
        the reconstructive path's L1 summed over four scales, and generated, that of the generative path on visible
        pixels (reconstruction_weight each); adversarial, the squared distance of the generative discriminator's scores
        from 1, and matching, that of the other's scores of reconstruction and truth (adversarial_weight each).
        discriminator: for each path half the squared distances of real pictures' scores from 1 and of drawn ones' from
        0 (parts generated_judged and reconstructed_judged). All pictures in [-1, 1]. With paths "one" the terms of the
        reconstructive path are absent, and generated is taken on all pixels.
        """
        self.require_player(player)
        image, hole = batch["image"], batch["hole"]
        if "discriminator" in self.players and min(image.shape[2:]) < SMALLEST_JUDGED:
            raise ValueError(
                f"pic trains against its discriminators on sides of {SMALLEST_JUDGED} pixels or more, "
                f"got {tuple(image.shape[2:])}; adversarial: false trains without them"
            )
        real = 2 * image - 1
        if player == "discriminator":
            drawn = self.drawn_once.keep(image, self.generator, lambda: self.draw_paths(image, hole))
            parts = {"generated_judged": _judge(self.discriminator.generated, real, drawn.generated[-1])}
            if self.discriminator.reconstructed is not None:
                parts["reconstructed_judged"] = _judge(self.discriminator.reconstructed, real, drawn.reconstructed[-1])
            return sum_of(parts.values()), {name: part.detach() for name, part in parts.items()}
        drawn = self.drawn_once.take(image, lambda: self.draw_paths(image, hole))
        counted = (hole <= 0.5).float() if self.two_paths else torch.ones_like(hole)
        pixels = {"generated": _multiscale_l1(drawn.generated, real, counted)}
        if self.two_paths:
            pixels["reconstructed"] = _multiscale_l1(drawn.reconstructed, real, torch.ones_like(hole))
        judged = {}
        if "discriminator" in self.players:
            with frozen(self.discriminator):
                judged["adversarial"] = (self.discriminator.generated(drawn.generated[-1]) - 1).square().mean()
                if self.discriminator.reconstructed is not None:
                    scores = self.discriminator.reconstructed(torch.cat([drawn.reconstructed[-1], real])).chunk(2)
                    judged["matching"] = F.mse_loss(*scores)
        terms = {"kl": drawn.divergences, "reconstruction": pixels, "adversarial": judged}
        total = sum_of(self.weights[kind] * part for kind, parts in terms.items() for part in parts.values())
        return total, {name: part.detach() for parts in terms.values() for name, part in parts.items()}


def _multiscale_l1(images: list[Tensor], real: Tensor, counted: Tensor) -> Tensor:
    """Sum over the scales of the mean absolute difference; where `counted` is 0 a pixel adds none to the mean."""
    distances = []
    for image in images:
        truth, weight = _resized(real, image.shape[2:]), _resized(counted, image.shape[2:])
        distances.append(((image - truth) * weight).abs().mean())
    return sum_of(distances)


def _centred(deviation: Tensor, like: Normal) -> Normal:
    """The normal distribution of mean 0 and this deviation (N, 1, 1, 1), in the shape of another."""
    return Normal(torch.zeros_like(like.loc), deviation.expand_as(like.loc))


def _visible(image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """The visible part in [-1, 1], 0 in the hole, and where it is: (N, 1, H, W), 1 = visible. Refuses other sizes."""
    require_divisible(image, 2**HALVINGS)
    if max(image.shape[2:]) == 2**HALVINGS:
        raise ValueError(
            "pic: 32x32 pixels leave instance normalization a single value per channel; give one side 64 or more"
        )
    visible = (hole <= 0.5).to(image.dtype)
    return torch.where(visible > 0.5, 2 * image - 1, torch.zeros_like(image)), visible


def _digests(image: Tensor, visible: Tensor) -> list[int]:
    """A number of 64 bits for each item, from its size, its visible pixels in 8 bits and its hole."""
    known = torch.where(visible > 0.5, image, torch.zeros_like(image)).clamp(0, 1)
    pixels = (255 * known.float()).round().to(torch.uint8).cpu().contiguous().numpy()
    masks = np.packbits(visible.cpu().contiguous().numpy() > 0.5, axis=-1)
    contents = [repr(item.shape).encode() + item.tobytes() + mask.tobytes() for item, mask in zip(pixels, masks)]
    return [int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) for content in contents]


def _noise(seeds: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers of numpy's generator, which depend on no other draw and on no device."""
    return torch.from_numpy(np.random.default_rng(seeds).standard_normal(tuple(shape), dtype=np.float32))


def _mean_and_deviation(features: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = features.float().chunk(2, dim=1)
    return mean, F.softplus(deviation)


def _rows(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, 1, h w, C), contiguous, because torch's fused attention on a CPU takes nothing else."""
    return features.flatten(2).transpose(1, 2).contiguous()[:, None]


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """By bilinear interpolation with aligned corners, as the released code makes its pyramids; masks turn soft."""
    if image.shape[2:] == torch.Size(size):
        return image
    return F.interpolate(image, tuple(size), mode="bilinear", align_corners=True)


def _judge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    real_scores, fake_scores = discriminator(torch.cat([real, fake])).chunk(2)
    return ((real_scores - 1).square().mean() + fake_scores.square().mean()) / 2
