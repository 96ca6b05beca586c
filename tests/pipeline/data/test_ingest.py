import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import tables
from pipeline.data.ingest import INSTANCES, PHOTOGRAPHS, ingest, split_by_hash
from pipeline.data.sources import bundled, coco, fivek, timelapse
from pipeline.data.sources.base import (
    Instance,
    Photograph,
    rejected_instance,
    rejected_photograph,
)
from pipeline.errors import ParameterError, UserError

PHOTOS = Path(__file__).resolve().parents[3] / "../shared/data/photos"
OPTIONS = {
    "source": "set", "seed": 1, "validation_share": 0.2, "test_share": 0.2, "longest_side": None, "min_side": 4,
    "max_pixels": 10**6, "max_rejected": 0.5,
}  # fmt: skip


def pixels(height=12, width=18, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photograph(file, array=None, image_id=None, mask=None, split=None, group=None, **save):
    """A photograph of one object; `mask` is an array, an error to raise, or None for the left half."""
    image_id = image_id or file.stem
    if array is not None:
        Image.fromarray(array).save(file, **save)

    def draw():
        if isinstance(mask, Exception):
            raise mask
        if mask is not None:
            return mask
        left = np.zeros((12, 18), bool)
        left[:, :9] = True
        return left

    return Photograph(image_id, file, split, group or image_id, "", (Instance("1", "car", "vehicle", draw),))


@pytest.fixture
def five(tmp_path):
    """Five good photographs, enough for three splits."""
    return [photograph(tmp_path / f"p{number}.jpg", pixels(seed=number)) for number in range(5)]


def run(photographs, out, rejected=(), **changed):
    ingest(photographs, list(rejected), out, **(OPTIONS | changed))
    names = ("photographs", "instances", "rejected")
    return tuple(tables.read(out / f"{name}.parquet") for name in names)


def row_of(table, image_id):
    (row,) = table[table["image_id"] == image_id].to_dict("records")
    return row


# what is written


def test_tables_and_files(five, tmp_path):
    photographs, instances, rejected = run(five, tmp_path / "out")
    assert list(photographs.columns) == list(PHOTOGRAPHS) and list(instances.columns) == list(INSTANCES)
    assert (len(photographs), len(instances), len(rejected)) == (5, 5, 0)
    row = row_of(instances, "p3")
    assert row["mask"] == "masks/p3_1.png" and row["image"] == "images/p3.jpg"
    assert (row["width"], row["height"], row["area"], row["foreground_ratio"]) == (18, 12, 108, 0.5)
    assert (row["category"], row["supercategory"]) == ("car", "vehicle")
    mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
    assert mask.dtype == np.uint8 and (mask[:, :9] == 255).all() and (mask[:, 9:] == 0).all()
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {
        "images",
        "masks",
        "photographs.parquet",
        "instances.parquet",
        "rejected.parquet",
        "copies.parquet",
    }


def test_a_plain_jpeg_keeps_its_bytes(five, tmp_path):
    photographs, _, _ = run(five, tmp_path / "out")
    for row in photographs.itertuples():
        stored = (tmp_path / "out" / row.image).read_bytes()
        assert stored == (tmp_path / row.original).read_bytes() and row.kept == "as is"
        assert row.sha256 == hashlib.sha256(stored).hexdigest()


def exif(orientation):
    made = Image.Exif()
    made[274] = orientation
    return made


@pytest.mark.parametrize(
    ("name", "array", "save", "kept"),
    [
        ("odd.png", pixels(), {}, "PNG to JPEG"),
        ("odd.png", pixels(channels=4), {}, "PNG to JPEG; alpha dropped"),
        ("odd.jpg", pixels()[..., 0], {}, "grayscale replicated"),
        ("odd.tif", pixels()[..., 0].astype(np.uint16) * 257, {}, "TIFF to JPEG; 16 bit to 8; grayscale replicated"),
        ("odd.jpg", pixels(), {"exif": exif(3)}, "turned upright (EXIF orientation 3)"),
        ("odd name ñ 写.jpg", pixels(), {}, "as is"),
    ],
)
def test_what_is_converted(five, tmp_path, name, array, save, kept):
    odd = photograph(tmp_path / name, array, "odd", **save)
    photographs, instances, rejected = run([*five, odd], tmp_path / "out")
    row = row_of(photographs, "odd")
    assert row["kept"] == kept and row["original"] == name and len(instances) == 6 and len(rejected) == 0
    with Image.open(tmp_path / "out" / row["image"]) as stored:
        assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (18, 12))
        assert stored.getexif().get(274, 1) == 1


def test_cmyk_is_converted(five, tmp_path):
    Image.fromarray(pixels(channels=4), mode="CMYK").save(tmp_path / "ink.jpg")
    photographs, _, _ = run([*five, photograph(tmp_path / "ink.jpg")], tmp_path / "out")
    assert row_of(photographs, "ink")["kept"] == "CMYK to RGB"
    assert Image.open(tmp_path / "out/images/ink.jpg").mode == "RGB"


def test_a_rotated_photograph_takes_the_mask_of_its_upright_size(five, tmp_path):
    upright, stored = np.ones((18, 12), bool), np.ones((12, 18), bool)
    good = photograph(tmp_path / "good.jpg", pixels(), mask=upright, exif=exif(6))
    other = photograph(tmp_path / "other.jpg", pixels(), mask=stored, exif=exif(6))
    photographs, instances, rejected = run([*five, good, other], tmp_path / "out")
    assert (row_of(photographs, "good")["width"], row_of(photographs, "good")["height"]) == (12, 18)
    assert row_of(instances, "good")["area"] == 216
    assert rejected.to_dict("records") == [
        {"file": "other.jpg", "item": "instance other_1", "reason": "the mask is 18x12, its image 12x18"}
    ]


def test_large_photographs_are_shrunk_with_their_masks(five, tmp_path):
    mask = np.zeros((200, 300), bool)
    mask[:, :150] = True
    large = photograph(tmp_path / "large.jpg", np.full((200, 300, 3), 77, np.uint8), mask=mask)
    photographs, instances, _ = run([*five, large], tmp_path / "out", longest_side=30)
    row = row_of(instances, "large")
    assert (row["width"], row["height"], row["area"]) == (30, 20, 300)
    assert row_of(photographs, "large")["kept"] == "shrunk from 300x200"
    assert np.asarray(Image.open(tmp_path / "out/images/large.jpg")).shape == (20, 30, 3)
    assert row_of(photographs, "p0")["kept"] == "as is"


def test_masks_that_vanish_when_shrunk_are_empty(five, tmp_path):
    mask = np.zeros((200, 300), bool)
    mask[0, 0] = True
    large = photograph(tmp_path / "large.jpg", pixels(200, 300), mask=mask)
    _, _, rejected = run([*five, large], tmp_path / "out", longest_side=30)
    assert rejected["reason"].tolist() == ["empty mask"]


def test_photographs_without_an_object_stay(five, tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "plain.jpg")
    plain = Photograph("plain", tmp_path / "plain.jpg", None, "plain")
    photographs, instances, rejected = run([*five, plain], tmp_path / "out")
    assert len(photographs) == 6 and len(instances) == 5 and len(rejected) == 0


def test_a_category_of_one_instance_is_used(five, tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "horse.jpg")
    only = Instance("1", "horse", "animal", lambda: np.ones((12, 18), bool))
    _, instances, _ = run([*five, Photograph("h", tmp_path / "horse.jpg", None, "h", "", (only,))], tmp_path / "out")
    assert (instances["category"] == "horse").sum() == 1


# what is rejected


def cut(path):
    path.write_bytes(path.read_bytes()[:-150])


def test_bad_photographs_are_rejected_with_their_reason(five, tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.fromarray(pixels()).save(tmp_path / "cut.jpg")
    cut(tmp_path / "cut.jpg")
    bad = [
        photograph(tmp_path / "zero.jpg"),
        photograph(tmp_path / "text.jpg"),
        photograph(tmp_path / "cut.jpg"),
        photograph(tmp_path / "missing.jpg"),
        photograph(tmp_path / "huge.png", pixels(1200, 1000)),
        photograph(tmp_path / "thin.jpg", pixels(3, 50)),
    ]
    photographs, instances, rejected = run([*five, *bad], tmp_path / "out", max_rejected=0.6)
    assert len(photographs) == len(instances) == 5
    reasons = {row.item.removeprefix("photograph "): row.reason for row in rejected.itertuples()}
    assert reasons["zero"] == "0 bytes"
    assert reasons["text"].startswith("not a picture in one of the formats")
    assert reasons["cut"].startswith("can't be decoded: image file is truncated")
    assert reasons["missing"] == "no such file"
    assert reasons["huge"] == "1000x1200 is 1200000 pixels, the limit is 1000000"
    assert reasons["thin"] == "50x3, the shorter side must be 4 at least"
    assert sorted(file.stem for file in (tmp_path / "out/images").iterdir()) == [f"p{n}" for n in range(5)]


def test_bad_objects_are_rejected_and_their_photograph_stays(five, tmp_path):
    bad = [
        photograph(tmp_path / "empty.jpg", pixels(), mask=np.zeros((12, 18), bool)),
        photograph(tmp_path / "other.jpg", pixels(), mask=np.ones((18, 12), bool)),
        photograph(tmp_path / "broken.jpg", pixels(), mask=UserError("RLE doesn't decode")),
    ]
    photographs, instances, rejected = run([*five, *bad], tmp_path / "out", max_rejected=0.0)
    assert len(photographs) == 8 and len(instances) == 5
    assert {(row.item, row.reason) for row in rejected.itertuples()} == {
        ("instance empty_1", "empty mask"),
        ("instance other_1", "the mask is 12x18, its image 18x12"),
        ("instance broken_1", "RLE doesn't decode"),
    }


def test_what_the_source_rejected_comes_first_and_counts(five, tmp_path):
    before = [rejected_photograph("../../x", "9", "leads out"), rejected_instance("a.json", "7", "no segmentation")]
    _, _, rejected = run(five, tmp_path / "out", before)
    assert rejected.to_dict("records") == before
    with pytest.raises(UserError, match=r"set: 1 of 6 photographs rejected \(16.7%, the limit max_rejected is 10.0%\)"):
        run(five, tmp_path / "other", before, max_rejected=0.1)


def test_too_many_rejects_leave_nothing_and_keep_what_was(five, tmp_path):
    run(five, tmp_path / "out")
    before = sorted((file, file.read_bytes()) for file in (tmp_path / "out").rglob("*") if file.is_file())
    bad = [photograph(tmp_path / f"bad{number}.jpg") for number in range(5)]
    with pytest.raises(UserError) as caught:
        run([*five, *bad], tmp_path / "out", max_rejected=0.4)
    message = str(caught.value)
    assert message.startswith("set: 5 of 10 photographs rejected (50.0%, the limit max_rejected is 40.0%), first: ")
    assert "bad0.jpg: no such file; bad1.jpg: no such file; bad2.jpg: no such file" in message and "\n" not in message
    assert before == sorted((file, file.read_bytes()) for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert not list(tmp_path.glob(".*"))


def test_no_usable_instance_left(five, tmp_path):
    empty = [photograph(each.file, mask=np.zeros((12, 18), bool)) for each in five]
    with pytest.raises(UserError, match="set: no usable instance left, first reasons: p0.jpg: empty mask; p1.jpg"):
        run(empty, tmp_path / "out")
    with pytest.raises(UserError, match="set: no photograph in it"):
        run([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_duplicate_ids_are_refused(five, tmp_path):
    with pytest.raises(UserError, match="duplicate image id p0: .*p0.jpg and .*p1.jpg"):
        run([*five, photograph(tmp_path / "p1.jpg", image_id="p0")], tmp_path / "out")


# splits


@given(st.integers(0, 2**32), st.integers(1, 200), st.floats(0, 0.5), st.floats(0, 0.49))
def test_shares_are_exact_up_to_rounding_and_order_does_not_count(seed, n_groups, validation_share, test_share):
    groups = [f"g{number}" for number in range(n_groups)]
    splits = split_by_hash(groups, seed, validation_share, test_share)
    assert splits == split_by_hash(groups[::-1] + groups, seed, validation_share, test_share)
    for split, part in (("test", test_share), ("val", validation_share)):
        assert abs(sum(each == split for each in splits.values()) - part * n_groups) <= 1


def test_more_photographs_move_few_of_the_old_ones():
    groups = [f"g{number}" for number in range(200)]
    before, after = split_by_hash(groups, 5, 0.1, 0.1), split_by_hash([*groups, "new"], 5, 0.1, 0.1)
    assert sum(before[group] != after[group] for group in groups) <= 2


def test_groups_never_cross_splits(tmp_path):
    made = [
        photograph(tmp_path / f"g{group}-{number}.jpg", pixels(seed=10 * group + number), group=f"g{group}")
        for group in range(5)
        for number in range(3)
    ]
    photographs, instances, _ = run(made, tmp_path / "out")
    assert (photographs.groupby("group")["split"].nunique() == 1).all()
    assert photographs.groupby("split")["group"].nunique().to_dict() == {"test": 1, "train": 3, "val": 1}
    of = dict(zip(photographs["image_id"], photographs["split"]))
    assert all(of[row.image_id] == row.split for row in instances.itertuples())


def test_own_splits_are_taken(tmp_path):
    names = ("test", "train", "train", "val")
    made = [photograph(tmp_path / f"p{n}.jpg", pixels(seed=n), split=split) for n, split in enumerate(names)]
    photographs, _, _ = run(made, tmp_path / "out", validation_share=0.0, test_share=0.0)
    assert photographs["split"].tolist() == list(names)


@pytest.mark.parametrize(
    ("splits", "groups", "reason"),
    [
        (("train", "val", "test", None), "abcd", r"1 of 4 photographs have no split \(first: p3.jpg\)"),
        (("train", "val", "test", "train"), "abcc", "p3.jpg is in train, others of its group c are in test"),
        (("train", "train", "test", "train"), "abcd", r"no usable photograph is in val \(the source's own splits\)"),
    ],
)
def test_own_splits_that_do_not_do(tmp_path, splits, groups, reason):
    made = [
        photograph(tmp_path / f"p{n}.jpg", pixels(seed=n), split=split, group=group)
        for n, (split, group) in enumerate(zip(splits, groups))
    ]
    with pytest.raises(UserError, match=f"set: {reason}"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shares_too_small_for_the_photographs(five, tmp_path):
    reason = r"no usable photograph is in test \(5 groups, validation_share 0.2, test_share 0.05\)"
    with pytest.raises(UserError, match=reason):
        run(five, tmp_path / "out", test_share=0.05)
    with pytest.raises(
        ParameterError, match="validation_share 0.5 and test_share 0.5 leave no photograph for training"
    ):
        run(five, tmp_path / "out", validation_share=0.5, test_share=0.5)


# promises


def test_order_of_the_photographs_does_not_count(five, tmp_path):
    run(five, tmp_path / "a")
    run(five[::-1], tmp_path / "b")
    contents = [
        {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
        for out in (tmp_path / "a", tmp_path / "b")
    ]
    assert contents[0] == contents[1]


def test_progress_is_told(five, tmp_path):
    seen = []
    run(five, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_fivek_and_timelapse_go_through(tmp_path):
    for n in range(5):
        for m, rendition in enumerate(("input", "expertC")):
            for name in (f"five/{rendition}/a{n:04}.jpg", f"time/{n}/{rendition}.jpg"):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(seed=10 * n + m)).save(tmp_path / name)
        for name in (f"five/masks/a{n:04}.png", f"time/masks/{n}/input.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (18, 12), 255).save(tmp_path / name)
    photographs, instances, _ = run(*fivek.read(tmp_path / "five")[:1], tmp_path / "out5")
    assert len(photographs) == len(instances) == 10 and set(photographs["rendition"]) == {"input", "expertC"}
    photographs, instances, _ = run(*timelapse.read(tmp_path / "time")[:1], tmp_path / "outT")
    assert len(photographs) == 10 and len(instances) == 5
    assert (photographs.groupby("group")["split"].nunique() == 1).all()


def test_a_coco_folder_with_every_kind_of_bad_image(tmp_path):
    """Issue 2 and 3, bad input: one folder, one run, each outcome in the tables."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    names = [f"p{n}.jpg" for n in range(5)] + ["my photo ñ.jpg", "zero.jpg", "gray.png", "../../x.jpg", "missing.jpg"]
    (folder.parent / "x.jpg").touch()
    for n, name in enumerate(names[:6]):
        Image.fromarray(pixels(seed=n)).save(folder / "images" / name)
    (folder / "images" / "zero.jpg").touch()
    Image.fromarray(pixels()[..., 0]).save(folder / "images" / "gray.png")
    images = [{"id": f"im_{n}", "file_name": name, "height": 12, "width": 18} for n, name in enumerate(names)]
    square = [[2, 1, 6, 1, 6, 4, 2, 4]]
    annotations = [
        {"id": n, "image_id": f"im_{n}", "category_id": 1, "segmentation": square} for n in range(len(names))
    ]
    annotations[3]["segmentation"] = {"size": [12, 18], "counts": "zz"}
    annotations[4]["segmentation"] = {"size": [12, 18], "counts": [216]}
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    (folder / "instances.json").write_text(json.dumps(document))
    photographs, instances, rejected = run(*coco.read(folder)[:1], tmp_path / "out", coco.read(folder)[1])
    assert photographs["image_id"].tolist() == [f"im-{n}" for n in (0, 1, 2, 3, 4, 5, 7)]
    assert instances["instance_id"].tolist() == ["0", "1", "2", "5", "7"] and set(instances["area"]) == {12}
    items = {row.item: row.reason for row in rejected.itertuples()}
    assert items.keys() == {
        "photograph im-8", "photograph im-9", "photograph im-6", "instance im-3_3", "instance im-4_4"
    }  # fmt: skip
    assert "RLE" in items["instance im-3_3"] and items["instance im-4_4"] == "empty mask"


@pytest.mark.slow
def test_the_bundled_photographs_go_through(tmp_path):
    photographs, rejected = bundled.read(Path(bundled.__file__).with_name("bundled.json"))
    limits = {"longest_side": 128, "max_pixels": 2 * 10**6, "max_rejected": 0.0}
    table, instances, refused = run(photographs, tmp_path / "out", rejected, **limits)
    assert len(table) == len(photographs) >= 7 and len(instances) >= 25
    assert table[["width", "height"]].max(axis=1).tolist() == [128] * len(table)
    assert len(refused) == 0 and set(table["split"]) == {"train", "val", "test"}


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/data isn't here")
def test_shared_photos_keep_their_bytes_and_splits(tmp_path):
    photographs, rejected = coco.read(PHOTOS)
    table, instances, _ = run(photographs[::10], tmp_path / "out", rejected, min_side=256, max_rejected=0.0)
    assert set(table["kept"]) == {"as is"} and len(table) == 96
    assert instances["foreground_ratio"].between(0.01, 0.8).all()
    assert set(table["split"]) == {"train", "val", "test"}


# copies, lost objects, shallow files


def copied(tmp_path, split=None):
    """Six photographs, each three times: as it is, under another name, and saved again at half the size."""
    made = []
    for number in range(6):
        array = np.asarray(Image.fromarray(pixels(6, 8, seed=number)).resize((128, 96), Image.Resampling.BICUBIC))
        small = np.asarray(Image.fromarray(array).resize((64, 48), Image.Resampling.BOX))
        for name, version in (("a", array), ("b", array), ("c", small)):
            mask = np.zeros(version.shape[:2], bool)
            mask[:9, :9] = True
            made.append(
                photograph(tmp_path / f"{name}{number}.png", version, mask=mask, split=split and split(name, number))
            )
    return made


@pytest.mark.parametrize("seed", range(5))
def test_copies_never_cross_splits(tmp_path, seed):
    lines = ingest(copied(tmp_path), [], tmp_path / "out", **OPTIONS | {"seed": seed})
    table, pairs = (tables.read(tmp_path / f"out/{name}.parquet") for name in ("photographs", "copies"))
    splits = table.groupby(table["image_id"].str[1:])["split"]
    assert (splits.nunique() == 1).all() and splits.first().value_counts().to_dict() == {
        "train": 4,
        "test": 1,
        "val": 1,
    }
    assert set(table["group"]) == set(table["image_id"]), "groups stay what the source says: they mean renditions too"
    assert pairs["kind"].value_counts().to_dict() == {"equal": 6, "near": 6}
    assert set(zip(pairs["image_id"], pairs["copy_of"])) == {
        (f"{name}{number}", f"a{number}") for number in range(6) for name in "bc"
    }
    assert lines == [
        "set: 12 of 18 photographs are copies of others (6 equal, 6 near; copies.parquet names them); copies stand in one split"
    ]


def test_near_copies_can_be_left_apart_and_equal_ones_can_not(tmp_path):
    lines = ingest(copied(tmp_path), [], tmp_path / "out", **OPTIONS | {"near_copies": False})
    table = tables.read(tmp_path / "out/photographs.parquet").set_index("image_id")["split"]
    assert all(table[f"a{number}"] == table[f"b{number}"] for number in range(6))
    assert "6 of 18 photographs are copies of others (6 equal, 0 near;" in lines[0]


def test_copies_that_cross_the_splits_of_the_source_are_counted(tmp_path):
    made = copied(
        tmp_path, lambda name, number: "test" if name == "c" and number < 2 else "val" if number == 5 else "train"
    )
    (line,) = ingest(made, [], tmp_path / "out", **OPTIONS)
    assert line.endswith("; 2 of them cross the source's own splits, first: c0 in test, a0 in train")
    table = tables.read(tmp_path / "out/photographs.parquet").set_index("image_id")["split"]
    assert table["c0"] == "test" and table["a0"] == "train"


def test_splits_without_copies_are_those_of_the_groups_alone(five, tmp_path):
    table, _, _ = run(five, tmp_path / "out")
    assert dict(zip(table["image_id"], table["split"])) == split_by_hash([each.group for each in five], 1, 0.2, 0.2)
    assert not len(tables.read(tmp_path / "out/copies.parquet"))


def test_lost_objects_are_told_and_limited(five, tmp_path):
    lost = photograph(tmp_path / "p9.jpg", pixels(seed=9), mask=np.zeros((12, 18), bool))
    lines = ingest([*five, lost], [], tmp_path / "out", **OPTIONS)
    assert lines == [
        "set: 1 of 6 objects left out (16.7%; rejected.parquet names them): 1 (p9.jpg, instance p9_1): empty mask"
    ]
    before = (tmp_path / "out/photographs.parquet").read_bytes()
    with pytest.raises(
        UserError, match=r"set: 1 of 6 objects left out \(16.7%, the limit max_rejected_objects is 10.0%\): 1 \(p9.jpg"
    ):
        ingest([*five, lost], [], tmp_path / "out", **OPTIONS | {"max_rejected_objects": 0.1})
    assert (tmp_path / "out/photographs.parquet").read_bytes() == before


def test_photographs_of_12_bits_in_16_are_told(five, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 4096, (12, 18), dtype=np.uint16)).save(tmp_path / "raw.png")
    lines = ingest([*five, photograph(tmp_path / "raw.png")], [], tmp_path / "out", **OPTIONS)
    assert len(lines) == 1 and lines[0].startswith(
        "set: 1 of 6 photographs of 16 bits come out nearly black, first: raw.png; "
    )
