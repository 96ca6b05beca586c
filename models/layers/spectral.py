"""Patch discriminators under spectral normalization (Miyato et al. 2018; Isola et al. 2017 for the patches)."""

from collections.abc import Sequence

from torch import Tensor, nn
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
