"""PCT-Net: a network predicts, pixel by pixel, the parameters of a colour transform, which then applies at any size.

Guerreiro et al., "PCT-Net: Full Resolution Image Harmonization Using Pixel-Wise Color Transformations", CVPR 2023.
Parameters are registered in the order of the released code (rakutentech/PCT-Net-Image-Harmonization, ViT_pct and
CNN_pct), so that its files load by position.

As released: the transformer has no positions, and sees pictures in [0, 1] that it pastes by the mask. The convolutional
backbone sees pictures normalized by ImageNet's statistics; its transform acts on the normalized picture and gives [0,
1], and it is blended with the composite by a learned map, not by the mask. Losses are taken in the range that the
backbone sees.

Departures: the loss is taken at the size that the network sees, since a training batch has one size, where the released
code takes it at that of the whole crop; the "polynomial" transform has red, green and blue, where the code reads red
twice and green never; and what the style loss departs in is told in models/losses/style_contrast.py.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.imagenet import ImageNetNormalize
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible, require_statistics
from models.layers.spatial_separated_attention import ChannelGate
from models.losses.foreground import foreground_normalized
from models.losses.perceptual import VGGFeatures
from models.losses.style_contrast import recolored_after_others, style_contrast

Transform = Literal["linear", "linear_sym", "polynomial", "identity", "mul", "add"]
PARAMETERS = {"linear": 12, "linear_sym": 6, "polynomial": 27, "identity": 3, "mul": 3, "add": 3}
SYMMETRIC = (0, 3, 5, 3, 1, 4, 5, 4, 2)
"""which of the 6 numbers of "linear_sym" stands where in the matrix, row by row"""
PATCH = 4
RELU4_3 = 22
"""index in torchvision's vgg16().features"""
RECOLORINGS = 4


def transformed(kind: Transform, image: Tensor, parameters: Tensor) -> Tensor:
    """A colour y for each colour x of an image (N, 3, H, W), by parameters (N, P, H, W); of the same shape, not
    clamped.

    "linear": y = M x + b, 9 numbers of M row by row and then b. "linear_sym": y = M x with a symmetric M: its diagonal,
    then entries (1, 2), (2, 3) and (1, 3). "polynomial": y = M (r, g, b, rg, rb, gb, rr, gg, bb), M row by row.
    "identity": the parameters are the colour. "mul", "add": each channel times, or plus, its parameter.
    """
    if kind == "identity":
        return parameters
    if kind == "mul":
        return image * parameters
    if kind == "add":
        return image + parameters
    if kind == "linear_sym":
        parameters = parameters[:, SYMMETRIC]
    if kind == "polynomial":
        red, green, blue = image.split(1, dim=1)
        image = torch.cat([image, red * green, red * blue, green * blue, image.square()], dim=1)
    inputs = image.shape[1]
    rows = [(parameters[:, row * inputs : (row + 1) * inputs] * image).sum(1) for row in range(3)]
    mapped = torch.stack(rows, dim=1)
    return mapped + parameters[:, 9:] if kind == "linear" else mapped


def untransformed(kind: Transform) -> Tensor:
    """The parameters (P,) that leave a colour as it is; zeros for "identity", which has no such parameters."""
    values = torch.zeros(PARAMETERS[kind])
    if kind == "linear":
        values[[0, 4, 8]] = 1
    elif kind == "polynomial":
        values[[0, 10, 20]] = 1
    elif kind in ("linear_sym", "mul"):
        values[:3] = 1
    return values


class PatchTransformer(nn.Module):
    """Patches of 4x4 pixels, a linear embedding, post-norm encoder layers without positions, and a map of channels."""

    def __init__(self, channels: int, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.embed = nn.Linear(4 * PATCH**2, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.up = nn.ConvTranspose2d(width, channels, PATCH, PATCH)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """(N, channels, H, W) in [-1, 1] from image (N, 3, H, W) and mask (N, 1, H, W); no blending map."""
        count, _, height, width = image.shape
        cells = torch.cat([image, mask], dim=1).view(count, 4, height // PATCH, PATCH, width // PATCH, PATCH)
        # within a patch: row, column, channel
        tokens = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        features = self.layers(self.embed(tokens))
        grid = features.transpose(1, 2).unflatten(2, (height // PATCH, width // PATCH))
        return self.up(grid).tanh(), None


def _convolution(before: int, after: int, norm: bool, bias: bool = True) -> nn.Sequential:
    norms = [nn.BatchNorm2d(after)] if norm else []
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=bias), *norms, nn.ReLU(inplace=True))


class Blur(nn.Module):
    """Gaussian of 7x7 and sigma 1 over a mask (N, 1, H, W), with zeros beyond the border."""

    weight: Tensor

    def __init__(self):
        super().__init__()
        taps = torch.exp(-((torch.arange(7) - 3.0) ** 2) / 2)
        kernel = torch.outer(taps, taps)
        self.register_buffer("weight", (kernel / kernel.sum())[None, None])

    def forward(self, mask: Tensor) -> Tensor:
        return F.conv2d(mask, self.weight, padding=3)


class Attention(nn.Module):
    """Spatial-separated attention as improved S2AM has it: gates of 8 channels at least, a learner of half the
    channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.background = ChannelGate(channels, least=8)
        self.foreground = ChannelGate(channels, least=8)
        self.mixed = ChannelGate(channels, least=8)
        half = channels // 2
        self.learn = nn.Sequential(_convolution(channels, half, True, False), _convolution(half, channels, True, False))
        self.blur = Blur()

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(N, C, H, W), as the features; mask (N, 1, H, W), 1 = foreground."""
        foreground = self.learn(self.foreground(features)) + self.mixed(features)
        return torch.lerp(self.background(features).float(), foreground.float(), self.blur(mask).float())


class Up(nn.Module):
    """Double the size (bilinear, corners aligned), convolve to the skip's channels, join with it, attend, convolve
    twice."""

    def __init__(self, before: int, after: int, attend: bool):
        super().__init__()
        self.convolve = _convolution(before, after, False)
        self.merge = nn.Sequential(_convolution(2 * after, after, True), _convolution(after, after, True))
        self.attention = Attention(2 * after) if attend else None

    def forward(self, features: Tensor, skip: Tensor, mask: Tensor) -> Tensor:
        up = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        both = torch.cat([skip, self.convolve(up)], dim=1)
        return self.merge(both if self.attention is None else self.attention(both, mask))


class ConvolutionalEncoder(nn.ModuleList):
    """Two 3x3 convolutions a level and a max pool between levels; batch normalization from the third level on."""

    def __init__(self, width: int, levels: int):
        channels = [width * 2**level for level in range(levels)]
        super().__init__(
            nn.Sequential(_convolution(before, after, level >= 2), _convolution(after, after, level >= 2))
            for level, (before, after) in enumerate(zip([4, *channels], channels))
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        skips = []
        for level, convolutions in enumerate(self):
            skips.append(convolutions(features if level == 0 else F.max_pool2d(features, 2)))
            features = skips[-1]
        return skips


class ConvolutionalDecoder(nn.Module):
    def __init__(self, width: int, levels: int):
        super().__init__()
        channels = [width * 2**level for level in reversed(range(levels))]
        pairs = list(zip(channels, channels[1:]))
        self.up = nn.ModuleList(Up(*pair, attend=number == len(pairs) - 1) for number, pair in enumerate(pairs))
        self.blend = nn.Conv2d(width, 1, 1)
        # never used, as released; it holds its place in the state dict
        self.to_rgb = nn.Conv2d(width, 3, 1).requires_grad_(False)

    def forward(self, skips: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        features = skips[-1]
        for up, skip in zip(self.up, skips[-2::-1]):
            features = up(features, skip, mask)
        return features, torch.sigmoid(3 * self.blend(features).float())


class ConvolutionalBackbone(nn.Module):
    """The U-Net of improved S2AM (Sofiiuk et al., WACV 2021), with attention at its last level alone."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        self.stride = 2 ** (levels - 1)
        self.encoder = ConvolutionalEncoder(width, levels)
        self.decoder = ConvolutionalDecoder(width, levels)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_normal_(layer.weight, gain=2**0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width, H, W) features and (N, 1, H, W) blending map in [0, 1], 1 = transformed."""
        if self.training:
            require_statistics(image, self.stride)
        return self.decoder(self.encoder(torch.cat([image, mask], dim=1)), mask)


class PCT(Model):
    task = "harmonization"
    players = ("network",)
    full_resolution = True

    def __init__(
        self,
        backbone: Literal["transformer", "convolutional"] = "transformer",
        transform: Transform = "linear",
        size: int = 256,
        width: int | None = None,
        layers: int = 9,
        heads: int = 2,
        dropout: float = 0.1,
        levels: int = 4,
        global_skip: bool = False,
        least_area: float = 1000.0,
        contrastive_weight: float = 0.01,
        smoothness_weight: float = 0.1,
        perceptual_weights: str = "torchvision",
    ):
        """backbone: "transformer" (4,809,896 parameters) or "convolutional" (2,185,736). transform: the colour
        transform that is predicted for each pixel. size: height and width at which a large picture's parameters are
        predicted; a batch is predicted at its own size. width: channels of a token (256 if None), or of the first
        convolutions (32 if None). layers, heads, dropout: of the transformer. levels: of the convolutional backbone.
        least_area: pixels that a foreground counts for at least in the squared error. contrastive_weight,
        smoothness_weight: of the style loss and of the mean gradient of the parameters. perceptual_weights: VGG-16 for
        the style loss: "torchvision", the path of a .pth or .safetensors file, or "none", which leaves that loss out.
        global_skip: add the predicted parameters to those that change nothing, so that training begins at the composite
        (not of the paper)."""
        super().__init__()
        self.backbone, self.transform, self.parameter_size = backbone, transform, size
        self.least_area = least_area
        self.smoothness_weight, self.contrastive_weight = smoothness_weight, contrastive_weight
        count = PARAMETERS[transform]
        if backbone == "transformer":
            self.multiple = PATCH
            self.network: nn.Module = PatchTransformer(count, width or 256, layers, heads, dropout)
            self.head = nn.Conv2d(count, count, 1)
            self.normalize: nn.Module = nn.Identity()
            initialize_normal(self)
        else:
            if levels < 2:
                raise ValueError(f"pct: levels = {levels}, expected 2 or more")
            self.multiple = 2 ** (levels - 1)
            self.network = ConvolutionalBackbone(width or 32, levels)
            self.head = nn.Conv2d(width or 32, count, 1)
            nn.init.xavier_normal_(self.head.weight, gain=2**0.5)
            assert self.head.bias is not None  # Conv2d's default
            nn.init.zeros_(self.head.bias)
            self.normalize = ImageNetNormalize()
        start = untransformed(transform) if global_skip else torch.zeros(count)
        self.register_buffer("start", start.view(1, -1, 1, 1), persistent=False)
        self.features = None
        if perceptual_weights != "none" and contrastive_weight > 0:
            self.features = VGGFeatures("vgg16", perceptual_weights, (RELU4_3,), normalize=False)

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted, with parameters predicted at the batch's own size. Raises ValueError
        where H or W is not divisible by 4 (transformer) or 2 ** (levels - 1) (convolutional)."""
        return self.apply_parameters(self.predict_parameters(batch), batch)

    def predict_parameters(self, batch: Batch) -> Tensor:
        """(N, P, H, W), float32: the transform's parameters and, with the convolutional backbone, the blending map."""
        composite, mask = batch["composite"], batch["mask"]
        require_divisible(composite, self.multiple)
        features, blend = self.network(self.normalize(composite), mask)
        parameters = self.head(features).float() + self.start
        return parameters if blend is None else torch.cat([parameters, blend], dim=1)

    def apply_parameters(self, parameters: Tensor, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1] from parameters (N, P, H, W) and composite and mask at that size."""
        return self._draw(parameters, batch).clamp(0, 1)

    def _draw(self, parameters: Tensor, batch: Batch) -> Tensor:
        composite, count = batch["composite"], PARAMETERS[self.transform]
        drawn = transformed(self.transform, self.normalize(composite), parameters[:, :count])
        if self.transform != "identity":
            drawn = drawn.clamp(0, 1)
        share = parameters[:, count:] if self.backbone == "convolutional" else batch["mask"]
        return torch.lerp(composite, drawn, share)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error divided by the foreground's area, the style loss, and the mean gradient of the parameters."""
        self.require_player(player)
        composite, mask, real = (batch[key] for key in ("composite", "mask", "real"))
        parameters = self.predict_parameters(batch)
        drawn, wanted = self.normalize(self._draw(parameters, batch)), self.normalize(real)
        parts = {
            "pixel": foreground_normalized((drawn - wanted).square(), mask, self.least_area),
            "smoothness": sobel_magnitude(parameters[:, : PARAMETERS[self.transform]]).mean(),
        }
        loss = parts["pixel"] + self.smoothness_weight * parts["smoothness"]
        features = self.features
        if features is not None:
            negatives = [composite, *recolored_after_others(real, mask, RECOLORINGS)]
            negatives = [self.normalize(negative) for negative in negatives]
            parts["style"] = style_contrast(lambda image: features(image)[0], drawn, wanted, mask, negatives)
            loss = loss + self.contrastive_weight * parts["style"]
        return loss, {name: part.detach() for name, part in parts.items()}


def sobel_magnitude(maps: Tensor) -> Tensor:
    """Length of the gradient (N, C, H, W) of each map, by Sobel's kernels divided by 8; the border is repeated.

    The root is taken of 1e-6 plus the sum of squares, so that a flat map has a gradient too.
    """
    count, channels, height, width = maps.shape
    smooth, slope = maps.new_tensor([1.0, 2.0, 1.0]) / 4, maps.new_tensor([-1.0, 0.0, 1.0]) / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate").reshape(count * channels, 1, height + 2, width + 2)
    squares = F.conv2d(padded, kernels).square().sum(1)
    return (squares + 1e-6).sqrt().view(maps.shape)
