import pytest
import torch
from torch.nn import functional as F

from models.layers.spectral import (
    SpectralConv2d,
    SpectralConvTranspose2d,
    SpectralPatchDiscriminator,
)


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


@pytest.mark.parametrize("kind, shape", [(SpectralConv2d, (5, 3, 3, 3)), (SpectralConvTranspose2d, (3, 5, 3, 3))])
def test_iterated_norm_divides_by_the_greatest_singular_value_over_dimension_0(kind, shape):
    torch.manual_seed(0)
    layer, features = kind(3, 5, 3, padding=1), torch.randn(2, 3, 8, 6)
    assert tuple(layer.weight.shape) == shape
    first = layer(features)
    for _ in range(60):
        layer(features)
    largest = torch.linalg.matrix_norm(layer.weight.detach().reshape(shape[0], -1), 2)
    plain = F.conv2d if kind is SpectralConv2d else F.conv_transpose2d
    expected = plain(features, layer.weight / largest, layer.bias, padding=1)
    torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)
    assert (first - expected).abs().max() > 1e-3  # the vectors start at random, one iteration is not enough


def test_iterated_norm_moves_its_vectors_in_training_only_and_keeps_the_released_order():
    torch.manual_seed(0)
    layer, features = SpectralConv2d(3, 4, 1), torch.randn(1, 3, 4, 4)
    assert list(layer.state_dict()) == ["bias", "weight_u", "weight_v", "weight"]
    assert list(torch.nn.Sequential(layer).state_dict()) == ["0.bias", "0.weight_u", "0.weight_v", "0.weight"]
    assert list(SpectralConv2d(3, 4, 1, bias=False).state_dict()) == ["weight_u", "weight_v", "weight"]
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    start = layer.weight_u.clone()
    layer.eval()
    once, twice = layer(features), layer(features)
    assert torch.equal(once, twice) and torch.equal(layer.weight_u, start)
    layer.train()
    torch.testing.assert_close(layer(features), once)  # the same single iteration
    assert not torch.equal(layer.weight_u, start)
    other = SpectralConv2d(3, 4, 1)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.eval()(features), layer.eval()(features), rtol=0, atol=0)


def test_iterated_norm_has_the_gradient_of_the_quotient():
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 3, 1).double().eval()
    for _ in range(200):
        layer.train()(torch.zeros(1, 2, 1, 1, dtype=torch.float64))
    layer.eval()
    layer.normalized_weight()[0, 0, 0, 0].backward()
    weight = layer.weight.detach().clone().requires_grad_()
    (weight / torch.linalg.matrix_norm(weight.flatten(1), 2))[0, 0, 0, 0].backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-6, atol=1e-9)
