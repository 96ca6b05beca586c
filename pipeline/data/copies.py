"""Equal photographs under several names, and near copies of one (resized, saved again): found, so that they share a split.

Equal: the same decoded pixels. Near: a perceptual hash (pHash: signs of the lowest 8x8 DCT coefficients of a 32x32 grey
thumbnail against their median) that differs in few bits finds candidates, and a small colour thumbnail confirms them, because
skies and walls share hashes without being copies. Crops, mirror images and other shots of a scene are not found.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

BITS = 6
"""Hashes of near copies differ in so many of 64 bits at most."""

GREY_LEVELS = 5.0
"""Mean absolute difference of 16x16 colour thumbnails of near copies, at most; half the size and JPEG of quality 60 make 1.5."""

ASPECT = 0.03
"""Relative difference of the aspect ratios of near copies, at most."""


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a photograph: `pixels`, a hash of size and decoded pixels; `perceptual`, 64 bits; `thumbnail` uint8
    (16, 16, 3); `aspect`, width over height."""

    pixels: bytes
    perceptual: int
    thumbnail: np.ndarray
    aspect: float


@dataclass(frozen=True)
class Link:
    """Two photographs by their places in the list, `first` < `second`; `kind` is "equal" or "near"."""

    first: int
    second: int
    kind: str


def fingerprint(picture: np.ndarray) -> Fingerprint:
    """Of uint8 RGB (H, W, 3)."""
    height, width = picture.shape[:2]
    digest = hashlib.sha256(f"{height}x{width}".encode() + picture.tobytes()).digest()
    grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = np.rint(
        cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    )  # rounded, so that a flat picture has no signs of noise
    bits = np.packbits(low > np.median(low[1:]))
    thumbnail = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA)
    return Fingerprint(digest, int.from_bytes(bits.tobytes(), "big"), thumbnail, width / height)


def links(prints: Sequence[Fingerprint], near: bool = True) -> list[Link]:
    """Every copy linked to an earlier photograph, in order: equal ones to the first of them, near ones to each photograph
    that they resemble (the first one of equal photographs stands for all)."""
    first_of: dict[bytes, int] = {}
    linked = []
    for place, each in enumerate(prints):
        first = first_of.setdefault(each.pixels, place)
        if first != place:
            linked.append(Link(first, place, "equal"))
    if near:
        linked += _near(prints, sorted(first_of.values()))
    return sorted(linked, key=lambda link: (link.second, link.first))


def _near(prints: Sequence[Fingerprint], places: list[int]) -> list[Link]:
    hashes = np.array([prints[place].perceptual for place in places], np.uint64)
    candidates: set[tuple[int, int]] = set()
    # of BITS + 1 bands of two hashes that differ in BITS bits one is the same in both
    edges = np.linspace(0, 64, BITS + 2).astype(int)
    for low, high in zip(edges, edges[1:]):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for position, index in enumerate(bucket[:-1]):
                others = bucket[position + 1 :]
                close = np.bitwise_count(hashes[others] ^ hashes[index]) <= BITS
                candidates.update((int(index), int(other)) for other in others[close])
    pairs = ((places[min(pair)], places[max(pair)]) for pair in sorted(candidates))
    return [Link(first, second, "near") for first, second in pairs if _alike(prints[first], prints[second])]


def _alike(first: Fingerprint, second: Fingerprint) -> bool:
    if abs(first.aspect / second.aspect - 1) > ASPECT:
        return False
    return np.abs(first.thumbnail.astype(np.int16) - second.thumbnail).mean() <= GREY_LEVELS


def joined(groups: Sequence[str], copy_links: Sequence[Link]) -> dict[str, str]:
    """Group of each photograph -> the first by name of all groups that copies join with it. `groups` are the photographs'."""
    root = {group: group for group in groups}

    def top(group: str) -> str:
        while root[group] != group:
            root[group] = root[root[group]]
            group = root[group]
        return group

    for link in copy_links:
        first, later = sorted((top(groups[link.first]), top(groups[link.second])))
        root[later] = first
    return {group: top(group) for group in root}
