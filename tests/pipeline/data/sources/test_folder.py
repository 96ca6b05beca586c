from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.sources import folder
from pipeline.errors import UserError


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def splits(root: Path, lists=None) -> dict[str, str | None]:
    photographs, _ = folder.read(root, lists)
    return {photograph.file.relative_to(root).as_posix(): photograph.split for photograph in photographs}


def test_any_depth_and_no_splits(tmp_path):
    pictures(tmp_path, "b.JPG", "deep/er/a_1.png", ".hidden/c.png", "__MACOSX/d.png")
    (tmp_path / "notes.txt").write_text("hello")
    photographs, rejected = folder.read(tmp_path)
    assert [(photograph.image_id, photograph.split, photograph.group) for photograph in photographs] == [
        ("b", None, "b"),
        ("deep-er-a-1", None, "deep-er-a-1"),
    ]
    assert [(row["file"], row["reason"]) for row in rejected] == [("notes.txt", "not a picture file that is read")]
    assert all(photograph.instances == () for photograph in photographs)


@pytest.mark.parametrize(
    "names",
    [
        {"train/x/1.jpg": "train", "val/x/1.jpg": "val", "test/1.jpg": "test"},
        {"data_256/a/airfield/1.jpg": "train", "val_256/1.jpg": "val", "test_256/1.jpg": "test"},
        {"data_large_standard/a/1.jpg": "train", "val_large/1.jpg": "val"},
        {"paris_train_original/1.JPG": "train", "paris_eval/paris_eval_gt/1.png": "test"},
        {"Training/1.png": "train", "validation/2.png": "val"},
    ],
)
def test_folders_named_after_splits(tmp_path, names):
    assert splits(pictures(tmp_path, *names)) == names


def test_a_scene_that_begins_like_a_split_is_none(tmp_path):
    # train_interior is one of Places365's scenes
    names = {"train/train_interior/1.jpg": "train", "val/train_interior/2.jpg": "val", "test/test_site/3.jpg": "test"}
    assert splits(pictures(tmp_path, *names)) == names
    with pytest.raises(UserError, match=r"1 of 4 photographs lie in no folder named after a split, first: loose\.png"):
        splits(pictures(tmp_path, "loose.png"))


def test_celeba(tmp_path):
    pictures(tmp_path, "img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg", "img_align_celeba/000003.jpg")
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval/list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    assert list(splits(tmp_path).values()) == ["train", "val", "test"]
    assert folder.read(tmp_path)[1] == []
    (tmp_path / "Eval/list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(
        UserError, match=r"list_eval_partition\.txt: '000001\.jpg 3': expected a file name and 0, 1 or 2"
    ):
        splits(tmp_path)


def test_lists_by_name(tmp_path):
    # with labels behind (Places365), with another machine's path (.flist), with a space in the name
    pictures(tmp_path, "a/1.jpg", "a/2.jpg", "b/my 1.jpg", "b/4.jpg")
    (tmp_path / "places365_train_standard.txt").write_text("/a/1.jpg 0\nb/my 1.jpg\n")
    (tmp_path / "test.flist").write_text("/home/somebody/photographs/a/2.jpg\n")
    photographs, rejected = folder.read(tmp_path)
    assert {photograph.file.name: photograph.split for photograph in photographs} == {
        "1.jpg": "train",
        "my 1.jpg": "train",
        "2.jpg": "test",
    }
    assert [(row["file"], row["reason"]) for row in rejected] == [
        ("b/4.jpg", "one of 1 photographs that no list names")
    ]


def test_lists_by_parameter(tmp_path):
    pictures(tmp_path, "train/1.jpg", "train/2.jpg")
    (tmp_path / "mine.txt").write_text("train/1.jpg\n")
    (tmp_path / "others.txt").write_text("2.jpg\n")
    assert splits(tmp_path, {"test": "mine.txt", "train": "others.txt"}) == {
        "train/1.jpg": "test",
        "train/2.jpg": "train",
    }
    with pytest.raises(UserError, match=r"\.\./mine\.txt: leads out of the folder"):
        splits(tmp_path, {"test": "../mine.txt"})
    with pytest.raises(UserError, match=r"none\.txt: can't be read as a list"):
        splits(tmp_path, {"test": "none.txt"})


@pytest.mark.parametrize(
    "train, test, said",
    [
        ("1.jpg\n1.jpg\n", "2.jpg\n", "1.jpg is listed twice"),
        ("1.jpg\n", "1.jpg\n", "1.jpg is listed for train too"),
        ("9.jpg\n", "2.jpg\n", "9.jpg: no such photograph in the folder"),
        ("3.jpg\n", "2.jpg\n", "3.jpg may be x/3.jpg or y/3.jpg"),
        ("", "2.jpg\n", "train.txt: an empty list"),
    ],
)
def test_lists_that_can_not_be_right(tmp_path, train, test, said):
    pictures(tmp_path, "x/1.jpg", "x/2.jpg", "x/3.jpg", "y/3.jpg")
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text(test)
    with pytest.raises(UserError) as caught:
        splits(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_two_lists_of_one_split_are_refused(tmp_path):
    pictures(tmp_path, "1.jpg")
    for name in ("train.txt", "my_train.txt"):
        (tmp_path / name).write_text("1.jpg\n")
    with pytest.raises(UserError, match="both look like the list of train; name one in `lists`"):
        splits(tmp_path)


def test_what_is_no_folder_of_photographs(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        folder.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no photograph in it or below"):
        folder.read(tmp_path)
    pictures(tmp_path, "a/b.jpg", "a-b.png")
    with pytest.raises(UserError, match="duplicate image id a-b"):
        folder.read(tmp_path)


def test_link_loops_end(tmp_path):
    pictures(tmp_path, "a/1.jpg")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert splits(tmp_path) == {"a/1.jpg": None}


# ---- splits that are missing


def complete(root: Path, **shares) -> tuple[dict[str, int], list[str]]:
    photographs, lines = folder.with_all_splits(
        folder.read(root)[0], 1, **{"validation_share": 0.2, "test_share": 0.1} | shares
    )
    counted = [photograph.split for photograph in photographs]
    return {split: counted.count(split) for split in set(counted)}, lines


def test_validation_photographs_are_tested_on_where_no_others_are(tmp_path):
    pictures(tmp_path, *(f"train/{n}.jpg" for n in range(10)), "val/0.jpg", "val/1.jpg")
    assert complete(tmp_path) == (
        {"train": 8, "val": 2, "test": 2},
        [
            "it has no test photographs: its validation photographs are tested on",
            "2 of 10 training photographs are kept for validation",
        ],
    )


def test_missing_splits_are_drawn_from_training_by_the_seed(tmp_path):
    pictures(tmp_path, *(f"train/{n}.jpg" for n in range(10)))
    assert complete(tmp_path)[0] == {"train": 7, "test": 1, "val": 2}
    pictures(tmp_path, "test/0.jpg")
    assert complete(tmp_path, validation_share=0.0)[0] == {"train": 9, "val": 1, "test": 1}
    photographs = folder.read(tmp_path)[0]
    assert folder.with_all_splits(photographs, 1, 0.2, 0.1) == folder.with_all_splits(photographs, 1, 0.2, 0.1)
    assert folder.with_all_splits(photographs, 1, 0.2, 0.1) != folder.with_all_splits(photographs, 2, 0.2, 0.1)


def test_complete_folders_and_those_without_splits_stay_as_they_are(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    assert complete(tmp_path) == ({None: 2}, [])
    with pytest.raises(UserError, match="no photograph is in the split train; test alone can't train a network"):
        complete(pictures(tmp_path / "other", "test/1.jpg"))
