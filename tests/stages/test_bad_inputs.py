"""Bad inputs by group, a seeded campaign: each is answered in one line or taken, and nothing is half-written.

The counts of each group are printed. What is taken was damaged where nothing can show it: JPEG, TIFF and WebP have no
checksums, and a list or a value may be another that is right.
"""

import contextlib
import json
import os

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import zeros

from pipeline import images
from tests.pipeline.tiny import random_picture

REGION = np.zeros((45, 61), bool)
REGION[10:30, 5:40] = True


def damaged(content: bytes, seed: int, count: int) -> list[bytes]:
    """`count` damaged versions of a file: cut, with flipped bits, with a part doubled, zeroed or gone."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        low, high = sorted(int(place) for place in rng.integers(0, len(content), 2))
        kind = number % 5
        if kind == 0:
            made.append(content[:low])
        elif kind == 1:
            changed = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                changed[place] ^= 1 << int(rng.integers(8))
            made.append(bytes(changed))
        elif kind == 2:
            made.append(content[:high] + content[low:])
        elif kind == 3:
            made.append(content[:low] + bytes(high - low) + content[high:])
        else:
            made.append(content[:low] + content[high:])
    return made


class Campaign:
    def __init__(self, project, group: str):
        self.project, self.group = project, group
        self.tried = self.refused = 0

    def ask(self, stage: str, *arguments: str, out: str, must_refuse: bool = False) -> None:
        before = self.files()
        done = self.project.run(stage, *arguments)
        lines = done.err.splitlines()
        self.tried += 1
        if done.code:
            self.refused += 1
            said = [line for line in lines if line.startswith(f"{stage}: ")]
            assert done.code in (1, 2) and len(said) == 1 and len(said[0]) < 2000 and "Traceback" not in done.err, done
            assert self.files() == before, f"half-written: {sorted(self.files() - before)}"
        else:
            assert not must_refuse, f"taken: {arguments}"
            assert (self.project.folder / out).exists()
            self.remove(self.project.folder / out)
        assert not [name for name in self.files() if ".part" in name]

    def files(self) -> set[str]:
        """All files and folders but those of .runs, where training keeps unfinished work on purpose."""
        paths = {
            os.path.join(parent, name)
            for parent, folders, names in os.walk(self.project.folder)
            for name in (*folders, *names)
        }
        return {name for name in paths if "/.runs" not in name}

    def remove(self, path) -> None:
        if path.is_dir():
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()
        else:
            path.unlink()

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            with self.project.capsys.disabled():
                print(
                    f"\n{self.group}: {self.tried} tried, {self.refused} answered in one line, {self.tried - self.refused} taken, none half-written"
                )


@pytest.mark.slow
def test_masks_and_pictures_of_one_s_own(project):
    folder = project.folder
    images.write_png(folder / "a.png", random_picture(0, 45, 61))
    images.write_png(folder / "good.png", REGION)
    with Campaign(project, "mask files that are damaged") as campaign:
        for content in damaged((folder / "good.png").read_bytes(), 1, 40):
            (folder / "mask.png").write_bytes(content)
            campaign.ask("apply", "--model", "composite", "a.png", "mask.png", "-o", "out.png", out="out.png")
            with contextlib.suppress(images.BadImage):
                assert np.array_equal(images.read_mask(folder / "mask.png"), REGION), (
                    "a damaged mask that is taken is the mask"
                )
    with Campaign(project, "pictures that are damaged") as campaign:
        for suffix in ("png", "jpg", "tif", "webp"):
            Image.fromarray(random_picture(1, 45, 61)).save(folder / f"b.{suffix}")
            for content in damaged((folder / f"b.{suffix}").read_bytes(), 2, 15):
                (folder / f"b.{suffix}").write_bytes(content)
                campaign.ask("apply", "--model", "composite", f"b.{suffix}", "good.png", "-o", "out.png", out="out.png")
    rng = np.random.default_rng(3)
    with Campaign(project, "files of other kinds as masks") as campaign:
        for number in range(40):
            n_classes = 3 + number % 6
            numbers = np.kron(rng.integers(0, n_classes, (5, 7)), np.ones((9, 9)))[:45, :61].astype(np.uint8)
            numbers[0, :2], scale = (0, 1), (1, 10, 255 // (n_classes - 1))[number % 3]
            kinds = (
                lambda: Image.fromarray(random_picture(number, 45, 61)),  # a photograph
                lambda: Image.fromarray(random_picture(number, 45, 61)[..., 0]),  # a grey one
                lambda: Image.fromarray(numbers * np.uint8(scale)),  # class numbers
                lambda: Image.fromarray(
                    np.dstack([random_picture(number, 45, 61), REGION * np.uint8(255)])
                ),  # a selection in alpha
                lambda: Image.fromarray(rng.random((45, 61)).astype(np.float32)),  # a map of probabilities
            )
            kinds[number % 5]().save(folder / "mask.tif")
            campaign.ask(
                "apply", "--model", "composite", "a.png", "mask.tif", "-o", "out.png", out="out.png", must_refuse=True
            )


def test_names_and_places(project):
    folder = project.folder
    images.write_png(folder / "a.png", random_picture(0, 45, 61))
    images.write_png(folder / "m.png", REGION)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nothing.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "file").write_text("")
    bad = [
        "loop.png",
        "gone.png",
        "pipe.png",
        "folder.png",
        "file/a.png",
        "n" * 5000 + ".png",
        "",
        "a.png/b.png",
        "none.png",
        "/dev/null",
    ]
    with Campaign(project, "names and places") as campaign:
        for name in bad:
            campaign.ask(
                "apply", "--model", "composite", name, "m.png", "-o", "out.png", out="out.png", must_refuse=True
            )
            campaign.ask(
                "apply", "--model", "composite", "a.png", name, "-o", "out.png", out="out.png", must_refuse=True
            )
            campaign.ask(
                "apply",
                "--model",
                "unet",
                "a.png",
                "-o",
                "out.png",
                "--weights",
                name,
                out="out.png",
                must_refuse=bool(name),
            )
        for out in ("loop.png", "file/out.png", "n" * 5000 + ".png", "folder.png", "pipe.png", "a.png"):
            campaign.ask("apply", "--model", "composite", "a.png", "m.png", "-o", out, out=out, must_refuse=True)


def coco_folder(folder) -> dict:
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square", "supercategory": "shape"}]}
    for number in range(4):
        images.write_png(folder / f"images/p{number}.png", random_picture(number, 80, 100))
        document["images"].append({"id": number, "file_name": f"p{number}.png", "width": 100, "height": 80})
        square = [10, 10, 60, 10, 60, 60, 10, 60]
        document["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [square], "iscrowd": 0}
        )
    (folder / "splits.json").write_text(
        json.dumps({"train": ["p0.png", "p1.png"], "val": ["p2.png"], "test": ["p3.png"]})
    )
    return document


@pytest.mark.slow
def test_coco_folders(project):
    folder = project.folder / "photos"
    document = coco_folder(folder)
    project.content["sources"]["photos"] = project.content["sources"]["bundled"] | {"kind": "coco", "path": "photos"}
    project.write()
    (project.folder / "data/sources").mkdir(parents=True)
    rng = np.random.default_rng(5)
    values = [
        None,
        "",
        "wide",
        "n" * 5000,
        -1,
        0,
        1e308,
        True,
        [],
        {},
        [[]],
        "../a.png",
        {"size": [80, 100], "counts": "1"},
        10**30,
    ]

    def ask(campaign):
        campaign.ask("ingest", "photos", "data/sources/photos", out="data/sources/photos")

    with Campaign(project, "values in COCO JSON") as campaign:
        for _ in range(60):
            changed = json.loads(json.dumps(document))
            part = ("images", "annotations", "categories")[int(rng.integers(3))]
            entry = changed[part][int(rng.integers(len(changed[part])))]
            key = list(entry)[int(rng.integers(len(entry)))]
            value = values[int(rng.integers(len(values)))]
            entry.update({key: value}) if rng.random() < 0.8 else entry.pop(key)
            (folder / "instances.json").write_text(json.dumps(changed))
            ask(campaign)
    whole = json.dumps(document).encode()
    with Campaign(project, "COCO JSON that is damaged") as campaign:
        for content in [*damaged(whole, 6, 30), b"", b"[" * 100_000, b"null", b"\xff\xfe"]:
            (folder / "instances.json").write_bytes(content)
            ask(campaign)
    (folder / "instances.json").unlink()
    os.mkfifo(folder / "instances.json")
    with Campaign(project, "a pipe as COCO JSON") as campaign:
        campaign.ask("ingest", "photos", "data/sources/photos", out="data/sources/photos", must_refuse=True)


@pytest.mark.slow
def test_real_sets_and_lists(project):
    project.content["real_sets"] = {"Own": {"kind": "pairs", "path": "own", "max_megapixels": 1, "max_rejected": 0.0}}
    project.content["real_sets"]["Ihd"] = {"kind": "iharmony4", "path": "ihd", "max_megapixels": 1, "max_rejected": 0.0}
    project.write()
    (project.folder / "data/real").mkdir(parents=True)
    own, ihd = project.folder / "own", project.folder / "ihd"
    for name in ("a", "b"):
        images.write_png(own / f"image/{name}.png", random_picture(1, 45, 61))
        images.write_png(own / f"mask/{name}.png", REGION)
        for kind in ("composite_images", "real_images"):
            images.write_jpeg(
                ihd / f"HCOCO/{kind}/{name}_1_1.jpg" if kind[0] == "c" else ihd / f"HCOCO/{kind}/{name}.jpg",
                random_picture(1, 45, 61),
            )
        images.write_png(ihd / f"HCOCO/masks/{name}_1.png", REGION)
    good = b"HCOCO/composite_images/a_1_1.jpg\nHCOCO/composite_images/b_1_1.jpg\n"
    with Campaign(project, "lists of composites") as campaign:
        for content in [b"", b"\n \n", b"\xff\xfe", b"../x.jpg\n", b"n" * 5000, *damaged(good, 7, 20)]:
            (ihd / "IHD_test.txt").write_bytes(content)
            campaign.ask("real", "Ihd", "data/real/Ihd", out="data/real/Ihd")
            (own / "list.txt").write_bytes(
                content.replace(b"HCOCO/composite_images/", b"").replace(b"_1_1.jpg", b".png")
            )
            campaign.ask("real", "Own", "data/real/Own", out="data/real/Own")
    (own / "list.txt").unlink()
    with Campaign(project, "masks of real sets") as campaign:
        for content in damaged((own / "mask/a.png").read_bytes(), 8, 20):
            (own / "mask/a.png").write_bytes(content)
            campaign.ask("real", "Own", "data/real/Own", out="data/real/Own")


@pytest.mark.slow
def test_weights_and_parameters(project):
    images.write_png(project.folder / "a.png", random_picture(0, 45, 61))
    save_file({f"other.{number}": zeros(3) for number in range(200)}, project.folder / "w.safetensors")
    whole = (project.folder / "w.safetensors").read_bytes()
    with Campaign(project, "weights") as campaign:
        for content in [whole, b"", b"\x80\x04K\x01.", *damaged(whole, 9, 20)]:
            (project.folder / "w.safetensors").write_bytes(content)
            campaign.ask(
                "apply",
                "--model",
                "unet",
                "a.png",
                "-o",
                "out.png",
                "--weights",
                "w.safetensors",
                out="out.png",
                must_refuse=True,
            )
    parameters = (project.folder / "params.yaml").read_bytes()
    with Campaign(project, "params.yaml that is damaged") as campaign:
        for content in [b"", b"a: " + b"[" * 5000, b"\xff", b"- a", *damaged(parameters, 10, 30)]:
            (project.folder / "params.yaml").write_bytes(content)
            campaign.ask("apply", "--model", "constant_map", "a.png", "-o", "out.png", out="out.png")
    (project.folder / "params.yaml").write_bytes(parameters)
    (project.folder / "artifacts/predictions").mkdir(parents=True)
    (project.folder / "artifacts/models").mkdir()
    with Campaign(project, "folders that a network is trained and tested on") as campaign:
        for data in (["data"], ["data", "data", "data"], ["gone", "gone"]):
            campaign.ask("infer", "mean_fill", "--data", *data, out="artifacts/predictions/mean_fill", must_refuse=True)
            campaign.ask("train", "unet", "--data", *data, out="artifacts/models/unet", must_refuse=True)
