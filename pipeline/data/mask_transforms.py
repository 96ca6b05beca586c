"""Masks changed: varied for training, fitted to another size."""

import cv2
import numpy as np

from pipeline import seeds


def augment(
    mask: np.ndarray, seed: int, flips: bool = True, rotations: bool = True, dilation: int = 0, crop: bool = False
) -> np.ndarray:
    """A training variant of a mask: bool (H, W), True = hole, of the same size.

    flips: left-right and up-down, each with probability 1/2.
    rotations: with probability 1/2 a multiple of 90 degrees (of 180 unless H = W), else by 10 to 45 degrees either
        way, what comes in from outside being valid.
    dilation: the hole grows by an ellipse of a diameter drawn from 1 .. dilation pixels; 0 and 1 leave it.
    crop: a window of 50 to 100% of the side, of the mask's shape, enlarged to its size.

    The hole share changes and may leave its bucket: the caller measures it anew. A rotation or crop that would leave
    no hole is not applied. The result depends on the mask and the arguments alone. Test masks are never augmented.
    """
    if dilation < 0:
        raise ValueError(f"dilation {dilation} is negative; expected a diameter in pixels, 0 for none")
    rng = seeds.rng(int(seed), "augment")
    varied: np.ndarray = np.ascontiguousarray(mask, dtype=np.uint8)
    if flips:
        flip_x, flip_y = rng.random(2) < 0.5
        varied = varied[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    if rotations:
        varied = _or_unchanged(_rotated(varied, rng), varied)
    if dilation:
        diameter = int(rng.integers(1, dilation, endpoint=True))
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
        varied = cv2.dilate(np.ascontiguousarray(varied), ellipse)
    if crop:
        varied = _or_unchanged(_cropped(varied, rng), varied)
    return np.ascontiguousarray(varied).astype(bool)


def fit_to_size(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of another size, bool (height, width), True = hole: nearest, but no hole vanishes.

    Each pixel takes the value at its centre. A hole (8-connected region) that no centre hits, as a thin line can
    be, is kept by every pixel that it touches.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a mask of {height}x{width} has no pixels")
    if mask.shape == (height, width):
        return mask.astype(bool)
    _, holes = cv2.connectedComponents(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8)
    # Pixel centres: (i + 1/2) * old / new, in integers.
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    hit = holes[rows[:, None], columns]
    vanished = np.ones(holes.max() + 1, bool)
    vanished[hit.ravel()] = False
    vanished[0] = False
    fitted = hit > 0
    y, x = np.nonzero(vanished[holes])
    fitted[y * height // mask.shape[0], x * width // mask.shape[1]] = True
    return fitted


def _or_unchanged(changed: np.ndarray, before: np.ndarray) -> np.ndarray:
    return changed if changed.any() else before


def _rotated(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    if rng.random() < 0.5:
        return np.rot90(mask, int(rng.integers(4) if height == width else 2 * rng.integers(2)))
    angle = rng.uniform(10, 45) * rng.choice([-1, 1])
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    return cv2.warpAffine(np.ascontiguousarray(mask), turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=0)


def _cropped(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    share = rng.uniform(0.5, 1)
    high, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = rng.integers(height - high, endpoint=True), rng.integers(width - wide, endpoint=True)
    return fit_to_size(mask[top : top + high, left : left + wide], height, width).astype(np.uint8)
