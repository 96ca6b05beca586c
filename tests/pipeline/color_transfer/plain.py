"""A second, plain reading of the formulas of iterative distribution transfer and regrain: float64, whole images, one
line for each line of the mathematics, nothing shared with `pipeline.color_transfer.pitie` but the rotations that it is
given and the steps of 1/256 grey level between rounds.

Tests and the benchmark take it as the referee.
"""

import numpy as np

FIRST_DIRECTIONS = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2 / 3, 2 / 3, -1 / 3], [2 / 3, -1 / 3, 2 / 3], [-1 / 3, 2 / 3, 2 / 3]]
)


def transport(target, reference, rotations, slip=0):
    """Colours (N, 3) and (M, 3) on the scale 0..255 -> float64 (N, 3); slip: bins lost in each projection."""
    target = target.astype(float)
    for rotation in rotations:
        directions = FIRST_DIRECTIONS @ rotation
        old = target @ directions.T
        new = np.empty_like(old)
        for k, direction in enumerate(directions):
            wanted = reference @ direction
            lowest = min(old[:, k].min(), wanted.min()) - 1e-8
            highest = max(old[:, k].max(), wanted.max())
            centers = np.linspace(lowest, highest, 300)
            half = (centers[1] - centers[0]) / 2
            range_ = lowest - half, highest + half
            share = np.cumsum(np.histogram(old[:, k], 300, range_)[0] + 1e-6)
            wanted_share = np.cumsum(np.histogram(wanted, 300, range_)[0] + 1e-6)
            level = np.interp(share / share[-1], wanted_share / wanted_share[-1], np.arange(300))
            new[:, k] = (np.interp(old[:, k], centers, level) - slip) / 299 * (highest - lowest) + lowest
        target += (new - old) @ np.linalg.pinv(directions).T
        target = np.round(target * 256) / 256
    return target


def resizing_matrix(old, new):
    """(new, old): row i holds the weights of triangle interpolation, widened where it shrinks, border mirrored."""
    scale = old / new
    width = max(scale, 1)
    matrix = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * scale - 0.5
        for j in range(int(np.floor(center - width)), int(np.ceil(center + width)) + 1):
            mirrored = -1 - j if j < 0 else 2 * old - 1 - j if j >= old else j
            matrix[i, mirrored] += max(1 - abs(j - center) / width, 0)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(image, height, width):
    rows, columns = resizing_matrix(image.shape[0], height), resizing_matrix(image.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, image, columns, optimize=True)


def shifted(image, down, right):
    """The neighbour of each pixel, the border replicated: shifted(x, 0, 1)[i, j] is x[i, j + 1]."""
    height, width = image.shape[:2]
    padded = np.pad(image, [(1, 1), (1, 1)] + [(0, 0)] * (image.ndim - 2), mode="edge")
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def regrain(original, recolored, sweeps=(4, 16, 32, 64, 64, 64), level=0):
    """Float64 (H, W, 3) twice -> (H, W, 3)."""
    height, width = original.shape[:2]
    half = -(-height // 2), -(-width // 2)
    if len(sweeps) > 1 and min(half) > 20:
        result = regrain(resize(original, *half), resize(recolored, *half), sweeps[1:], level + 1)
        result = resize(result, height, width)
    else:
        result = original
    across = shifted(original, 0, 1) - shifted(original, 0, -1)
    down = shifted(original, 1, 0) - shifted(original, -1, 0)
    gradient = np.sqrt((across**2 + down**2).sum(axis=2))
    psi = np.minimum(256 * gradient / 5, 1)
    phi = 30 / (1 + 10 * gradient) / 2**level
    for _ in range(sweeps[0]):
        numerator = psi[..., None] * recolored
        denominator = psi.copy()
        for neighbor in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            coupling = (phi + shifted(phi, *neighbor)) / 2
            gradients = original - shifted(original, *neighbor)
            numerator = numerator + coupling[..., None] * (shifted(result, *neighbor) + gradients)
            denominator = denominator + coupling
        result = 0.8 * numerator / denominator[..., None] + 0.2 * result
    return result


def recolor(target, mask, reference, rotations, slip=0):
    """uint8 (H, W, 3), bool (H, W), uint8 (M, 3) -> float64 (N, 3) on the scale 0..255, neither rounded nor clipped."""
    original = target / 255 * mask[..., None]
    recolored = np.zeros_like(original)
    recolored[mask] = transport(target[mask], reference, rotations, slip) / 255
    return regrain(original, recolored)[mask] * 255
