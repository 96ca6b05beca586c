"""The two decorrelated colour spaces of the transfers, and the steps of arithmetic that lead through them.

l-alpha-beta: Reinhard et al., "Color Transfer between Images", 2001, with the matrices of iHarmony4's released code
(its LMS to RGB matrix is not the paper's, which is misprinted). YCbCr: ITU-R BT.601 in studio swing.
"""

import threading
from collections.abc import Iterator

import cv2
import numpy as np

BLOCK = 65536
TILE = 256

# Part of every map that ends in bytes, since the cast rounds down. Sums in float64 may end a hair below an exact half;
# in YCbCr the nearest value that is no half is 4e-6 away (255 times the matrix has three decimals), so that this much
# more than a half rounds as exact arithmetic would.
HALF = 0.5 + 1e-9


def affine(matrix: np.ndarray, offset=0.0) -> np.ndarray:
    """The map `matrix @ colour + offset` as one float64 (3, 4). matrix: (3, 3); offset: (3,) or one number."""
    mapping = np.empty((3, 4))
    mapping[:, :3], mapping[:, 3] = matrix, offset
    return mapping


# Added to L, M and S it is lost in rounding for every 8-bit colour but black, whose logarithm it makes finite.
FAINTEST = 1e-21
RGB_TO_LMS = affine(
    np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]) / 255, FAINTEST
)
LMS_TO_RGB = affine(
    np.array([[4.4687, -3.5887, 0.1196], [-1.2197, 2.3831, -0.1626], [0.0585, -0.2611, 1.2057]]) * 255, HALF
)
# of logarithms of LMS; orthonormal, so that its transpose leads back
LOG_LMS_TO_LALPHABETA = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])

_RGB_TO_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_YCBCR_TO_RGB = np.linalg.inv(_RGB_TO_YCBCR)
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])
RGB_TO_YCBCR = affine(_RGB_TO_YCBCR, HALF + _YCBCR_OFFSET)
YCBCR_TO_RGB = affine(_YCBCR_TO_RGB, HALF - _YCBCR_TO_RGB @ _YCBCR_OFFSET)
YCBCR_LOWEST, YCBCR_HIGHEST = (16, 16, 16), (235, 240, 240)


class Colors:
    """A block of colours on its way through the arithmetic, step by step, in two buffers that are used again.

    Fresh memory for the result of each step would cost more time than the step.
    """

    def __init__(self, dtype: type):
        self._buffer: np.ndarray
        self._spare: np.ndarray
        self._buffer, self._spare = np.empty((2, 1, BLOCK, 3), dtype)
        self.values: np.ndarray = self._buffer[:, :0]

    def load(self, pixels: np.ndarray) -> "Colors":
        """Start from (n, 3) of any type, n <= BLOCK. `values`, float (1, n, 3), holds the colours from here on."""
        self.values = self._buffer[:, : len(pixels)]
        self.values[0] = pixels
        return self

    def transform(self, mapping: np.ndarray) -> "Colors":
        """Apply an affine map (3, 4)."""
        changed = self._spare[:, : self.values.shape[1]]
        cv2.transform(self.values, mapping, dst=changed)
        self._buffer, self._spare, self.values = self._spare, self._buffer, changed
        return self

    def measure(self, matrix: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (N), float64 (3,) both, of what a linear map (3, 3) would make of the colours.

        mask: uint8 (n,), not 0 where a colour counts (one at least); None if all do. The colours stay as they are.
        """
        counted = self.values if mask is None else self.values[:, mask != 0]
        count = counted.shape[1]
        mean = matrix @ sums(counted) / count
        # seen from the mean, so that squares of what is far from it don't hide a small deviation
        centred = self._spare[:, :count]
        cv2.transform(counted, affine(matrix, -mean), dst=centred)
        np.multiply(centred, centred, out=centred)
        return mean, np.sqrt(sums(centred) / count)

    def log(self) -> "Colors":
        """Take natural logarithms."""
        cv2.log(self.values, dst=self.values)
        return self

    def exp(self) -> "Colors":
        """Raise e to the values."""
        cv2.exp(self.values, dst=self.values)
        return self

    def clip(self, lowest: float, highest: float) -> "Colors":
        """Bound the values."""
        np.clip(self.values, lowest, highest, out=self.values)
        return self

    def store(self, pixels: np.ndarray) -> None:
        """Write into uint8 (n, 3): saturated, then rounded down, which is half up once HALF has been added."""
        pixels[:] = self.clip(0, 255).values[0]


_of_thread = threading.local()


def workspace(dtype: type = np.float64) -> Colors:
    """The calling thread's buffers of this type, made once.

    float64 is the rule: a processor that adds in another order, or multiplies and adds at once, then still rounds to
    the same bytes.
    """
    if not hasattr(_of_thread, "colors"):
        _of_thread.colors = {}
    if dtype not in _of_thread.colors:
        _of_thread.colors[dtype] = Colors(dtype)
    return _of_thread.colors[dtype]


def sums(values: np.ndarray) -> np.ndarray:
    """The sum over a block's colours, float (1, n, 3), of each channel: float64 (3,).

    Colours are added in rows of TILE, of which a processor takes many numbers at once. A float32 sum has at most BLOCK /
    TILE terms, the sum of these sums is float64.
    """
    whole = values.shape[1] // TILE * TILE
    total = np.zeros(3)
    if whole:
        rows = cv2.reduce(values[0, :whole].reshape(-1, 3 * TILE), 0, cv2.REDUCE_SUM)
        total += cv2.sumElems(rows.reshape(1, TILE, 3))[:3]
    if whole < values.shape[1]:
        total += cv2.sumElems(values[:, whole:])[:3]
    return total


def blocks(pixels: np.ndarray) -> Iterator[slice]:
    """Slices that cut (N, 3) into pieces of at most BLOCK rows."""
    return (slice(start, start + BLOCK) for start in range(0, len(pixels), BLOCK))


def convert(pixels: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """An affine map (3, 4), HALF included, of uint8 (N, 3), as uint8 (N, 3): rounded half up, saturated."""
    result = np.empty_like(pixels)
    colors = workspace()
    for block in blocks(pixels):
        colors.load(pixels[block]).transform(mapping).store(result[block])
    return result
