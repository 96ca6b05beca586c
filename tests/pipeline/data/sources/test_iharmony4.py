from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import tables
from pipeline.data.sources import iharmony4
from pipeline.errors import UserError
from tests.pipeline.test_bad_input import bomb

SAMPLE = Path(__file__).resolve().parents[4] / "../shared/data/iharmony4_sample"


def triple(root, name="c49_123_1", subset="HCOCO", size=(9, 6), mask="L", foreground=12):
    """A composite, its mask (`foreground` of its first pixels are in) and its real image."""
    real, object_, _ = name.split("_")
    for kind, file in (("composite_images", name), ("real_images", real)):
        (root / subset / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 80, 70)).save(root / subset / kind / f"{file}.jpg")
    (root / subset / "masks").mkdir(exist_ok=True)
    pixels = np.zeros(size[0] * size[1], np.uint8)
    pixels[:foreground] = 255
    image = Image.fromarray(pixels.reshape(size[1], size[0]))
    image.convert(mask).save(root / subset / "masks" / f"{real}_{object_}.png")


def lists(root, subset="HCOCO", whole=False, **names):
    for split, each in names.items():
        prefix = f"{subset}/composite_images/" if whole else ""
        file = root / (f"IHD_{split}.txt" if whole else f"{subset}/{subset}_{split}.txt")
        file.write_text("".join(f"{prefix}{name}.jpg\n" for name in each))


@pytest.fixture
def small(tmp_path):
    for name in ("c49_123_1", "c49_123_2", "c49_5_1", "c7_8_1"):
        triple(tmp_path, name)
    lists(tmp_path, train=["c49_123_1", "c49_123_2"], test=["c49_5_1", "c7_8_1"])
    return tmp_path


# names


@given(
    st.sampled_from(["HCOCO", "HAdobe5k", "HFlickr", "Hday2night"]),
    st.from_regex(r"[acdf][0-9]{1,6}(-[0-9]{1,8})?", fullmatch=True),
    st.integers(1, 10**7),
    st.integers(1, 26),
)
def test_paths_follow_the_rules_that_public_loaders_use(subset, real, object_, k):
    # saic-vul's loader: split the stem at underscores, mask = first two parts, real = first part
    name = f"{real}_{object_}_{k}.jpg"
    entry = iharmony4.parse(f"{subset}/composite_images/{name}", "test")
    parts = name.split("_")
    assert entry.composite_file == f"{subset}/composite_images/{name}"
    assert entry.mask_file == f"{subset}/masks/{'_'.join(parts[:-1])}.png"
    assert entry.real_file == f"{subset}/real_images/{parts[0]}.jpg"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../../HCOCO/composite_images/c1_2_3.jpg", "leads out"),
        ("HCOCO/../c1_2_3.jpg", "leads out"),
        ("/HCOCO/composite_images/c1_2_3.jpg", "leads out"),
        ("c1_2_3.jpg", "names no sub-dataset"),
        ("HCOCO/c1_2_3.jpg", "expected <subset>/composite_images"),
        ("HCOCO/masks/c1_2_3.jpg", "expected <subset>/composite_images"),
        ("HCOCO/composite_images/my_c1_2_3.jpg", "ids hold no underscore"),
        ("HCOCO/composite_images/c1_2.jpg", "not a name <real>_<object>_<k>.jpg"),
        ("HCOCO/composite_images/c1__3.jpg", "not a name"),
        ("HCOCO/composite_images/c1_2_3.png", "not a name"),
        ("c1_2_3", "names no sub-dataset"),
    ],
)
def test_lines_that_make_no_sense(line, reason):
    with pytest.raises(ValueError, match=reason):
        iharmony4.parse(line, "train")


def test_windows_paths_and_the_lists_of_one_sub_dataset():
    assert iharmony4.parse(r"HCOCO\composite_images\c1_2_3.jpg", "train").real == "c1"
    assert iharmony4.parse("c1_2_3.jpg", "train", "HCOCO").composite_file == "HCOCO/composite_images/c1_2_3.jpg"
    with pytest.raises(ValueError, match="is in the list of HCOCO"):
        iharmony4.parse("HFlickr/composite_images/f1_2_3.jpg", "train", "HCOCO")


# reading


def test_rows(small):
    contents = iharmony4.read(small)
    assert contents.root == small and contents.rejected == [] and contents.colour_masks == 0
    assert [(row["pair_id"], row["split"]) for row in contents.rows] == [
        ("c49_123_1", "train"),
        ("c49_123_2", "train"),
        ("c49_5_1", "test"),
        ("c7_8_1", "test"),
    ]
    row = contents.rows[0]
    assert row["composite"] == "composite_images/c49_123_1.jpg"
    assert row["mask"] == "masks/c49_123.png" and row["real"] == "real_images/c49.jpg"
    assert row["foreground_ratio"] == 12 / 54 and row["source_image"] == "c49"
    assert len(tables.frame(contents.rows, iharmony4.PAIRS)) == 4


def test_overlap_is_counted(small):
    (row,) = iharmony4.read(small).overlaps
    assert row == {
        "subset": "HCOCO",
        "composites_train": 2,
        "composites_test": 2,
        "photographs_train": 1,
        "photographs_test": 2,
        "photographs_shared": 1,
        "test_composites_of_shared_photographs": 1,
        "cameras_shared": 0,
        "test_composites_of_shared_cameras": 0,
    }


def test_cameras_of_day2night():
    names = [("train", "d90-26_1_1"), ("test", "d90-3_1_1"), ("test", "d1048-20120628-200951_1_4")]
    (row,) = iharmony4.overlaps(iharmony4.parse(f"{name}.jpg", split, "Hday2night") for split, name in names)
    assert (row["photographs_shared"], row["cameras_shared"], row["test_composites_of_shared_cameras"]) == (0, 1, 1)


def test_one_sub_dataset_alone(small):
    contents = iharmony4.read(small / "HCOCO")
    assert contents.root == small and contents.rows == iharmony4.read(small).rows


def test_the_lists_of_the_whole_and_folders_that_are_not_here(small):
    (small / "HCOCO" / "HCOCO_train.txt").unlink()
    lists(small, whole=True, test=["c49_5_1"], train=["c49_123_1"])
    with (small / "IHD_test.txt").open("a", newline="") as stream:
        stream.write("\r\nHFlickr/composite_images/f1_1_1.jpg\r\nHFlickr/composite_images/f2_1_1.jpg\r\n")
    contents = iharmony4.read(small)
    assert [row["pair_id"] for row in contents.rows] == ["c49_123_1", "c49_5_1"]
    (row,) = contents.rejected
    assert (row["file"], row["reason"]) == ("HFlickr", "2 lines for test name this folder, which isn't here")


def test_a_list_of_composites_alone(small):
    for file in (small / "HCOCO").glob("*.txt"):
        file.unlink()
    with pytest.raises(UserError, match="no list of composites: expected IHD_train.txt"):
        iharmony4.read(small)
    (small / "mine.txt").write_text("HCOCO/composite_images/c7_8_1.jpg\n")
    contents = iharmony4.read(small, lists={"test": "mine.txt"})
    assert [(row["pair_id"], row["split"]) for row in contents.rows] == [("c7_8_1", "test")]
    with pytest.raises(UserError, match="none.txt: no such file"):
        iharmony4.read(small, lists={"test": "none.txt"})
    (small / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match="blank.txt is empty: no composite is listed"):
        iharmony4.read(small, lists={"test": "blank.txt"})
    with pytest.raises(UserError, match="mine.txt: leads out of the folder"):
        iharmony4.read(small, lists={"test": "../mine.txt"})


def test_masks_stored_as_rgb_are_used_and_counted(tmp_path):
    triple(tmp_path, "a0002_1_4", "HAdobe5k", mask="RGB")
    triple(tmp_path, "a0002_1_5", "HAdobe5k", mask="RGB")
    lists(tmp_path, "HAdobe5k", test=["a0002_1_4", "a0002_1_5"])
    contents = iharmony4.read(tmp_path)
    assert contents.colour_masks == 1 and contents.rows[1]["foreground_ratio"] == 12 / 54


def break_composite(root):
    file = root / "HCOCO/composite_images/c7_8_1.jpg"
    file.write_bytes(file.read_bytes()[:-6])  # within the pixels, behind the header


def new_mask(root, size, value):
    Image.new("L", size, value).save(root / "HCOCO/masks/c7_8.png")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (root / "HCOCO/composite_images/c7_8_1.jpg").unlink(), "c7_8_1.jpg: no such file"),
        (lambda root: (root / "HCOCO/masks/c7_8.png").unlink(), "HCOCO/masks/c7_8.png: no such file"),
        (lambda root: (root / "HCOCO/real_images/c7.jpg").unlink(), "HCOCO/real_images/c7.jpg: no such file"),
        (lambda root: (root / "HCOCO/real_images/c7.jpg").write_bytes(b""), "c7.jpg: 0 bytes"),
        (break_composite, "c7_8_1.jpg: can't be decoded"),
        (
            lambda root: bomb(root / "HCOCO/composite_images/c7_8_1.jpg"),
            "c7_8_1.jpg: 10000x10000 is 100000000 pixels, the limit is",
        ),
        (lambda root: bomb(root / "HCOCO/masks/c7_8.png"), "c7_8.png: 10000x10000 is 100000000 pixels, the limit is"),
        (lambda root: new_mask(root, (6, 9), 255), "the mask is 6x9, its image 9x6"),
        (lambda root: new_mask(root, (9, 6), 0), "c7_8.png: empty mask"),
        (lambda root: new_mask(root, (9, 6), 1), "every pixel of this mask is 1"),
        (
            lambda root: Image.new("RGB", (6, 9)).save(root / "HCOCO/real_images/c7.jpg"),
            "the real image is 6x9, its image 9x6",
        ),
    ],
)
def test_bad_triples_are_rejected_with_their_reason(small, spoil, reason):
    spoil(small)
    contents = iharmony4.read(small, max_rejected=0.25)
    assert [row["pair_id"] for row in contents.rows] == ["c49_123_1", "c49_123_2", "c49_5_1"]
    (row,) = contents.rejected
    assert row["item"] == "photograph c7_8_1" and reason in row["reason"] and str(small) not in row["reason"]
    with pytest.raises(UserError, match=r"1 of 4 photographs rejected \(25.0%, the limit max_rejected is 20.0%\)"):
        iharmony4.read(small, max_rejected=0.2)


def test_headers_alone_do_not_find_a_truncated_file(small):
    break_composite(small)
    assert len(iharmony4.read(small, decode=False).rows) == 4


def test_lines_twice_and_lines_for_two_splits(small):
    lists(small, test=["c49_5_1", "c49_5_1", "c7_8_1"])
    contents = iharmony4.read(small, max_rejected=0.5)
    assert [row["reason"] for row in contents.rejected] == ["listed twice (HCOCO_test.txt)"] and len(contents.rows) == 4
    lists(small, test=["c49_123_1"])
    with pytest.raises(UserError, match="HCOCO_test.txt: c49_123_1.jpg is also listed for train"):
        iharmony4.read(small)


def test_nothing_left(small):
    lists(small, train=[], test=["c1_1_1"])
    with pytest.raises(UserError, match="no usable composite, first reasons: HCOCO/composite_images/c1_1_1.jpg"):
        iharmony4.read(small, max_rejected=1.0)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        iharmony4.read(small / "nowhere")


# the real thing


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="../shared/data isn't here")
def test_shared_sample():
    contents = iharmony4.read(SAMPLE)
    assert [row["pair_id"] for row in contents.rows] == ["a0002_1_4", "e0001_1_1", "e0002_1_1", "e0003_1_1"]
    assert contents.colour_masks == 1 and contents.rejected == []
    assert [row["subset"] for row in contents.overlaps] == ["HAdobe5k", "RainNetExamples"]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="../shared/data isn't here")
def test_the_official_lists_overlap_as_published_counts_say():
    # counted in the published lists: photographs in both, photographs of test, cameras
    # (composites of test that are concerned), counted there by other means
    names = {split: f"iharmony4_lists/le50_{split}.txt" for split in ("train", "test")}
    entries, rejected = iharmony4.listed(SAMPLE, names)
    assert (len(entries), rejected) == (64255 + 7237, [])
    rows = {row["subset"]: row for row in iharmony4.overlaps(entries)}
    columns = ("photographs_train", "photographs_test", "photographs_shared", "test_composites_of_shared_photographs")
    assert {subset: tuple(row[column] for column in columns) for subset, row in rows.items()} == {
        "HCOCO": (26741, 3392, 1389, 1804),
        "HAdobe5k": (3740, 413, 0, 0),
        "HFlickr": (4117, 421, 8, 16),
        "Hday2night": (81, 24, 0, 0),
    }
    assert (rows["Hday2night"]["cameras_shared"], rows["Hday2night"]["test_composites_of_shared_cameras"]) == (5, 28)
