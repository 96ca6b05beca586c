"""What a metric refuses to score: each check returns nothing or raises ValueError with one line."""

import numpy as np


def check_image(name: str, image: np.ndarray) -> None:
    """`image` must be uint8 RGB (H, W, 3) with at least one pixel."""
    _check_array(name, image)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}, expected RGB (height, width, 3)")
    if image.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {image.dtype}, expected uint8 in 0..255")


def check_mask(name: str, mask: np.ndarray) -> None:
    """`mask` must be bool (H, W) with at least one pixel."""
    _check_array(name, mask)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"{name} has shape {mask.shape}, expected (height, width)")
    if mask.dtype != np.bool_:
        raise ValueError(f"{name} has dtype {mask.dtype}, expected bool (for an 8-bit mask: mask >= 128)")


def check_probability(name: str, probability: np.ndarray) -> None:
    """`probability` must be float (H, W), every value in [0, 1]."""
    _check_array(name, probability)
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"{name} has shape {probability.shape}, expected (height, width)")
    if probability.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} has dtype {probability.dtype}, expected float in [0, 1] (8-bit maps: map / 255)")
    low, high = probability.min(), probability.max()
    if not (low >= 0 and high <= 1):  # written so that a NaN, which compares false, is caught as well
        unusual = np.count_nonzero(np.isnan(probability))
        problem = f"{unusual} NaN of {probability.size} values" if unusual else f"values in [{low:.6g}, {high:.6g}]"
        raise ValueError(f"{name} has {problem}, expected [0, 1]")


def check_same_size(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Both arrays must have equal height and width."""
    if array.shape[:2] != other.shape[:2]:
        (height, width), (other_height, other_width) = array.shape[:2], other.shape[:2]
        raise ValueError(f"{name} is {width}x{height}, {other_name} is {other_width}x{other_height} (width x height)")


def _check_array(name: str, array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is a {type(array).__name__}, expected a NumPy array")
