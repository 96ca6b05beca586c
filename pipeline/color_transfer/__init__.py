"""The four colour transfers of iHarmony4, from a region of one photograph to a region of another.

iHarmony4 took one published method for each pair of (parametric or not) and (decorrelated colour space or not). The
facts are those of its released code; each method's file says where it departs from that, and why.

    recolored = transfer("reinhard", target, reference, target_mask, reference_mask)
"""

import numpy as np

from pipeline.color_transfer import fecker, pitie, reinhard, xiao

METHODS = ("reinhard", "xiao", "fecker", "pitie")

FEWEST_PIXELS = 10


def reason_to_refuse(target_mask: np.ndarray, reference_mask: np.ndarray) -> str | None:
    """Why a pair of regions, bool (H, W) each, has no statistics to transfer, in a few words; None if it has."""
    for name, mask in (("target", target_mask), ("reference", reference_mask)):
        if np.count_nonzero(mask) < FEWEST_PIXELS:
            return f"too few {name} pixels"
    return None


def transfer(
    method: str,
    target: np.ndarray,
    reference: np.ndarray,
    target_mask: np.ndarray | None = None,
    reference_mask: np.ndarray | None = None,
    seed: int = 0,
    exact: bool = False,
) -> np.ndarray:
    """The target with the colours of its region moved to those of the reference's region.

    method: one of METHODS. target, reference: uint8 RGB (H, W, 3), sizes may differ. target_mask, reference_mask: bool
    (H, W), True in the region; all pixels if not given. seed: of pitie's random rotations; the others draw nothing.
    exact: do as iHarmony4's released code does, slips included: mirror colour axes (xiao, with the signs of its
    sample), send the background through 8-bit YCbCr and make specks (fecker), shift colours by a bin in each of ten
    rounds and solve on the whole image (pitie), sum in float64 (reinhard).

    Returns a new uint8 RGB (H, W, 3). Off the mask it equals the target (but for fecker with `exact`), and everywhere
    where `reason_to_refuse` has a reason. Same arguments, same bytes. Raises ValueError for an unknown method and for
    arrays of another shape or type.
    """
    if method not in METHODS:
        raise ValueError(f"color transfer {method!r} is unknown; there are {', '.join(METHODS)}")
    target, target_mask = _checked("target", target, target_mask)
    reference, reference_mask = _checked("reference", reference, reference_mask)
    colors, reference_colors = _select(target, target_mask), _select(reference, reference_mask)
    if min(len(colors), len(reference_colors)) < FEWEST_PIXELS:
        return target.copy()

    background = target
    if method == "reinhard":
        recolored = reinhard.recolor(colors, reference_colors, exact)
    elif method == "xiao" and exact:
        recolored = xiao.recolor(colors, reference_colors, xiao.RELEASED, largest_stretch=np.inf)
    elif method == "xiao":
        recolored = xiao.recolor(colors, reference_colors)
    elif method == "fecker":
        recolored = fecker.recolor(colors, reference_colors, exact)
        if exact:
            background = fecker.through_ycbcr(target.reshape(-1, 3)).reshape(target.shape)
    else:
        mask = np.ones(target.shape[:2], bool) if target_mask is None else target_mask
        recolored = pitie.recolor(target, mask, reference_colors, seed, exact)
    if target_mask is None:
        return recolored.reshape(target.shape)
    result = background.copy()
    result[target_mask] = recolored
    return result


def _checked(name: str, image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The image, contiguous, and its mask; None for a mask of all pixels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} is {_described(image)}; a color transfer takes uint8 (H, W, 3) in RGB")
    image = np.ascontiguousarray(image)
    if mask is None:
        return image, None
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != image.shape[:2]:
        raise ValueError(f"{name}_mask is {_described(mask)}; {name} needs bool {image.shape[:2]}")
    return image, None if mask.all() else mask


def _described(value) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _select(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The region's colours, uint8 (N, 3), in the order of `image[mask]`."""
    return image.reshape(-1, 3) if mask is None else image[mask]
