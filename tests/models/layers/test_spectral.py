import pytest
import torch
from torch.nn import functional as F

from models.layers.spectral import SpectralPatchDiscriminator


def test_layers_are_normalized_convolutions():
    torch.manual_seed(0)
    network = SpectralPatchDiscriminator(3, [8, 16, 1], [2, 2, 1], 4, 1, bias=True, activate_last=False)
    image = torch.randn(2, 3, 32, 24)
    for _ in range(30):  # one power iteration per pass in training
        network(image)
    network.eval()
    outputs = network(image)
    assert [tuple(output.shape) for output in outputs] == [(2, 8, 16, 12), (2, 16, 8, 6), (2, 1, 7, 5)]
    for layer, before, after, stride, last in zip(network.layers, [image, *outputs], outputs, (2, 2, 1), (0, 0, 1)):
        original = layer[1].parametrizations.weight.original
        largest = torch.linalg.matrix_norm(original.flatten(1), 2)
        torch.testing.assert_close(layer[1].weight, original / largest, rtol=2e-2, atol=1e-3)
        expected = F.conv2d(before, layer[1].weight, layer[1].bias, stride, 1)
        torch.testing.assert_close(after, expected if last else F.leaky_relu(expected, 0.2))


def test_activated_logits_and_same_padding():
    torch.manual_seed(0)
    network = SpectralPatchDiscriminator(4, [8, 8], [2, 2], 5, "same", bias=False, activate_last=True)
    logits = network(torch.randn(1, 4, 31, 32))[-1]
    assert logits.shape == (1, 8, 8, 8)
    plain = network.layers[-1][1](network.layers[-1][0](network.layers[0](torch.ones(1, 4, 31, 32))))
    torch.testing.assert_close(network.eval()(torch.ones(1, 4, 31, 32))[-1].sign(), plain.sign())
    assert all(layer[1].bias is None for layer in network.layers)


def test_one_width_for_each_stride():
    with pytest.raises(ValueError):
        SpectralPatchDiscriminator(3, [8, 8], [2], 4, 1, bias=True, activate_last=False)
