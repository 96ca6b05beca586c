"""Saved predictions, read back only as inference left them."""

import hashlib
from pathlib import Path

import numpy as np

from pipeline import images
from pipeline.errors import UserError

COLUMNS = ("image_id", "prediction", "sha256")
"""Columns of predictions.parquet that evaluation reads; of pictures made elsewhere the table has more."""


def read(file: Path, sha256: str, side: int) -> np.ndarray:
    """uint8 RGB (side, side, 3), the bytes that predictions.parquet states the `sha256` of.

    Raises UserError naming the file where it is missing, was changed after inference or has another size.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing")
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise UserError(f"{file} was changed after inference (sha256 differs from predictions.parquet)")
    picture = images.read_rgb(file, max_pixels=images.PILLOW_LIMIT)
    if picture.shape[:2] != (side, side):
        raise UserError(f"{file} is {picture.shape[1]}x{picture.shape[0]}, expected {side}x{side}")
    return picture
