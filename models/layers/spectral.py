"""Spectral normalization (Miyato et al. 2018), and patch discriminators under it (Isola et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from models.layers.same_padding import SamePad2d


class SpectralPatchDiscriminator(nn.Module):
    """A chain of spectrally normalized convolutions; every element of the last one's output is a logit.

    widths, strides: one of each per convolution. padding: zeros on each side, or "same" (TensorFlow's). After each
    convolution a LeakyReLU of slope 0.2, after the last one only if `activate_last`.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        kernel_size: int,
        padding: int | str,
        bias: bool,
        activate_last: bool,
    ):
        super().__init__()
        self.layers = nn.ModuleList()
        for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            pad = nn.ZeroPad2d(padding) if isinstance(padding, int) else SamePad2d(kernel_size, stride)
            convolution = spectral_norm(nn.Conv2d(in_channels, width, kernel_size, stride, bias=bias))
            activated = index < len(widths) - 1 or activate_last
            self.layers.append(nn.Sequential(pad, convolution, nn.LeakyReLU(0.2) if activated else nn.Identity()))
            in_channels = width

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> each layer's output, the logits last."""
        outputs = []
        for layer in self.layers:
            image = layer(image)
            outputs.append(image)
        return outputs


class _IteratedSpectralNorm(nn.Module):
    """Divides a convolution's weight by an estimate of its greatest singular value, one power iteration a forward.

    This is the widespread form of christiancosgrove/pytorch-spectral-normalization-gan, with which PIC was released. It
    differs from torch's own `spectral_norm`. The weight is a matrix over dimension 0 also in a transposed
    convolution, where torch takes dimension 1. The vectors u and v start at random, without further iterations. In
    evaluation the forward pass iterates too, from the vectors that are stored. The released form also keeps what that
    leads to, so that a prediction depends on those made before it; here only training keeps it.

    The state dict holds bias, weight_u, weight_v, weight in this order, as released files do.
    """

    weight: Tensor
    weight_u: Tensor
    weight_v: Tensor

    def add_vectors(self) -> None:
        rows = self.weight.flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(rows.shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(rows.shape[1]), dim=0))

    def normalized_weight(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                v = F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12)
                u = F.normalize(matrix @ v, dim=0, eps=1e-12)
                if self.training:
                    self.weight_u.copy_(u)
                    self.weight_v.copy_(v)
            return self.weight / torch.dot(u, matrix @ v)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("bias", "weight_u", "weight_v", "weight"):
            if prefix + name in destination:
                destination[prefix + name] = destination.pop(prefix + name)


class SpectralConv2d(_IteratedSpectralNorm, nn.Conv2d):
    """nn.Conv2d with zero padding, its weight spectrally normalized by one power iteration a forward."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.add_vectors()

    def forward(self, features: Tensor) -> Tensor:
        return self._conv_forward(features, self.normalized_weight(), self.bias)


class SpectralConvTranspose2d(_IteratedSpectralNorm, nn.ConvTranspose2d):
    """nn.ConvTranspose2d, its weight spectrally normalized over dimension 0 by one power iteration a forward."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.add_vectors()

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]  # the size is always twice the input's
        assert not isinstance(self.padding, str)  # nn.ConvTranspose2d takes numbers alone
        stride, padding, output_padding = self.stride, self.padding, self.output_padding
        weight = self.normalized_weight()
        return F.conv_transpose2d(
            features, weight, self.bias, stride, padding, output_padding, self.groups, self.dilation
        )
