import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.normalization import EPS, RAIN, InstanceNorm, mask_at

SHAPE = (2, 5, 6, 8)


def numpy_rain(x: np.ndarray, mask: np.ndarray, layer: RAIN) -> np.ndarray:
    """RAIN in float64, pixel sets in the place of masks: specs/harmonization.md, section 2.1."""
    gamma_f, beta_f, gamma_b, beta_b = (parameter.detach().double().numpy() for parameter in layer.parameters())
    out = np.zeros(x.shape)
    for n in range(x.shape[0]):
        inside = mask[n, 0] > 0.5
        for c in range(x.shape[1]):
            values = x[n, c].astype(np.float64)

            def moments(region):
                mean = values[region].sum() / (region.sum() + EPS)
                return mean, np.sqrt(((values[region] - mean) ** 2).sum() / (region.sum() + EPS) + EPS)

            (mean_f, sigma_f), (mean_b, sigma_b) = moments(inside), moments(~inside)
            out[n, c][~inside] = ((values[~inside] - mean_b) / sigma_b) * (1 + gamma_b[c]) + beta_b[c]
            if inside.all():
                mean_b, sigma_b = mean_f, sigma_f
            taken = (values[inside] - mean_f) / sigma_f * sigma_b + mean_b
            out[n, c][inside] = taken * (1 + gamma_f[c]) + beta_f[c]
    return out


def trained(channels: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> RAIN:
    layer, generator = RAIN(channels).to(dtype), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn(channels, generator=generator))
    return layer


def masks(kind: str) -> torch.Tensor:
    mask = torch.zeros(2, 1, *SHAPE[2:])
    if kind == "half":
        mask[..., :3] = 1
    elif kind == "one pixel":
        mask[..., 2, 3] = 1
    elif kind == "all but one pixel":
        mask[:] = 1
        mask[..., 2, 3] = 0
    elif kind == "full and empty":
        mask[0] = 1
    return mask


KINDS = ("half", "one pixel", "all but one pixel", "full and empty")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_rain_equals_numpy(kind, offset):
    spread = torch.tensor([0.2, 1, 3, 1, 1]).view(1, -1, 1, 1)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * spread + offset
    layer = trained(SHAPE[1])
    expected = numpy_rain(x.numpy(), masks(kind).numpy(), layer)
    # a region of one pixel is its own mean; what float32 leaves of the difference is divided by sqrt(1e-5)
    tolerance = 1e-5 if "pixel" not in kind else 5e-2 if offset else 2e-3
    np.testing.assert_allclose(layer(x, masks(kind)).detach().numpy(), expected, atol=tolerance, rtol=1e-5)


def test_a_full_mask_keeps_the_foreground():
    x = torch.randn(SHAPE)
    full = torch.ones(2, 1, *SHAPE[2:])
    assert torch.allclose(RAIN(SHAPE[1])(x, full), x, atol=1e-5)


def test_an_empty_mask_is_instance_normalization():
    x = torch.randn(SHAPE) * 3 + 1
    empty = torch.zeros(2, 1, *SHAPE[2:])
    assert torch.allclose(RAIN(SHAPE[1])(x, empty), torch.nn.functional.instance_norm(x), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 4), st.floats(-5, 5))
def test_the_foreground_takes_the_statistics_of_the_background_whatever_its_own(seed, gain, offset):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 3, 12, 12, generator=generator)
    mask = (torch.rand(1, 1, 12, 12, generator=generator) < 0.4).float()
    mask[..., :2, :2], mask[..., -2:, -2:] = 1, 0
    moved = torch.where(mask > 0.5, gain * x + offset, x)
    out = RAIN(3)(moved, mask)
    assert torch.allclose(out, RAIN(3)(x, mask), atol=1e-3)
    inside = mask[0, 0] > 0.5
    for before, after in zip(moved[0], out[0]):
        assert abs(after[inside].mean() - before[~inside].mean()) < 1e-3
        assert abs(after[inside].std(correction=0) - before[~inside].std(correction=0)) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind):
    layer = trained(3, dtype=torch.float64)
    x = torch.randn(2, 3, *SHAPE[2:], dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())
    step = 1e-7 if "pixel" in kind else 1e-6

    def run(x, *parameters):
        names = dict(zip([name for name, _ in layer.named_parameters()], parameters))
        return torch.func.functional_call(layer, names, (x, masks(kind)))

    assert torch.autograd.gradcheck(run, (x, *parameters), eps=step, atol=1e-4)


def test_channels_last_and_bfloat16():
    x, mask, layer = torch.randn(SHAPE), masks("half"), trained(SHAPE[1])
    expected = layer(x, mask)
    last = layer(x.contiguous(memory_format=torch.channels_last), mask)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(last, expected, atol=1e-6)
    half = layer(x.bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), expected, atol=0.05)


def test_mask_at_takes_the_nearest_pixel_and_cuts_at_one_half():
    mask = torch.tensor([[0.2, 0.9, 0.6, 0.0], [1, 1, 1, 1], [0.4, 0, 0.5, 1], [0, 0, 0, 0]]).view(1, 1, 4, 4)
    assert mask_at(mask, (2, 2)).tolist() == [[[[0, 1], [0, 0]]]]


def test_no_gradient_through_the_mask():
    mask = masks("half").requires_grad_()
    RAIN(SHAPE[1])(torch.randn(SHAPE), mask).sum().backward()
    assert mask.grad is None


def test_instance_norm_equals_torch():
    x = torch.randn(2, 4, 5, 7, requires_grad=True)
    ours, theirs = InstanceNorm(4)(x), torch.nn.functional.instance_norm(x)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-5)
    assert list(InstanceNorm(4).parameters()) == [] and len(InstanceNorm(4).state_dict()) == 0
