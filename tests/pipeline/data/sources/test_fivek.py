import numpy as np
import pytest
from PIL import Image

from pipeline.data.sources import fivek
from pipeline.errors import UserError


def picture(path, size=(9, 6), value=90, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, value, value)).save(path)


def make(folder, renditions=("input", "expertA"), photos=("a0001-one", "a0002-two"), masks=None):
    for rendition in renditions:
        for photo in photos:
            picture(folder / rendition / f"{photo}.jpg")
    for photo in photos if masks is None else masks:
        picture(folder / "masks" / f"{photo}.png", value=255, mode="L")
    return folder


def test_one_photograph_per_version_one_group_per_photo(tmp_path):
    photographs, rejected = fivek.read(make(tmp_path, fivek.RENDITIONS))
    assert rejected == [] and len(photographs) == 12
    first = photographs[0]
    assert (first.image_id, first.group, first.rendition, first.split) == ("a0001-input", "a0001", "input", None)
    assert {each.rendition for each in photographs if each.group == "a0002"} == set(fivek.RENDITIONS)
    (instance,) = first.instances
    assert instance.instance_id == "1" and instance.mask().shape == (6, 9) and instance.mask().all()


@pytest.mark.parametrize(
    ("folder", "rendition"),
    [("original", "input"), ("Raw", "input"), ("Expert_C", "expertC"), ("c", "expertC"), ("tiff16_b", "expertB")],
)
def test_spellings_of_the_folders(tmp_path, folder, rendition):
    photographs, _ = fivek.read(make(tmp_path, ("expertE", folder)))
    assert {each.rendition for each in photographs} == {"expertE", rendition}


def test_masks_by_number_or_by_whole_name(tmp_path):
    photographs, rejected = fivek.read(make(tmp_path, masks=("a0001", "a0002-two")))
    assert rejected == [] and len(photographs) == 4


def test_other_names_are_their_own_photo(tmp_path):
    photographs, _ = fivek.read(make(tmp_path, photos=("my_photo", "a00012")))
    assert {each.group for each in photographs} == {"my-photo", "a00012"}


def test_the_16_bit_originals_are_read(tmp_path):
    make(tmp_path, ("input",))
    import cv2

    (tmp_path / "tiff16_a").mkdir()
    cv2.imwrite(str(tmp_path / "tiff16_a" / "a0001-one.tif"), np.full((6, 9, 3), 0x1234, np.uint16))
    photographs, _ = fivek.read(tmp_path)
    assert [each.image_id for each in photographs] == ["a0001-input", "a0002-input", "a0001-expertA"]


def test_incomplete_ones_are_rejected(tmp_path):
    make(tmp_path, masks=("a0001-one", "a0007"))
    (tmp_path / "input" / "notes.txt").touch()
    photographs, rejected = fivek.read(tmp_path)
    assert {each.group for each in photographs} == {"a0001"}
    assert [(row["file"], row["item"], row["reason"]) for row in rejected] == [
        ("input/notes.txt", "file", "not a picture file that is read"),
        ("input/a0002-two.jpg", "photograph a0002-input", "no masks/a0002.png"),
        ("expertA/a0002-two.jpg", "photograph a0002-expertA", "no masks/a0002.png"),
        ("masks/a0007.png", "file", "no photograph of this name"),
    ]


def test_a_mask_of_another_size_is_refused(tmp_path):
    make(tmp_path)
    picture(tmp_path / "masks" / "a0001-one.png", (8, 6), 255, "L")
    photographs, _ = fivek.read(tmp_path)
    with pytest.raises(UserError, match="a0001-one.png: the mask is 8x6, its image 9x6"):
        photographs[0].instances[0].mask()


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        fivek.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="masks: no such folder"):
        fivek.read(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="none of the folders input, expertA"):
        fivek.read(tmp_path)
    with pytest.raises(UserError, match="expertA and expert_a are both expertA"):
        fivek.read(make(tmp_path / "two", ("expertA", "expert_a")))
    (tmp_path / "raw" / "input").mkdir(parents=True)
    (tmp_path / "raw" / "masks").mkdir()
    (tmp_path / "raw" / "input" / "a0001.dng").touch()
    with pytest.raises(UserError, match="input: no picture that can be read; it holds .dng"):
        fivek.read(tmp_path / "raw")


def test_one_photo_twice_is_an_error(tmp_path):
    make(tmp_path)
    picture(tmp_path / "input" / "a0001-other.jpg")
    with pytest.raises(UserError, match="duplicate image id a0001-input: .*one.jpg and .*other.jpg"):
        fivek.read(tmp_path)
    picture(tmp_path / "masks" / "a0001.png", value=255, mode="L")
    with pytest.raises(UserError, match="a0001-one.png and a0001.png are both masks of a0001"):
        fivek.read(tmp_path)
