import pytest
import torch
from torch.nn import functional as F

from models.layers.aligned_nearest import aligned_indices, resize_aligned_nearest


@pytest.mark.parametrize(
    "before, after, indices",
    [
        (8, 4, [0, 2, 5, 7]),  # 0, 7/3, 14/3, 7
        (10, 5, [0, 2, 5, 7, 9]),  # 0, 2.25, 4.5 (a half goes up), 6.75, 9
        (16, 4, [0, 5, 10, 15]),
        (6, 3, [0, 3, 5]),  # 2.5 goes up
        (4, 2, [0, 3]),
        (2, 1, [0]),
        (3, 6, [0, 0, 1, 1, 2, 2]),  # 0, 0.4, 0.8, 1.2, 1.6, 2: a doubling is that of torch
    ],
)
def test_indices_by_hand(before, after, indices):
    assert aligned_indices(before, after) == indices


def test_sides_of_the_published_size():
    """Halving 64 takes round(63 i / 31), a quarter of 256 takes round(255 i / 63): some values by hand."""
    half, quarter = aligned_indices(64, 32), aligned_indices(256, 64)
    assert (half[:3], half[15:17], half[-2:]) == ([0, 2, 4], [30, 33], [61, 63])  # 30.48, 32.52; 60.97
    assert (quarter[:3], quarter[12:14], quarter[-2:]) == ([0, 4, 8], [49, 53], [251, 255])  # 48.57, 52.62; 250.95


def test_resizes_both_sides_and_doubles_as_torch_does():
    features = torch.arange(2 * 8 * 6, dtype=torch.float32).view(1, 2, 8, 6)
    out = resize_aligned_nearest(features, (4, 3))
    assert torch.equal(out, features[:, :, [0, 2, 5, 7]][..., [0, 3, 5]])
    assert torch.equal(resize_aligned_nearest(features, (16, 12)), F.interpolate(features, scale_factor=2))
