import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from models.layers.partial_conv import PartialConv2d


def reference(features, full_mask, layer):
    """Eqs 1-2 read literally: one mask per channel, one all-ones kernel per output channel."""
    ones = torch.ones_like(layer.weight)
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    valid = F.conv2d(full_mask, ones, **geometry)
    size = layer.weight[0].numel()
    raw = F.conv2d(features * full_mask, layer.weight, **geometry)
    bias = 0 if layer.bias is None else layer.bias.view(1, -1, 1, 1)
    out = torch.where(valid > 0.5, raw * size / valid.clamp(min=1) + bias, torch.zeros(()))
    return out, (valid > 0.5).float()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sources=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3, 4, 5]),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 2),
    dilation=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_equals_the_layer_with_one_mask_per_channel(seed, sources, kernel, stride, padding, dilation, bias):
    generator = torch.Generator().manual_seed(seed)
    layer = PartialConv2d(tuple(sources), 5, kernel, stride, padding, dilation, bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    features = torch.randn(2, sum(sources), 11, 12, generator=generator)
    masks = [(torch.rand(2, 1, 11, 12, generator=generator) > 0.8).float() for _ in sources]
    full = torch.cat([mask.expand(-1, channels, -1, -1) for mask, channels in zip(masks, sources)], dim=1)
    out, new_mask = layer(features, masks)
    expected, expected_mask = reference(features, full, layer)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert new_mask.shape == (2, 1, *out.shape[2:])
    torch.testing.assert_close(new_mask.expand_as(expected_mask), expected_mask, rtol=0, atol=0)
    torch.testing.assert_close(layer.grow(masks), new_mask, rtol=0, atol=0)


def test_all_valid_is_a_plain_convolution_inside_and_larger_at_the_border():
    torch.manual_seed(0)
    layer = PartialConv2d(3, 4, 3, padding=1)
    features = torch.randn(1, 3, 8, 8)
    out, new_mask = layer(features, torch.ones(1, 1, 8, 8))
    plain = F.conv2d(features, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], plain[..., 1:-1, 1:-1])
    bias = layer.bias.view(-1, 1)
    torch.testing.assert_close(out[0, :, 0, 1:-1], (plain[0, :, 0, 1:-1] - bias) * 9 / 6 + bias)  # 6 of 9 in the image
    torch.testing.assert_close(out[0, :, 0, :1], (plain[0, :, 0, :1] - bias) * 9 / 4 + bias)  # 4 of 9 in the image
    assert new_mask.min() == 1


def test_a_hole_stays_a_hole_and_hides_its_content():
    layer = PartialConv2d(2, 3, 3, padding=1)
    out, new_mask = layer(torch.full((1, 2, 6, 6), 7.0), torch.zeros(1, 1, 6, 6))
    assert out.abs().max() == 0 and new_mask.max() == 0
    mask = torch.ones(1, 1, 6, 6)
    mask[..., 2:5, 2:5] = 0
    features = torch.randn(1, 2, 6, 6)
    first, _ = layer(features, mask)
    second, _ = layer(features + 100 * (1 - mask), mask)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_square_hole_shrinks_by_half_a_kernel_on_each_side():
    layer = PartialConv2d(1, 1, 7, padding=3, bias=False)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    expected = torch.ones(1, 1, 32, 32)
    expected[..., 11:21, 11:21] = 0
    torch.testing.assert_close(layer.grow(mask), expected, rtol=0, atol=0)


def test_the_mask_only_grows():
    torch.manual_seed(1)
    layer = PartialConv2d(1, 1, 3, padding=1)
    mask = (torch.rand(3, 1, 20, 20) > 0.9).float()
    assert (layer.grow(mask) >= mask).all()


def test_no_gradient_through_masks_and_spectral_norm_on_the_weight():
    layer = PartialConv2d((3, 1), 4, 3, bias=False)
    parametrizations.spectral_norm(layer, "weight")
    mask = torch.ones(2, 1, 6, 6, requires_grad=True)
    out, new_mask = layer(torch.randn(2, 4, 6, 6), [mask, mask])
    out.sum().backward()
    assert mask.grad is None and not new_mask.requires_grad
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) < 1.5
    assert layer.parametrizations.weight.original.grad is not None


def test_refuses_masks_that_do_not_match():
    layer = PartialConv2d((3, 2), 4, 3)
    features, mask = torch.zeros(1, 5, 8, 8), torch.ones(1, 1, 8, 8)
    with pytest.raises(ValueError, match="over 2 sources got 3 masks"):
        layer(features, [mask] * 3)
    with pytest.raises(ValueError, match=r"masks of shape \(1, 1, 8, 8\), got \(1, 5, 8, 8\)"):
        layer(features, features)
    with pytest.raises(ValueError, match="takes 5 channels, got 4"):
        layer(features[:, :4], mask)


@pytest.mark.parametrize("bias", [True, False])
def test_an_enlarged_source_need_not_be_built(bias):
    generator = torch.Generator().manual_seed(3)
    layer = PartialConv2d((3, 2), 4, 3, 1, 1, bias=bias).double()
    below = torch.randn(2, 3, 5, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    beside = torch.randn(2, 2, 10, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = [(torch.rand(2, 1, *part.shape[2:], generator=generator) > 0.5).double() for part in (below, beside)]
    out, new_mask = layer.over_enlarged(below, beside, masks)
    together = torch.cat([F.interpolate(below, scale_factor=2), beside], dim=1)
    expected, expected_mask = layer(together, [F.interpolate(masks[0], scale_factor=2), masks[1]])
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(new_mask, expected_mask, rtol=0, atol=0)
    weighting = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((drawn * weighting).sum(), [below, beside, layer.weight]) for drawn in (out, expected)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("geometry", [{"kernel_size": 5, "padding": 2}, {"kernel_size": 3, "padding": 0}])
def test_an_enlarged_source_is_for_one_kernel(geometry):
    layer = PartialConv2d((1, 1), 1, **geometry)
    ones = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="3 x 3"):
        layer.over_enlarged(*ones, ones)
