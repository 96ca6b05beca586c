import pytest
import torch

from models.losses.foreground import foreground_normalized


def test_by_hand():
    error, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1  # 8 pixels
    error[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    mask[1, 0, 0, 0] = 1
    error[1, 0, 0, 0] = 5
    assert foreground_normalized(error, mask).item() == pytest.approx((6 / (3 * 8) + 5 / 3) / 2)
    # the second image's one pixel counts as four
    assert foreground_normalized(error, mask, 4.0).item() == pytest.approx((6 / (3 * 8) + 5 / (3 * 4)) / 2)


def test_no_foreground_is_finite():
    error = torch.ones(1, 3, 2, 2)
    assert foreground_normalized(error, torch.zeros(1, 1, 2, 2), 100.0).item() == pytest.approx(12 / 300)
    assert foreground_normalized(error * 0, torch.zeros(1, 1, 2, 2)).item() == 0
