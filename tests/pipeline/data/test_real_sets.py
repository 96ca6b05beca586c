import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import images, tables
from pipeline.data import datasets, real_sets
from pipeline.errors import UserError
from tests.pipeline.data.composites import making

LIMITS = {"max_pixels": 10**6, "max_rejected": 0.0}
SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


def pairs_folder(root: Path, names=("one", "two_a"), truth: bool = False) -> Path:
    """Composites of different sizes with masks, and a truth where asked for."""
    for number, name in enumerate(names):
        height, width = 40 + 8 * number, 56
        picture = making.picture(number, height=height, width=width)
        images.write_png(root / "image" / f"{name}.png", picture)
        images.write_png(root / "mask" / f"{name}.png", making.ellipse(0.5, 0.5, 12, height, width))
        if truth:
            images.write_png(root / "real" / f"{name}.png", picture // 2)
    return root


def iharmony4_folder(
    root: Path, train=("c1_1_1", "c1_1_2"), test=("c1_2_1", "c2_7_1"), subset="HCOCO", colour_masks: bool = False
) -> Path:
    for number, name in enumerate((*train, *test)):
        real, instance, _ = name.split("_")
        images.write_jpeg(root / subset / "composite_images" / f"{name}.jpg", making.picture(number))
        images.write_jpeg(root / subset / "real_images" / f"{real}.jpg", making.picture(99))
        mask = making.ellipse(0.5, 0.5, 15)
        images.write_png(
            root / subset / "masks" / f"{real}_{instance}.png",
            np.repeat(mask[..., None] * np.uint8(255), 3, 2) if colour_masks else mask,
        )
    for split, names in (("train", train), ("test", test)):
        (root / subset / f"{subset}_{split}.txt").write_text("".join(f"{name}.jpg\n" for name in names))
    return root


def build(out: Path, path: Path, kind: str, name: str = "Set", **changes):
    real_sets.build(out, name=name, kind=kind, path=path, **LIMITS | changes)
    return tables.read(out / "pairs.parquet")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- composites of others


def test_composites_without_truth_keep_their_size_and_have_no_real_image(tmp_path):
    pairs = build(tmp_path / "out", pairs_folder(tmp_path / "set"), "pairs", "DIH99")
    assert list(pairs) == list(real_sets.PAIR_COLUMNS)
    assert list(pairs["pair_id"]) == ["one", "two-a"] and set(pairs["split"]) == set(pairs["subset"]) == {"DIH99"}
    assert pairs["real"].isna().all() and pairs["real_sha256"].isna().all() and not pairs["simulated"].any()
    for row, size in zip(pairs.itertuples(), ((40, 56), (48, 56))):
        assert images.read_rgb(tmp_path / "out" / row.composite).shape[:2] == size
        mask = images.read_mask(tmp_path / "out" / row.mask, size=size)
        assert row.foreground_ratio == pytest.approx(mask.mean())
        assert row.composite_sha256 == sha256(tmp_path / "out" / row.composite) and row.mask_sha256 == sha256(
            tmp_path / "out" / row.mask
        )


def test_composites_with_truth_can_be_scored_in_harmonization(tmp_path):
    pairs = build(tmp_path / "out", pairs_folder(tmp_path / "set", truth=True), "pairs")
    for row in pairs.itertuples():
        assert row.real_sha256 == sha256(tmp_path / "out" / row.real)
    item = datasets.for_testing("harmonization", [tmp_path / "out"], 32, "Set").item(0)
    assert np.abs(item["real"].astype(int) - item["composite"] // 2).max() <= 2


def test_rejected_composites_are_named_or_stop_the_set(tmp_path):
    root = pairs_folder(tmp_path / "set", names=("good", "bad", "fine"))
    images.write_png(root / "mask/bad.png", np.zeros((48, 56), bool))
    with pytest.raises(UserError, match=r"1 of 3 photographs rejected .* empty mask"):
        build(tmp_path / "out", root, "pairs")
    assert not (tmp_path / "out").exists()
    assert list(build(tmp_path / "out", root, "pairs", max_rejected=0.5)["pair_id"]) == ["fine", "good"]
    assert list(tables.read(tmp_path / "out/rejected.parquet")["reason"]) == ["bad.png: empty mask"]


# ---- iHarmony4 itself


def test_iharmony4_is_named_where_it_lies(tmp_path):
    root = iharmony4_folder(tmp_path / "iHarmony4")
    pairs = build(tmp_path / "data/real/Set", root, "iharmony4")
    assert sorted(file.name for file in (tmp_path / "data/real/Set").iterdir()) == [
        "checks.json",
        "overlaps.parquet",
        "pairs.parquet",
        "rejected.parquet",
    ]
    assert pairs.groupby("split")["pair_id"].apply(list).to_dict() == {
        "Set": ["c1_2_1", "c2_7_1"],
        "train": ["c1_1_1", "c1_1_2"],
    }
    assert set(pairs["subset"]) == {"HCOCO"} and set(pairs["transfer"]) == {"unknown"}
    first = pairs[pairs["pair_id"] == "c1_2_1"].iloc[0]
    assert first["composite"] == str(root / "HCOCO/composite_images/c1_2_1.jpg")
    assert first["composite_sha256"] == sha256(root / "HCOCO/composite_images/c1_2_1.jpg")
    assert first["mask_sha256"] == sha256(root / "HCOCO/masks/c1_2.png") and first["real_sha256"] == sha256(
        root / "HCOCO/real_images/c1.jpg"
    )


def test_a_relative_path_stays_relative_so_the_table_can_move_along(tmp_path, monkeypatch):
    iharmony4_folder(tmp_path / "shared/iHarmony4")
    work = tmp_path / "repository"
    work.mkdir()
    monkeypatch.chdir(work)
    pairs = build(Path("data/real/Set"), Path("../shared/iHarmony4/HCOCO"), "iharmony4")  # one sub-dataset alone
    assert pairs["mask"][0].startswith("../../../../shared/iHarmony4/HCOCO/masks/")
    for folder in (Path("data/real/Set"), work / "data/real/Set"):
        assert len(datasets.for_testing("harmonization", [folder], 32, "Set").item(0)) == 3


def test_photographs_in_both_lists_are_counted(tmp_path):
    build(tmp_path / "out", iharmony4_folder(tmp_path / "set"), "iharmony4")
    (row,) = tables.read(tmp_path / "out/overlaps.parquet").to_dict("records")
    # of the test photographs c1 and c2 the first is also in train, with another object; one test composite shows it
    assert (row["subset"], row["composites_train"], row["composites_test"]) == ("HCOCO", 2, 2)
    assert (row["photographs_test"], row["photographs_shared"], row["test_composites_of_shared_photographs"]) == (
        2,
        1,
        1,
    )


def test_masks_in_colour_are_used_and_counted(tmp_path):
    build(tmp_path / "out", iharmony4_folder(tmp_path / "set", colour_masks=True), "iharmony4")
    assert (tmp_path / "out/checks.json").read_text() == '{"composites": 4, "rejected": 0, "colour_masks": 3}\n'


@pytest.mark.slow
def test_what_we_make_can_be_read_back_as_iharmony4(tmp_path):
    from pipeline.data.composites.build import build as synthesize

    source = making.photos(tmp_path)
    synthesize(
        tmp_path / "composites/HCOCO", name="HCOCO", subset=making.subset(), rendering=making.rendering(), source=source,
        references=source, seed=1, staging=tmp_path / "staging", parallel_map=map,
    )  # fmt: skip
    ours = tables.read(tmp_path / "composites/HCOCO/pairs.parquet")
    theirs = build(tmp_path / "out", tmp_path / "composites/HCOCO", "iharmony4")
    (overlap,) = tables.read(tmp_path / "out/overlaps.parquet").to_dict("records")
    assert len(theirs) == len(ours) and overlap["photographs_shared"] == 0
    for column in ("composite_sha256", "mask_sha256", "real_sha256", "foreground_ratio"):
        assert (
            theirs.set_index("pair_id")[column].sort_index().equals(ours.set_index("pair_id")[column].sort_index())
        ), column
    assert set(theirs.loc[theirs["split"] == "Set", "pair_id"]) == set(ours.loc[ours["split"] == "test", "pair_id"])


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (
            lambda root: (root / "HCOCO/masks/c2_7.png").unlink(),
            r"1 of 4 photographs rejected .*masks/c2_7.png: no such file",
        ),
        (
            lambda root: images.write_jpeg(root / "HCOCO/real_images/c2.jpg", making.picture(1, height=20)),
            r"the real image is 80x20, its image 80x60",
        ),
        (lambda root: (root / "HCOCO/HCOCO_test.txt").write_text(""), "none of its lists names a composite to test on"),
    ],
)
def test_a_spoiled_folder_is_refused_and_the_old_one_stays(tmp_path, spoil, complaint):
    root = iharmony4_folder(tmp_path / "set")
    before = build(tmp_path / "out", root, "iharmony4")
    spoil(root)
    with pytest.raises(UserError, match=complaint):
        build(tmp_path / "out", root, "iharmony4")
    assert tables.read(tmp_path / "out/pairs.parquet").equals(before)


def test_two_composites_of_one_name_are_refused(tmp_path):
    root = iharmony4_folder(iharmony4_folder(tmp_path / "set"), subset="HFlickr")
    with pytest.raises(UserError, match="two composites are called c1_2_1"):
        build(tmp_path / "out", root, "iharmony4")


# ---- as test sets


@pytest.fixture
def folders(tmp_path):
    """A sub-dataset of ours, a set without truth, iHarmony4."""
    ours = iharmony4_folder(tmp_path / "ours")
    pairs = build(tmp_path / "composites/HCOCO", ours, "iharmony4").replace({"split": {"Set": "test"}})
    tables.write(tmp_path / "composites/HCOCO/pairs.parquet", pairs)
    build(tmp_path / "real/Plain", pairs_folder(tmp_path / "plain"), "pairs", "Plain")
    build(
        tmp_path / "real/Published",
        iharmony4_folder(tmp_path / "published", test=("c9_9_1", "c9_9_2", "c9_9_3")),
        "iharmony4",
        "Published",
    )
    return [tmp_path / "composites/HCOCO", tmp_path / "real/Plain", tmp_path / "real/Published"]


def test_each_set_is_a_split_of_its_own(folders):
    for task in ("localization", "harmonization"):
        assert datasets.test_splits(task, folders) == ["test", "Plain", "Published"]
        ids = {
            split: datasets.for_testing(task, folders, 32, split).ids for split in datasets.test_splits(task, folders)
        }
        assert ids == {
            "test": ["c1_2_1", "c2_7_1"],
            "Plain": ["one", "two-a"],
            "Published": ["c9_9_1", "c9_9_2", "c9_9_3"],
        }
    assert datasets.test_splits("inpainting", folders) == ["test"]


def test_items_without_truth_have_no_real_image_and_are_not_scored_in_harmonization(folders):
    sets = {
        split: datasets.for_testing("harmonization", folders, 32, split) for split in ("test", "Plain", "Published")
    }
    assert set(sets["Plain"].item(0)) == {"composite", "mask"} and set(sets["Published"].item(0)) == {
        "composite",
        "mask",
        "real",
    }
    assert {split: datasets.scored("harmonization", dataset) for split, dataset in sets.items()} == {
        "test": 2,
        "Plain": 0,
        "Published": 3,
    }
    assert datasets.scored("localization", datasets.for_testing("localization", folders, 32, "Plain")) == 2


def test_localization_leaves_large_foregrounds_out_of_every_set(folders):
    shares = datasets.pairs(folders, "Plain")["foreground_ratio"]
    limit = shares.mean()  # the two pictures differ in height, so the shares of their ellipses do
    assert len(datasets.for_testing("localization", folders, 32, "Plain", max_foreground=limit)) == 1


def test_the_tables_of_every_set_count_as_truth(folders):
    assert [file.relative_to(folders[0].parents[1]).as_posix() for file in datasets.manifests(folders)] == [
        "composites/HCOCO/pairs.parquet", "composites/HCOCO/overlaps.parquet", "real/Plain/pairs.parquet",
        "real/Published/pairs.parquet", "real/Published/overlaps.parquet",
    ]  # fmt: skip


# ---- the samples


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_the_iharmony4_sample_goes_through(tmp_path):
    pairs = build(tmp_path / "out", SHARED / "iharmony4_sample", "iharmony4", max_pixels=50 * 10**6)
    assert dict(zip(pairs["pair_id"], pairs["subset"])) == {
        "a0002_1_4": "HAdobe5k", "e0001_1_1": "RainNetExamples", "e0002_1_1": "RainNetExamples", "e0003_1_1": "RainNetExamples",
    }  # fmt: skip
    assert '"colour_masks": 1' in (tmp_path / "out/checks.json").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
def test_the_dih99_sample_goes_through(tmp_path):
    pairs = build(tmp_path / "out", SHARED / "dih99_sample", "pairs", max_pixels=50 * 10**6)
    assert len(pairs) == 16 and pairs["real"].isna().all()
    assert list(pairs["pair_id"])[:3] == ["0019", "0022", "0052"]
