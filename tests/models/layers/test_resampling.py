import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.transform import radon

from models.layers.resampling import ResamplingFeatures, around_centre, laplacian, radon_operator


def plain_features(image: np.ndarray, patch: int, angles: int) -> np.ndarray:
    """As the authors' released script computes them from an 8-bit image (H, W, 3): patch after patch."""
    rows = []
    for top in range(0, image.shape[0], patch):
        for left in range(0, image.shape[1], patch):
            part = image[top : top + patch, left : left + patch].astype(float)
            kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
            filtered = [convolve2d(part[..., c], kernel, mode="same", boundary="symm") for c in range(3)]
            detail = np.mean([np.sqrt(np.abs(channel)) for channel in filtered], axis=0)
            projections = radon(detail, theta=np.linspace(0, 180, angles, endpoint=False), circle=False).T
            magnitude = np.abs(np.fft.rfft(projections, axis=1))
            rows.append((magnitude / (magnitude.mean(0) + 1e-16) - 1).ravel())
    return np.stack(rows)


@pytest.mark.parametrize("side", [5, 16, 31, 32])
def test_the_operator_is_scikit_images_radon(side):
    degrees = np.array([0.0, 18.0, 45.0, 90.0, 126.0])
    image = np.random.default_rng(0).random((side, side))
    expected = radon(image, degrees, circle=False).T
    projections = radon_operator(side, degrees).reshape(-1, side**2) @ image.ravel()
    np.testing.assert_allclose(projections, expected.ravel(), atol=1e-12)


def test_what_lies_around_the_centre_by_hand():
    inner, outer = around_centre(torch.arange(9).view(1, 3, 3))
    assert inner.tolist() == [list(range(9))] and outer.shape == (1, 0)
    inner, outer = around_centre(torch.arange(16).view(1, 4, 4))  # about pixel 10
    assert inner.tolist() == [[5, 6, 7, 9, 10, 11, 13, 14, 15]] and outer.tolist() == [[0, 1, 2, 3, 4, 8, 12]]


@pytest.mark.parametrize("patch, angles, size", [(32, 10, 240), (16, 10, 120), (8, 3, 21), (9, 4, 28)])
def test_features_are_those_of_a_plain_loop(patch, angles, size):
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (2, 2 * patch, 3 * patch, 3), dtype=np.uint8)
    picture[0, : patch // 2] = 40  # partly flat
    picture[0, patch:, :patch] = 77  # a flat patch
    picture[1, patch:] = (np.arange(patch) * 2)[:, None, None]  # smooth patches, flat but for their border
    features = ResamplingFeatures(patch, angles)
    assert features.size == size
    given = features(torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 255)
    assert given.shape == (2, 6, size) and given.dtype == torch.float32
    np.testing.assert_allclose(given, np.stack([plain_features(image, patch, angles) for image in picture]), atol=1e-5)
    assert (given[0, 3] == -1).all(), "a patch without detail has no spectrum"


def test_laplacian_of_flat_and_linear_images_is_exactly_0():
    flat = torch.full((1, 4, 4), 0.3) * 255
    assert not laplacian(flat).any()
    ramp = (torch.arange(6.0) / 255 * 255).expand(1, 6, 6)
    assert not laplacian(ramp)[:, :, 1:-1].any() and (laplacian(ramp)[0, :, 0] == 1).all()


def test_features_leave_the_image_as_it_is_and_carry_no_state():
    features, image = ResamplingFeatures(8, 2), torch.rand(1, 1, 8, 8)
    before = image.clone()
    features(image)
    assert torch.equal(image, before) and not features.state_dict()


def test_under_autocast_they_are_the_same():
    features, image = ResamplingFeatures(8, 3), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        halved = features(image)
    assert torch.equal(halved, features(image))


def test_what_is_no_patch_is_refused():
    with pytest.raises(ValueError, match="patch = 1, angles = 10"):
        ResamplingFeatures(1)


def test_pictures_of_a_large_batch_are_computed_as_alone():
    features = ResamplingFeatures(8, 3)
    pictures = torch.randint(0, 256, (5, 3, 16, 24), generator=torch.Generator().manual_seed(2)) / 255
    torch.testing.assert_close(features(pictures), torch.cat([features(picture[None]) for picture in pictures]))
