import pytest
import torch
from torch.nn import functional as F

from models.layers.intrinsic import (
    Block,
    ContentDecoder,
    PictureNorm,
    Residual,
    content_encoder,
)


def test_picture_norm_by_hand():
    # values 0, 1, 2, 5 about their mean 2: squares 4, 1, 0, 9; unbiased variance 14 / 3
    norm = PictureNorm(2)
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([2.0, 3.0]))
        norm.beta.copy_(torch.tensor([0.5, -1.0]))
    features = torch.tensor([[[[0.0, 1.0]], [[2.0, 5.0]]]])
    deviation = (14 / 3) ** 0.5 + 1e-5
    expected = torch.tensor([[[[-2 * 2 / deviation + 0.5, -1 * 2 / deviation + 0.5]], [[-1.0, 9 / deviation - 1.0]]]])
    torch.testing.assert_close(norm(features), expected)


def test_picture_norm_adds_its_constant_to_the_deviation():
    features = torch.tensor([[[[0.0, 2e-5]]]])
    norm = PictureNorm(1)
    # deviation sqrt(2) * 1e-5
    expected = norm.gamma.view(1, 1, 1, 1) * torch.tensor([[[[-1.0, 1.0]]]]) / (2**0.5 + 1)
    torch.testing.assert_close(norm(features), expected)


def test_picture_norm_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    norm = PictureNorm(3).double()
    assert torch.autograd.gradcheck(norm, torch.randn(2, 3, 2, 4, dtype=torch.double, requires_grad=True))
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)  # without deviation
    PictureNorm(3)(flat).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("norm", [True, False])
def test_block_pads_by_reflection_then_norms_then_activates(norm):
    torch.manual_seed(0)
    block = Block(2, 3, 5, norm=PictureNorm(3) if norm else None)
    features = torch.randn(1, 2, 8, 9)
    plain = F.conv2d(F.pad(features, (2,) * 4, mode="reflect"), block.conv.weight, block.conv.bias)
    plain = block.norm(plain) if norm else plain
    torch.testing.assert_close(block(features), torch.where(plain > 0, plain, 0.2 * plain))
    halved = Block(2, 3, 4, 2, activation="none")
    padded = F.pad(features, (1,) * 4, mode="reflect")
    torch.testing.assert_close(halved(features), F.conv2d(padded, halved.conv.weight, halved.conv.bias, stride=2))


def test_residual_adds_its_input():
    torch.manual_seed(0)
    block, features = Residual(3), torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(block(features) - features, block.blocks(features))
    assert block(features).min() < -0.2 * block(features).max()  # no activation after the sum


def test_coders_change_sizes_and_a_quiet_decoder_draws_near_0():
    torch.manual_seed(0)
    encoder, decoder = content_encoder(4, residuals=1), ContentDecoder(4)
    features = encoder(torch.rand(2, 4, 16, 24))
    assert features.shape == (2, 16, 4, 6)
    assert content_encoder(4, halvings=3, norm=None)(torch.rand(1, 4, 16, 24)).shape == (1, 32, 2, 3)
    loud = decoder(features)
    assert loud.shape == (2, 3, 16, 24) and loud.abs().max() < 1
    with torch.no_grad():
        decoder.head.conv.bias.zero_()
        before = decoder(features).abs().mean()
    decoder.quieten()
    assert decoder(features).abs().mean() < 0.02 * before + 1e-3
