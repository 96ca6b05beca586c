import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import images, seeds, tables
from pipeline.data import datasets, listed_subsets, real_sets
from pipeline.data.sources import iharmony4
from pipeline.data.sources.known_files import Facts, KnownFiles
from pipeline.errors import UserError
from pipeline.params import schema
from tests.pipeline.data.composites import making
from tests.pipeline.data.test_real_sets import iharmony4_folder

TRAIN = tuple(f"c{number}_1_1" for number in range(1, 11))
TEST = ("c1_2_1", "c20_1_1")
"""c1 is in the training list too, with another object."""


def build(out: Path, path: Path, name: str = "HCOCO", seed: int = 1, **options) -> tuple[pd.DataFrame, list[str]]:
    own = {key: options.pop(key) for key in ("known", "parallel_map") if key in options}
    subset = schema.ListedSubset(recipe="iharmony4", path=str(path), **options)
    lines = listed_subsets.build(out, name=name, subset=subset, seed=seed, **own)
    return tables.read(out / "pairs.parquet"), lines


@pytest.fixture
def folder(tmp_path) -> Path:
    return iharmony4_folder(tmp_path / "iHarmony4", TRAIN, TEST)


def test_pictures_are_named_where_they_lie_and_nothing_is_copied(tmp_path, folder):
    pairs, _ = build(tmp_path / "data/HCOCO", folder / "HCOCO")
    assert list(pairs) == list(real_sets.PAIR_COLUMNS) and len(pairs) == 12
    assert sorted(file.name for file in (tmp_path / "data/HCOCO").iterdir()) == [
        "checks.json",
        "overlaps.parquet",
        "pairs.parquet",
        "rejected.parquet",
    ]
    for row in pairs.itertuples():
        assert Path(row.composite) == folder / f"HCOCO/composite_images/{row.pair_id}.jpg"
        assert (
            Path(row.real) == folder / f"HCOCO/real_images/{row.source_image}.jpg"
            and row.composite_sha256
            and row.mask_sha256
            and row.real_sha256
        )
    item = datasets.for_testing("harmonization", [tmp_path / "data/HCOCO"], 32, "test").item(0)
    assert item["composite"].shape == (32, 32, 3) and item["mask"].any()
    assert json.loads((tmp_path / "data/HCOCO/checks.json").read_text()) == {
        "composites": 12,
        "rejected": 0,
        "colour_masks": 0,
    }


def test_a_relative_path_gives_relative_names_and_the_same_table_wherever_the_project_lies(
    tmp_path, folder, monkeypatch
):
    read = []
    for place in ("one", "two"):
        (tmp_path / place / "project").mkdir(parents=True)
        (tmp_path / place / "iHarmony4").symlink_to(folder)
        monkeypatch.chdir(tmp_path / place / "project")
        build(Path("data/composites/HCOCO"), Path("../iHarmony4/HCOCO"))
        read.append(Path("data/composites/HCOCO/pairs.parquet").read_bytes())
        assert tables.read("data/composites/HCOCO/pairs.parquet")["mask"][0].startswith(
            "../../../../iHarmony4/HCOCO/masks/"
        )
    assert read[0] == read[1]


def test_validation_photographs_come_from_the_training_list_by_the_seed(tmp_path, folder):
    pairs, _ = build(tmp_path / "one", folder / "HCOCO", validation_share=0.3)
    assert pairs["split"].value_counts().to_dict() == {"train": 7, "val": 3, "test": 2}
    expected = sorted(
        (f"c{number}" for number in range(1, 11)), key=lambda name: seeds.share(1, "validation", "HCOCO", name)
    )[:3]
    assert set(pairs[pairs["split"] == "val"]["source_image"]) == set(expected)
    again, _ = build(tmp_path / "two", folder / "HCOCO", validation_share=0.3)
    assert pairs.equals(again)
    other, _ = build(tmp_path / "three", folder / "HCOCO", validation_share=0.3, seed=2)
    assert set(other[other["split"] == "val"]["pair_id"]) != set(pairs[pairs["split"] == "val"]["pair_id"])
    # a small share still leaves one, none is none, and one photograph at least is left to train on
    assert (build(tmp_path / "four", folder / "HCOCO", validation_share=0.001)[0]["split"] == "val").sum() == 1
    assert (build(tmp_path / "five", folder / "HCOCO", validation_share=0.0)[0]["split"] == "val").sum() == 0
    assert (build(tmp_path / "six", folder / "HCOCO", validation_share=1.0)[0]["split"] == "train").sum() == 1


def test_a_photograph_and_a_camera_never_cross_training_and_validation():
    rows = [{"subset": "HCOCO", "split": "train", "source_image": f"c{number % 20}"} for number in range(60)]
    rows += [
        {"subset": "Hday2night", "split": "train", "source_image": f"d{number % 5}-{number}"} for number in range(60)
    ]
    chosen = listed_subsets.validation_scenes(rows, 3, 0.25)
    assert sorted(subset for subset, _ in chosen) == ["HCOCO"] * 5 + ["Hday2night"]
    assert {scene for subset, scene in chosen if subset == "Hday2night"} <= {f"d{number}" for number in range(5)}
    # a validation list of its own is taken as it is
    assert (
        listed_subsets.validation_scenes(
            [*rows[:60], {"subset": "HCOCO", "split": "val", "source_image": "c99"}], 3, 0.25
        )
        == set()
    )


def test_overlap_is_told_and_left_out_where_asked_for(tmp_path, folder):
    pairs, lines = build(tmp_path / "as_published", folder / "HCOCO")
    assert lines == [
        "HCOCO: the published training list has 1 of 2 test photographs (1 composites) in it too; `disjoint: true` leaves them out of training"
    ]
    assert "c1_1_1" in set(pairs["pair_id"])
    pairs, lines = build(tmp_path / "disjoint", folder / "HCOCO", disjoint=True)
    assert lines == [
        "HCOCO: the published training list has 1 of 2 test photographs (1 composites) in it too; 1 training composites are left out"
    ]
    tested = set(pairs[pairs["split"] == "test"]["source_image"])
    assert (
        len(pairs) == 11
        and tested == {"c1", "c20"}
        and not tested & set(pairs[pairs["split"] != "test"]["source_image"])
    )
    (row,) = tables.read(tmp_path / "disjoint/overlaps.parquet").to_dict("records")
    assert (row["photographs_shared"], row["composites_left_out"]) == (1, 1)
    assert list(tables.read(tmp_path / "disjoint/rejected.parquet")["reason"]) == [
        "left out of training: its scene is in the test list too"
    ]
    with pytest.raises(UserError, match="disjoint leaves none of 1 training composites"):
        build(tmp_path / "out", iharmony4_folder(tmp_path / "same", ("c1_1_1",), ("c1_2_1",)), disjoint=True)


def test_the_whole_folder_keeps_the_names_of_its_sub_datasets_and_one_takes_that_of_its_block(tmp_path, folder):
    iharmony4_folder(folder, ("f1_1_1", "f2_1_1"), ("f3_1_1",), subset="HFlickr")
    pairs, _ = build(tmp_path / "whole", folder, "iHarmony4")
    assert pairs.groupby("subset").size().to_dict() == {"HCOCO": 12, "HFlickr": 3}
    assert (pairs[pairs["subset"] == "HFlickr"]["split"] == "val").sum() == 1, (
        "each sub-dataset has validation photographs"
    )
    pairs, _ = build(tmp_path / "one", folder / "HFlickr", "Flickr2")
    assert set(pairs["subset"]) == {"Flickr2"} == set(tables.read(tmp_path / "one/overlaps.parquet")["subset"])


def test_sets_that_can_not_be_told_apart_are_refused_where_they_meet(tmp_path, folder):
    build(tmp_path / "A", folder / "HCOCO", "A")
    build(tmp_path / "B", folder / "HCOCO", "B")
    with pytest.raises(UserError, match="A and .*B both have composites called c1_2_1"):
        datasets.pairs([tmp_path / "A", tmp_path / "B"], "test")
    iharmony4_folder(tmp_path / "other", ("c91_1_1",), ("c90_1_1",))
    build(tmp_path / "C", tmp_path / "other/HCOCO", "A")
    with pytest.raises(UserError, match="A and .*C both have sub-datasets called A"):
        datasets.pairs([tmp_path / "A", tmp_path / "C"], "test")
    assert len(datasets.pairs([tmp_path / "A", tmp_path / "A"][:1], "test")) == 2


def test_what_is_no_sub_dataset(tmp_path, folder):
    for file in (folder / "HCOCO").glob("*_test.txt"):
        file.write_text("")
    with pytest.raises(UserError, match="HCOCO: none of its lists names a usable composite to test on"):
        build(tmp_path / "out", folder / "HCOCO")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        build(tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_masks_that_are_chosen_by_value_are_written_as_ordinary_ones(tmp_path):
    root = iharmony4_folder(tmp_path / "set", ("c1_1_1", "c2_1_1"), ("c3_1_1",))
    for file in (root / "HCOCO/masks").iterdir():
        labels = images.read_mask(file).astype(np.uint8) * 3
        labels[0, 0] = 7
        images.write_png(file, labels)
    pairs, _ = build(tmp_path / "data/HCOCO", root / "HCOCO", mask_value=3)
    mask = images.read_mask(tmp_path / "data/HCOCO" / pairs["mask"][0])
    assert pairs["mask"][0].startswith("masks/HCOCO/") and mask.any() and not mask[0, 0]


# ---- known files


def test_what_is_known_of_a_file_holds_until_size_or_time_change(tmp_path, folder):
    looked_at = []

    def counting(function, items):
        looked_at.append(sum(len(files) for files in items))
        return map(function, items)

    store = tmp_path / "known/HCOCO"
    first, _ = build(
        tmp_path / "out", folder / "HCOCO", known=iharmony4.known_files(store, 10**6), parallel_map=counting
    )
    second, _ = build(
        tmp_path / "out", folder / "HCOCO", known=iharmony4.known_files(store, 10**6), parallel_map=counting
    )
    # 12 composites, 12 masks, 11 photographs: c1 has two objects
    assert looked_at == [35, 0] and first.equals(second)
    images.write_jpeg(folder / "HCOCO/composite_images/c5_1_1.jpg", making.picture(77))
    third, _ = build(
        tmp_path / "out", folder / "HCOCO", known=iharmony4.known_files(store, 10**6), parallel_map=counting
    )
    assert looked_at[-1] == 1
    changed = third["composite_sha256"] != second["composite_sha256"]
    assert list(third["pair_id"][changed]) == ["c5_1_1"]
    build(tmp_path / "out", folder / "HCOCO", known=iharmony4.known_files(store, 2 * 10**6), parallel_map=counting)
    assert looked_at[-1] == 35, "found under another limit"
    assert len(list(store.parent.iterdir())) == 1, "tables of other rules are removed"


def test_a_file_that_appears_is_looked_at_and_a_check_that_breaks_off_keeps_what_it_found(tmp_path, folder):
    missing = folder / "HCOCO/composite_images/c5_1_1.jpg"
    content = missing.read_bytes()
    missing.unlink()
    store = tmp_path / "known/HCOCO"
    with pytest.raises(UserError, match="c5_1_1.jpg: no such file"):
        build(tmp_path / "out", folder / "HCOCO", known=iharmony4.known_files(store, 10**6))
    missing.write_bytes(content)
    known = iharmony4.known_files(store, 10**6)
    assert len(known.facts) == 35 and known.find(folder, "picture", "HCOCO/composite_images/c5_1_1.jpg") is None
    assert known.find(folder, "picture", "HCOCO/composite_images/c6_1_1.jpg").height == making.HEIGHT
    assert len(build(tmp_path / "out", folder / "HCOCO", known=known)[0]) == 12


def test_a_damaged_table_of_known_files_is_as_good_as_none(tmp_path):
    known = KnownFiles(tmp_path / "known", "rules")
    known.add(Facts("picture", "a.jpg", 3, 4, 5, 6, sha256="x"))
    known.save()
    assert (
        KnownFiles(tmp_path / "known", "rules").facts == known.facts
        and KnownFiles(tmp_path / "known", "others").facts == {}
    )
    known.file.write_bytes(known.file.read_bytes()[:40])
    assert KnownFiles(tmp_path / "known", "rules").facts == {}
