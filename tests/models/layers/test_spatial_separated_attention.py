import numpy as np
import pytest
import torch

from models.layers.spatial_separated_attention import (
    Blur,
    ChannelGate,
    SpatialSeparatedAttention,
)


def test_count():
    # learner 9 c 2c + 2 (2c) + 9 2c c + 2 c; three gates of 2c c/16 + c/16 + c/16 c + c, with c = 128
    c = 128
    learner = 36 * c * c + 6 * c
    gates = 3 * (2 * c * c // 16 + c // 16 + c // 16 * c + c)
    assert sum(p.numel() for p in SpatialSeparatedAttention(c).parameters()) == learner + gates


def test_blur_is_a_gaussian_of_sigma_root_two_that_reflects():
    offsets = np.arange(-2, 3)
    taps = np.exp(-(offsets**2) / (2 * 2.0))
    taps /= taps.sum()
    mask = np.random.default_rng(0).integers(0, 2, (7, 6)).astype(np.float64)
    padded = np.pad(mask, 2, mode="reflect")
    rows = sum(taps[i] * padded[i : i + 7] for i in range(5))
    expected = sum(taps[i] * rows[:, i : i + 6] for i in range(5))
    blurred = Blur()(torch.from_numpy(mask).float()[None, None])[0, 0].numpy()
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_channel_gate_by_hand():
    gate = ChannelGate(2)
    with torch.no_grad():
        for layer in (gate.weigh[0], gate.weigh[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        # hidden = max of channel 1, which opens channel 0 and shuts channel 1
        gate.weigh[0].weight[0, 3] = 1
        gate.weigh[2].weight[:, 0] = torch.tensor([1.0, -1.0])
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0], x[0, 1, 0, 0] = 1, 2
    out = gate(x)
    assert torch.allclose(out[0, 0], torch.full((2, 2), 2.0).sigmoid())
    assert torch.isclose(out[0, 1, 0, 0], 2 * torch.tensor(-2.0).sigmoid())


def test_regions_far_from_the_edge_are_kept_apart():
    layer = SpatialSeparatedAttention(16).eval()
    x, mask = torch.randn(1, 16, 16, 16), torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    out = layer(x, mask)
    assert torch.allclose(out[..., 10:], layer.background(x)[..., 10:], atol=1e-6)
    spliced = layer.learn(layer.spliced(x)) + layer.mixed(x)
    assert torch.allclose(out[..., :6], spliced[..., :6], atol=1e-6)


def test_the_mask_is_the_rounded_mean_of_the_first_four_pixels():
    layer = SpatialSeparatedAttention(16).eval()
    x = torch.randn(1, 16, 4, 4)
    # three of the first four pixels of a 4x4 cell count as foreground, two do not (0.5 rounds to 0)
    for pixels, inside in (([(0, 0), (0, 1), (1, 0)], True), ([(0, 0), (1, 1)], False), ([(3, 3), (2, 2)], False)):
        mask, small = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 4, 4)
        for row, column in pixels:
            mask[..., 4 + row, 8 + column] = 1
        small[..., 1, 2] = float(inside)
        assert torch.allclose(layer(x, mask), layer(x, small))


def test_too_small():
    with pytest.raises(ValueError, match="features of 2x2, expected 3x3 or more"):
        SpatialSeparatedAttention(16)(torch.randn(1, 16, 2, 2), torch.ones(1, 1, 2, 2))
