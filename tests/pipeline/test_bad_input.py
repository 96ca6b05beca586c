"""Everything that can be wrong with photographs and their lists, in one folder, on the way to composites: what is used,
what is converted, what is rejected and why. The details of each are tested beside the code that decides."""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline import images, tables
from pipeline.data import ingest
from pipeline.data.composites.build import build
from pipeline.data.sources import coco, fivek, timelapse
from pipeline.errors import UserError
from tests.pipeline.data.composites import making

OPTIONS = {
    "source": "odd", "seed": 1, "validation_share": 0.2, "test_share": 0.2, "longest_side": None, "min_side": 8,
    "max_pixels": 50_000_000, "max_rejected": 0.5,
}  # fmt: skip


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[274] = orientation
    return made


def bomb(path: Path, width: int = 10_000, height: int = 10_000) -> None:
    """A PNG of 100 megapixels by its header, with rubbish for pixels: decoding it would be another error."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + b"rubbish"]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    )


def write_odd(folder: Path) -> dict[str, str]:
    """One photograph of each kind: file name by what is odd about it."""
    folder.mkdir(parents=True)
    names = {
        "gray": "gray.jpg", "cmyk": "cmyk.jpg", "sixteen": "sixteen.png", "alpha": "alpha.png", "rotated": "rotated.jpg", "space": "my photo.jpg",
        "unicode": "写真 ñ.jpg", "under_score": "under_score.jpg", "truncated": "truncated.jpg", "empty": "empty.jpg", "huge": "huge.png",
        "missing": "missing.jpg", "climbs": "../climbs.jpg", "notrle": "notrle.jpg", "short": "short.jpg", "smaller": "smaller.jpg",
    }  # fmt: skip
    plain = {key: making.picture(number) for number, key in enumerate(names)}
    for key in ("space", "unicode", "under_score", "climbs", "notrle", "short", "smaller"):
        images.write_jpeg(folder / names[key], plain[key])
    Image.fromarray(plain["gray"][..., 0]).save(folder / names["gray"], quality=95)
    Image.fromarray(np.dstack([255 - plain["cmyk"], np.zeros_like(plain["cmyk"][..., 0])]), mode="CMYK").save(
        folder / names["cmyk"], quality=95
    )
    cv2.imwrite(str(folder / names["sixteen"]), plain["sixteen"][..., ::-1].astype(np.uint16) * 256 + 77)
    Image.fromarray(np.dstack([plain["alpha"], np.full_like(plain["alpha"][..., 0], 9)])).save(folder / names["alpha"])
    Image.fromarray(np.rot90(plain["rotated"])).save(folder / names["rotated"], quality=95, exif=exif(6))
    images.write_jpeg(folder / names["truncated"], plain["truncated"])
    (folder / names["truncated"]).write_bytes((folder / names["truncated"]).read_bytes()[:-400])
    (folder / names["empty"]).touch()
    bomb(folder / names["huge"])
    return names


def write_set(root: Path) -> Path:
    """A COCO folder of 20 good photographs with a cup each, the odd ones with a cup each, and one lamp among the good."""
    odd = write_odd(root / "images")
    good = {f"good{number}": f"good{number}.jpg" for number in range(20)}
    for number, name in enumerate(good.values()):
        images.write_jpeg(root / "images" / name, making.picture(99, number))
    code = coco_mask.encode(np.asfortranarray(making.ellipse(0.5, 0.5, 16).astype(np.uint8)))
    segmentation = {"size": code["size"], "counts": code["counts"].decode()}
    entries, annotations = [], []
    for key, name in (good | odd).items():
        entries.append({"id": key, "file_name": name, "height": making.HEIGHT, "width": making.WIDTH})
        annotations.append({"id": f"{key}_1", "image_id": key, "category_id": 1, "segmentation": segmentation})
    by_id = {annotation["image_id"]: annotation for annotation in annotations}
    by_id["notrle"]["segmentation"] = {"size": [making.HEIGHT, making.WIDTH], "counts": "}{"}
    by_id["short"]["segmentation"] = {"size": [making.HEIGHT, making.WIDTH], "counts": [10, 20]}
    by_id["smaller"]["segmentation"] = {"size": [30, 40], "counts": [600, 600]}
    by_id["good0"]["category_id"] = 2
    document = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "lamp"}],
    }
    (root / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The folder after ingest and synthesis: sources, composites."""
    root = tmp_path_factory.mktemp("odd")
    photographs, rejected = coco.read(write_set(root / "set"))
    ingest.ingest(photographs, rejected, root / "source", **OPTIONS)
    build(
        root / "HCOCO", name="HCOCO", subset=making.subset(composites_per_object=1), rendering=making.rendering(), source=root / "source",
        references=root / "source", seed=3, staging=root / "staging", parallel_map=map,
    )  # fmt: skip
    return root


def test_what_is_used_as_it_is_and_what_is_converted(odd):
    photographs = tables.read(odd / "source/photographs.parquet").set_index("image_id")
    assert dict(photographs.loc[~photographs.index.str.startswith("good"), "kept"]) == {
        "gray": "grayscale replicated", "cmyk": "CMYK to RGB", "sixteen": "PNG to JPEG; 16 bit to 8", "alpha": "PNG to JPEG; alpha dropped",
        "rotated": "turned upright (EXIF orientation 6)", "space": "as is", "unicode": "as is", "under-score": "as is",
        "notrle": "as is", "short": "as is", "smaller": "as is",
    }  # fmt: skip
    assert (
        photographs.loc["unicode", "original"] == "写真 ñ.jpg"
        and photographs.loc["space", "original"] == "my photo.jpg"
    )
    for number, key in enumerate(("gray", "cmyk", "sixteen", "alpha", "rotated")):
        picture = images.read_rgb(odd / "source" / photographs.loc[key, "image"])
        expected = making.picture(number)
        expected = np.repeat(expected[..., :1], 3, axis=2) if key == "gray" else expected
        assert picture.shape == expected.shape and np.abs(picture.astype(int) - expected).mean() < 4, key


def test_what_is_rejected_and_why(odd):
    rejected = tables.read(odd / "source/rejected.parquet")
    reasons = dict(zip(rejected["item"], rejected["reason"]))
    expected = {
        "photograph truncated": "can't be decoded: image file is truncated", "photograph empty": "0 bytes",
        "photograph huge": "10000x10000 is 100000000 pixels, the limit is 50000000", "photograph missing": "no such file",
        "photograph climbs": "leads out of the folder", "instance notrle_notrle-1": "RLE holds the character '}'",
        "instance short_short-1": "RLE doesn't decode: its runs cover 30 of 4800 pixels",
        "instance smaller_smaller-1": "RLE of size [30, 40], the photograph is [60, 80]",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for item, reason in expected.items():
        assert reason in reasons[item], item


def test_composites_are_made_of_all_that_is_left_under_names_that_loaders_split(odd):
    pairs, rejected = tables.read(odd / "HCOCO/pairs.parquet"), tables.read(odd / "HCOCO/rejected.parquet")
    instances = tables.read(odd / "source/instances.parquet")
    assert set(pairs["source_image"]) | set(rejected["source_image"]) == set(instances["image_id"])
    assert {"cmyk", "sixteen", "alpha", "rotated", "space", "unicode", "under-score"} <= set(pairs["source_image"])
    for row in pairs.itertuples():
        real, number, k = row.pair_id.split("_")
        assert (real, number, k) == (f"c{row.source_image}", f"{row.source_image}-1", "1") and row.pair_id.isascii()
    lamp = rejected[rejected["category"] == "lamp"]
    assert list(zip(lamp["source_image"], lamp["rule"])) == [("good0", "no reference")], "the only one of its category"


def test_ids_that_repeat_refuse_the_whole_folder(tmp_path):
    root = write_set(tmp_path / "set")
    document = json.loads((root / "instances.json").read_text())
    document["images"].append(document["images"][0] | {"file_name": "good1.jpg"})
    (root / "instances.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"instances.json: duplicate image id good0 \(good0.jpg, good1.jpg\)"):
        coco.read(root)


# ---- masks that are files


def truncate(mask: Path) -> None:
    mask.write_bytes(mask.read_bytes()[:-30])


def soften(mask: Path) -> None:
    hard = (images.read_mask(mask) * 255).astype(np.uint8)
    Image.fromarray(cv2.GaussianBlur(hard, (0, 0), 2)).save(mask)


def in_colour(mask: Path) -> None:
    Image.fromarray(np.repeat((images.read_mask(mask) * np.uint8(255))[..., None], 3, axis=2)).save(mask)


MASKS = [
    (truncate, "can't be decoded"),
    (lambda mask: mask.write_bytes(b""), "0 bytes"),
    (lambda mask: images.write_png(mask, np.ones((30, 40), bool)), "the mask is 40x30, its image 80x60"),
    (bomb, "10000x10000, its image 80x60"),
    (lambda mask: images.write_png(mask, np.zeros((60, 80), bool)), "empty mask"),
    (
        lambda mask: images.write_png(mask, np.ones((60, 80), np.uint8)),
        "every pixel of this mask is 1; 0 = out, 255 = in",
    ),
    (
        lambda mask: images.write_png(mask, (np.arange(4800) % 3).astype(np.uint8).reshape(60, 80)),
        "no pixel of this mask reaches 128; the brightest is 2",
    ),
    (soften, None),
    (in_colour, None),
]
"""What happens to a mask, and the reason to reject it; None where it is used as if it had been hard and gray."""


@pytest.mark.parametrize("spoil, reason", MASKS)
def test_masks_of_renditions_and_moments(tmp_path, spoil, reason):
    for module, make, mask in (
        (fivek, making.fivek_source, "fivek-files/masks/a0003.png"),
        (timelapse, making.timelapse_source, "timelapse-files/masks/90/0900.png"),
    ):
        whole = make(tmp_path)
        before = tables.read(whole / "instances.parquet")
        spoil(tmp_path / mask)
        photographs, refused = module.read((tmp_path / mask).parents[1 if module is fivek else 2])
        ingest.ingest(photographs, refused, tmp_path / "out", **OPTIONS | {"max_rejected": 0.0})
        after, rejected = (
            tables.read(tmp_path / "out/instances.parquet"),
            tables.read(tmp_path / "out/rejected.parquet"),
        )
        own = before["image_id"].str.startswith("a0003" if module is fivek else "90-0900")
        if reason is None:
            assert len(rejected) == 0 and len(after) == len(before)
            changed = after.loc[own, "area"].to_numpy() / before.loc[own, "area"].to_numpy()
            np.testing.assert_allclose(changed, 1, atol=0.05 if spoil is soften else 0)
        else:
            assert len(rejected) == own.sum() and rejected["reason"].str.contains(reason, regex=False).all(), rejected[
                "reason"
            ].tolist()
            assert set(after["image_id"]) == set(before.loc[~own, "image_id"])
        assert len(tables.read(tmp_path / "out/photographs.parquet")) == len(photographs), (
            "a photograph without its object stays"
        )
