import pytest
import torch
from torch import nn

from models.layers.domain_verification import DomainVerificationDiscriminator


def given(size: int = 32, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(count, 1, size, size)
    mask[..., size // 4 : size // 2, size // 8 : size // 2] = 1
    return torch.randn(count, 3, size, size), mask


def test_count_at_published_size():
    # a trunk: 3x3 convolutions 3-64-128-256-512-512-512-512 with bias; twice; two 512x512 layers and two heads
    widths = [3, 64, 128, 256, 512, 512, 512, 512]
    trunk = sum(9 * a * b + b for a, b in zip(widths, widths[1:]))
    network = DomainVerificationDiscriminator()
    assert sum(p.numel() for p in network.parameters()) == 2 * trunk + 2 * (512 * 512 + 512) + 2 * 513


@pytest.mark.parametrize("size, depth, scores", [(16, 3, 1), (32, 4, 1), (64, 5, 1), (64, 4, 5), (96, 4, 9)])
def test_one_score_where_the_depth_fits(size, depth, scores):
    for score in DomainVerificationDiscriminator(depth, 4)(*given(size)):
        assert score.shape == (2, 1, scores, scores)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("verification", ["learned", "inner_product"])
def test_gradients_reach_every_parameter(norm, verification):
    torch.manual_seed(0)
    network = DomainVerificationDiscriminator(4, 4, norm, verification)
    weights = torch.randn(2, 2)
    sum((score.flatten() * weight).sum() for score, weight in zip(network(*given()), weights)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # a bias before an instance norm has no effect
        without_effect = norm == "instance" and name.endswith("conv.bias") and name[7] in "12"
        assert parameter.grad.abs().max() > 0 or without_effect, name


def test_every_trunk_weight_has_spectral_norm_one():
    network = DomainVerificationDiscriminator(4, 4).train()
    for _ in range(50):  # one power iteration a call
        network(*given())
    network.eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels > 1:
            assert torch.isclose(torch.linalg.matrix_norm(layer.weight.flatten(1), 2), torch.tensor(1.0), atol=1e-3)


def test_verification_is_symmetric_in_its_regions_and_the_global_score_blind_to_them():
    network = DomainVerificationDiscriminator(4, 4).eval()
    image, mask = given()
    whole, verified = network(image, mask)
    swapped_whole, swapped = network(image, 1 - mask)
    assert torch.equal(whole, swapped_whole) and torch.allclose(verified, swapped, atol=1e-6)
    assert not torch.allclose(verified, network(image, torch.roll(mask, 9, 3))[1])


def test_a_region_reads_nothing_else():
    network = DomainVerificationDiscriminator(4, 4).eval()
    image, mask = given()
    changed = torch.where(mask > 0.5, image, torch.randn_like(image))
    assert torch.allclose(network._region(image, mask), network._region(changed, mask), atol=1e-5)


def test_inner_product():
    network = DomainVerificationDiscriminator(4, 4, verification="inner_product").eval()
    image, mask = given()
    product = (network._region(image, mask) * network._region(image, 1 - mask)).sum(1)
    assert torch.allclose(network(image, mask)[1][:, 0], product)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_regions_are_judged_as_if_one_after_the_other(norm):
    torch.manual_seed(0)
    network = DomainVerificationDiscriminator(4, 4, norm).eval()
    for stage in network.stages:  # batch statistics, while the spectral norms stand still
        for layer in (stage.norm, stage.local_norm):
            layer is None or layer.train()
    image, mask = given()
    expected = network.verify(network._region(image, mask) * network._region(image, 1 - mask))
    torch.testing.assert_close(network(image, mask)[1], expected)
    assert network.items_apart == (norm == "instance")


def test_items_do_not_mix():
    network = DomainVerificationDiscriminator(4, 4).eval()
    image, mask = given()
    for together, first, second in zip(
        network(image, mask), network(image[:1], mask[:1]), network(image[1:], mask[1:])
    ):
        assert torch.allclose(together, torch.cat([first, second]), atol=1e-6)


def test_batch_normalization_registers_as_the_released_code():
    network = DomainVerificationDiscriminator(7, 1, "batch")
    shapes = [tuple(value.shape) for value in network.state_dict().values() if value.dim() in (1, 4)]
    # level 4: its norm (weight, bias, mean, variance) comes first, then both convolutions (original, u, v)
    level4 = [tuple(v.shape) for k, v in network.state_dict().items() if k.startswith("stages.3.")]
    assert level4[:5] == [(8,), (8,), (8,), (8,), ()] and level4[5] == (8, 4, 3, 3)
    level5 = [k for k in network.state_dict() if k.startswith("stages.4.")]
    layers = [k.split(".")[2] for k in level5 if k.endswith(("original", "running_mean"))]
    assert layers == ["conv", "local_conv", "norm", "local_norm"]
    assert shapes[0] == (1,) and shapes[1] == (1, 3, 3, 3)


def test_too_shallow():
    with pytest.raises(ValueError, match="depth = 1, expected 2 or more"):
        DomainVerificationDiscriminator(1)
