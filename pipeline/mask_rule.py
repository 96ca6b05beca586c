"""Which pixels of a mask file are in: one rule for every place that reads one.

A mask has two levels, or soft greys between two levels with few pixels between. Anything else (a photograph, a file of class
numbers, a selection that stands in another channel) is refused in one line that lists what the file holds. The rule never
guesses: what it can't tell apart has to be chosen with `Choice`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

HALF = 128
"""Of 255: at and above it a soft mask is in."""

FEW_BETWEEN = 0.25
"""Share of the pixels of a soft mask that may lie between its two levels. Soft edges of published masks stay below 0.03,
photographs lie above 0.8."""

NEAR = 16
"""Of 255: how far from a level a pixel still counts as of that level (ringing of JPEG)."""

FEW_LEVELS = 32
"""A file without loss of so few levels may be one of class numbers, and is looked at for areas of a level between."""

COLOURED = 48
"""Of 255: by how much the channels of a pixel differ that counts as coloured. Published soft masks have a few such pixels at
edges, below 0.4% of the masks' pixels."""

CHANNELS = ("red", "green", "blue", "alpha")


@dataclass(frozen=True)
class Choice:
    """What is chosen explicitly. `value`: pixels of exactly this value are in (the class number of a palette file, as stored:
    0..65535 in a file of 16 bits). `channel`: the channel that holds the mask, one of CHANNELS."""

    value: int | None = None
    channel: str | None = None


@dataclass(frozen=True)
class Planes:
    """A decoded file as it is stored.

    One of `grey` (H, W), of integers or floats, and `colour` uint8 (H, W, 3) is there; `indices` uint8 (H, W) too for a
    palette file, whose colours are looked up; `alpha` uint8 (H, W) or None. `full`: the value of white in `grey`, None where
    it isn't known. `lossy`: stored in a format that changes values.
    """

    grey: np.ndarray | None = None
    colour: np.ndarray | None = None
    indices: np.ndarray | None = None
    alpha: np.ndarray | None = None
    full: int | None = 255
    lossy: bool = False


class _Doubt(ValueError):
    """What a plane holds, where it isn't a mask."""


def soft(planes: Planes, choice: Choice = Choice()) -> np.ndarray:
    """The mask as uint8 (H, W), 255 = in; soft edges keep their grey, in is what is at or above HALF.

    Without a choice the first colour channel counts and alpha does not. A file of two levels gives 0 and 255 where its darker
    level is 0 (masks of zeros and ones), or where half of white lies between them; in a palette file or a colour file one
    of two colours must be black. A file that is black throughout is an empty mask.

    Raises ValueError, in one line that lists what was found and says what to do, for anything else.
    """
    if choice.value is not None:
        return _of_value(planes, choice)
    try:
        if choice.channel is not None:
            return _levels(
                _channel(planes, choice.channel),
                255 if planes.grey is None or choice.channel == "alpha" else planes.full,
                planes.lossy,
            )
        mask = _levels(planes.grey, planes.full, planes.lossy) if planes.grey is not None else _coloured(planes)
    except _Doubt as doubt:
        raise ValueError(f"{doubt}{_alpha_hint(planes, choice)}") from None
    if choice.channel is None and mask.min() == mask.max() and (hint := _alpha_hint(planes, choice)):
        raise ValueError(f"the mask is {'black' if mask.flat[0] == 0 else 'white'} throughout{hint}")
    return mask


def _channel(planes: Planes, channel: str) -> np.ndarray:
    if channel not in CHANNELS:
        raise ValueError(f"mask_channel {channel!r}: expected one of {', '.join(CHANNELS)}")
    if channel == "alpha":
        if planes.alpha is None:
            raise ValueError("this file has no alpha channel; leave mask_channel out, or choose red, green or blue")
        return planes.alpha
    if planes.colour is not None:
        return planes.colour[..., CHANNELS.index(channel)]
    assert planes.grey is not None  # a file has grey or colour
    return planes.grey


def _of_value(planes: Planes, choice: Choice) -> np.ndarray:
    if choice.channel is not None:
        plane = _channel(planes, choice.channel)
    elif planes.indices is not None:
        plane = planes.indices
    elif planes.grey is not None:
        plane = planes.grey
    elif planes.colour is not None and (planes.colour == planes.colour[..., :1]).all():
        plane = planes.colour[..., 0]
    else:
        raise ValueError(
            f"mask_value {choice.value}: the file is in colour; choose mask_channel too (--mask-channel red, green, blue or alpha)"
        )
    mask = plane == choice.value
    if not mask.any():
        raise ValueError(f"mask_value {choice.value}: no pixel has this value; {_listed(plane)}")
    return mask.astype(np.uint8) * 255


def _levels(plane: np.ndarray, full: int | None, lossy: bool) -> np.ndarray:
    """A plane of a mask as uint8, see `soft`. Raises _Doubt for one that is no mask."""
    values, counts = _counted(plane)
    if not np.isfinite(values).all():
        raise _Doubt("values that are not finite numbers")
    low, high = values[0], values[-1]
    half = None if full is None else HALF * (full // 255)
    if len(values) == 1:
        if low == 0:
            return np.zeros(plane.shape, np.uint8)
        if half is not None and low >= half:
            return np.full(plane.shape, 255, np.uint8)
        raise _Doubt(f"every pixel of this mask is {low}; 0 = out, {full or 'one other value'} = in")
    if len(values) == 2 and (low == 0 or (half is not None and low < half <= high)):
        return np.where(plane == high, np.uint8(255), np.uint8(0))
    if full is None or half is None or not low < half <= high:
        reach = (
            ""
            if half is None or low >= half
            else f"no pixel of this mask reaches {half}; the brightest is {high}, {full} = in; "
        )
        raise _Doubt(f"{reach}{_listed(plane)}{_CHOOSE}")
    near = NEAR * (full // 255)
    dark, bright = plane <= int(low) + near, plane >= int(high) - near
    between = 1 - dark.mean() - bright.mean()
    if between > FEW_BETWEEN:
        what = "" if len(values) > FEW_LEVELS else f": {_listed(plane)}{_CHOOSE}"
        raise _Doubt(
            f"{between:.0%} of its pixels lie between black and white, where a mask has {FEW_BETWEEN:.0%} at most (a photograph?){what}"
        )
    if not lossy and _holds_classes(plane, values, counts, full):
        raise _Doubt(f"looks like a file of class numbers, not a mask: {_listed(plane)}{_CHOOSE}")
    return (plane >> 8).astype(np.uint8) if full > 255 else plane.astype(np.uint8)


_CHOOSE = "; choose with mask_value (--mask-value N) which value is in, or save the mask as black and white"


def _holds_classes(plane: np.ndarray, values: np.ndarray, counts: np.ndarray, full: int) -> bool:
    """Whether a level between black and white fills an area, as classes do, where soft edges have ramps."""
    step, low, high = full // 255, int(values[0]), int(values[-1])
    few = len(values) <= FEW_LEVELS
    side = 3 if few else 7
    block = np.ones((side, side), np.uint8)
    solid = cv2.erode(plane.astype(np.uint16), block) == cv2.dilate(plane.astype(np.uint16), block)
    margin = 0 if few else NEAR * step
    if (solid & (plane > low + margin) & (plane < high - margin)).any():
        return True
    if not few:
        return False
    # classes 1, 2, ... and 254 of thin objects; the foot and the head of a ramp have greys of its middle beside them
    middle = (plane > low + 8 * step) & (plane < high - 8 * step)
    beside = cv2.dilate(middle.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    alone = (plane > low) & (plane < high) & ~middle & ~beside
    return int(alone.sum()) > 0.02 * int(counts[values >= HALF * step].sum())


def _coloured(planes: Planes) -> np.ndarray:
    """The mask in a file of colours. Raises _Doubt."""
    colour = planes.colour
    assert colour is not None  # a file has grey or colour
    darkest, brightest = colour.min(axis=2), colour.max(axis=2)
    n_coloured = int((brightest - darkest > COLOURED).sum())
    if n_coloured <= 0.02 * int((brightest >= HALF).sum()):
        return _levels(colour[..., 0], 255, planes.lossy)
    codes = (colour.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2, dtype=np.uint32)
    colours = np.unique(codes)
    if len(colours) == 2 and colours[0] == 0:
        return np.where(codes > 0, np.uint8(255), np.uint8(0))
    if planes.indices is not None:
        raise _Doubt(
            f"a palette file of {len(colours)} colours, perhaps of class numbers: {_listed(planes.indices)}{_CHOOSE}"
        )
    held = [name for name, number in zip(CHANNELS, range(3)) if _is_mask(colour[..., number], planes.lossy)]
    if held:
        raise _Doubt(
            f"a mask in colour; choose the channel that holds it with mask_channel (--mask-channel {' or '.join(held)})"
        )
    raise _Doubt(
        f"in colour at {n_coloured / codes.size:.0%} of its pixels, where a mask is black and white (a photograph?)"
    )


def _is_mask(plane: np.ndarray, lossy: bool) -> bool:
    try:
        return len(np.unique(_levels(plane, 255, lossy) >= HALF)) == 2
    except _Doubt:
        return False


def _alpha_hint(planes: Planes, choice: Choice) -> str:
    if planes.alpha is None or choice.channel is not None:
        return ""
    opaque, size = int((planes.alpha >= HALF).sum()), planes.alpha.size
    if opaque in (0, size):
        return ""
    return (
        f"; its alpha channel is opaque in {opaque:,} and transparent in {size - opaque:,} pixels: "
        "mask_channel: alpha (--mask-channel alpha) takes the opaque ones, with mask_value: 0 (--mask-value 0) the transparent ones"
    )


def _counted(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a plane, ascending, and how often each stands there."""
    if plane.dtype == np.uint8:
        ends = [plane.min(), plane.max()][: 2 if plane.min() < plane.max() else 1]
        n_ends = np.array([np.count_nonzero(plane == end) for end in ends])
        if n_ends.sum() == plane.size:  # most masks; to count every value takes ten times as long
            return np.array(ends, np.int64), n_ends
        counts = np.bincount(plane.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        return values, counts[values]
    return np.unique(plane, return_counts=True)


def _listed(plane: np.ndarray, most: int = 8) -> str:
    values, counts = _counted(plane)
    named = [f"{value:g} ({count:,} pixels)" for value, count in zip(values[:most], counts)]
    return f"values {', '.join(named)}" + (
        f" and {len(values) - most} more up to {values[-1]:g}" if len(values) > most else ""
    )
