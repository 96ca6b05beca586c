import pytest
import torch
import torch.nn.functional as F

from models.base import resized_strips


@pytest.mark.parametrize(
    "small, large, rows", [((8, 8), (50, 37), 7), ((16, 12), (16, 12), 5), ((9, 5), (4, 11), 64), ((1, 1), (13, 9), 4)]
)
def test_strips_together_are_torchs_bicubic_resize(small, large, rows):
    maps = torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(0))
    strips = list(resized_strips(maps, large, rows))
    assert [covered.start for covered, _ in strips] == list(range(0, large[0], rows))
    assert all(strip.shape == (2, 3, covered.stop - covered.start, large[1]) for covered, strip in strips)
    expected = F.interpolate(maps, large, mode="bicubic", align_corners=False)
    torch.testing.assert_close(torch.cat([strip for _, strip in strips], dim=2), expected, atol=1e-5, rtol=0)
