import copy

import pytest
import torch
import torch.nn.functional as F

from models.layers.manipulation_features import (
    ManipulationFeatures,
    NoiseConv,
    UnitNormConv,
    srm_filters,
)


def test_srm_filters_see_one_colour_each_and_no_constant():
    filters = srm_filters()
    assert filters.shape == (9, 3, 5, 5)
    for number, kernel in enumerate(filters):
        assert [bool(colour.any()) for colour in kernel] == [c == number % 3 for c in range(3)]
    torch.testing.assert_close(filters.sum((2, 3)), torch.zeros(9, 3), atol=1e-6, rtol=0)
    # centre taps: -4/4, -12/12, -2/2
    assert torch.equal(filters[:, :, 2, 2].sum(1), torch.full((9,), -1.0))
    assert torch.equal(filters[6, 0, 2], torch.tensor([0, 0.5, -1, 0.5, 0])) and not filters[6, 0, [0, 1, 3, 4]].any()


def test_noise_filters_are_free_then_fixed_then_constrained():
    torch.manual_seed(0)
    layer = NoiseConv().eval()
    image = torch.rand(1, 3, 8, 8)
    inner = F.conv2d(image, layer.srm)
    torch.testing.assert_close(layer(image)[:, 4:13, 2:-2, 2:-2], inner)
    # a constrained filter's taps sum to 0 for each colour, so a flat picture, whose mirrored border is flat, gives 0
    flat = layer(torch.tensor([0.2, -0.7, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    assert flat[:, 4:].abs().max() < 1e-5 and flat[:, :4].abs().min() > 1e-3


def test_constraint_of_the_noise_filters_by_hand():
    layer = NoiseConv()
    taps = torch.arange(225.0).view(3, 3, 5, 5) - 100
    with torch.no_grad():
        layer.constrained.copy_(taps)
        layer.project()
    first = taps[0, 0].clone()
    total = first.sum() - first[2, 2]
    expected = first / total
    expected[2, 2] = -1
    torch.testing.assert_close(layer.constrained[0, 0], expected)
    with torch.no_grad():  # a sum of 0 has no quotient, but must not poison the weights
        layer.constrained.zero_()
        layer.project()
    assert torch.isfinite(layer.constrained).all()


def test_weights_are_projected_once_they_were_trained_and_not_before():
    torch.manual_seed(0)
    layer, features = UnitNormConv(4, 2), torch.rand(1, 4, 3, 3)
    with torch.no_grad():
        layer.weight.mul_(3)
    loaded = layer.weight.clone()
    torch.testing.assert_close(layer.eval()(features), F.conv2d(features, loaded))
    assert torch.equal(layer.weight, loaded), "weights that never trained are used as they are"

    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    loss = layer(features).square().sum()
    torch.testing.assert_close(layer.weight.norm(dim=1).flatten(), torch.ones(2))
    layer.eval()(features), layer.train()(features)  # between a loss and its gradient nothing changes the weights
    loss.backward()
    optimizer.step()
    assert (layer.weight.norm(dim=1) - 1).abs().max() > 0.01
    layer.eval()(features)
    torch.testing.assert_close(layer.weight.norm(dim=1).flatten(), torch.ones(2))


def test_a_copy_trains_by_itself():
    torch.manual_seed(0)
    layer = UnitNormConv(4, 2)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.mul_(2)
    other(torch.rand(1, 4, 3, 3))
    torch.testing.assert_close(other.weight.norm(dim=1).flatten(), torch.ones(2))


def test_features_are_those_of_plain_convolutions():
    """The same network from torch's own layers: padding of 1 by mirroring is torch's "replicate"."""
    torch.manual_seed(0)
    network, image = ManipulationFeatures(width=2), torch.rand(2, 3, 9, 7)
    x = F.relu(network.noise(image * 2 - 1))
    for number, conv in enumerate(network.convs):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), conv.weight, conv.bias)
        x = x if number + 1 == len(network.convs) else x.relu()
    expected = x / x.square().sum(1, keepdim=True).sqrt()
    features = network(image)
    assert features.shape == (2, 16, 9, 7)
    torch.testing.assert_close(features, expected)
    weights = torch.rand(2, 16, 9, 7)
    ours = torch.autograd.grad((features * weights).sum(), list(network.parameters()))
    theirs = torch.autograd.grad((expected * weights).sum(), list(network.parameters()))
    for own, other in zip(ours, theirs):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_features_come_from_a_file_of_a_whole_network(tmp_path):
    torch.manual_seed(0)
    source = ManipulationFeatures(width=2)
    path = str(tmp_path / "network.pth")
    torch.save({f"features.{key}": value for key, value in source.state_dict().items()} | {"head": torch.ones(1)}, path)
    taken = ManipulationFeatures(2, path)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in taken.state_dict().items())
    with pytest.raises(ValueError, match=r"features.convs.0.weight is \(2, 16, 3, 3\), expected \(4, 16, 3, 3\)"):
        ManipulationFeatures(4, path)
    torch.save({"head": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="features.noise.free is missing"):
        ManipulationFeatures(2, path)
    with pytest.raises(ValueError, match="aren't trained on ImageNet"):
        ManipulationFeatures(2, "imagenet")
