import numpy as np
import pytest
import torch

from models.layers.symmetric_padding import symmetric_pad


@pytest.mark.parametrize("amount", [1, 2, 3])
def test_pads_as_numpy_does(amount):
    features = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.pad(features.numpy(), [(0, 0), (0, 0), (amount, amount), (amount, amount)], mode="symmetric")
    np.testing.assert_array_equal(symmetric_pad(features, amount).numpy(), expected)


@pytest.mark.parametrize("amount, size", [(1, (1, 3)), (1, (4, 5)), (2, (2, 3)), (3, (5, 4))])
def test_gradient_agrees_with_finite_differences(amount, size):
    torch.manual_seed(0)
    features = torch.rand(2, 2, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 2, size[0] + 2 * amount, size[1] + 2 * amount, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: symmetric_pad(x, amount) * weights, features)


def test_a_picture_smaller_than_its_border_is_refused():
    with pytest.raises(ValueError, match="input of 1x8 pixels is too small: its border of 2"):
        symmetric_pad(torch.rand(1, 3, 1, 8), 2)
