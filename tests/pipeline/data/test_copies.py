"""Equal photographs and near copies: what is found, what isn't, and that groups joined by them are one."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.data import copies


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Smooth structure and some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse.astype(int) + rng.integers(-8, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(array: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def links_of(*pictures, near=True):
    return [
        (link.first, link.second, link.kind)
        for link in copies.links([copies.fingerprint(each) for each in pictures], near)
    ]


def test_equal_pixels_are_found_whatever_the_file():
    assert links_of(picture(0), picture(1), picture(0), picture(0)) == [(0, 2, "equal"), (0, 3, "equal")]
    assert links_of(picture(0), picture(1), picture(0), near=False) == [(0, 2, "equal")]


@pytest.mark.parametrize("quality", [60, 90])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_saved_again_and_resized_is_near(quality, scale):
    for seed in range(10):
        original = picture(seed)
        size = (round(original.shape[1] * scale), round(original.shape[0] * scale))
        other = jpeg(
            cv2.resize(original, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), quality
        )
        assert links_of(original, picture(100 + seed), other) == [(0, 2, "near")]
        assert links_of(original, other, near=False) == []


def test_other_photographs_mirror_images_and_other_shapes_are_not():
    assert links_of(*(picture(seed) for seed in range(200))) == []
    assert links_of(picture(0), picture(0)[:, ::-1].copy(), cv2.resize(picture(0), (96, 96))) == []
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (10, 30, 200)]
    assert links_of(*flat) == [], "flat pictures share their hash and not their colour"


def test_near_agrees_with_comparing_every_pair():
    rng = np.random.default_rng(3)
    prints = [copies.fingerprint(picture(int(seed))) for seed in rng.integers(0, 12, 60)]
    noisy = [
        copies.Fingerprint(
            bytes([place]),
            each.perceptual ^ (1 << int(rng.integers(64))) ^ (1 << int(rng.integers(64))),
            each.thumbnail,
            each.aspect,
        )
        for place, each in enumerate(prints)
    ]
    pairs = [(first, other) for other in range(60) for first in range(other)]
    expected = [
        (first, other) for first, other in pairs
        if (noisy[first].perceptual ^ noisy[other].perceptual).bit_count() <= copies.BITS and (noisy[first].thumbnail == noisy[other].thumbnail).all()
    ]  # fmt: skip
    assert [(link.first, link.second) for link in copies.links(noisy)] == expected and expected


def test_groups_are_joined_through_chains():
    chain = [copies.Link(0, 1, "near"), copies.Link(1, 3, "near")]
    assert copies.joined(["d", "b", "c", "a"], chain) == {"d": "a", "b": "a", "c": "c", "a": "a"}
    assert copies.joined(["x", "y", "x"], []) == {"x": "x", "y": "y"}
