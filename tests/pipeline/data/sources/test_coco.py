import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.sources import coco
from pipeline.errors import UserError

PHOTOS = Path(__file__).resolve().parents[4] / "../shared/data/photos"

SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]  # columns 2..5, rows 1..3: 12 pixels


def photo(path, height=6, width=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def image(key, name, **more):
    return {"id": key, "file_name": name, "height": 6, "width": 9, **more}


def annotation(key, image_id, segmentation=SQUARE, category=1, **more):
    return {"id": key, "image_id": image_id, "category_id": category, "segmentation": segmentation, **more}


def write(folder, images, annotations, categories=({"id": 1, "name": "car", "supercategory": "vehicle"},), **files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for entry in images:
        name = entry.get("file_name", "")
        if name and ".." not in name and "missing" not in name:
            photo(folder / "images" / name)
    document = {"images": images, "annotations": annotations, "categories": list(categories)}
    (folder / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def reasons(rejected):
    return {row["item"]: row["reason"] for row in rejected}


# drawing


def square(height=6, width=9):
    mask = np.zeros((height, width), bool)
    mask[1:4, 2:6] = True
    return mask


def test_polygons_by_hand():
    assert np.array_equal(coco.draw(SQUARE, 6, 9), square())


def test_polygons_of_one_object_are_united():
    other = [7, 0, 9, 0, 9, 6, 7, 6]  # columns 7, 8
    expected = square()
    expected[:, 7:] = True
    assert np.array_equal(coco.draw([*SQUARE, other], 6, 9), expected)


def test_polygons_a_little_outside_are_clipped():
    assert coco.draw([[-3, -3, 12, -3, 12, 9, -3, 9]], 6, 9).all()


def test_rle_plain_and_compressed():
    # column by column: two empty columns of 6 and one pixel, then 3 in, 3 out, ... for the four columns of the square
    runs = [13, 3, 3, 3, 3, 3, 3, 3, 2 + 18]
    assert np.array_equal(coco.draw({"size": [6, 9], "counts": runs}, 6, 9), square())
    code = coco_mask.encode(np.asfortranarray(square().astype(np.uint8)))
    counts = code["counts"].decode()
    assert coco.run_lengths(counts) == runs
    assert np.array_equal(coco.draw({"size": [6, 9], "counts": counts}, 6, 9), square())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_run_lengths_read_what_pycocotools_writes(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert sum(coco.run_lengths(counts)) == height * width
    assert np.array_equal(coco.draw({"size": [height, width], "counts": counts}, height, width), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [6, 9], "counts": ""}, "cover 0 of 54"),
        ({"size": [6, 9], "counts": "44"}, "cover 8 of 54"),
        ({"size": [6, 9], "counts": "44o"}, "ends in the middle"),
        ({"size": [6, 9], "counts": "é"}, "holds the character 'é'"),
        ({"size": [6, 9], "counts": [50, 5]}, "cover 55 of 54"),
        ({"size": [6, 9], "counts": [60, -6]}, "doesn't decode"),
        ({"size": [6, 9], "counts": [27.5, 26.5]}, "a string or a list of integers"),
        ({"size": [6, 9]}, "a string or a list of integers"),
        ({"size": [9, 6], "counts": [54]}, r"RLE of size \[9, 6\], the photograph is \[6, 9\]"),
        ([[1, 2, 3, 4]], "without three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "without three points"),
        ([[0, 0, 4, 0, float("nan"), 4]], "coordinate that is nan"),
        ([[0, 0, 4, 0, "x", 4]], "coordinate that is 'x'"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside 9x6"),
        ([], "no segmentation"),
        (None, "no segmentation"),
    ],
)
def test_segmentations_that_cannot_be_drawn(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        coco.draw(segmentation, 6, 9)


# reading a folder


def test_a_folder(tmp_path):
    folder = write(
        tmp_path / "set",
        [image(12, "b.jpg", source_photo="street/7.jpg"), image(5, "a.jpg")],
        [annotation(1, 12), annotation(2, 12, iscrowd=1), annotation(3, 5, {"size": [6, 9], "counts": [0, 54]})],
    )
    photographs, rejected = coco.read(folder)
    assert [row["item"] for row in rejected] == ["instance 2"]
    assert [(each.image_id, each.file.name, each.group, each.split) for each in photographs] == [
        ("12", "b.jpg", "street/7.jpg", None),
        ("5", "a.jpg", "5", None),
    ]
    (car,) = photographs[0].instances  # the crowd region is a rejected row
    assert (car.instance_id, car.category, car.supercategory) == ("1", "car", "vehicle")
    assert np.array_equal(car.mask(), square())
    assert photographs[1].instances[0].mask().all()


def test_names_with_spaces_and_in_other_scripts(tmp_path):
    folder = write(tmp_path, [image(1, "my photo.jpg"), image(2, "写真/ñandú.png")], [annotation(1, 2)])
    photographs, rejected = coco.read(folder)
    assert rejected == [] and [each.file.is_file() for each in photographs] == [True, True]
    assert photographs[1].instances[0].mask().sum() == 12


def test_ids_with_an_underscore_are_converted(tmp_path):
    folder = write(tmp_path, [image("img_0001", "a.jpg"), image("img 2", "b.jpg")], [annotation("obj_1", "img_0001")])
    photographs, _ = coco.read(folder)
    assert [each.image_id for each in photographs] == ["img-0001", "img-2"]
    assert photographs[0].instances[0].instance_id == "obj-1"


def test_ids_that_become_equal_are_duplicates(tmp_path):
    folder = write(tmp_path, [image("img_1", "a.jpg"), image("img-1", "b.jpg")], [])
    with pytest.raises(UserError, match="duplicate image id img-1: .*a.jpg and .*b.jpg"):
        coco.read(folder)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/passwd", "a/../../../x.jpg"])
def test_names_that_climb_out_are_refused(tmp_path, name):
    folder = write(tmp_path / "set", [image(1, "a.jpg")], [annotation(1, 1), annotation(2, 2)])
    document = json.loads((folder / "instances.json").read_text())
    document["images"].append(image(2, name))
    (folder / "instances.json").write_text(json.dumps(document))
    photographs, rejected = coco.read(folder)
    assert [each.image_id for each in photographs] == ["1"]
    (row,) = rejected
    assert row["file"] == name and row["item"] == "photograph 2" and "leads out of the folder" in row["reason"]


def test_listed_but_missing_repeated_or_nameless_images(tmp_path):
    images = [image(1, "a.jpg"), image(2, "missing.jpg"), image(3, "a.jpg"), {"id": 4}, {"file_name": "b.jpg"}]
    photographs, rejected = coco.read(write(tmp_path, images, [annotation(1, 1)]))
    assert [each.image_id for each in photographs] == ["1"]
    assert reasons(rejected) == {
        "photograph 2": "no such file",
        "photograph 3": "is image 1 already",
        "photograph 4": "image without a file name",
        "photograph 4 (position in the list)": "image without an id",
    }


def test_annotations_without_image_or_category_or_id(tmp_path):
    annotations = [annotation(1, 1), annotation(2, 99), annotation(3, 1, category=8), {"image_id": 1}]
    photographs, rejected = coco.read(write(tmp_path, [image(1, "a.jpg")], annotations))
    assert len(photographs[0].instances) == 1
    assert reasons(rejected) == {
        "instance 2": "its image 99 isn't in the list of images",
        "instance 3": "its category 8 isn't in the list of categories",
        "instance 3 (position in the list)": "annotation without an id",
    }


def test_duplicate_ids_are_an_error_that_names_them(tmp_path):
    with pytest.raises(UserError, match=r"instances.json: duplicate image id 7 \(a.jpg, b.jpg\)"):
        coco.read(write(tmp_path / "i", [image(7, "a.jpg"), image(7, "b.jpg")], []))
    with pytest.raises(UserError, match="duplicate annotation id 3"):
        coco.read(write(tmp_path / "a", [image(1, "a.jpg")], [annotation(3, 1), annotation(3, 1)]))
    twice = ({"id": 1, "name": "car"}, {"id": 1, "name": "tree"})
    with pytest.raises(UserError, match=r"duplicate category id 1 \(car, tree\)"):
        coco.read(write(tmp_path / "c", [image(1, "a.jpg")], [], categories=twice))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        ("[]", "not COCO instances: no list 'images'"),
        ('{"images": []}', "not COCO instances: no list 'annotations'"),
        ('{"images": {}, "annotations": [], "categories": []}', "not COCO instances: no list 'images'"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1}]}',
            "a category without an id or a name",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "its list of images is empty"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_json_that_is_not_coco(tmp_path, content, reason):
    write(tmp_path, [], [])
    (tmp_path / "instances.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=reason) as caught:
        coco.read(tmp_path)
    assert "instances.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_or_json_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        coco.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="images: no such folder"):
        coco.read(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="instances.json: no such file; expected COCO instances"):
        coco.read(tmp_path)


def test_a_mask_of_another_size_is_refused_before_it_is_drawn(tmp_path):
    entry = image(1, "a.jpg") | {"height": 10**6, "width": 10**6}
    photographs, _ = coco.read(write(tmp_path, [entry], [annotation(1, 1)]))
    with pytest.raises(UserError, match="a.jpg: the size in the JSON is 1000000x1000000, its image 9x6"):
        photographs[0].instances[0].mask()


def test_without_a_size_in_the_json_the_file_has_it(tmp_path):
    photographs, _ = coco.read(write(tmp_path, [{"id": 1, "file_name": "a.jpg"}], [annotation(1, 1)]))
    assert np.array_equal(photographs[0].instances[0].mask(), square())


def test_a_mask_that_cannot_be_drawn_names_the_photograph(tmp_path):
    broken = annotation(1, 1, {"size": [6, 9], "counts": "x"})
    photographs, _ = coco.read(write(tmp_path, [image(1, "a.jpg")], [broken]))
    with pytest.raises(UserError, match="a.jpg: RLE"):
        photographs[0].instances[0].mask()


# splits


def test_split_file(tmp_path):
    images = [image(1, "a.jpg", split="test"), image(2, "b.jpg"), image(3, "c.jpg")]
    splits = {"train": ["a.jpg"], "val": ["b.jpg"], "test": ["gone.jpg"]}
    photographs, rejected = coco.read(write(tmp_path, images, [], splits=splits))
    assert [(each.image_id, each.split) for each in photographs] == [("1", "train"), ("2", "val")]
    assert [(row["file"], row["reason"]) for row in rejected] == [
        ("c.jpg", "in no split of the split file"),
        ("gone.jpg", "in splits.json and in no list of images"),
    ]


def test_split_field(tmp_path):
    photographs, _ = coco.read(write(tmp_path / "a", [image(1, "a.jpg", split="val")], []))
    assert photographs[0].split == "val"
    with pytest.raises(UserError, match="a.jpg: split is 'dev', expected one of train, val, test"):
        coco.read(write(tmp_path / "b", [image(1, "a.jpg", split="dev")], []))


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        ({"train": ["a.jpg"], "test": ["a.jpg"]}, "a.jpg is in train and in test"),
        ({"training": []}, "expected lists of file names under train, val, test"),
        ([], "expected lists of file names"),
        ({"train": "a.jpg"}, "train is not a list of file names"),
    ],
)
def test_split_files_that_make_no_sense(tmp_path, splits, reason):
    with pytest.raises(UserError, match=f"splits.json: {reason}"):
        coco.read(write(tmp_path, [image(1, "a.jpg")], [], splits=splits))


def test_several_annotation_files(tmp_path):
    write(tmp_path, [image(1, "a.jpg")], [annotation(1, 1)])
    (tmp_path / "instances.json").rename(tmp_path / "first.json")
    write(tmp_path, [image(2, "b.jpg")], [annotation(2, 2)])
    photographs, _ = coco.read(tmp_path, annotations=["first.json", "instances.json"])
    assert [each.image_id for each in photographs] == ["1", "2"]
    with pytest.raises(UserError, match="duplicate image id 2"):
        coco.read(tmp_path, annotations=["instances.json", "instances.json"])
    with pytest.raises(UserError, match="2 image folders for 1 annotation files"):
        coco.read(tmp_path, images=["images", "images"])


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/data isn't here")
def test_shared_photos():
    photographs, rejected = coco.read(PHOTOS)
    assert (len(photographs), sum(len(each.instances) for each in photographs), rejected) == (958, 1042, [])
    assert [sum(each.split == split for each in photographs) for split in ("train", "val", "test")] == [768, 92, 98]
    annotations = json.loads((PHOTOS / "instances.json").read_text())["annotations"]
    area = {str(each["id"]): each["area"] for each in annotations}
    for photograph in photographs[::20]:
        for each in photograph.instances:
            assert each.mask().sum() == area[each.instance_id]


def brushed(folder, crowd: int, sizes: dict):
    """Eight photographs with an object each, six of them RLE with iscrowd as a brush tool writes it."""
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "images").mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.full((10, 12, 3), number * 9, np.uint8)).save(folder / f"images/p{number}.png")
        document["images"].append({"id": number, "file_name": f"p{number}.png"} | sizes)
        rle = {"size": [10, 12], "counts": [20, 60, 40]}
        drawn = (
            {"segmentation": rle, "iscrowd": crowd}
            if number < 6
            else {"segmentation": [[1, 1, 9, 1, 9, 8, 1, 8]], "iscrowd": 0}
        )
        document["annotations"].append({"id": 100 + number, "image_id": number, "category_id": 1} | drawn)
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def test_crowd_regions_become_rows_or_objects(tmp_path):
    photographs, rejected = coco.read(brushed(tmp_path / "a", 1, {}))
    assert sum(len(each.instances) for each in photographs) == 2
    assert [(row["item"], row["reason"].split(" marks")[0]) for row in rejected] == [
        (f"instance {100 + number}", "iscrowd: 1") for number in range(6)
    ]
    photographs, rejected = coco.read(tmp_path / "a", crowd_objects="use")
    assert rejected == [] and [each.instances[0].mask().sum() for each in photographs[:6]] == [60] * 6


def test_sizes_written_as_text(tmp_path):
    photographs, rejected = coco.read(brushed(tmp_path / "digits", 0, {"width": "12", "height": " 10 "}))
    assert rejected == [] and all(each.instances[0].mask().any() for each in photographs)
    for wrong, reason in (
        ("wide", "its width is text ('wide')"),
        ([12], "its width is no number ('[12]')"),
        (True, "its width is no number ('True')"),
    ):
        folder = brushed(tmp_path / f"wrong{reason[-8:-2]}", 0, {"width": wrong, "height": 10})
        photographs, rejected = coco.read(folder)
        assert photographs == [] and {row["reason"] for row in rejected} == {reason}
