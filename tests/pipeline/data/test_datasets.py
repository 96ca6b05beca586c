from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.params import schema
from tests.pipeline.tiny import random_picture, subset

CROP = schema.Augmentation(flip=True, crop=schema.Shares(low=0.3, high=0.8))
PLAIN = schema.Augmentation(flip=False, crop=None)
FLIPS = schema.MaskAugmentation(flips=True, rotations=False, dilation=0, crop=False)


@pytest.fixture(scope="module")
def composites(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("composites")
    row = lambda name, split, ratio: {"pair_id": name, "split": split, "foreground_ratio": ratio}
    first = [
        row("c2_1_1", "train", 0.25),
        row("c1_1_1", "train", 0.75),
        row("c3_1_1", "val", 0.5),
        row("c4_1_1", "test", 0.25),
    ]
    return [
        subset(root / "HCOCO", first),
        subset(root / "HFlickr", [row("f1_1_1", "train", 0.5), row("f2_1_1", "test", 0.75)]),
    ]


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("inpainting")
    source, masks = root / "photos", root / "irregular_masks"
    rows, holes, assigned = [], [], []
    for number, split in enumerate(("train", "train", "val", "test", "test")):
        images.write_png(source / f"images/p{number}.png", random_picture(number, 40, 60))
        rows.append({"image_id": f"p{number}", "split": split, "image": f"images/p{number}.png"})
    for number, split in enumerate(("train", "train", "test", "test")):
        hole = np.zeros((16, 16), bool)
        hole[: 2 + number, :3] = True
        images.write_png(masks / split / f"m{number}.png", hole)
        holes.append(
            {"mask_id": f"m{number}", "split": split, "mask": f"{split}/m{number}.png", "hole_ratio_bucket": "0-10%"}
        )
    for image in ("p3", "p4"):
        for number, bucket in ((2, "0-10%"), (3, "10-20%")):
            assigned.append(
                {"image_id": image, "hole_ratio_bucket": bucket, "mask": f"test/m{number}.png", "hole_ratio": 0.05}
            )
    tables.write(source / "photographs.parquet", pd.DataFrame(rows))
    tables.write(masks / "masks.parquet", pd.DataFrame(holes))
    tables.write(masks / "assigned.parquet", pd.DataFrame(assigned))
    return [source, masks]


# ---- composites


def test_pairs_of_all_subsets_in_the_order_of_their_names(composites):
    assert datasets.pairs(composites, "train")["pair_id"].tolist() == ["c1_1_1", "c2_1_1", "f1_1_1"]
    assert datasets.pairs(composites, "test")["subset"].tolist() == ["HCOCO", "HFlickr"]
    rows = datasets.pairs(composites, "test")
    assert all(Path(file).is_file() for key in ("composite", "mask", "real") for file in rows[key])


def test_the_order_of_the_subsets_does_not_matter(composites):
    there, back = (datasets.pairs(order, "train") for order in (composites, composites[::-1]))
    pd.testing.assert_frame_equal(there, back)


def test_large_foregrounds_are_left_out(composites):
    assert datasets.pairs(composites, "train", 0.5)["pair_id"].tolist() == ["c2_1_1", "f1_1_1"]
    with pytest.raises(UserError, match=r"^no test composite in .*HFlickr with a foreground of at most 0\.5$"):
        datasets.pairs(composites[1:], "test", 0.5)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"HCOCO/pairs\.parquet: no such table"):
        datasets.pairs([tmp_path / "HCOCO"], "train")


def test_items_are_resized_by_the_protocol(composites):
    dataset = datasets.Composites(datasets.pairs(composites, "test"), 24)
    item = dataset.item(0)
    full = images.read_rgb(composites[0] / "composite_images/c4_1_1.png")
    assert np.array_equal(
        item["composite"], np.asarray(Image.fromarray(full).resize((24, 24), Image.Resampling.BILINEAR))
    )
    mask = images.read_mask(composites[0] / "masks/c4_1_1.png")
    assert np.array_equal(item["mask"], np.asarray(Image.fromarray(mask).resize((24, 24), Image.Resampling.NEAREST)))
    assert item["mask"].dtype == bool and item["real"].shape == (24, 24, 3) and item["real"].dtype == np.uint8


def test_localization_masks_are_resized_by_area(composites):
    # 60 columns to 8: each covers 7.5; the first 15 (a quarter) are foreground, that is two columns exactly
    item = datasets.Composites(datasets.pairs(composites[:1], "test"), 8, masks_by_area=True).item(0)
    assert item["mask"].dtype == bool and item["mask"].all(axis=0).tolist() == [True, True] + [False] * 6
    # to 7: each covers 8.57; the second is covered for 0.75 of its width, the third not at all
    item = datasets.Composites(datasets.pairs(composites[:1], "test"), 7, masks_by_area=True).item(0)
    assert item["mask"].any(axis=0).tolist() == [True, True] + [False] * 5


@pytest.mark.parametrize("augmentation", [CROP, PLAIN])
def test_augmentation_belongs_to_its_seed_alone(composites, augmentation):
    rows = datasets.pairs(composites, "train")
    fresh, other = datasets.Composites(rows, 24), datasets.Composites(rows, 24)
    for index in (2, 0, 1):
        other.augmented(index, augmentation, 9, index)
    for index in range(3):
        first, second = fresh.augmented(index, augmentation, 5, index), other.augmented(index, augmentation, 5, index)
        assert first.keys() == second.keys() == {"composite", "mask", "real"}
        assert all(np.array_equal(first[key], second[key]) for key in first)
    if augmentation is CROP:
        assert not np.array_equal(
            fresh.augmented(0, CROP, 5, 0)["composite"], fresh.augmented(0, CROP, 6, 0)["composite"]
        )


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_composite_mask_and_real_stay_aligned(seed):
    # the three pictures are the same picture: whatever is cut out, they must stay so
    full = np.zeros((40, 60, 3), np.uint8)
    full[10:30, 20:50] = 255
    dataset = datasets.Composites(
        pd.DataFrame({"pair_id": ["a"], "composite": ["a"], "mask": ["b"], "real": ["c"]}), 24
    )
    dataset.decoded.kept = {"a": full, "b": full[..., 0] > 0, "c": full}
    item = dataset.augmented(0, CROP, seed)
    assert np.array_equal(item["composite"], item["real"])
    assert np.abs(item["composite"][..., 0] / 255.0 - item["mask"]).mean() < 0.1  # but for edges, which masks round
    assert item["mask"].any(), "a crop keeps some of the foreground"


def test_colours_are_never_touched(composites):
    dataset = datasets.Composites(datasets.pairs(composites, "train"), 40)
    dataset.decoded.kept = {file: np.full((40, 60, 3), (10, 200, 90), np.uint8) for file in dataset.rows["composite"]}
    assert (dataset.augmented(0, CROP, 1)["composite"] == (10, 200, 90)).all()


def test_pictures_of_another_size_are_refused_even_when_seen_before(tmp_path):
    (root,) = [
        subset(
            tmp_path / "HCOCO",
            [{"pair_id": name, "split": "test", "foreground_ratio": 0.5} for name in ("c1_1_1", "c1_1_2")],
        )
    ]
    rows = datasets.pairs([root], "test")
    images.write_png(root / "real_images/c1_1_1.png", random_picture(1, 30, 60))
    with pytest.raises(
        UserError,
        match=r"real_images/c1_1_1\.png is 60x30 and .*composite_images/c1_1_1\.png is 60x40; they must be equal",
    ):
        datasets.Composites(rows, 24).item(0)
    # one mask serves several composites; that it fitted the first says nothing of the second
    images.write_png(root / "real_images/c1_1_1.png", random_picture(1))
    images.write_png(root / "composite_images/c1_1_2.png", random_picture(1, 50, 60))
    images.write_png(root / "real_images/c1_1_2.png", random_picture(1, 50, 60))
    dataset = datasets.Composites(rows.assign(mask=rows["mask"][0]), 24)
    dataset.item(0)
    with pytest.raises(UserError, match=r"masks/c1_1_1\.png is 60x40 and .*c1_1_2\.png is 60x50"):
        dataset.item(1)


def test_a_set_without_ground_truth_has_items_without_real(tmp_path):
    root = subset(
        tmp_path / "Real",
        [
            {"pair_id": "r1", "split": "test", "foreground_ratio": 0.5},
            {"pair_id": "r2", "split": "test", "foreground_ratio": 0.5},
        ],
    )
    table = tables.read(root / "pairs.parquet")
    for missing in ([None, None], [table["real"][0], None]):
        tables.write(root / "pairs.parquet", table.assign(real=pd.Series(missing, dtype="str")))
        dataset = datasets.Composites(datasets.pairs([root], "test"), 24)
        assert set(dataset.item(1)) == {"composite", "mask"}
        assert ("real" in dataset.item(0)) == (missing[0] is not None)


# ---- photographs with holes


def test_tested_photographs_come_with_each_mask_assigned_to_them(inpainting):
    dataset = datasets.for_testing("inpainting", inpainting, 16, "test")
    assert dataset.ids == ["p3_0-10%", "p3_10-20%", "p4_0-10%", "p4_10-20%"] and len(dataset) == 4
    item = dataset.item(1)
    assert item["hole"].dtype == bool and item["hole"].sum() == 5 * 3
    full = images.read_rgb(inpainting[0] / "images/p3.png")
    square = Image.fromarray(full[:, 10:50])  # the middle 40 of 60 columns
    assert np.array_equal(item["image"], np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC)))


def test_masks_assigned_to_other_photographs_are_refused(inpainting, tmp_path):
    rows, masks = datasets.photographs(inpainting[0], "test"), datasets.hole_masks(inpainting[1], "test")
    assigned = tables.read(inpainting[1] / "assigned.parquet")
    for fewer in ((rows.iloc[:1], assigned), (rows, assigned.iloc[:2])):
        with pytest.raises(
            UserError, match="masks are assigned to other photographs than are tested: p4 is on one side only"
        ):
            datasets.Holes(fewer[0], masks, 16, fewer[1])


def test_training_draws_masks_of_the_training_split_alone(inpainting):
    train, val = datasets.for_training("inpainting", inpainting, 16, mask_augmentation=FLIPS)
    assert train.ids == ["p0", "p1"] and val.ids == ["p2"]
    sizes = {int(train.augmented(index, CROP, 1, step)["hole"].sum()) for index in range(2) for step in range(20)}
    assert sizes == {2 * 3, 3 * 3}  # m0 and m1; flipping keeps their area
    assert val.item(0)["hole"].sum() == 2 * 3
    shapes = {train.augmented(0, CROP, 1, step)["hole"].tobytes() for step in range(40)}
    assert len(shapes) == 2 * 4, "masks are flipped both ways"
    plain, _ = datasets.for_training("inpainting", inpainting, 16)
    assert len({plain.augmented(0, CROP, 1, step)["hole"].tobytes() for step in range(40)}) == 2, "masks as they are"


def test_variants_of_masks_are_those_asked_for_and_never_too_large(inpainting):
    train, _ = datasets.for_training(
        "inpainting", inpainting, 16, mask_augmentation=FLIPS.model_copy(update={"dilation": 5})
    )
    shares = [train.augmented(0, CROP, 1, step)["hole"].mean() for step in range(60)]
    assert max(shares) > 2 * 9 / 256 and min(shares) >= 6 / 256
    huge, _ = datasets.for_training(
        "inpainting", inpainting, 16, mask_augmentation=FLIPS.model_copy(update={"dilation": 31})
    )
    shares = [huge.augmented(0, CROP, 1, step)["hole"].mean() for step in range(60)]
    assert 0.4 < max(shares) <= datasets.LARGEST_HOLE


def test_holes_belong_to_their_seed(inpainting):
    fresh, other = (datasets.for_training("inpainting", inpainting, 16)[0] for _ in range(2))
    other.augmented(1, CROP, 3)
    first, second = fresh.augmented(0, CROP, 7), other.augmented(0, CROP, 7)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert first["image"].shape == (16, 16, 3) and first["hole"].shape == (16, 16)


def test_splits_without_rows_are_named(inpainting):
    with pytest.raises(UserError, match=r"photographs\.parquet: no photograph in the split 'other'"):
        datasets.photographs(inpainting[0], "other")
    with pytest.raises(UserError, match=r"masks\.parquet: no mask in the split 'val'"):
        datasets.hole_masks(inpainting[1], "val")


# ---- tasks, batches


def test_sets_of_each_task(composites):
    train, val = datasets.for_training("localization", composites, 24, 0.5)
    assert train.ids == ["c2_1_1", "f1_1_1"] and val.ids == ["c3_1_1"] and train.masks_by_area
    train, _ = datasets.for_training("harmonization", composites, 24)
    assert len(train) == 3 and not train.masks_by_area
    assert datasets.for_testing("harmonization", composites, 24, "test").ids == ["c4_1_1", "f2_1_1"]
    assert datasets.for_testing("localization", composites, 24, "test", 0.5).ids == ["c4_1_1"]


def test_splits_that_a_method_is_tested_on(composites, inpainting, tmp_path):
    assert (
        datasets.test_splits("harmonization", composites) == ["test"] == datasets.test_splits("inpainting", inpainting)
    )
    row = {"pair_id": "r1", "split": "rhm", "foreground_ratio": 0.5}
    real = subset(tmp_path / "real" / "rhm", [row, row | {"pair_id": "r2"}])
    table = tables.read(real / "pairs.parquet")
    tables.write(real / "pairs.parquet", table.assign(real=pd.Series([table["real"][0], None], dtype="str")))
    assert datasets.test_splits("localization", [real, *composites]) == ["test", "rhm"]
    dataset = datasets.for_testing("harmonization", [*composites, real], 24, "rhm")
    assert dataset.ids == ["r1", "r2"] and datasets.scored("harmonization", dataset) == 1
    assert datasets.scored("localization", dataset) == 2


def test_a_split_may_carry_another_side(composites, inpainting):
    assert (
        datasets.at_side(512) == "test@512" and datasets.side_of("test@512") == 512 and datasets.side_of("test") is None
    )
    for task, data, below in (
        ("harmonization", composites, 60),
        ("localization", composites, 60),
        ("inpainting", inpainting, 60),
    ):
        usual, wide = (
            datasets.for_testing(task, data, 16, split) for split in ("test", "test@40")
        )  # the pictures have 40 x 60 pixels
        assert usual.ids == wide.ids and (usual.size, wide.size) == (16, 40)
        assert all(value.shape[:2] == (40, 40) for value in wide.item(0).values())
        assert len(datasets.for_testing(task, data, 16, "test@41")) == 0


def test_a_split_may_be_of_the_pictures_own_sizes(composites, inpainting):
    assert datasets.at_side("original") == "test@original" and datasets.side_of("test@original") == "original"
    assert sorted([512, "original", 64], key=datasets.by_side) == [64, 512, "original"]
    for task, data, shape in (
        ("harmonization", composites, (40, 60)),
        ("localization", composites, (40, 60)),
        ("inpainting", inpainting, (40, 40)),
    ):
        usual, own = (datasets.for_testing(task, data, 16, split) for split in ("test", "test@original"))
        assert usual.ids == own.ids and own.size is None and isinstance(own.decoded, datasets.Latest)
        assert all(value.shape[:2] == shape for value in own.item(0).values()), (
            "the centre square of a photograph with a hole"
        )
    files = datasets.for_testing("harmonization", composites, 16, "test@original")
    assert np.array_equal(files.item(0)["real"], images.read_rgb(files.rows["real"][0]))


def test_manifests_stand_for_the_data(composites, inpainting):
    assert datasets.manifests(composites) == [folder / "pairs.parquet" for folder in composites]
    assert [file.name for file in datasets.manifests(inpainting)] == [
        "photographs.parquet",
        "masks.parquet",
        "assigned.parquet",
    ]


def test_batches_are_what_networks_expect(composites):
    dataset = datasets.Composites(datasets.pairs(composites, "train"), 24)
    items = [dataset.item(0), dataset.item(1)]
    batch = datasets.collate(items)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "composite": ((2, 3, 24, 24), torch.float32),
        "mask": ((2, 1, 24, 24), torch.float32),
        "real": ((2, 3, 24, 24), torch.float32),
    }
    assert batch["composite"][1, 2, 5, 7].item() == pytest.approx(items[1]["composite"][5, 7, 2] / 255)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}


@given(seed=st.integers(0, 10**6), height=st.integers(2, 300), width=st.integers(2, 300), low=st.floats(0.05, 0.9))
@settings(max_examples=100, deadline=None)
def test_crops_lie_inside_and_have_the_share_that_was_asked_for(seed, height, width, low):
    share = schema.Shares(low=low, high=low + 0.05)
    top, left, side_y, side_x = datasets._crop_box(np.random.default_rng(seed), height, width, share)
    assert top >= 0 and left >= 0 and side_y >= 1 and side_x >= 1 and top + side_y <= height and left + side_x <= width
    if height > 30 and width > 30 and low < 0.7:  # otherwise rounding and the picture's edge cut it short
        assert low * 0.85 < side_y * side_x / (height * width) < (low + 0.05) * 1.15
        assert 0.7 < (side_y / height) / (side_x / width) < 1.45
