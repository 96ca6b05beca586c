"""Saved predictions, read back only as inference left them."""

import hashlib
from pathlib import Path

import numpy as np

from pipeline import images
from pipeline.errors import UserError

COLUMNS = ("image_id", "prediction", "sha256")
"""Columns of predictions.parquet that evaluation reads; of pictures made elsewhere the table has more."""


def read(file: Path, sha256: str, size: int | tuple[int, int]) -> np.ndarray:
    """uint8 RGB (height, width, 3), the bytes that predictions.parquet states the `sha256` of.

    size: (height, width), or the side of a square.

    Raises UserError naming the file where it is missing, was changed after inference or has another size.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing")
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise UserError(f"{file} was changed after inference (sha256 differs from predictions.parquet)")
    picture = images.read_rgb(file, max_pixels=images.PILLOW_LIMIT)
    height, width = (size, size) if isinstance(size, int) else size
    if picture.shape[:2] != (height, width):
        raise UserError(f"{file} is {picture.shape[1]}x{picture.shape[0]}, expected {width}x{height}")
    return picture
