import pytest
import torch

from models.losses.foreground import foreground_mse, foreground_normalized
from pipeline.metrics import harmonization


def test_by_hand():
    error, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1  # 8 pixels
    error[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    mask[1, 0, 0, 0] = 1
    error[1, 0, 0, 0] = 5
    assert foreground_normalized(error, mask).item() == pytest.approx((6 / (3 * 8) + 5 / 3) / 2)
    # the second image's one pixel counts as four
    assert foreground_normalized(error, mask, 4.0).item() == pytest.approx((6 / (3 * 8) + 5 / (3 * 4)) / 2)


def test_squared_error_is_fmse_of_a_pasted_image():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (1, 3, 24, 24), generator=generator)
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 3:15, 4:20] = 1
    pasted = torch.where(mask > 0, torch.randint(0, 256, (1, 3, 24, 24), generator=generator), real)
    arrays = [picture[0].permute(1, 2, 0).byte().numpy() for picture in (pasted, real)]
    fmse = harmonization.score(*arrays, mask[0, 0].numpy() > 0)["fmse"]
    assert foreground_mse(pasted / 255, real / 255, mask).item() == pytest.approx(fmse / 255**2, rel=1e-5)
    small = torch.zeros(1, 1, 24, 24)
    small[..., 0, :10] = 1  # ten pixels, which count as a hundred
    assert foreground_mse(small.expand(-1, 3, -1, -1), 0 * real, small).item() == pytest.approx(0.1)


def test_no_foreground_is_finite():
    error = torch.ones(1, 3, 2, 2)
    assert foreground_normalized(error, torch.zeros(1, 1, 2, 2), 100.0).item() == pytest.approx(12 / 300)
    assert foreground_normalized(error * 0, torch.zeros(1, 1, 2, 2)).item() == 0
