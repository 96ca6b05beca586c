"""Other renditions of one photograph, by a simple camera model: a stand-in where only one rendition is at hand.

iHarmony4's HAdobe5k exchanges foregrounds between the retouched versions of a photograph, Hday2night between moments
of one webcam. Where neither is there, these functions render such versions; manifests mark them `simulated`.

    sRGB -> linear light -> exposure -> white balance -> (night: vignetting, noise) -> sRGB -> tone curve -> saturation

Exposure is a factor 2**EV on linear light. White balance scales linear R, G and B (von Kries) by the ratio of the white
points of two black bodies, the luminance of white kept; their chromaticity is the cubic fit of Kang et al. 2002 ("Design
of advanced color temperature control system for HDTV applications", the branch above 4000 K). The tone curve is
x -> x**g / (x**g + (1-x)**g), which fixes 0, 1/2 and 1 and has slope g at 1/2. Saturation scales the distance from
the pixel's Rec. 709 luma.
"""

import cv2
import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709
NEUTRAL = 6504.0  # kelvin, the correlated colour temperature of sRGB's white, D65
_XYZ_TO_RGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)  # IEC 61966-2-1


def retouch(picture: np.ndarray, seed: int) -> np.ndarray:
    """As another expert would have developed it. uint8 RGB (H, W, 3) twice.

    Drawn uniformly: exposure -0.9 .. 0.9 EV; colour temperature 4300 .. 9500 K in steps of equal mired;
    tone curve slope 0.75 .. 1.35; saturation 0.6 .. 1.4.
    """
    rng = np.random.default_rng(seed)
    exposure = rng.uniform(-0.9, 0.9)
    kelvin = 1e6 / rng.uniform(1e6 / 9500, 1e6 / 4300)
    slope, saturation = rng.uniform(0.75, 1.35), rng.uniform(0.6, 1.4)
    return developed(exposed(picture, exposure, kelvin), slope, saturation)


def relight(picture: np.ndarray, seed: int) -> np.ndarray:
    """As the same camera would have seen it nearer to night. uint8 RGB (H, W, 3) twice.

    Drawn uniformly: exposure -2.4 .. -0.5 EV; a shift towards blue to 8000 .. 14000 K in steps of equal mired; corners
    darkened by 0.2 .. 0.7 EV, growing with the square of the distance from the centre (a lens that follows the fourth
    power of the cosine loses 0.83 EV at 30 degrees off its axis); shot and read noise of a sensor with 2000 to 8000
    electrons at full scale and 4 to 12 electrons of read noise, blurred as demosaicking does; saturation 0.35 .. 0.85.
    """
    rng = np.random.default_rng(seed)
    exposure = rng.uniform(-2.4, -0.5)
    kelvin = 1e6 / rng.uniform(1e6 / 14000, 1e6 / 8000)
    corners, full_well, read_noise = rng.uniform(0.2, 0.7), rng.uniform(2000, 8000), rng.uniform(4, 12)
    saturation = rng.uniform(0.35, 0.85)
    linear = vignetted(exposed(picture, exposure, kelvin), corners)
    return developed(noisy(linear, full_well, read_noise, rng), saturation=saturation)


BY_TRANSFER = {"retouch": retouch, "relight": relight}
"""What makes the other rendition, by the name that manifests have for it in their column `transfer`."""


def exposed(picture: np.ndarray, exposure: float, kelvin: float) -> np.ndarray:
    """Linear light, float32 (H, W, 3), of an sRGB picture, uint8 (H, W, 3), under `exposure` EV more light of this colour
    temperature. 1 is the brightest a picture can show; more is kept until `developed` clips it."""
    return to_linear(picture) * (2**exposure * white_balance(kelvin))


def vignetted(linear: np.ndarray, corners: float) -> np.ndarray:
    """Linear light (H, W, 3) darkened by `corners` EV in the corners, by half of it in the middle of the sides."""
    height, width = linear.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return linear * (2 ** (-corners * (x**2 + y**2) / 2)).astype(np.float32)[..., None]


def noisy(linear: np.ndarray, full_well: float, read_noise: float, rng: np.random.Generator) -> np.ndarray:
    """Linear light (H, W, 3), float32, with the noise of a sensor that holds `full_well` electrons at 1: variance in
    electrons = their number (shot noise) + read_noise squared; the noise then blurred with sigma 0.7 px."""
    sigma = np.sqrt(linear * full_well + read_noise**2) / full_well
    noise = rng.standard_normal(linear.shape, dtype=np.float32)
    return linear + sigma * cv2.GaussianBlur(noise, (0, 0), 0.7)


def developed(linear: np.ndarray, slope: float = 1.0, saturation: float = 1.0) -> np.ndarray:
    """Linear light, float32 (H, W, 3), to an sRGB picture, uint8: clipped to [0, 1], tone curve, saturation."""
    picture = to_srgb(linear)
    if slope != 1.0:
        powered = picture**slope
        picture = powered / (powered + (1 - picture) ** slope)
    luma = (picture @ LUMA)[..., None]
    picture = luma + saturation * (picture - luma)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def to_linear(picture: np.ndarray) -> np.ndarray:
    """sRGB uint8 to linear light, float32 in [0, 1] (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[picture]


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1], clipped there, to sRGB in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def white_balance(kelvin: float) -> np.ndarray:
    """Gains on linear RGB, float32 (3,), that turn neutral white into the white of this colour temperature, luminance kept.

    Higher is bluer: this is the light of the scene, not the setting of a camera that corrects for it. Raises ValueError
    outside 4000 .. 25000 K, where the fit holds.
    """
    if not 4000 <= kelvin <= 25000:
        raise ValueError(f"colour temperature {kelvin:.0f} K lies outside 4000 .. 25000 K")
    gains = _white(kelvin) / _white(NEUTRAL)
    return (gains / (LUMA @ gains)).astype(np.float32)


def _white(kelvin: float) -> np.ndarray:
    """Linear RGB (luminance 1) of the Planckian locus at a colour temperature, by the cubic fit of Kang et al."""
    t = 1e3 / kelvin
    x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return _XYZ_TO_RGB @ np.array([x / y, 1.0, (1 - x - y) / y])
