import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from models.losses.style_contrast import (
    from_lab,
    recolored_after_others,
    style_contrast,
    to_lab,
)


def test_lab_there_and_back_as_scikit_image_has_it():
    image = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    lab = to_lab(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(lab[0].permute(1, 2, 0), rgb2lab(image), atol=0.02)
    np.testing.assert_allclose(from_lab(lab)[0].permute(1, 2, 0), lab2rgb(rgb2lab(image)), atol=1e-3)


def test_ratios_by_hand():
    """Features are the pictures themselves, of one pixel and one channel thrice: d is a plain difference."""

    def constant(value: float) -> torch.Tensor:
        return torch.full((1, 3, 1, 1), value)

    mask = torch.ones(1, 1, 1, 1)
    total = style_contrast(lambda image: image, constant(0.5), constant(0.7), mask, [constant(0.1), constant(0.3)])
    # the background is all zero, so that Gram matrices are too, and their ratio 0 / 1e-8
    assert total.item() == pytest.approx(0.2 / (0.2 + 0.4 + 0.2))
    half = torch.tensor([[[[1.0, 0.0]]]])
    pair = [torch.cat([constant(value), constant(0.5)], dim=3) for value in (0.5, 0.7, 0.1)]
    shifted = style_contrast(lambda image: image.sum(3, keepdim=True), pair[0], pair[1], half, [pair[2]])
    # products with the background's 0.5: 0.25, 0.35, 0.05
    assert shifted.item() == pytest.approx(0.2 / (0.2 + 0.4) + 0.1 / (0.1 + 0.2))


def test_the_gradient_leads_to_the_real_picture_and_none_through_the_negatives():
    mask, drawn = torch.ones(1, 1, 2, 2), torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        style_contrast(
            lambda image: image, drawn, torch.full((1, 3, 2, 2), 0.9), mask, [torch.full((1, 3, 2, 2), 0.4)]
        ),
        drawn,
    )
    # d(near) / d(drawn) = -1 / 12 for each value; the ratio n / (n + f) with f fixed has the slope f / (n + f)^2
    torch.testing.assert_close(gradient, torch.full_like(gradient, -(1 / 12) * 0.1 / 0.5**2))


def test_negatives_have_the_colours_of_another_picture_in_the_foreground_alone():
    generator = torch.Generator().manual_seed(0)
    real = 0.4 + 0.1 * torch.rand(3, 3, 40, 40, generator=generator) + 0.2 * torch.eye(3).view(3, 3, 1, 1)
    mask = torch.zeros(3, 1, 40, 40)
    mask[:, :, :20] = 1
    negatives = recolored_after_others(real, mask, 4)
    assert len(negatives) == 2, "a batch of three has two others"
    seen = set()
    for negative in negatives:
        assert torch.equal(negative[:, :, 20:], real[:, :, 20:])
        for index in range(3):
            means = to_lab(real).mean((2, 3))
            colour = to_lab(negative[index : index + 1])[:, :, :20].mean((2, 3))
            nearest = (means - colour).abs().sum(1).argmin().item()
            assert nearest != index and (means[nearest] - colour).abs().max() < 2
            seen.add((index, nearest))
    assert len(seen) == 6, "each picture takes a different one in each negative"
    assert recolored_after_others(real[:1], mask[:1], 4) == []
