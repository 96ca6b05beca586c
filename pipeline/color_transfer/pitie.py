"""Iterative distribution transfer in RGB, then regrain.

Pitie, Kokaram, Dahyot, "Automated colour grading using colour distribution transfer", CVIU 2007, as the authors' code
and iHarmony4's have it: ten rounds that match the distributions along six directions, the directions turned at random
between rounds; then a multigrid Jacobi solver that brings the target's gradients back.
Departures, undone by `exact`: the code counts histogram bins from 0 on one side and from 1 on the other, so that each
round shifts colours by 1/299 of their range; regrain runs on the region's surroundings, not on the whole image.

The rounds are chaotic: where a histogram has gaps, they stretch a difference of 1e-16 tenfold and more each time, to
whole grey levels in the end. So that the order of a processor's additions can't show, colours are kept in steps of
1/256 grey level between rounds, and all sums are elementwise or in a fixed order, never BLAS's.
"""

from typing import Any

import cv2
import numpy as np

from pipeline.seeds import rng

ROUNDS = 10
BINS = 300
# six directions: the axes, and their reflections in the plane through 0 across the grey axis. Twice an orthonormal
# basis, so that the pseudo-inverse of DIRECTIONS @ rotation is half its transpose.
DIRECTIONS = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2 / 3, 2 / 3, -1 / 3], [2 / 3, -1 / 3, 2 / 3], [-1 / 3, 2 / 3, 2 / 3]]
)
STEPS = 256  # per grey level
# How far the histograms start below the lowest value, in steps. Values that fall halfway between two bins, as 8-bit
# colours often do, go to the upper one on every processor; and the range of a constant region is not 0.
NUDGE = 1e-6
SWEEPS = (4, 16, 32, 64, 64, 64)  # of the solver, from the finest level on
SMALLEST_SIDE = 20  # a level has sides above this, but for the finest


def rotations(seed: int) -> list[np.ndarray]:
    """The orthonormal matrices (3, 3) float64 of the ROUNDS rounds: the identity first, then random ones."""
    generator = rng("pitie", seed)
    turns = [np.eye(3)]
    for first, second, _ in generator.standard_normal((ROUNDS - 1, 3, 3)):
        # Gram-Schmidt by hand, because LAPACK's last digits differ between processors
        first = first / np.sqrt((first * first).sum())
        second = second - (first * second).sum() * first
        second = second / np.sqrt((second * second).sum())
        turns.append(np.stack([first, second, np.cross(first, second)]))
    return turns


def count(values: np.ndarray) -> np.ndarray:
    """How many of the values float64 (N,), given in half bins from the first centre on, are nearest to each centre.

    Returns float64 (BINS,); a value halfway between two centres belongs to the upper one.
    """
    halves = cv2.calcHist([values.astype(np.uint16)[None]], [0], None, [2 * BINS], [0, 2 * BINS]).ravel()
    return np.append(0.0, halves[:-1]).reshape(BINS, 2).sum(axis=1)


def bin_shifts(target: np.ndarray, reference: np.ndarray, exact: bool = False) -> np.ndarray:
    """How far, in bins, the target's values at each bin centre must move to be distributed like the reference's.

    target, reference: counts (BINS,), each with a sum above 0. Returns float64 (BINS,).
    """
    target, reference = (np.cumsum(counts + 1e-6) for counts in (target, reference))
    target, reference = target / target[-1], reference / reference[-1]
    centers = np.arange(BINS, dtype=np.float64)
    return np.interp(target, reference, centers) - centers - int(exact)


def marginal_shifts(
    values: np.ndarray, wanted: np.ndarray, factors: np.ndarray, index: np.ndarray, exact: bool = False
) -> None:
    """Replace `values` float64 (N,) by how far each must move for them to be distributed like `wanted` float64 (M,).

    Both are overwritten, and so is the scratch space: factors float64 (N,), index intp (N,).
    """
    lowest = min(values.min(), wanted.min()) - NUDGE
    highest = max(values.max(), wanted.max())
    half_bin = (highest - lowest) / (2 * BINS - 2)
    for coordinates in (values, wanted):
        coordinates -= lowest
        coordinates *= 1 / half_bin
    shifts = bin_shifts(count(values), count(wanted), exact) * (2 * half_bin)

    # a straight line between centres; tabulated by half bins, so that one index serves to count and to interpolate
    positions = np.arange(2 * BINS - 1)
    table = np.interp(positions / 2, np.arange(BINS), shifts)
    slopes = np.diff(table, append=table[-1])
    np.copyto(index, values, casting="unsafe")
    values *= np.take(slopes, index, out=factors, mode="clip")
    values += np.take(table - slopes * positions, index, out=factors, mode="clip")


def match_distribution(
    points: np.ndarray, reference: np.ndarray, turns: list[np.ndarray], exact: bool = False
) -> np.ndarray:
    """Iterative distribution transfer: `points` moved so that they are distributed like `reference`.

    points: uint8 RGB (N, 3); reference: uint8 RGB (M, 3); turns: orthonormal (3, 3), one for each round. Returns
    float64 RGB (3, N) on the scale 0..255, a little outside of it here and there.
    """
    points, reference = (np.multiply(colors.T, STEPS, dtype=np.float64, order="C") for colors in (points, reference))
    coordinates, wanted = np.empty((6, points.shape[1])), np.empty((6, reference.shape[1]))
    factors, index, move = np.empty(points.shape[1]), np.empty(points.shape[1], np.intp), np.empty_like(points)
    for turn in turns:
        directions = np.einsum("ij,jk->ik", DIRECTIONS, turn)
        np.einsum("ij,jn->in", directions, points, out=coordinates)
        np.einsum("ij,jn->in", directions, reference, out=wanted)
        for row, wanted_row in zip(coordinates, wanted):
            marginal_shifts(row, wanted_row, factors, index, exact)
        points += np.einsum("ij,in->jn", directions / 2, coordinates, out=move)
        np.rint(points, out=points)
    return points / STEPS


def resize(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing of (C, H, W), antialiased where it shrinks, with the border mirrored."""
    for axis, size in ((1, height), (2, width)):
        planes = resize_axis(planes, axis, size)
    return planes


def resize_axis(planes: np.ndarray, axis: int, size: int) -> np.ndarray:
    """`resize` along one axis."""
    old = planes.shape[axis]
    if old == size:
        return planes
    scale = old / size
    reach = max(scale, 1.0)  # half the width of the triangle, in old pixels
    center = (np.arange(size) + 0.5) * scale - 0.5
    taps = np.floor(center - reach).astype(int)[:, None] + 1 + np.arange(int(np.ceil(2 * reach)))
    weights = np.maximum(1 - np.abs(taps - center[:, None]) / reach, 0)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    mirrored = np.where(taps < 0, -1 - taps, np.where(taps >= old, 2 * old - 1 - taps, taps))

    shape = [1, 1, 1]
    shape[axis] = size
    result: Any = 0  # an array from the first term on
    for index, weight in zip(mirrored.T, weights.T):
        result += np.take(planes, index, axis=axis) * weight.reshape(shape)
    return result


def grid_levels(height: int, width: int) -> int:
    """How many levels the solver's grid has for an image of this size."""
    levels = 1
    while levels < len(SWEEPS) and min(height, width) > 2 * SMALLEST_SIDE:
        height, width, levels = -(-height // 2), -(-width // 2), levels + 1
    return levels


def gradient_size(planes: np.ndarray) -> np.ndarray:
    """Length over all channels of the central differences (not halved, border replicated) of (C, H, W): (H, W)."""
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.sqrt((across * across + down * down).sum(axis=0))


def regrain(original: np.ndarray, recolored: np.ndarray, levels: int, level: int = 0) -> np.ndarray:
    """The colours of `recolored` with the gradients of `original` (section 4 of the paper, smoothness 1).

    original, recolored: float32 (3, H, W) in [0, 1], 0 off the region; levels: of the grid, this one included; level:
    how often the images have been halved. Returns float32 (3, H, W).
    """
    _, height, width = original.shape
    if levels > 1:
        half = -(-height // 2), -(-width // 2)
        start = regrain(resize(original, *half), resize(recolored, *half), levels - 1, level + 1)
        change = resize(start, height, width) - original
    else:
        change = np.zeros_like(original)
    return original + relax(change, original, recolored, level)


def relax(change: np.ndarray, original: np.ndarray, recolored: np.ndarray, level: int) -> np.ndarray:
    """The solver's sweeps on one level, for the change J - I0 in place of J: the same sums in fewer terms."""
    _, height, width = original.shape
    gradient = gradient_size(original)
    fidelity = np.minimum(256 / 5 * gradient, 1)
    smoothness = 30 / (1 + 10 * gradient) * np.float32(0.5**level)
    # each pixel's coupling to its right and lower neighbour, whose coupling to it is the same
    right = (smoothness[:, :-1] + smoothness[:, 1:]) / 2
    down = (smoothness[:-1] + smoothness[1:]) / 2
    # at the border a pixel is its own neighbour
    self_coupling = np.zeros_like(smoothness)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        self_coupling[edge] += smoothness[edge]
    total = fidelity + self_coupling
    total[:, :-1] += right
    total[:, 1:] += right
    total[:-1] += down
    total[1:] += down

    step = np.float32(0.8) / total
    pull = (step * fidelity * (recolored - original)).reshape(3, -1)
    stay = (step * self_coupling + np.float32(0.2)).ravel()
    # one row of pixels after the other in one line: neighbours are 1 or `width` apart, and where the line wraps around,
    # the coupling is 0
    from_right, from_left = np.zeros((2, height, width), np.float32)
    from_right[:, :-1] = step[:, :-1] * right
    from_left[:, 1:] = step[:, 1:] * right
    from_below, from_above = step[:-1] * down, step[1:] * down
    from_right, from_left = from_right.ravel()[:-1], from_left.ravel()[1:]
    from_below, from_above = from_below.ravel(), from_above.ravel()

    change = change.reshape(3, -1)
    following, scratch = np.empty_like(change), np.empty_like(change[0])
    for _ in range(SWEEPS[level]):
        for old, new, pulled in zip(change, following, pull):
            np.add(pulled, np.multiply(old, stay, out=new), out=new)
            new[:-1] += np.multiply(old[1:], from_right, out=scratch[:-1])
            new[1:] += np.multiply(old[:-1], from_left, out=scratch[1:])
            new[:-width] += np.multiply(old[width:], from_below, out=scratch[:-width])
            new[width:] += np.multiply(old[:-width], from_above, out=scratch[width:])
        change, following = following, change
    return change.reshape(original.shape)


def surroundings(mask: np.ndarray, levels: int) -> tuple[slice, slice]:
    """Rows and columns around a region, with two pixels of the coarsest level to spare, cut along its pixels.

    mask: bool (H, W), True in the region, somewhere. Aligned so, the levels of a crop are crops of the levels wherever
    the image's sides divide by the coarsest pixel.
    """
    pixel = 2 ** (levels - 1)
    slices = []
    for axis, size in ((1, mask.shape[0]), (0, mask.shape[1])):
        inside = np.flatnonzero(mask.any(axis=axis))
        start = (inside[0] // pixel - 2) * pixel
        stop = (inside[-1] // pixel + 3) * pixel
        slices.append(slice(max(start, 0), min(stop, size)))
    return slices[0], slices[1]


def recolor(
    target: np.ndarray, mask: np.ndarray, reference: np.ndarray, seed: int = 0, exact: bool = False
) -> np.ndarray:
    """The target's region with the reference's distribution of colours and its own gradients.

    target: uint8 RGB (H, W, 3); mask: bool (H, W), True in the region, somewhere; reference: uint8 RGB (M, 3). Returns
    uint8 RGB (N, 3), the region's colours in the order of `target[mask]`. Little colour comes through the solver's
    finest level, which images with a side of 40 pixels or less have alone: they hardly change.
    """
    levels = grid_levels(*mask.shape)
    if not exact:
        rows, columns = surroundings(mask, levels)
        target, mask = target[rows, columns], mask[rows, columns]
    original = np.divide(np.where(mask, target.transpose(2, 0, 1), 0), 255, dtype=np.float32, order="C")

    recolored = np.zeros_like(original)
    recolored[:, mask] = match_distribution(target[mask], reference, rotations(seed), exact) / 255
    result = regrain(original, recolored, levels)[:, mask].T
    return np.clip(np.floor(result * 255 + np.float32(0.5)), 0, 255).astype(np.uint8)
