import numpy as np
import torch
from skimage.metrics import structural_similarity

from models.losses.structural_similarity import contrast_structure_map, ssim_map


def maps(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 1, side, side, generator=generator)
    return first, 0.5 * first + 0.5 * torch.rand(2, 1, side, side, generator=generator)


def test_contrast_and_structure_are_what_is_left_of_ssim_without_brightness():
    x, y = maps()
    _, full = structural_similarity(
        x[1, 0].double().numpy(), y[1, 0].double().numpy(), data_range=1.0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    for row, column in ((5, 5), (16, 20), (26, 9)):
        near = np.s_[row - 5 : row + 6, column - 5 : column + 6]
        mean_x, mean_y = (float((image[1, 0].double().numpy()[near] * window).sum()) for image in (x, y))
        brightness = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        expected = full[row, column] / brightness
        np.testing.assert_allclose(contrast_structure_map(x, y)[1, 0, row, column].item(), expected, atol=2e-5)


def test_contrast_and_structure_do_not_see_brightness_away_from_the_border():
    x, y = maps()
    inner = np.s_[..., 5:-5, 5:-5]
    torch.testing.assert_close(
        contrast_structure_map(x, y - 0.7)[inner], contrast_structure_map(x, y)[inner], atol=1e-4, rtol=0
    )
    assert (ssim_map(x, y - 0.7)[inner] - ssim_map(x, y)[inner]).abs().mean() > 0.1
    torch.testing.assert_close(contrast_structure_map(x, x), torch.ones_like(x), atol=1e-5, rtol=0)
