import numpy as np
import pytest
import torch

import models
from models.localization.span import (
    AttentionBlock,
    neighbourhood_attention,
    resize_from_corner,
)
from tests.models import released


def test_shapes_in_the_order_of_the_released_file():
    """get_model_1010_resize of ZhiHanZ/IRIS0-SPAN, translated to kernels of (out, in, height, width).

    Checked once, outside the repository: a transcription of the authors' graph in TensorFlow gives, from the same
    tensors taken by position, the same probabilities within 3e-6, with the resizing to 224x224 and without.
    """
    with torch.device("meta"):
        model = models.create("span")
    shapes = released.shapes(model)
    assert len(shapes) == 82 and released.digest(shapes) == "290f2f5cc72e5b48"


@pytest.mark.parametrize("dilation", [1, 3, 9])
def test_attention_against_a_loop_over_pixels(dilation):
    """A picture of 5x7, so that some neighbours, at 9 pixels all but the pixel itself, lie beyond the border."""
    rng = np.random.default_rng(dilation)
    query = 3 * rng.normal(size=(2, 2, 5, 7))
    key, value = rng.normal(size=(2, 2 * 9, 5, 7)), rng.normal(size=(2, 2 * 9, 5, 7))
    expected = np.zeros((2, 2, 5, 7))
    for n, y, x in np.ndindex(2, 5, 7):
        scores, values = np.zeros(9), np.zeros((9, 2))
        for number in range(9):
            row, column = y + (number // 3 - 1) * dilation, x + (number % 3 - 1) * dilation
            if 0 <= row < 5 and 0 <= column < 7:
                own = slice(2 * number, 2 * number + 2)
                scores[number] = key[n, own, row, column] @ query[n, :, y, x] / 8
                values[number] = value[n, own, row, column]
        weights = np.exp(scores) / np.exp(scores).sum()
        expected[n, :, y, x] = weights @ values
    attended = neighbourhood_attention(*(torch.from_numpy(array).float() for array in (query, key, value)), dilation)
    np.testing.assert_allclose(attended.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_gradient_of_the_attention_agrees_with_finite_differences(dilation):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, c, 3, 4, dtype=torch.float64, requires_grad=True) for c in (2, 18, 18))
    assert torch.autograd.gradcheck(lambda *given: neighbourhood_attention(*given, dilation), (query, key, value))


def test_what_is_computed_again_has_the_gradient_of_what_is_kept():
    torch.manual_seed(0)
    block, features = AttentionBlock(8, 2), torch.rand(2, 8, 6, 5)
    kept = features + block._attend(features)
    kept = kept + block.convs(kept)
    again = block(features)
    assert torch.equal(kept, again)
    weights = torch.rand(again.shape)
    for own, other in zip(
        torch.autograd.grad((kept * weights).sum(), list(block.parameters())),
        torch.autograd.grad((again * weights).sum(), list(block.parameters())),
    ):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("side, size", [(6, 4), (4, 6), (1, 3)])
def test_resizing_of_tensorflow_by_hand(side, size):
    row = torch.arange(float(side)) ** 2
    picture = row.view(1, 1, 1, side) + 10 * row.view(1, 1, side, 1)
    position = np.arange(size) * side / size
    expected = np.interp(position, np.arange(side), row.numpy())  # beyond the last pixel: the last pixel
    resized = resize_from_corner(picture, size)[0, 0].numpy()
    np.testing.assert_allclose(resized, expected[None] + 10 * expected[:, None], atol=1e-4)


def test_a_map_of_the_attentions_size_comes_back_to_the_pictures():
    torch.manual_seed(0)
    model = models.create("span", width=2, channels=8, attention_size=20).eval()
    square = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        assert model({"composite": torch.rand(1, 3, 17, 23)}).shape == (1, 1, 17, 23)
        whole = model({"composite": square})
        model.attention_size = 0
        torch.testing.assert_close(model({"composite": square}), whole)


def test_frozen_features_stay():
    model = models.create("span", width=2, channels=8, attention_size=0, freeze_features=True)
    loss, _ = model.loss("network", {"composite": torch.rand(1, 3, 16, 16), "mask": torch.ones(1, 1, 16, 16)})
    loss.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith("features."), key


@pytest.mark.parametrize(
    "wrong, message",
    [({"channels": 4}, "channels = 4"), ({"dilations": (1, 0)}, "dilations"), ({"attention_size": -1}, "-1")],
)
def test_what_makes_no_network_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        models.create("span", **wrong)
