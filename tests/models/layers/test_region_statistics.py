import numpy as np
import torch

from models.layers.region_statistics import region_statistics


def test_equals_numpy_and_an_empty_region_gives_nothing():
    x = torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0)) * 3 + 5
    region = torch.zeros(3, 1, 9, 7)
    region[0, 0, 2:6, 1:5], region[1] = 1, 1
    mean, deviation = (statistic[..., 0, 0].numpy() for statistic in region_statistics(x, region))
    for image in (0, 1):
        pixels = x[image].numpy()[:, region[image, 0].numpy() > 0]
        np.testing.assert_allclose(mean[image], pixels.mean(1), rtol=1e-5)
        np.testing.assert_allclose(deviation[image], np.sqrt(pixels.var(1) + 1e-5), rtol=1e-5)
    assert (mean[2] == 0).all()
    np.testing.assert_allclose(deviation[2], np.sqrt(1e-5), rtol=1e-6)


def test_reduced_precision_does_not_reach_the_sums():
    x = torch.full((1, 1, 64, 64), 3.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        mean, deviation = region_statistics(x, torch.ones(1, 1, 64, 64))
    assert mean.dtype == deviation.dtype == torch.float32
    assert abs(mean.item() - 3) < 1e-6 * 3 and abs(deviation.item() - 1e-5**0.5) < 1e-5
