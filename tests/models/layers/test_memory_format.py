import pytest
import torch

from models.layers.memory_format import in_memory_format

FORMATS = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize("before, after", [FORMATS, FORMATS[::-1]])
def test_gradient_comes_back_in_the_format_that_it_left(before, after):
    leaf = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).requires_grad_()
    features = (leaf * 2).contiguous(memory_format=before)
    arrived = []
    features.register_hook(arrived.append)
    turned = in_memory_format(features, after)
    assert turned.is_contiguous(memory_format=after)
    torch.testing.assert_close(turned, features)
    weights = torch.rand(2, 3, 4, 5).contiguous(memory_format=after)
    (turned * weights).sum().backward()
    (gradient,) = arrived
    assert gradient.is_contiguous(memory_format=before)
    torch.testing.assert_close(leaf.grad, 2 * weights, rtol=0, atol=0)


def test_what_has_the_format_stays_as_it_is():
    features = torch.rand(2, 3, 4, 5)
    assert in_memory_format(features, torch.contiguous_format) is features
    turned = in_memory_format(features, torch.channels_last)
    assert turned.is_contiguous(memory_format=torch.channels_last) and not turned.requires_grad
    assert in_memory_format(turned, torch.channels_last) is turned
