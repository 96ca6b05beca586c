"""What holes are drawn from: strokes, boxes and stretches of a walk, painted on a uint8 canvas (1 = hole)."""

from typing import NamedTuple

import cv2
import numpy as np


class Stroke(NamedTuple):
    """A line with round caps and joints, through two (x, y) points or an int32 array (n, 2) of them; two equal points
    make a disc. Points may lie outside the canvas.

    `width` is OpenCV's thickness: an even one comes out one pixel wider, an odd one above 1 two pixels.
    """

    points: tuple[tuple[int, int], tuple[int, int]] | np.ndarray
    width: int


class Box(NamedTuple):
    """The pixels left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int


class Walk(NamedTuple):
    """The pixels that a walk visits, in its order: int (n,) indices into the canvas read row by row."""

    pixels: np.ndarray


Piece = Stroke | Box | Walk


def paint(hole: np.ndarray, piece: Piece, room: int) -> None:
    """Set the piece's pixels of `hole` (uint8 (H, W)) to 1.

    A walk stops once it has added `room` pixels; strokes and boxes are painted whole, whatever the room.
    """
    if isinstance(piece, Stroke):
        if isinstance(piece.points, np.ndarray):
            cv2.polylines(hole, [piece.points], False, 1, piece.width)
        else:
            cv2.line(hole, *piece.points, 1, piece.width)
    elif isinstance(piece, Box):
        hole[piece.top : piece.bottom, piece.left : piece.right] = 1
    else:
        flat, steps = hole.reshape(-1), np.arange(len(piece.pixels))
        first_visit = np.empty(flat.size, np.intp)
        first_visit[piece.pixels[::-1]] = steps[::-1]  # of equal indices the last one written stays
        new = (first_visit[piece.pixels] == steps) & (flat[piece.pixels] == 0)
        flat[piece.pixels[new][:room]] = 1
