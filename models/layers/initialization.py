"""Initial weights as the networks of the pix2pix family draw them."""

from torch import nn


def initialize_normal(network: nn.Module, deviation: float = 0.02) -> None:
    """Convolution and linear weights from N(0, deviation), their biases 0; batch normalization's weights from
    N(1, deviation), its biases 0. Other layers keep what they have.

    A layer under spectral normalization keeps its weight as well: its scale is divided out anyway.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if not hasattr(layer, "parametrizations"):
                nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, deviation)
            nn.init.zeros_(layer.bias)
