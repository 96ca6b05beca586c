import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.data.sources import bundled
from pipeline.errors import UserError

ANNOTATIONS = Path(bundled.__file__).with_name("bundled.json")


@pytest.fixture(scope="module")
def document():
    return json.loads(ANNOTATIONS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dataset():
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        return COCO(ANNOTATIONS)


def test_at_least_nine_photographs_and_thirty_five_instances(document):
    assert len(document["images"]) >= 9
    assert len(document["annotations"]) >= 35


def test_ids_are_unique_small_and_without_underscore(document):
    for entries in (document["images"], document["annotations"], document["categories"]):
        ids = [entry["id"] for entry in entries]
        assert len(set(ids)) == len(ids)
        assert all(isinstance(key, int) and 0 < key < 1000 for key in ids)
    names = [entry["file_name"] for entry in document["images"]]
    assert len(set(names)) == len(names)


def test_every_photograph_is_found_is_colour_and_has_the_stated_size(document):
    for entry in document["images"]:
        with Image.open(bundled.locate(entry["file_name"])) as picture:
            assert (picture.size, picture.mode) == ((entry["width"], entry["height"]), "RGB"), entry["file_name"]
        assert bundled.PACKAGES[entry["file_name"].split("/")[0]] == entry["package"]


def test_areas_boxes_and_shares_agree_with_the_drawn_masks(dataset):
    for annotation in dataset.anns.values():
        mask = dataset.annToMask(annotation)
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert annotation["area"] == mask.sum(), annotation["id"]
        assert annotation["bbox"] == box, annotation["id"]
        assert 0.01 < mask.mean() < 0.8, annotation["id"]
        assert annotation["iscrowd"] == 0


def test_polygons_are_simple_lists_inside_their_photograph_with_at_most_one_decimal(dataset):
    for annotation in dataset.anns.values():
        size = dataset.imgs[annotation["image_id"]]
        for polygon in annotation["segmentation"]:
            points = np.array(polygon).reshape(-1, 2)
            assert len(points) >= 3
            assert (points >= 0).all() and (points <= [size["width"], size["height"]]).all(), annotation["id"]
            assert np.allclose(points * 10, np.round(points * 10), atol=1e-6), annotation["id"]


def test_every_category_is_used_and_has_a_supercategory(document):
    used = {entry["category_id"] for entry in document["annotations"]}
    assert used == {entry["id"] for entry in document["categories"]}
    assert all(entry["supercategory"] for entry in document["categories"])


def test_splits_have_the_promised_sizes(document):
    split = {entry["id"]: entry["split"] for entry in document["images"]}
    photographs, instances = defaultdict(int), defaultdict(int)
    for name in split.values():
        photographs[name] += 1
    for annotation in document["annotations"]:
        instances[split[annotation["image_id"]]] += 1
    assert set(photographs) == {"train", "val", "test"}
    assert photographs["train"] >= 5 and photographs["val"] >= 2 and photographs["test"] >= 2
    assert instances["test"] >= 8
    assert instances["train"] > instances["val"] + instances["test"]


def test_every_split_has_a_supercategory_in_two_photographs_within_the_area_limit(dataset):
    """Synthesis looks for references inside a split, in another photograph, of 1/16 to 16 times the area."""
    objects = defaultdict(list)
    for annotation in dataset.anns.values():
        kind = dataset.cats[annotation["category_id"]]["supercategory"]
        objects[dataset.imgs[annotation["image_id"]]["split"], kind].append(annotation)
    paired = {
        split
        for (split, _), group in objects.items()
        for instance in group
        for other in group
        if instance["image_id"] != other["image_id"] and 1 / 16 <= instance["area"] / other["area"] <= 16
    }
    assert paired == {"train", "val", "test"}


def test_the_file_is_small_and_has_one_annotation_a_line(document):
    text = ANNOTATIONS.read_text(encoding="utf-8")
    assert len(text.encode()) < 150_000
    assert sum('"segmentation"' in line for line in text.splitlines()) == len(document["annotations"])
    assert max(line.count('"segmentation"') for line in text.splitlines()) == 1
    assert "CC0" in document["info"]["licence"]
    assert document["info"]["description"] and document["info"]["version"]


def test_the_docstring_lists_exactly_these_photographs_in_their_splits(document):
    listed = re.findall(r"^    (sk\S+)\s+(train|val|test)\b", bundled.__doc__, flags=re.MULTILINE)
    assert dict(listed) == {entry["file_name"]: entry["split"] for entry in document["images"]}


def test_read_gives_every_photograph_with_all_its_objects(document, dataset):
    photographs, rejected = bundled.read(ANNOTATIONS)
    assert rejected == []
    assert [photograph.image_id for photograph in photographs] == [str(entry["id"]) for entry in document["images"]]
    assert sum(len(photograph.instances) for photograph in photographs) == len(document["annotations"])
    first = photographs[0].instances[0]
    assert (first.category, first.supercategory) == ("person", "person or animal")
    assert np.array_equal(first.mask(), dataset.annToMask(dataset.anns[1]).astype(bool))


@pytest.mark.parametrize(
    "name, told",
    [
        ("skimage/data/unicorn.png", r"skimage/data/unicorn\.png: the installed scikit-image has no such file"),
        ("numpy/logo.png", r"numpy/logo\.png: expected a file of skimage/ or sklearn/"),
        ("sklearn/../../secret.png", "leads out"),
        ("sklearn", "is not a file name"),
        ("", "expected a file of"),
    ],
)
def test_a_name_that_cannot_be_located_is_refused_in_one_line(name, told):
    with pytest.raises(UserError, match=told) as caught:
        bundled.locate(name)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn is not installed.*sklearn/"):
        bundled.locate("sklearn/datasets/images/china.jpg")


def test_a_missing_package_rejects_its_photographs_only(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    photographs, rejected = bundled.read(ANNOTATIONS)
    assert {row["file"] for row in rejected if "photograph" in row["item"]} == {
        "sklearn/datasets/images/flower.jpg",
        "sklearn/datasets/images/china.jpg",
    }
    assert {"scikit-learn" in row["reason"] for row in rejected} == {True}
    assert len(photographs) == 7


def test_locating_imports_neither_package():
    program = (
        "import sys; from pipeline.data.sources import bundled; bundled.locate('skimage/data/astronaut.png');"
        "bundled.locate('sklearn/datasets/images/china.jpg');"
        "sys.exit(any(name.split('.')[0] in ('skimage', 'sklearn') for name in sys.modules))"
    )
    root = Path(__file__).resolve().parents[4]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=120).returncode == 0
