"""Writes golden.npz, two small seeded pictures and what every colour transfer makes of them:

    python -m tests.pipeline.color_transfer.golden

The arrays in the repository were written by code whose results equal those of iHarmony4's scripts on its own sample
(test_golden.py repeats that comparison where the sample is at hand). Write them anew only for a change that is meant to
change results, and after that comparison.
"""

import io
from pathlib import Path

import numpy as np

from pipeline import atomic
from pipeline.color_transfer import METHODS, transfer

FILE = Path(__file__).with_name("golden.npz")
COMMAND = "python -m tests.pipeline.color_transfer.golden"


def picture(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB (H, W, 3): a slope of colour with noise, black corner, and a bool mask (H, W): an ellipse."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    first, down, across = rng.uniform(60, 160, 3), rng.uniform(-60, 60, 3), rng.uniform(-60, 60, 3)
    colours = first + y[..., None] * down + x[..., None] * across + rng.normal(0, 12, (height, width, 3))
    colours[:3, :3] = 0
    mask = (y - 0.5) ** 2 / 0.16 + (x - 0.6) ** 2 / 0.2 < 1
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8), mask


def pair() -> dict[str, np.ndarray]:
    (target, mask), (reference, reference_mask) = picture(1, 20, 26), picture(2, 18, 24)
    return {"target": target, "reference": reference, "target_mask": mask, "reference_mask": reference_mask}


def results(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By "method" and "method exact", what the transfer adds to the target, modulo 256: uint8 (H, W, 3)."""
    return {
        method + " exact" * exact: transfer(method, **given, seed=3, exact=exact) - given["target"]
        for method in METHODS
        for exact in (False, True)
    }


if __name__ == "__main__":
    given, content = pair(), io.BytesIO()
    np.savez_compressed(content, **given, **results(given))
    with atomic.file(FILE) as path:
        path.write_bytes(content.getvalue())
    print(f"{FILE.name}: {len(content.getvalue())} bytes")
