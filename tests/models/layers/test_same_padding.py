import pytest
import torch

from models.layers.same_padding import SamePad2d


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, left, right",
    [  # TensorFlow's rule: total = (ceil(n / s) - 1) s + (k - 1) d + 1 - n, the odd pixel to the right
        (8, 3, 1, 1, 1, 1),
        (8, 3, 2, 1, 0, 1),
        (7, 3, 2, 1, 1, 1),
        (8, 5, 2, 1, 1, 2),
        (8, 4, 2, 1, 1, 1),
        (8, 3, 1, 4, 4, 4),
        (8, 1, 2, 1, 0, 0),
    ],
)
def test_pads_as_tensorflow_does(size, kernel, stride, dilation, left, right):
    padded = SamePad2d(kernel, stride, dilation)(torch.ones(1, 1, size, size))
    assert padded.shape[2:] == (size + left + right,) * 2
    row = padded[0, 0, size // 2 + left]
    assert row.tolist() == [0.0] * left + [1.0] * size + [0.0] * right
    assert torch.equal(padded, padded.transpose(2, 3))


def test_height_and_width_are_padded_on_their_own():
    assert SamePad2d(3, 2)(torch.zeros(1, 1, 8, 7)).shape == (1, 1, 9, 9)
