"""Xue et al.: the foreground's contrast, luminance, colour temperature and saturation are matched to the background's.

Xue, Agarwala, Dorsey and Rushmeier, "Understanding and Improving the Realism of Image Composites", ACM Transactions on
Graphics 2012, in the order and with the statistics of the public demonstration in the iHarmony4 repository.

The original decides for each statistic which zone of its histogram is to agree in both regions: the top, the mean or
the bottom. Random forests choose that zone from the histograms of both regions, and their trained weights were not
published. Here the zones are fixed: the top of local contrast, and the means of luminance, colour temperature and
saturation; each then agrees, which the authors' code calls an offset of zero. The published numbers of "Xue et al."
come from the forests.

Departures from the demonstration: the tone curve is solved in closed form, where the code looks it up among 1001 steps;
a picture stays in linear values between the four steps; colour temperature is measured by the table of isotherms that
it is shifted by, where the code measures with a toolbox function; and that table has 0.24792 at 325 mired, where the
code copies a known misprint, 0.24702.
"""

import cv2
import numpy as np

from models.arrays import ArrayMethod, Item
from models.layers.array_recolor import recolor_foreground

SMALLEST = 1 / 255 / 12.92
"""the linear value of the first 8-bit level above black"""
LEAST_AREA = 500
"""pixels below which an object is left alone"""
LEAST_CONTRAST = 0.10
TOP = 1 / 1024
"""share of the values that the top of a histogram is averaged over"""
SHADOW, OVEREXPOSED = ((60 / 255 + 0.055) / 1.055) ** 2.4, 0.88
"""linear luminance between which colour is measured"""
COLDEST, WARMEST = 1e6 / 20000, 1e6 / 1500
"""mired"""
ERODE_FOREGROUND, ERODE_BACKGROUND = 0.03, 0.15
"""by which share of the shorter side of the object's box"""
CURVES = (0.40, 0.45, 0.50, 0.55, 0.60)
"""below a half: more contrast"""
TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float32
)
FROM_XYZ = np.linalg.inv(TO_XYZ)

# Robertson 1968: mired, u and v (CIE 1960) of the black body, slope of the isotherm there
ISOTHERMS = np.array(
    [
        *[(0, 0.18006, 0.26352, -0.24341), (10, 0.18066, 0.26589, -0.25479), (20, 0.18133, 0.26846, -0.26876)],
        *[(30, 0.18208, 0.27119, -0.28539), (40, 0.18293, 0.27407, -0.30470), (50, 0.18388, 0.27709, -0.32675)],
        *[(60, 0.18494, 0.28021, -0.35156), (70, 0.18611, 0.28342, -0.37915), (80, 0.18740, 0.28668, -0.40955)],
        *[(90, 0.18880, 0.28997, -0.44278), (100, 0.19032, 0.29326, -0.47888), (125, 0.19462, 0.30141, -0.58204)],
        *[(150, 0.19962, 0.30921, -0.70471), (175, 0.20525, 0.31647, -0.84901), (200, 0.21142, 0.32312, -1.0182)],
        *[(225, 0.21807, 0.32909, -1.2168), (250, 0.22511, 0.33439, -1.4512), (275, 0.23247, 0.33904, -1.7298)],
        *[(300, 0.24010, 0.34308, -2.0637), (325, 0.24792, 0.34655, -2.4681), (350, 0.25591, 0.34951, -2.9641)],
        *[(375, 0.26400, 0.35200, -3.5814), (400, 0.27218, 0.35407, -4.3633), (425, 0.28039, 0.35577, -5.3762)],
        *[(450, 0.28863, 0.35714, -6.7262), (475, 0.29685, 0.35823, -8.5955), (500, 0.30505, 0.35907, -11.324)],
        *[(525, 0.31320, 0.35968, -15.628), (550, 0.32129, 0.36011, -23.325), (575, 0.32931, 0.36038, -40.770)],
        (600, 0.33724, 0.36051, -116.45),
    ],
    np.float32,
)
MIRED, BLACK_U, BLACK_V, SLOPE = np.ascontiguousarray(ISOTHERMS.T)
ALONG = np.stack([np.ones_like(SLOPE), SLOPE]) / np.sqrt(1 + SLOPE**2)
"""unit vectors (2, 31) along the isotherms"""
OFFSET = ALONG[0] * BLACK_V - ALONG[1] * BLACK_U


class Xue(ArrayMethod):
    task = "harmonization"

    def draw(self, item: Item) -> np.ndarray:
        """(H, W, 3) in [0, 1]: multiples of 1/255 in the foreground, the composite elsewhere. A foreground below 500
        pixels is left as it is, and so is a property that can't be measured in both regions."""
        return recolor_foreground(item["composite"], item["mask"], _match)


def _match(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Foreground pixels (n, 3) of uint8 RGB (H, W, 3) after the four steps."""
    if inside.sum() < LEAST_AREA:
        return image[inside]
    window, shorter = _surroundings(inside)
    mask = inside[window]
    foreground, background = _eroded(mask, shorter * ERODE_FOREGROUND), _eroded(~mask, shorter * ERODE_BACKGROUND)
    picture = cv2.LUT(np.ascontiguousarray(image[window]), _LINEAR)
    picture[mask] = match_contrast(picture, mask, foreground, background)
    for match in (match_luminance, match_temperature, match_saturation):
        picture[mask] = match(picture[mask], foreground[mask], picture[background])
    # the window holds the whole foreground, in the same order
    return np.rint(_encoded(picture[mask]) * 255).astype(np.uint8)


def _surroundings(inside: np.ndarray) -> tuple[tuple[slice, slice], int]:
    """The window of three times the size of the object's box around it, cut at the border, and the box's shorter
    side."""
    left, top, width, height = cv2.boundingRect(inside.astype(np.uint8))
    rows = slice(max(top - height, 0), top + 2 * height)
    columns = slice(max(left - width, 0), left + 2 * width)
    return (rows, columns), min(width, height)


def _eroded(region: np.ndarray, radius: float) -> np.ndarray:
    """A region without what lies within `radius` pixels of its outside; the picture's border is no outside."""
    radius = int(radius)
    if radius == 0:
        return region
    return cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius


_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)


def luminance(linear: np.ndarray) -> np.ndarray:
    """Y (...) in [0, 1] of linear RGB (..., 3)."""
    return linear @ TO_XYZ[1]


def local_contrast(bright: np.ndarray) -> np.ndarray:
    """|L - G| / G of luminance L (H, W), with G its average by a Gaussian of 7x7 and sigma 1.5."""
    average = cv2.GaussianBlur(bright, (7, 7), 1.5, borderType=cv2.BORDER_REPLICATE)
    return np.abs(bright - average) / np.maximum(average, SMALLEST)


def top_contrast(contrast: np.ndarray) -> float:
    """The mean of the highest 1/1024 of the values (n,) above 0.10, one value at least; 0.10 where there is none."""
    counted = contrast[contrast > LEAST_CONTRAST]
    highest = int(1 + TOP * len(counted))
    return float(np.partition(counted, -highest)[-highest:].mean()) if len(counted) else LEAST_CONTRAST


def tone_curve(bright: np.ndarray, pivot: float, bend: float) -> np.ndarray:
    """Luminance in [0, 1] after a curve through 0, `pivot` and 1. Each half is the quadratic Bezier curve of the
    control points (0, 0), (bend, 1 - bend), (1, 1), counted from the pivot outward: a bend of 0.5 changes nothing, less
    adds contrast."""
    room = np.where(bright >= pivot, 1 - pivot, pivot).astype(np.float32)
    across = np.abs(bright - pivot) / np.maximum(room, SMALLEST)
    # x(t) = 2 bend t (1 - t) + t^2, solved for t in the form that has no difference of near numbers
    t = across / np.maximum(bend + np.sqrt(np.maximum(bend**2 + (1 - 2 * bend) * across, 0)), SMALLEST)
    return pivot + np.sign(bright - pivot) * room * (2 * (1 - bend) * t * (1 - t) + t**2)


def match_contrast(picture: np.ndarray, mask: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Foreground colours (n, 3), linear RGB, under the tone curve about the foreground's mean luminance that moves its
    top local contrast most nearly by what it lacks of the background's.

    picture: linear RGB (H, W, 3). mask: bool (H, W), all of the foreground; foreground, background: what is measured of
    each.
    """
    bright = luminance(picture)
    contrast = local_contrast(bright)
    wanted = top_contrast(contrast[background]) - top_contrast(contrast[foreground])
    before, pivot = top_contrast(contrast[mask]), float(bright[mask].mean())
    # curves are needed as far as the average of a foreground pixel reaches
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = np.s_[max(top - 3, 0) : top + height + 3, max(left - 3, 0) : left + width + 3]
    near, inside = np.ascontiguousarray(bright[box]), mask[box]
    errors = []
    for bend in CURVES:
        after = top_contrast(local_contrast(tone_curve(near, pivot, bend))[inside])
        errors.append(abs(after - before - wanted))
    levels = near[inside]
    best = tone_curve(levels, pivot, CURVES[int(np.argmin(errors))])
    return np.clip(picture[mask] * (best / np.maximum(levels, SMALLEST))[:, None], 0, 1)


def match_luminance(colors: np.ndarray, measured: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Colours (n, 3), linear RGB, times the power of two that makes the means of log luminance agree. measured: bool
    (n,), which of the colours count; background: colours (m, 3)."""
    if not measured.any() or not len(background):
        return colors
    logs = [np.log2(np.maximum(luminance(region), SMALLEST)).mean() for region in (background, colors[measured])]
    return np.clip(colors * np.float32(2 ** (logs[0] - logs[1])), 0, 1)


def _well_lit(colors: np.ndarray) -> np.ndarray:
    """Those of the colours (n, 3), linear RGB, that are neither shadowed nor overexposed."""
    bright = luminance(colors)
    return colors[(bright > SHADOW) & (bright < OVEREXPOSED)]


def _chromaticity(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u and v of CIE 1960 (n,) of linear RGB (n, 3); those of black don't matter."""
    total = np.maximum(colors @ (TO_XYZ[0] + 15 * TO_XYZ[1] + 3 * TO_XYZ[2]), SMALLEST)
    return colors @ (4 * TO_XYZ[0]) / total, colors @ (6 * TO_XYZ[1]) / total


def temperature(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mired in [0, 600], and the distance from the black body along the isotherm, by Robertson's method; u, v: float32
    (n,).

    A colour lies between two isotherms of the table, found by bisection, and is interpolated by its distances from
    them."""
    # a colour lies beyond isotherm `low` and not beyond `high`; the table's ends stand for what is outside
    low, high = np.zeros(len(u), np.int8), np.full(len(u), len(MIRED) - 1, np.int8)
    for _ in range(int(np.ceil(np.log2(len(MIRED) - 1)))):
        middle = (low + high) >> 1
        beyond = _beyond(u, v, middle) > 0
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    before, after = np.maximum(_beyond(u, v, low), 0), np.maximum(-_beyond(u, v, high), 0)
    share = before / np.maximum(before + after, np.float32(1e-12))
    mired = MIRED[low] + share * (MIRED[high] - MIRED[low])
    black_u, black_v, along_u, along_v = _isotherm(mired)
    return mired, (u - black_u) * along_u + (v - black_v) * along_v


def _beyond(u: np.ndarray, v: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The distance of colours from the isotherms of these indices, positive on the warmer side."""
    return ALONG[0][index] * v - ALONG[1][index] * u - OFFSET[index]


def _isotherm(mired: np.ndarray) -> tuple[np.ndarray, ...]:
    """u, v of the black body and the unit vector along its isotherm, interpolated; beyond the table its end."""
    upper = np.clip(np.searchsorted(MIRED, mired), 1, len(MIRED) - 1)
    share = np.clip((mired - MIRED[upper - 1]) / (MIRED[upper] - MIRED[upper - 1]), 0, 1).astype(np.float32)
    black_u, black_v, along_u, along_v = (
        column[upper - 1] + share * (column[upper] - column[upper - 1]) for column in (BLACK_U, BLACK_V, *ALONG)
    )
    length = np.sqrt(along_u**2 + along_v**2)
    return black_u, black_v, along_u / length, along_v / length


def match_temperature(colors: np.ndarray, measured: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Colours (n, 3), linear RGB, shifted in mired so that the means agree, with their luminance and their distance
    from the black body kept; measured: bool (n,); background: (m, 3)."""
    regions = [_well_lit(region) for region in (background, colors[measured])]
    if not all(map(len, regions)):
        return colors
    means = [np.clip(temperature(*_chromaticity(region))[0], COLDEST, WARMEST).mean() for region in regions]
    mired, tint = temperature(*_chromaticity(colors))
    black_u, black_v, along_u, along_v = _isotherm(mired + (means[0] - means[1]))
    u, v = black_u + tint * along_u, black_v + tint * along_v
    # X : Y : Z from u and v, scaled to the luminance that was there
    shifted = np.stack([1.5 * u / v, np.ones_like(u), (4 - u - 10 * v) / (2 * v)], axis=1).astype(np.float32)
    return np.clip((shifted * luminance(colors)[:, None]) @ FROM_XYZ.T, 0, 1).astype(np.float32)


def _saturation(colors: np.ndarray) -> np.ndarray:
    """S of HSV (n,) of RGB (n, 3)."""
    high = colors.max(axis=1)
    return (high - colors.min(axis=1)) / np.maximum(high, SMALLEST)


def match_saturation(colors: np.ndarray, measured: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Colours (n, 3), linear RGB, whose saturation (HSV) is multiplied by the power of two that makes the means of its
    logarithm agree, 1 at most; hue and value stay. measured: bool (n,); background: (m, 3)."""
    regions = [_well_lit(region) for region in (background, colors[measured])]
    if not all(map(len, regions)):
        return colors
    logs = [np.log2(np.maximum(_saturation(region), SMALLEST)).mean() for region in regions]
    gain = np.minimum(2 ** (logs[0] - logs[1]), 1 / np.maximum(_saturation(colors), SMALLEST))[:, None]
    high = colors.max(axis=1, keepdims=True)
    return np.clip(high - (high - colors) * gain, 0, 1).astype(np.float32)
