import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from pipeline import images
from pipeline.errors import UserError


def noise(height=6, width=9, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_header(path, width, height):
    """A PNG whose header is true and whose pixels are rubbish: reading on past the header is an error."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + b"rubbish"
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


# what is used and what is converted


def test_plain_rgb_needs_no_conversion(tmp_path):
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = images.read(tmp_path / "a.png")
    assert (picture.format, picture.conversions) == ("PNG", ())
    assert picture.pixels.dtype == np.uint8 and np.array_equal(picture.pixels, pixels)
    picture.pixels[0, 0] = 0  # writable


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_formats_give_the_same_pixels(tmp_path, suffix):
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(images.read_rgb(tmp_path / f"a.{suffix}"), pixels)


def test_grayscale_is_replicated(tmp_path):
    gray = noise(channels=0)
    Image.fromarray(gray).save(tmp_path / "a.png")
    picture = images.read(tmp_path / "a.png")
    assert picture.conversions == ("grayscale replicated",)
    assert np.array_equal(picture.pixels, np.stack([gray] * 3, axis=-1))


def test_alpha_is_dropped_and_the_colour_under_it_stays(tmp_path):
    pixels = noise(channels=4)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = images.read(tmp_path / "a.png")
    assert picture.conversions == ("alpha dropped",)
    assert np.array_equal(picture.pixels, pixels[..., :3])


def test_gray_with_alpha(tmp_path):
    pixels = noise(channels=2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = images.read(tmp_path / "a.png")
    assert picture.conversions == ("grayscale replicated", "alpha dropped")
    assert np.array_equal(picture.pixels, np.stack([pixels[..., 0]] * 3, axis=-1))


def test_palette_is_looked_up(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "a.png", transparency=1)
    picture = images.read(tmp_path / "a.png")
    assert picture.conversions == ("palette looked up", "alpha dropped")
    assert picture.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]


def test_cmyk_is_converted(tmp_path):
    # c 0, m 255, y 0, k 0 is magenta; k 255 is black whatever the rest
    ink = np.zeros((16, 32, 4), np.uint8)
    ink[:, :16, 1], ink[:, 16:, 3] = 255, 255
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    picture = images.read(tmp_path / "a.jpg")
    assert (picture.format, picture.conversions) == ("JPEG", ("CMYK to RGB",))
    assert np.abs(picture.pixels[8, 4].astype(int) - [255, 0, 255]).max() <= 4
    assert picture.pixels[8, 28].max() <= 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [0, 3])
def test_16_bits_become_the_high_byte(tmp_path, suffix, channels):
    high, low = noise(channels=channels), noise(channels=channels, seed=1)
    sixteen = high.astype(np.uint16) * 256 + low
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), sixteen if channels == 0 else np.ascontiguousarray(sixteen[..., ::-1]))
    picture = images.read(tmp_path / f"a.{suffix}")
    assert picture.conversions == (("16 bit to 8",) if channels else ("16 bit to 8", "grayscale replicated"))
    assert np.array_equal(picture.pixels, high if channels else np.stack([high] * 3, axis=-1))


def test_16_bit_big_endian_and_portable_graymap(tmp_path):
    high = noise(channels=0)
    Image.fromarray((high.astype(">u2") << 8) + 7).save(tmp_path / "big.tif")
    Image.fromarray((high.astype(np.uint16) << 8) + 7).save(tmp_path / "a.pgm")
    for name in ("big.tif", "a.pgm"):
        picture = images.read(tmp_path / name)
        assert "16 bit to 8" in picture.conversions, name
        assert np.array_equal(picture.pixels[..., 0], high), name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(noise(8, 16)).save(tmp_path / f"a.{suffix}", exif=exif)
    picture = images.read(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        stored.load()
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert picture.pixels.shape == ((8, 16, 3) if orientation < 5 else (16, 8, 3))
    assert np.array_equal(picture.pixels, expected)
    assert images.header_size(tmp_path / f"a.{suffix}") == picture.pixels.shape[:2]
    turned = (f"turned upright (EXIF orientation {orientation})",) if orientation > 1 else ()
    assert picture.conversions == turned


@pytest.mark.parametrize("exif", [b"Exif\x00\x00rubbish", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_a_broken_exif_block_says_nothing(tmp_path, exif):
    Image.fromarray(noise(8, 16)).save(tmp_path / "a.jpg", exif=exif)
    assert images.read(tmp_path / "a.jpg").conversions == ()


def test_first_frame_of_several(tmp_path):
    frames = [Image.fromarray(noise(seed=seed)) for seed in (1, 2)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert np.array_equal(images.read_rgb(tmp_path / "a.tif"), noise(seed=1))


# what is refused


def truncated(path, format_):
    stream = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(stream, format_)
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.jpg", lambda path: None, "no such file"),
        ("folder.jpg", lambda path: path.mkdir(), "not a file"),
        ("empty.jpg", lambda path: path.write_bytes(b""), "0 bytes"),
        ("text.jpg", lambda path: path.write_text("not a picture"), "not a picture in one of the formats JPEG, PNG"),
        ("cut.jpg", lambda path: truncated(path, "JPEG"), "can't be decoded: image file is truncated"),
        ("cut.png", lambda path: truncated(path, "PNG"), "can't be decoded"),
        ("float.tif", lambda path: Image.fromarray(np.ones((4, 4), np.float32)).save(path), "32 bits a channel"),
        ("script.eps", lambda path: Image.fromarray(noise()).save(path, "EPS"), "not a picture in one of the formats"),
    ],
)
def test_refused_in_one_line_with_file_and_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(images.BadImage, match=reason) as caught:
        images.read_rgb(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("side", [10_000, 20_000, 65_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    path = png_header(tmp_path / "bomb.png", side, side)
    for look in (images.read_rgb, images.read_mask, images.header_size):
        with pytest.raises(images.BadImage, match=rf"{side**2}.* limit") as caught:
            look(path)
        assert "\n" not in str(caught.value)


def test_the_limit_is_a_parameter_and_inclusive(tmp_path):
    Image.fromarray(noise(6, 9)).save(tmp_path / "a.png")
    assert images.read_rgb(tmp_path / "a.png", max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(images.BadImage, match="9x6 is 54 pixels, the limit is 53"):
        images.read_rgb(tmp_path / "a.png", max_pixels=53)


def test_the_error_survives_pickling_and_strange_names(tmp_path):
    error = pickle.loads(pickle.dumps(images.BadImage(tmp_path / "two\nlines.jpg", "bad\nluck")))
    assert error.reason == "bad luck" and "\n" not in str(error) and "two" in str(error)


# masks


def test_mask_edges_are_cut_at_128(tmp_path):
    row = np.array([[0] * 5 + [127, 128] + [255] * 5], np.uint8)
    Image.fromarray(row).save(tmp_path / "m.png")
    mask = images.read_mask(tmp_path / "m.png")
    assert mask.dtype == bool and mask.tolist() == [[False] * 6 + [True] * 6]
    assert np.array_equal(images.read_soft_mask(tmp_path / "m.png"), row)


def test_one_colour_channel_counts_and_alpha_does_not(tmp_path):
    pixels = np.zeros((1, 12, 4), np.uint8)
    pixels[0, :, 0] = [0, 0, 0, 0, 0, 200, 120, 255, 255, 255, 255, 255]
    pixels[0, :, 1] = [0, 0, 0, 0, 0, 190, 130, 255, 255, 255, 255, 255]  # soft edges whose channels differ a little
    pixels[0, :, 2] = pixels[0, :, 1]
    pixels[0, :, 3] = [255, 0] * 6
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "rgb.png")
    for name in ("rgba.png", "rgb.png"):
        assert images.read_mask(tmp_path / name).tolist() == [[False] * 5 + [True, False] + [True] * 5]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA"])
def test_mask_modes(tmp_path, mode):
    mask = noise(channels=0) > 127
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(images.read_mask(tmp_path / "m.png"), mask)


def test_mask_of_another_size_names_both(tmp_path):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "m.png")
    assert not images.read_mask(tmp_path / "m.png", (6, 9)).any()
    with pytest.raises(images.BadImage, match="m.png: the mask is 9x6, its image 6x9"):
        images.read_mask(tmp_path / "m.png", (9, 6))


def test_mask_of_zeros_and_ones_is_used(tmp_path):
    for name, dtype in (("8.png", np.uint8), ("16.png", np.uint16)):
        Image.fromarray(np.array([[0, 1]], dtype)).save(tmp_path / name)
        assert images.read_mask(tmp_path / name).tolist() == [[False, True]]
    cv2.imwrite(str(tmp_path / "colour.png"), np.array([[[0, 0, 0], [1, 1, 1]]], np.uint16))
    assert images.read_mask(tmp_path / "colour.png").tolist() == [[False, True]]


def test_a_mask_is_turned_upright_like_its_picture(tmp_path):
    mask = np.zeros((6, 9), np.uint8)
    mask[0, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(mask).save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(images.read_mask(tmp_path / "m.png"), np.rot90(mask, -1) > 0)


# writing


def test_png_round_trip(tmp_path):
    for name, array in (("rgb", noise()), ("gray", noise(channels=0)), ("mask", noise(channels=0) > 99)):
        images.write_png(tmp_path / name, array)
        back = images.read_mask(tmp_path / name) if array.dtype == bool else np.asarray(Image.open(tmp_path / name))
        assert np.array_equal(back, array), name
    assert Image.open(tmp_path / "mask").mode == "L" and Image.open(tmp_path / "mask").getextrema() == (0, 255)


def test_jpeg_quality_sampling_and_repeatable_bytes(tmp_path):
    pixels = noise(32, 48)
    images.write_jpeg(tmp_path / "a.jpg", pixels)
    images.write_jpeg(tmp_path / "b.jpg", pixels)
    images.write_jpeg(tmp_path / "small.jpg", pixels, quality=75, subsampling="4:2:0")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as full, Image.open(tmp_path / "small.jpg") as small:
        assert JpegImagePlugin.get_sampling(full) == 0 and JpegImagePlugin.get_sampling(small) == 2
        assert max(full.quantization[0]) < max(small.quantization[0])
    assert len(list(tmp_path.iterdir())) == 3  # nothing unfinished beside them


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), bool)])
def test_other_arrays_are_refused_and_leave_nothing(tmp_path, array):
    with pytest.raises(ValueError, match="expected uint8"):
        images.write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


# resizing


def test_bilinear_is_antialiased():
    # halving: the triangle reaches two source pixels to each side, cut at the border. By hand for the row
    # (0, 70, 140, 210): weights .75 .75 .25 and .25 .75 .75 over 1.75, so 87.5 / 1.75 = 50 and 280 / 1.75 = 160
    row = np.array([[0, 70, 140, 210]], np.uint8)
    assert images.resize(np.stack([row] * 3, axis=-1), (1, 2))[0, :, 0].tolist() == [50, 160]


def test_nearest_takes_the_pixel_at_the_centre():
    mask = np.array([[False, True, True, False]])
    assert images.resize(mask, (1, 2), kind="mask").tolist() == [[True, False]]  # pixels 1 and 3
    assert images.resize(mask, (2, 4), kind="mask").tolist() == [[False, True, True, False]] * 2


def test_same_size_is_untouched_and_kinds_are_held_apart():
    pixels = noise()
    assert images.resize(pixels, (6, 9)) is pixels
    with pytest.raises(ValueError, match="masks bool"):
        images.resize(pixels, (2, 2), kind="mask")
    with pytest.raises(ValueError, match="expected 'image' or 'mask'"):
        images.resize(pixels, (2, 2), kind="nearest")


# names that come from elsewhere


@pytest.mark.parametrize("name", ["a.jpg", "sub/a b.jpg", "写真/ñ.png", "a..b.jpg", "..a.jpg"])
def test_inside_lets_names_through(tmp_path, name):
    assert images.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["../../x", "a/../../x", "a/../x", "..", "/etc/passwd", ".", "", " ", "a\0b", None, 7])
def test_inside_refuses_in_one_line(tmp_path, name):
    with pytest.raises(UserError) as caught:
        images.inside(tmp_path, name)
    shown = repr(name) if name in ("", " ", "a\0b", None, 7) else f"{name}: "
    assert str(caught.value).startswith(shown)
    assert "\n" not in str(caught.value)


def test_inside_follows_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir(), outside.mkdir()
    (outside / "x.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(outside / "x.jpg")
    (root / "linked").symlink_to(outside)
    (root / "near.jpg").symlink_to(root / "other.jpg")
    for name in ("link.jpg", "linked/x.jpg"):
        with pytest.raises(UserError, match=f"{name}: is a link that leads out of the folder"):
            images.inside(root, name)
    assert images.inside(root, "near.jpg") == root / "near.jpg"
    assert images.inside(root / "linked", "x.jpg") == root / "linked" / "x.jpg"  # the folder itself may be a link


@given(st.lists(st.sampled_from(["..", ".", "a", "b.jpg", "", "/"]), min_size=1, max_size=6))
def test_what_inside_lets_through_is_inside(parts):
    root, name = "/nowhere/root", "/".join(parts)
    try:
        path = images.inside(root, name)
    except UserError:
        return
    assert path.resolve().is_relative_to(root) and str(path.resolve()) != root


# 12 bits in 16


def with_significant_bits(path, values: np.ndarray, bits: int | None):
    """A PNG of 16 bits that declares how many are significant in an sBIT chunk."""
    cv2.imwrite(str(path), values)
    if bits is not None:
        content = path.read_bytes()
        body = b"sBIT" + bytes([bits] * (1 if values.ndim == 2 else 3))
        chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        path.write_bytes(content[:33] + chunk + content[33:])
    return path


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_fewer_bits_are_scaled_where_the_file_declares_them(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    values.flat[0] = 4095
    expected = np.broadcast_to((values >> 4).reshape(6, 9, -1)[..., ::-1], (6, 9, 3))  # OpenCV writes BGR
    picture = images.read(with_significant_bits(tmp_path / "declared.png", values, 12))
    assert np.array_equal(picture.pixels, expected) and "12 bit to 8" in picture.conversions
    picture = images.read(with_significant_bits(tmp_path / "silent.png", values, None))
    assert np.array_equal(picture.pixels, expected >> 4)
    assert "16 bit to 8, nearly black: no value above 4095 of 65535" in picture.conversions
    full = values << 4  # as the PNG standard wants it: scaled to 16 bits already
    assert np.array_equal(images.read_rgb(with_significant_bits(tmp_path / "scaled.png", full, 12)), expected)


def test_a_tiff_declares_its_brightest_value(tmp_path):
    values = np.random.default_rng(1).integers(0, 4096, (6, 9), dtype=np.uint16)
    for tags, expected in (({281: 4095}, values >> 4), ({}, values >> 8)):
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=tags)
        assert np.array_equal(images.read_rgb(tmp_path / "a.tif")[..., 0], expected)


# names


def test_what_is_there_instead_of_a_missing_file_is_said(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "c1_1_1.JPG")
    with pytest.raises(images.BadImage, match="c1_1_1.jpg: no such file; c1_1_1.JPG is there"):
        images.read(tmp_path / "c1_1_1.jpg")
    with pytest.raises(images.BadImage, match="other.jpg: no such file$"):
        images.read(tmp_path / "other.jpg")


def test_names_that_no_file_can_have_and_loops_of_links(tmp_path):
    with pytest.raises(UserError, match="a name of 5,004 letters"):
        images.inside(tmp_path, "n" * 5000 + ".jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(UserError, match="loop.jpg: is a link that leads in a loop"):
        images.inside(tmp_path, "loop.jpg")
    with pytest.raises(images.BadImage, match="a link to what isn't there"):
        images.read(tmp_path / "loop.jpg")
