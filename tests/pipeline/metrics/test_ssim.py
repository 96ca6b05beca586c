import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from pipeline.metrics import ssim

X = np.arange(-5, 6)
WEIGHTS = np.exp(-(X**2) / (2 * 1.5**2))
WEIGHTS /= WEIGHTS.sum()


def textbook(first, other, c1, c2):
    """SSIM as Wang et al. 2004 write it, with five filtered images in SciPy, zero padding; mean over channels."""

    def mean(image):
        return correlate1d(correlate1d(image, WEIGHTS, 0, mode="constant"), WEIGHTS, 1, mode="constant")

    x, y = first.astype(np.float64), other.astype(np.float64)
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean(axis=2)


def noisy_pair(seed, size, box=None):
    """Two images that differ everywhere, or only inside `box` = (top, bottom, left, right)."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    other = first.copy()
    top, bottom, left, right = box or (0, size[0], 0, size[1])
    region = other[top:bottom, left:right]
    region[:] = np.clip(region.astype(int) + rng.integers(-40, 41, region.shape), 0, 255)
    return first, other


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((40, 50), None),
        ((40, 50), (10, 20, 15, 30)),
        ((40, 50), (0, 3, 0, 4)),
        ((40, 50), (38, 40, 49, 50)),
        ((200, 30), (4, 190, 3, 9)),
        ((5, 7), None),
        ((1, 1), None),
    ],
)
def test_equals_the_textbook_formula_wherever_images_differ(size, box, monkeypatch):
    first, other = noisy_pair(0, size, box)
    for stripe in (ssim.STRIPE, 3 * size[1] * 13):  # the second cuts the images into several stripes
        monkeypatch.setattr(ssim, "STRIPE", stripe)
        ours, iih = ssim.maps(first, other, ssim.CONSTANTS_255, ssim.CONSTANTS_1)
        np.testing.assert_allclose(ours, textbook(first, other, *ssim.CONSTANTS_255), atol=1e-12)
        np.testing.assert_allclose(iih, textbook(first, other, *ssim.CONSTANTS_1), atol=1e-6)


def test_equal_images_are_exactly_one():
    first, _ = noisy_pair(1, (20, 20))
    (similarity,) = ssim.maps(first, first.copy(), ssim.CONSTANTS_255)
    assert (similarity == 1).all()


def test_flat_images_by_hand():
    """In the middle of flat images the variances vanish and only the luminance term is left."""
    first, other = np.full((31, 31, 3), 100, np.uint8), np.full((31, 31, 3), 150, np.uint8)
    c1, _ = ssim.CONSTANTS_255
    (similarity,) = ssim.maps(first, other, ssim.CONSTANTS_255)
    assert similarity[15, 15] == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_symmetric_and_bounded(seed, local):
    first, other = noisy_pair(seed, (17, 23), (3, 9, 2, 8) if local else None)
    (similarity,), (back,) = (ssim.maps(a, b, ssim.CONSTANTS_255) for a, b in ((first, other), (other, first)))
    np.testing.assert_allclose(similarity, back, atol=1e-12)
    assert similarity.max() <= 1 + 1e-12 and similarity.min() >= -1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_flips_with_the_images(seed):
    first, other = noisy_pair(seed, (17, 23))
    (similarity,) = ssim.maps(first, other, ssim.CONSTANTS_255)
    (flipped,) = ssim.maps(first[:, ::-1], other[:, ::-1], ssim.CONSTANTS_255)
    np.testing.assert_allclose(flipped[:, ::-1], similarity, atol=1e-12)
