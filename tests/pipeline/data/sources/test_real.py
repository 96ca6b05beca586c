import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import tables
from pipeline.data.sources import real
from pipeline.errors import UserError

SHARED = Path(__file__).resolve().parents[4] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data isn't here")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def noise(seed, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (6, 9, channels), dtype=np.uint8)


def half():
    mask = np.zeros((6, 9), np.uint8)
    mask[:3] = 255
    return mask


def pairs(folder, names=("IMG_1", "two"), composites="image", masks="mask", lines=None):
    for seed, name in enumerate(names):
        save(folder / composites / f"{name}.png", noise(seed))
        save(folder / masks / f"{name}.png", half())
    if lines is not None:
        (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def ingest(folder, out, **changed):
    items, rejected = real.read(folder)
    options = {"source": "set", "max_pixels": 10**6, "max_rejected": 0.0} | changed
    real.ingest(items, rejected, out, **options)
    return tables.read(out / "composites.parquet"), tables.read(out / "rejected.parquet")


def test_dih99_layout(tmp_path):
    items, rejected = real.read(pairs(tmp_path, lines=["IMG_1.png", "two.png"]))
    assert rejected == []
    assert [(each.image_id, each.original, each.real) for each in items] == [
        ("IMG-1", "IMG_1.png", None),
        ("two", "two.png", None),
    ]
    composite, mask, truth = real.load(items[0])
    assert np.array_equal(composite, noise(0)) and np.array_equal(mask, half() > 0) and truth is None


@pytest.mark.parametrize("composites", real.COMPOSITE_FOLDERS)
@pytest.mark.parametrize("masks", real.MASK_FOLDERS)
def test_any_pair_of_folders_with_equal_stems(tmp_path, composites, masks):
    items, rejected = real.read(pairs(tmp_path, composites=composites, masks=masks))
    assert len(items) == 2 and rejected == []


def test_soft_rgba_masks_and_images_with_alpha(tmp_path):
    pairs(tmp_path, ("a",))
    save(tmp_path / "image" / "a.png", noise(0, 4))
    soft = np.zeros((6, 9, 4), np.uint8)
    soft[0, :3, :3], soft[..., 3] = np.array([[127], [128], [255]]), 255
    save(tmp_path / "mask" / "a.png", soft)
    composite, mask, _ = real.load(real.read(tmp_path)[0][0])
    assert np.array_equal(composite, noise(0, 4)[..., :3])
    assert mask.sum() == 2 and mask[0, 1] and mask[0, 2]


def test_a_folder_of_truths(tmp_path):
    pairs(tmp_path)
    save(tmp_path / "gt" / "IMG_1.png", noise(7))
    items, rejected = real.read(tmp_path)
    assert np.array_equal(real.load(items[0])[2], noise(7))
    assert [row["reason"] for row in rejected] == ["no real image of this name in gt"]


def test_lists_and_masks_that_are_missing(tmp_path):
    pairs(tmp_path, ("a", "b", "c"), lines=["a.png", "gone.png", "../../x.png", "a.png", "", "b.png"])
    (tmp_path / "mask" / "b.png").unlink()
    items, rejected = real.read(tmp_path)
    assert [each.image_id for each in items] == ["a"]
    assert [(row["file"], row["reason"].split(str(tmp_path))[0]) for row in rejected] == [
        ("gone.png", "in list.txt, but there is no such file"),
        ("../../x.png", "../../x.png: leads out of the folder "),
        ("a.png", "listed twice in list.txt"),
        ("b.png", "no mask of this name in mask"),
    ]


def realhm(folder, stem="vendor_testing_1/7"):
    foreground, background, truth = noise(1), noise(2), noise(3)
    soft = np.repeat(np.array([0, 64, 128, 255, 255, 255, 0, 0, 0], np.uint8)[None], 6, axis=0)
    for part, array in (("", foreground), ("_fore", background), ("_gt", truth), ("_mask", soft), ("_small", noise(4))):
        save(folder / f"{stem}{part}.png", array)
    return foreground, background, truth, soft


def test_realhm_is_put_together_with_its_soft_mask(tmp_path):
    foreground, background, truth, soft = realhm(tmp_path)
    (item,), rejected = real.read(tmp_path)
    assert rejected == [] and item.image_id == "vendor-testing-1-7" and item.original == "vendor_testing_1/7"
    composite, mask, real_image = real.load(item)
    assert np.array_equal(mask, soft >= 128) and np.array_equal(real_image, truth)
    assert np.array_equal(composite[:, 3:6], foreground[:, 3:6])
    assert np.array_equal(composite[:, 6:], background[:, 6:])
    y, x = 2, 1  # by hand: 64/255 of the foreground, the rest of the background
    for channel in range(3):
        blend = (int(foreground[y, x, channel]) * 64 + int(background[y, x, channel]) * 191) / 255
        assert abs(composite[y, x, channel] - blend) <= 0.5


def test_realhm_items_that_are_incomplete(tmp_path):
    realhm(tmp_path)
    realhm(tmp_path, "vendor_testing_2/7")
    (tmp_path / "vendor_testing_2" / "7_gt.png").unlink()
    items, rejected = real.read(tmp_path)
    assert [each.image_id for each in items] == ["vendor-testing-1-7"]
    assert [(row["file"], row["reason"]) for row in rejected] == [("vendor_testing_2/7", "no 7_gt.png")]


def test_ingest_keeps_size_and_pixels(tmp_path):
    pairs(tmp_path / "set")
    save(tmp_path / "set" / "image" / "gray.bmp", noise(5)[..., 0])
    save(tmp_path / "set" / "mask" / "gray.png", half())
    Image.fromarray(noise(6)).save(tmp_path / "set" / "image" / "photo.jpg")
    save(tmp_path / "set" / "mask" / "photo.png", half())
    table, rejected = ingest(tmp_path / "set", tmp_path / "out")
    assert len(rejected) == 0
    assert table[["image_id", "composite", "kept"]].values.tolist() == [
        ["IMG-1", "composites/IMG-1.png", "as is"],
        ["gray", "composites/gray.png", "grayscale replicated"],
        ["photo", "composites/photo.jpg", "as is"],
        ["two", "composites/two.png", "as is"],
    ]
    assert table["real"].isna().all() and set(table["width"]) == {9} and set(table["foreground_ratio"]) == {0.5}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/composites/gray.png"))[..., 1], noise(5)[..., 0])
    for row in table.itertuples():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / row.mask)), half())
        if row.kept == "as is":
            original = tmp_path / "set" / "image" / row.original
            assert original.read_bytes() == (tmp_path / "out" / row.composite).read_bytes()


def test_ingest_of_a_set_with_truths(tmp_path):
    _, _, truth, _ = realhm(tmp_path / "set")
    table, _ = ingest(tmp_path / "set", tmp_path / "out")
    (row,) = table.itertuples()
    assert row.kept == "put together from foreground, mask and background"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / row.real)), truth)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "image/two.png").write_bytes(b""), "two.png: 0 bytes"),
        (lambda folder: save(folder / "mask/two.png", np.full((9, 6), 255)), "two.png: the mask is 6x9, its image 9x6"),
        (lambda folder: save(folder / "mask/two.png", np.zeros((6, 9))), "two.png: empty mask"),
        (lambda folder: save(folder / "mask/two.png", np.full((6, 9), 255)), "two.png: mask without background"),
        (lambda folder: save(folder / "image/two.png", np.zeros((1200, 1200, 3))), "1440000 pixels, the limit is"),
    ],
)
def test_bad_composites_are_rejected_up_to_a_limit(tmp_path, spoil, reason):
    spoil(pairs(tmp_path / "set"))
    table, rejected = ingest(tmp_path / "set", tmp_path / "out", max_rejected=0.5)
    assert table["image_id"].tolist() == ["IMG-1"]
    (row,) = rejected.itertuples()
    assert row.item == "photograph two" and reason in row.reason
    with pytest.raises(UserError, match=r"set: 1 of 2 photographs rejected \(50.0%, the limit max_rejected is 49.0%\)"):
        ingest(tmp_path / "set", tmp_path / "other", max_rejected=0.49)
    assert {entry.name for entry in tmp_path.iterdir()} == {"set", "out"}


def test_nothing_left(tmp_path):
    save(pairs(tmp_path / "set", ("a",)) / "mask" / "a.png", np.zeros((6, 9)))
    with pytest.raises(UserError, match="set: no usable composite, first reasons: a.png: a.png: empty mask"):
        ingest(tmp_path / "set", tmp_path / "out", max_rejected=1.0)


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        real.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no composites: expected a folder of composite_images"):
        real.read(tmp_path)
    pairs(tmp_path / "twice", ("a",))
    save(tmp_path / "twice" / "image" / "a.bmp", noise(0))
    with pytest.raises(UserError, match="a.bmp and a.png have the same name"):
        real.read(tmp_path / "twice")
    with pytest.raises(UserError, match="duplicate id a-b: a-b.png and a_b.png"):
        real.read(pairs(tmp_path / "clash", ("a-b", "a_b")))


@pytest.mark.slow
@needs_shared
def test_shared_dih99(tmp_path):
    items, rejected = real.read(SHARED / "dih99_sample")
    assert len(items) == 16 and rejected == []
    real.ingest(items[:4], [], tmp_path / "out", source="dih99", max_pixels=10**7, max_rejected=0.0)
    table = tables.read(tmp_path / "out" / "composites.parquet")
    assert table["kept"].tolist() == ["alpha dropped", "as is", "as is", "alpha dropped"]
    assert table["width"].tolist() == [800, 600, 800, 800] and table["foreground_ratio"].between(0.2, 0.5).all()


@needs_shared
def test_shared_real_composites():
    items, rejected = real.read(SHARED / "real_composites")
    assert len(items) == 300 and rejected == []
    known = (SHARED / "real_composites" / "index.csv").read_text().splitlines()[1:]
    ratio = {line.split(",")[0]: float(line.rsplit(",", 1)[1]) for line in known}
    for item in items[::50]:
        composite, mask, _ = real.load(item)
        assert mask.mean() == pytest.approx(ratio[item.original], abs=6e-5)
        assert composite.shape[:2] == mask.shape


def test_the_same_set_gives_the_same_bytes(tmp_path):
    pairs(tmp_path / "set")
    digests = []
    for out in (tmp_path / "a", tmp_path / "b"):
        ingest(tmp_path / "set", out)
        files = sorted(file for file in out.rglob("*") if file.is_file())
        digests.append([(file.relative_to(out), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert digests[0] == digests[1] and len(digests[0]) == 6
