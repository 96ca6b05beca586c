import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sources import base
from pipeline.errors import UserError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("100018", "100018"),
        ("IMG_0665", "IMG-0665"),
        ("a b.c_d", "a-b-c-d"),
        ("", ""),
        ("_", "-"),
    ],
)
def test_identifiers_by_hand(name, expected):
    assert base.identifier(name) == expected


def test_names_in_other_scripts_stay_apart():
    made = {base.identifier(name) for name in ("写真", "花火", "tree(1)", "tree(2)", "tree 1", "árbol", "ärbol")}
    assert len(made) == 7
    assert re.fullmatch(r"tree-1-[0-9a-f]{8}", base.identifier("tree(1)"))


@given(st.text(min_size=1))
def test_an_identifier_is_legal_and_stays_what_it_is(name):
    made = base.identifier(name)
    assert re.fullmatch(r"[A-Za-z0-9-]+", made)
    assert base.identifier(made) == made


def photograph(image_id="a", file="a.jpg", instances=()):
    return base.Photograph(image_id, Path(file), None, image_id, "", tuple(instances))


def instance(instance_id):
    return base.Instance(instance_id, "", "", lambda: None)


def test_ids_with_an_underscore_are_not_taken():
    with pytest.raises(ValueError, match="image id 'a_b'"):
        photograph("a_b")
    with pytest.raises(ValueError, match="instance id '1_2'"):
        instance("1_2")
    with pytest.raises(ValueError, match="split 'dev' of a"):
        base.Photograph("a", Path("a.jpg"), "dev", "a")


def test_duplicate_ids_are_named():
    with pytest.raises(UserError, match="duplicate image id a: x.jpg and y.jpg"):
        base.refuse_duplicates([photograph("a", "x.jpg"), photograph("b"), photograph("a", "y.jpg")])
    with pytest.raises(UserError, match="a.jpg: duplicate instance id 7"):
        base.refuse_duplicates([photograph(instances=[instance("7"), instance("8"), instance("7")])])
    base.refuse_duplicates([photograph("a", instances=[instance("1")]), photograph("b", instances=[instance("1")])])


def test_the_limit_of_rejects_counts_photographs_alone():
    rows = [base.rejected_photograph(f"{number}.jpg", str(number), "0 bytes") for number in range(5)]
    rows += [base.rejected_instance("a.jpg", "a_1", "empty mask")] * 50 + [base.rejected_file("x", "no picture")] * 50
    base.refuse_too_many("photos", rows, 50, 0.1)  # 5 of 50 is not more than 10%
    with pytest.raises(UserError) as caught:
        base.refuse_too_many("photos", rows, 49, 0.1)
    assert str(caught.value) == (
        "photos: 5 of 49 photographs rejected (10.2%, the limit max_rejected is 10.0%), "
        "first: 0.jpg: 0 bytes; 1.jpg: 0 bytes; 2.jpg: 0 bytes"
    )


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".DS_Store", "._a.png", "raw.dng"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    pictures, others = base.files(tmp_path)
    assert [file.name for file in pictures] == ["a.png", "b.JPG", "gone.jpg"]
    assert [file.name for file in others] == ["notes.txt", "raw.dng"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        base.folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: not a folder"):
        base.folder(tmp_path / "file")


def test_names_of_thousands_of_letters_become_ids_that_fit_a_file_name():
    name, other = base.identifier("n" * 5000), base.identifier("n" * 4999)
    assert name != other and len(name) <= base.LONGEST_ID and name.startswith("nnn")
    assert base.identifier("n" * base.LONGEST_ID) == "n" * base.LONGEST_ID
