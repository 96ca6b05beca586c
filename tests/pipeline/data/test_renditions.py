import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import renditions
from pipeline.data.renditions import (
    LUMA,
    NEUTRAL,
    developed,
    exposed,
    noisy,
    relight,
    retouch,
    to_linear,
    to_srgb,
    vignetted,
    white_balance,
)
from tests.pipeline.data.composites.making import picture

BYTES = np.arange(256, dtype=np.uint8)
EVERY_GREY = np.repeat(BYTES.reshape(16, 16, 1), 3, axis=2)


# ---- light


def test_linear_light_of_known_values():
    # IEC 61966-2-1: 0.5 of the signal is 21.4% of the light; 10/255 lies on the straight piece
    assert to_linear(np.uint8([0, 10, 128, 255])) == pytest.approx(
        [0, 10 / 255 / 12.92, ((128 / 255 + 0.055) / 1.055) ** 2.4, 1], rel=1e-6
    )
    assert to_linear(np.uint8([188]))[0] == pytest.approx(0.5, abs=0.005)


def test_every_byte_survives_there_and_back():
    assert np.array_equal(np.rint(to_srgb(to_linear(BYTES)) * 255), BYTES)
    assert np.array_equal(developed(to_linear(EVERY_GREY)), EVERY_GREY)


@settings(max_examples=25)
@given(exposure=st.floats(-3, 3))
def test_one_ev_doubles_linear_light(exposure):
    darker, brighter = (exposed(EVERY_GREY, value, NEUTRAL) for value in (exposure, exposure + 1))
    assert brighter == pytest.approx(2 * darker, rel=1e-5)


def test_one_ev_in_grey_levels():
    # 0.18 of the light is 117.6 of 255; twice that, 0.36, is 161.8
    grey = np.full((1, 1, 3), 118, np.uint8)
    light = ((118 / 255 + 0.055) / 1.055) ** 2.4
    expected = round(255 * (1.055 * (2 * light) ** (1 / 2.4) - 0.055))
    assert expected == 162
    assert (developed(exposed(grey, 1, NEUTRAL)) == expected).all()


# ---- white balance


def planck(kelvin):
    """Chromaticity (x, y) of a black body: Planck's law times the colour matching functions of CIE 1931, as the sums of
    Gaussians that Wyman, Sloan and Shirley fitted to them (JCGT 2013, equation 4), over 380 to 780 nm."""
    nanometres = np.arange(380, 781.0)
    metres = nanometres * 1e-9
    power = metres**-5 / np.expm1(6.62607015e-34 * 2.99792458e8 / (metres * 1.380649e-23 * kelvin))

    def lobe(scale, centre, left, right):
        return scale * np.exp(-0.5 * ((nanometres - centre) / np.where(nanometres < centre, left, right)) ** 2)

    x = lobe(1.056, 599.8, 37.9, 31.0) + lobe(0.362, 442.0, 16.0, 26.7) + lobe(-0.065, 501.1, 20.4, 26.2)
    y = lobe(0.821, 568.8, 46.9, 40.5) + lobe(0.286, 530.9, 16.3, 31.1)
    z = lobe(1.217, 437.0, 11.8, 36.0) + lobe(0.681, 459.0, 26.0, 13.8)
    total = np.array([(power * response).sum() for response in (x, y, z)])
    return total[:2] / total.sum()


def chromaticity(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # IEC 61966-2-1
    xyz = to_xyz @ rgb
    return xyz[:2] / xyz.sum()


@pytest.mark.parametrize("kelvin", [4300, 5000, 6504, 8000, 9500, 14000])
def test_white_points_are_those_of_black_bodies(kelvin):
    assert chromaticity(renditions._white(kelvin)) == pytest.approx(planck(kelvin), abs=0.004)


@pytest.mark.parametrize("kelvin, published", [(5000, (0.3451, 0.3516)), (10000, (0.2807, 0.2884))])
def test_white_points_of_the_textbook(kelvin, published):
    # Wyszecki and Stiles, Color Science, table 1(3.11): the Planckian locus
    assert chromaticity(renditions._white(kelvin)) == pytest.approx(published, abs=0.001)


@given(kelvin=st.floats(4000, 25000))
def test_white_balance_keeps_the_luminance_of_white(kelvin):
    assert LUMA @ white_balance(kelvin) == pytest.approx(1, rel=1e-5)


def test_neutral_changes_nothing_and_higher_is_bluer():
    assert white_balance(NEUTRAL) == pytest.approx(1, abs=1e-6)
    ratios = [white_balance(kelvin)[2] / white_balance(kelvin)[0] for kelvin in (4300, 5500, NEUTRAL, 8000, 14000)]
    assert ratios == sorted(ratios) and ratios[0] < 0.7 < 1.3 < ratios[-1]


@pytest.mark.parametrize("kelvin", [3999, 25001])
def test_temperatures_outside_the_fit_are_refused(kelvin):
    with pytest.raises(ValueError, match="outside 4000 .. 25000 K"):
        white_balance(kelvin)


# ---- lens and sensor


def test_corners_lose_the_stated_ev():
    light = vignetted(np.ones((5, 9, 3), np.float32), 1.0)
    assert light[2, 4] == pytest.approx(1) and light[0, 0] == pytest.approx(0.5) and light[-1, -1] == pytest.approx(0.5)
    assert light[0, 4] == pytest.approx(2**-0.5)  # half the way in square distance, half of the EV


@pytest.mark.parametrize("level", [0.0, 0.04, 0.5])
def test_noise_has_the_variance_of_shots_and_reading(level):
    full_well, read_noise = 4000.0, 8.0
    flat = np.full((200, 200, 3), level, np.float32)
    noise = (noisy(flat, full_well, read_noise, np.random.default_rng(3)) - flat).std()
    # a blur of white noise scales its deviation by the root of the kernel's squared weights
    weights = np.exp(-0.5 * (np.arange(-3, 4) / 0.7) ** 2)
    kept = (weights**2).sum() / weights.sum() ** 2
    assert noise == pytest.approx(np.sqrt(level * full_well + read_noise**2) / full_well * kept, rel=0.03)


# ---- development


def test_tone_curve_has_its_fixed_points_and_its_slope():
    grey = np.array([[[0] * 3, [127.5 / 255] * 3, [1] * 3, [100 / 255] * 3, [155 / 255] * 3]], np.float32)
    linear = np.where(grey <= 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4).astype(np.float32)
    out = developed(linear, slope=1.3)[0, :, 0]
    assert out[0] == 0 and out[1] in (127, 128) and out[2] == 255
    p = (100 / 255) ** 1.3
    assert (
        out[3] == round(255 * p / (p + (155 / 255) ** 1.3)) and out[3] + out[4] == 255
    )  # point symmetry about the middle


def test_saturation_scales_the_distance_from_luma():
    colour = np.uint8([[[180, 120, 60]]])
    luma = 0.2126 * 180 + 0.7152 * 120 + 0.0722 * 60  # 128.4
    grey = developed(to_linear(colour), saturation=0)[0, 0]
    assert (grey == round(luma)).all()
    half = developed(to_linear(colour), saturation=0.5)[0, 0]
    assert half == pytest.approx([luma + 0.5 * (value - luma) for value in (180, 120, 60)], abs=0.51)
    assert np.array_equal(developed(to_linear(colour), saturation=1.0), colour)


# ---- whole renditions


@pytest.mark.parametrize("render", [retouch, relight])
def test_a_rendition_belongs_to_its_seed(render):
    original = picture(7)
    first, again, other = render(original, 1), render(original, 1), render(original, 2)
    assert first.dtype == np.uint8 and first.shape == original.shape
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(original, picture(7)), "the photograph itself was changed"


def test_retouches_go_both_ways_and_relights_go_to_the_dark_and_blue():
    original = np.full((40, 40, 3), 120, np.uint8)
    retouched = np.array([retouch(original, seed).mean() for seed in range(40)])
    assert (retouched < 110).any() and (retouched > 130).any()
    for seed in range(40):
        night = relight(original, seed).reshape(-1, 3).mean(axis=0)
        assert night.mean() < 113 and night[2] > night[0]


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("render", [retouch, relight])
def test_flat_black_and_white_stay_finite(render, level):
    out = render(np.full((8, 8, 3), level, np.uint8), 5)
    assert out.shape == (8, 8, 3)
    if level == 0 and render is retouch:
        assert (out == 0).all()
