"""What counts as a mask, what is refused and how, and what can be chosen: files as people hand them over, drawn here."""

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.mask_rule import Choice

MEANT = np.zeros((48, 64), bool)
MEANT[10:30, 20:50] = True
MEANT[14:20, 8:20] = True


def photograph(seed: int = 0) -> np.ndarray:
    ramp = np.add.outer(np.arange(48) * 3, np.arange(64) * 2)[..., None] + np.array([0, 60, 120])
    return ((ramp + np.random.default_rng(seed).integers(0, 30, (48, 64, 3))) % 256).astype(np.uint8)


def classes(path, *values: int) -> None:
    """Background 0, the meant region the first value; further objects of the other values."""
    plane = np.where(MEANT, values[0], 0).astype(np.uint8)
    for number, value in enumerate(values[1:]):
        plane[36:44, 4 + 20 * number : 18 + 20 * number] = value
    Image.fromarray(plane).save(path)


def palette(path, values) -> None:
    picture = Image.frombytes("P", (values.shape[1], values.shape[0]), values.astype(np.uint8).tobytes())
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756)
    picture.save(path)


def with_alpha(path, colour: np.ndarray, alpha: np.ndarray) -> None:
    Image.fromarray(np.dstack([colour, np.where(alpha, 255, 0).astype(np.uint8)])).save(path)


def coloured(path, soft: bool) -> None:
    drawn = np.zeros((48, 64, 3), np.uint8)
    drawn[..., 1] = MEANT * 255
    if soft:
        drawn = cv2.GaussianBlur(drawn, (0, 0), 0.6)
    Image.fromarray(drawn).save(path)


USED = {
    "plain": lambda path: Image.fromarray(MEANT).save(path),
    "zeros and ones": lambda path: Image.fromarray(MEANT.astype(np.uint8)).save(path),
    "16 bits, zeros and ones": lambda path: Image.fromarray(MEANT.astype(np.uint16)).save(path),
    "16 bits": lambda path: Image.fromarray(MEANT.astype(np.uint16) * 65535).save(path),
    "class 7 alone": lambda path: classes(path, 7),
    "palette of one class": lambda path: palette(path, MEANT * 1),
    "painted in green": lambda path: coloured(path, False),
    "RGB": lambda path: Image.fromarray(np.repeat(MEANT[..., None] * np.uint8(255), 3, axis=2)).save(path),
    "dimmed": lambda path: Image.fromarray(np.where(MEANT, 235, 16).astype(np.uint8)).save(path),
    "RGBA with whole alpha": lambda path: with_alpha(
        path, np.repeat(MEANT[..., None] * np.uint8(255), 3, axis=2), np.ones_like(MEANT)
    ),
}

REFUSED = {
    "photograph": (lambda path: Image.fromarray(photograph()).save(path), "in colour at .*a photograph"),
    "grey photograph": (
        lambda path: Image.fromarray(photograph()[..., 0]).save(path),
        "lie between black and white.*a photograph",
    ),
    "erased hole": (
        lambda path: with_alpha(path, photograph(), ~MEANT),
        r"alpha channel is opaque in 2,400 and transparent in 672 pixels: mask_channel: alpha \(--mask-channel alpha\).*mask_value: 0",
    ),
    "alpha on black": (
        lambda path: with_alpha(path, np.zeros((48, 64, 3), np.uint8), MEANT),
        "black throughout; its alpha channel is opaque in 672",
    ),
    "alpha on white": (
        lambda path: with_alpha(path, np.full((48, 64, 3), 255, np.uint8), MEANT),
        "white throughout; its alpha channel is opaque in 672",
    ),
    "palette of classes": (
        lambda path: palette(path, MEANT + np.pad(np.full((8, 8), 2), ((0, 40), (0, 56)))),
        r"values 0 \(2,336 pixels\), 1 .*672 pixels\), 2 .*mask_value",
    ),
    "labels 0, 1, 255": (
        lambda path: classes(path, 1, 255),
        r"class numbers.*values 0 .*, 1 \(672 pixels\), 255 \(112 pixels\); choose with mask_value",
    ),
    "labels 0, 255, 1": (lambda path: classes(path, 255, 1), r"class numbers.*values 0 .*, 1 \(112 pixels\), 255"),
    "labels 0 to 3": (lambda path: classes(path, 1, 2, 3), "no pixel of this mask reaches 128; the brightest is 3"),
    "labels 0, 128, 255": (lambda path: classes(path, 128, 255), "lie between black and white|class numbers"),
    "labels 0, 255, 254": (lambda path: classes(path, 255, 254), "class numbers"),
    "levels 200 and 255": (
        lambda path: Image.fromarray(np.where(MEANT, 255, 200).astype(np.uint8)).save(path),
        "values 200 .*255",
    ),
    "soft green": (lambda path: coloured(path, True), "a mask in colour.*--mask-channel green"),
    "floats": (
        lambda path: Image.fromarray(np.where(MEANT, 0.7, 0.2).astype(np.float32)).save(path, "TIFF"),
        "values 0.2.*0.7",
    ),
    "not a number": (
        lambda path: Image.fromarray(np.where(MEANT, np.nan, 0).astype(np.float32)).save(path, "TIFF"),
        "not finite",
    ),
}


@pytest.mark.parametrize("name", USED)
def test_used(tmp_path, name):
    USED[name](tmp_path / "mask.png")
    assert np.array_equal(images.read_mask(tmp_path / "mask.png"), MEANT)
    soft = images.read_soft_mask(tmp_path / "mask.png")
    assert soft.dtype == np.uint8 and np.array_equal(soft >= 128, MEANT)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_lists_what_was_found(tmp_path, name):
    make, reason = REFUSED[name]
    make(tmp_path / "mask.png")
    with pytest.raises(images.BadImage, match=reason) as caught:
        images.read_mask(tmp_path / "mask.png")
    assert (
        str(caught.value).startswith(str(tmp_path / "mask.png"))
        and "\n" not in str(caught.value)
        and len(caught.value.reason) < 400
    )


@pytest.mark.parametrize(
    "name, choice",
    [
        ("erased hole", Choice(0, "alpha")),
        ("alpha on black", Choice(channel="alpha")),
        ("palette of classes", Choice(1)),
        ("labels 0, 1, 255", Choice(1)),
        ("labels 0 to 3", Choice(1)),
        ("soft green", Choice(channel="green")),
    ],
)
def test_chosen_explicitly(tmp_path, name, choice):
    REFUSED[name][0](tmp_path / "mask.png")
    assert np.array_equal(images.read_mask(tmp_path / "mask.png", choice=choice), MEANT)


@pytest.mark.parametrize(
    "name, choice, reason",
    [
        ("labels 0, 1, 255", Choice(7), r"mask_value 7: no pixel has this value; values 0 "),
        ("photograph", Choice(7), "in colour; choose mask_channel too"),
        ("photograph", Choice(channel="alpha"), "no alpha channel"),
        ("erased hole", Choice(channel="red"), "lie between black and white"),
        ("photograph", Choice(channel="violet"), "expected one of red, green, blue, alpha"),
    ],
)
def test_a_choice_that_does_not_fit(tmp_path, name, choice, reason):
    REFUSED[name][0](tmp_path / "mask.png")
    with pytest.raises(images.BadImage, match=reason):
        images.read_mask(tmp_path / "mask.png", choice=choice)


def blurred(sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(MEANT.astype(np.uint8) * 255, (0, 0), sigma)


@pytest.mark.parametrize("quality", [30, 75, 100])
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_soft_masks_go_through_jpeg_and_keep_their_greys(tmp_path, quality, sigma):
    Image.fromarray(blurred(sigma)).save(tmp_path / "m.jpg", quality=quality)
    stored = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert np.array_equal(images.read_soft_mask(tmp_path / "m.jpg"), stored)
    Image.fromarray(stored).save(tmp_path / "again.png")
    assert np.array_equal(images.read_soft_mask(tmp_path / "again.png"), stored)
    Image.fromarray(np.dstack([stored, np.clip(stored.astype(int) + 9, 0, 255), stored]).astype(np.uint8)).save(
        tmp_path / "rgb.png"
    )
    assert np.array_equal(images.read_soft_mask(tmp_path / "rgb.png"), stored)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_edges_of_few_greys_are_no_classes(tmp_path, factor):
    # each pixel the mean of factor x factor of a mask: factor^2 + 1 levels
    side = 40 * factor
    y, x = np.mgrid[:side, :side]
    disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2
    small = np.rint(disc.reshape(40, factor, 40, factor).mean(axis=(1, 3)) * 255).astype(np.uint8)
    Image.fromarray(small).save(tmp_path / "m.png")
    assert np.array_equal(images.read_soft_mask(tmp_path / "m.png"), small)


def test_thin_objects_of_a_class_are_not_taken_for_edges(tmp_path):
    plane = np.zeros((48, 64), np.uint8)
    plane[10:30, 10:30] = 255
    plane[5, :40] = 1
    Image.fromarray(plane).save(tmp_path / "m.png")
    with pytest.raises(images.BadImage, match=r"class numbers.*1 \(40 pixels\)"):
        images.read_mask(tmp_path / "m.png")
