import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.layers.input_size import require_divisible, require_statistics


def image(height, width, count=1):
    return torch.empty(count, 3, height, width, device="meta")


@pytest.mark.parametrize(
    "height, width, by, message",
    [
        (100, 64, 16, "height 100 is not divisible by 16; pad to 112"),
        (64, 33, 32, "width 33 is not divisible by 32; pad to 64"),
        (0, 64, 16, "height 0 is not divisible by 16; pad to 16"),
    ],
)
def test_the_refusal_does_the_arithmetic(height, width, by, message):
    with pytest.raises(ValueError, match=message):
        require_divisible(image(height, width), by)


@given(st.integers(1, 500), st.sampled_from((8, 16, 32)))
def test_the_size_it_asks_for_is_the_next_one_it_takes(side, by):
    try:
        require_divisible(image(side, by), by)
        assert side % by == 0
    except ValueError as error:
        padded = int(str(error).rsplit(" ", 1)[1])
        assert side < padded < side + by
        require_divisible(image(padded, by), by)


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="one image of 16x16 .* 1/16"):
        require_statistics(image(16, 16), 16)
    require_statistics(image(16, 32), 16)
    require_statistics(image(16, 16, count=2), 16)
