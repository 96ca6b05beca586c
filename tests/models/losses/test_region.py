import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from models.losses.region import RegionLoss, soft_iou, ssim_map


def maps(n=2, side=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(n, 1, side, side, generator=generator)
    return probability, (torch.rand(n, 1, side, side, generator=generator) > 0.6).float()


def test_terms_of_a_2x2_mask_by_hand():
    probability = torch.tensor([[[[0.9, 0.2], [0.4, 0.5]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    loss, parts = RegionLoss(1.0, 0.0, 1.0)(probability, mask)
    # -(ln 0.9 + ln 0.8 + ln 0.6 + ln 0.5) / 4;  intersection 1.4, union 2.0 + 2 - 1.4
    assert parts["bce"].item() == pytest.approx(-math.log(0.9 * 0.8 * 0.6 * 0.5) / 4, rel=1e-6)
    assert parts["iou"].item() == pytest.approx(1 - 1.4 / 2.6, rel=1e-6)
    assert loss.item() == pytest.approx(parts["bce"].item() + parts["iou"].item(), rel=1e-6)


def test_ssim_of_two_flat_maps_by_hand():
    # no variance: the structure factor is 1 away from the zeros beyond the border
    inner = ssim_map(torch.full((1, 1, 32, 32), 0.3), torch.full((1, 1, 32, 32), 0.8))[..., 5:-5, 5:-5]
    expected = (2 * 0.3 * 0.8 + 1e-4) / (0.3**2 + 0.8**2 + 1e-4)
    torch.testing.assert_close(inner, torch.full_like(inner, expected), atol=1e-4, rtol=0)


def test_ssim_away_from_the_border_against_torchmetrics_and_skimage():
    x, y = maps()
    ours = ssim_map(x, y)
    _, full = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    torch.testing.assert_close(ours[..., 5:-5, 5:-5], full[..., 5:-5, 5:-5], atol=2e-5, rtol=0)
    _, other = structural_similarity(
        x[0, 0].double().numpy(), y[0, 0].double().numpy(), data_range=1.0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    np.testing.assert_allclose(ours[0, 0, 5:-5, 5:-5].numpy(), other[5:-5, 5:-5], atol=2e-5)


def test_ssim_at_the_border_takes_zeros_for_what_lies_beyond():
    x, y = maps(side=20)
    padded = ssim_map(torch.nn.functional.pad(x, (5,) * 4), torch.nn.functional.pad(y, (5,) * 4))
    torch.testing.assert_close(ssim_map(x, y), padded[..., 5:-5, 5:-5])


def test_a_perfect_mask_costs_nothing_and_an_inverted_one_the_most():
    _, mask = maps()
    perfect, _ = RegionLoss()(mask, mask)
    inverted, _ = RegionLoss()(1 - mask, mask)
    assert perfect.item() == pytest.approx(0, abs=2e-5)
    assert inverted.item() > -math.log(1e-6) + 1.5
    assert soft_iou(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == 0


def test_iou_is_the_mean_over_images_not_over_pixels():
    probability = torch.zeros(2, 1, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    probability[0, 0, 0, 0] = mask[0, 0, 0, 0] = 1  # one pixel, found
    mask[1] = 1  # sixteen, missed
    _, parts = RegionLoss()(probability, mask)
    assert parts["iou"].item() == pytest.approx(0.5, abs=1e-5)


def test_logits_and_their_probabilities_cost_the_same():
    logits = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    _, mask = maps(side=24)
    torch.testing.assert_close(RegionLoss()(logits, mask, logits=True)[0], RegionLoss()(logits.sigmoid(), mask)[0])


def test_weights_scale_the_terms_and_zero_leaves_one_out():
    probability, mask = maps()
    _, parts = RegionLoss()(probability, mask)
    weighted, _ = RegionLoss(0.5, 2.0, 3.0)(probability, mask)
    expected = 0.5 * parts["bce"] + 2 * parts["ssim"] + 3 * parts["iou"]
    torch.testing.assert_close(weighted, expected)
    assert set(RegionLoss(ssim=0.0)(probability, mask)[1]) == {"bce", "iou"}


def test_float32_inside_autocast():
    logits = 3 * torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    _, mask = maps(side=24)
    outside = RegionLoss()(logits.bfloat16(), mask, logits=True)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = RegionLoss()(logits.bfloat16(), mask, logits=True)[0]
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


def test_gradient_matches_finite_differences():
    probability = 0.05 + 0.9 * torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    _, mask = maps(1, 6)
    probability.requires_grad_()
    RegionLoss()(probability, mask)[0].backward()
    for row, column in ((0, 0), (2, 3), (5, 5)):
        step = torch.zeros_like(probability)
        step[0, 0, row, column] = 2e-3
        with torch.no_grad():
            slope = (RegionLoss()(probability + step, mask)[0] - RegionLoss()(probability - step, mask)[0]) / 4e-3
        assert probability.grad[0, 0, row, column].item() == pytest.approx(slope.item(), rel=0.02, abs=1e-3)


def test_certain_and_wrong_stays_finite():
    mask = torch.ones(1, 1, 8, 8)
    loss, _ = RegionLoss()(torch.zeros_like(mask, requires_grad=True), mask)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("weights", [(-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="bce_weight"):
        RegionLoss(*weights)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        RegionLoss()(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 16, 16))
