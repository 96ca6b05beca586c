import math
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import images, tables
from pipeline.data import renditions
from pipeline.data.composites import build as builder
from pipeline.data.composites.build import PAIR_COLUMNS, REJECTED_COLUMNS, build
from pipeline.data.composites.lists import write_joint_lists
from pipeline.errors import UserError
from tests.pipeline.data.composites import making
from tests.pipeline.data.composites.making import digest

LOOSE = {
    "foreground_ratio": {"low": 0, "high": 1}, "min_pixels": 1, "colour_difference": {"low": 0, "high": 1000},
    "max_clipped": 1, "max_hue_rotation": 360,
}  # fmt: skip


def make(
    source: Path,
    out: Path,
    *,
    name="HCOCO",
    subset=None,
    rendering=None,
    seed=7,
    staging=None,
    parallel_map=map,
    references=None,
):
    build(
        out, name=name, subset=subset or making.subset(), rendering=rendering or making.rendering(), source=source,
        references=references or source, seed=seed, staging=staging or out.with_name(f"{out.name}-staging"), parallel_map=parallel_map,
    )  # fmt: skip
    return tables.read(out / "pairs.parquet"), tables.read(out / "rejected.parquet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return making.photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def hcoco(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("composites") / "HCOCO"
    make(photos, out)
    return out


@pytest.fixture(scope="module")
def hadobe(tmp_path_factory):
    root = tmp_path_factory.mktemp("adobe")
    source = making.fivek_source(root)
    subset = making.subset(recipe="renditions", prefix="a", composites_per_object=5, max_per_object=5)
    make(source, root / "HAdobe5k", name="HAdobe5k", subset=subset, rendering=making.rendering(max_clipped=1))
    return root / "HAdobe5k", source


@pytest.fixture(scope="module")
def hday2night(tmp_path_factory):
    root = tmp_path_factory.mktemp("night")
    source = making.timelapse_source(root)
    subset = making.subset(recipe="day2night", prefix="d", composites_per_object=2, max_per_object=26)
    make(source, root / "Hday2night", name="Hday2night", subset=subset)
    return root / "Hday2night", source


# ---- iHarmony4's layout, read by the rules of its public loaders


def loaded_as_dovenet_does(line: str, root: Path) -> tuple[str, str, str]:
    """bcmi's DoveNet and iHarmony4 loaders (RainNet's and BargainNet's too): string replacement in the joined path."""
    path = os.path.join(str(root), line.rstrip())
    parts = path.split("_")
    mask = path.replace("composite_images", "masks").replace("_" + parts[-1], ".png")
    real = path.replace("composite_images", "real_images").replace("_" + parts[-2] + "_" + parts[-1], ".jpg")
    return path, mask, real


def loaded_as_saic_does(line: str, root: Path) -> tuple[str, str, str]:
    """saic-vul's hdataset (HDNet's, CDTNet's): parts of the file name, below the folder of one sub-dataset."""
    name = line.rstrip()
    parts = name.split("_")
    return (
        str(root / "composite_images" / name),
        str(root / "masks" / f"{'_'.join(parts[:-1])}.png"),
        str(root / "real_images" / f"{parts[0]}.jpg"),
    )


def loaded_as_others_do(root: Path, split: str) -> list[tuple[Path, Path, Path]]:
    """(composite, mask, real) of a sub-dataset's own list, by saic-vul's rule."""
    return [tuple(map(Path, loaded_as_saic_does(line, root))) for line in (root / f"{root.stem}_{split}.txt").open()]


@pytest.fixture(params=["hcoco", "hadobe", "hday2night"])
def made(request):
    value = request.getfixturevalue(request.param)
    return value if isinstance(value, Path) else value[0]


def test_loaders_written_for_iharmony4_find_every_file(made):
    for split in ("train", "test"):
        triples = loaded_as_others_do(made, split)
        assert triples
        for composite, mask, real in triples:
            with Image.open(composite) as first, Image.open(mask) as second, Image.open(real) as third:
                assert (first.format, second.format, third.format) == ("JPEG", "PNG", "JPEG")
                assert first.size == second.size == third.size
                assert second.mode == "L" and set(np.unique(np.asarray(second))) == {0, 255}


@pytest.fixture
def whole(hcoco, hadobe, hday2night, tmp_path):
    """All sub-datasets in one folder with the lists over them, as `data/composites`."""
    for folder in (hcoco, hadobe[0], hday2night[0]):
        (tmp_path / folder.name).symlink_to(folder)
    write_joint_lists(tmp_path, [tmp_path / name for name in ("HCOCO", "HAdobe5k", "Hday2night")])
    return tmp_path


@pytest.mark.parametrize("kind", ["IHD", "le50"])
def test_loaders_of_the_whole_read_what_those_of_a_sub_dataset_read(whole, kind):
    largest = 1.0 if kind == "IHD" else 0.5
    for split in ("train", "test"):
        loaded = {loaded_as_dovenet_does(line, whole) for line in (whole / f"{kind}_{split}.txt").open()}
        own = [
            triple
            for name in ("HCOCO", "HAdobe5k", "Hday2night")
            for triple in loaded_as_others_do(whole / name, split)
        ]
        assert (
            loaded == {tuple(map(str, paths)) for paths in own if images.read_mask(paths[1]).mean() <= largest}
            and loaded
        )
        for composite, mask, real in sorted(loaded)[:5]:
            pictures = [
                cv2.imread(path) for path in (composite, mask, real)
            ]  # colour, of masks the first channel: so do both
            assert pictures[0].shape == pictures[1].shape == pictures[2].shape
            share = (pictures[1][:, :, 0].astype(np.float32) / 255).mean()
            assert set(np.unique(pictures[1])) == {0, 255} and 0.01 <= share <= largest


def test_nothing_lies_there_that_no_list_names(made):
    triples = loaded_as_others_do(made, "train") + loaded_as_others_do(made, "test")
    for place, folder in enumerate(("composite_images", "masks", "real_images")):
        assert {triple[place] for triple in triples} == set((made / folder).iterdir())
    assert len({triple[0] for triple in triples}) == len(triples)
    names = {file.name for file in made.iterdir() if file.is_file()}
    assert names == {f"{made.name}_train.txt", f"{made.name}_test.txt", "pairs.parquet", "rejected.parquet"}


def test_lists_are_sorted_with_unix_ends_and_name_the_right_split(made):
    pairs = tables.read(made / "pairs.parquet")
    for listed, splits in (("train", ["train", "val"]), ("test", ["test"])):
        content = (made / f"{made.name}_{listed}.txt").read_bytes()
        assert b"\r" not in content and content.endswith(b"\n") and not content.endswith(b"\n\n")
        lines = content.decode().splitlines()
        expected = pairs.loc[pairs["split"].isin(splits), "composite"].str.removeprefix("composite_images/")
        assert lines == sorted(expected)


def test_train_and_test_share_no_real_image(made):
    reals = {split: {real for _, _, real in loaded_as_others_do(made, split)} for split in ("train", "test")}
    assert not reals["train"] & reals["test"]


def test_the_background_differs_by_jpeg_alone_and_the_foreground_by_more(made):
    pairs = tables.read(made / "pairs.parquet")
    for row in pairs.itertuples():
        composite, real = (
            images.read_rgb(made / row.composite).astype(float),
            images.read_rgb(made / row.real).astype(float),
        )
        mask = images.read_mask(made / row.mask)
        difference = np.abs(composite - real).mean(axis=2)
        assert difference[~mask].mean() < 2 < difference[mask].mean()
        assert mask.mean() == pytest.approx(row.foreground_ratio)


def test_the_manifest_has_its_columns_and_the_hashes_of_its_files(made):
    pairs = tables.read(made / "pairs.parquet")
    assert list(pairs) == list(PAIR_COLUMNS) and list(tables.read(made / "rejected.parquet")) == list(REJECTED_COLUMNS)
    assert pairs["pair_id"].is_monotonic_increasing and pairs["pair_id"].is_unique
    hashes = digest(made)
    for row in pairs.itertuples():
        assert [hashes[file] for file in (row.composite, row.mask, row.real)] == [
            row.composite_sha256,
            row.mask_sha256,
            row.real_sha256,
        ]
        assert row.composite == f"composite_images/{row.pair_id}.jpg" and row.jpeg == "95 4:4:4"


def test_real_images_and_masks_keep_their_bytes(hcoco, photos):
    originals = tables.read(photos / "photographs.parquet").set_index("image_id")["sha256"]
    masks = tables.read(photos / "instances.parquet").set_index(["image_id", "instance_id"])["mask_sha256"]
    for row in tables.read(hcoco / "pairs.parquet").itertuples():
        assert row.real_sha256 == originals[row.source_image]
        assert row.mask_sha256 == masks[row.source_image, Path(row.mask).stem.split("_")[1]]


# ---- what is made of a draw


def test_references_share_the_split_and_never_the_scene(hcoco, photos):
    photographs = tables.read(photos / "photographs.parquet").set_index("image_id")
    pairs = tables.read(hcoco / "pairs.parquet")
    assert set(pairs["transfer"]) == {"reinhard", "xiao", "fecker", "pitie"} and not pairs["simulated"].any()
    assert not tables.read(hcoco / "rejected.parquet")["simulated"].any()
    for row in pairs.itertuples():
        lender = photographs.loc[row.reference_image]
        assert lender["split"] == row.split and lender["group"] != photographs.at[row.source_image, "group"]


def test_composites_are_what_the_filters_allow(hcoco):
    pairs = tables.read(hcoco / "pairs.parquet")
    assert (
        pairs["colour_difference"].between(3, 40).all()
        and (pairs["clipped"] <= 0.3).all()
        and (pairs["hue_rotation"] <= 60).all()
    )
    assert pairs["foreground_ratio"].between(0.01, 0.8).all()


def test_a_rendition_is_pasted_where_the_mask_is(hadobe):
    out, source = hadobe
    pairs = tables.read(out / "pairs.parquet")
    files = tables.read(source / "photographs.parquet").set_index("image_id")["image"]
    assert set(pairs["transfer"]) == {"rendition"} and not pairs["simulated"].any()
    for row in pairs.itertuples():
        assert row.pair_id.startswith(row.source_image.split("-")[0] + "_1_")
        mask = images.read_mask(out / row.mask)
        other = images.read_rgb(source / files[row.reference_image]).astype(float)
        assert np.abs(images.read_rgb(out / row.composite) - other)[mask].mean() < 2
        assert (
            row.reference_image.split("-")[0] == row.source_image.split("-")[0]
            and row.reference_image != row.source_image
        )


def test_all_exchanges_of_six_renditions_are_made_or_refused_by_a_rule(hadobe):
    out, _ = hadobe
    pairs, rejected = tables.read(out / "pairs.parquet"), tables.read(out / "rejected.parquet")
    assert len(pairs) + len(rejected) == 8 * 5
    # neighbours in brightness differ by 0.12 of the original; the far ones are ruins: k tells which rendition it was
    assert set(rejected["rule"]) <= {"change too small", "change too large"}


def test_moments_are_of_the_same_camera(hday2night):
    out, _ = hday2night
    pairs = tables.read(out / "pairs.parquet")
    assert set(pairs["transfer"]) == {"moment"} and not pairs["simulated"].any()
    assert (
        pairs["source_image"].str.rsplit("-", n=1).str[0] == pairs["reference_image"].str.rsplit("-", n=1).str[0]
    ).all()
    assert pairs.groupby("source_image")["reference_image"].nunique().equals(pairs.groupby("source_image").size())


@pytest.mark.parametrize(
    "recipe, transfer, render",
    [("renditions", "retouch", renditions.retouch), ("day2night", "relight", renditions.relight)],
)
def test_simulated_renditions_say_so_and_can_be_made_again(photos, tmp_path, recipe, transfer, render):
    subset = making.subset(recipe=recipe, prefix="d", composites_per_object=2, max_per_object=2)
    pairs, rejected = make(
        photos,
        tmp_path / "Simulated",
        name="Simulated",
        subset=subset,
        rendering=making.rendering(foreground_ratio={"low": 0.01, "high": 0.18}),
    )
    assert rejected["simulated"].all() and {"foreground ratio"} < set(rejected["rule"]), "objects and candidates"
    assert pairs["simulated"].all() and set(pairs["transfer"]) == {transfer} and (pairs["reference_image"] == "").all()
    for row in pairs.head(6).itertuples():
        again = render(images.read_rgb(tmp_path / "Simulated" / row.real), row.seed)
        mask = images.read_mask(tmp_path / "Simulated" / row.mask)
        assert (
            np.abs(images.read_rgb(tmp_path / "Simulated" / row.composite).astype(float) - again)[mask].mean() < 3
        )  # JPEG, with sensor noise


@pytest.mark.slow
def test_jpeg_settings_are_kept(photos, tmp_path):
    rendering = making.rendering(quality=75).model_copy(update={"jpeg_subsampling": "4:2:0"})
    pairs, _ = make(photos, tmp_path / "HCOCO", rendering=rendering)
    assert set(pairs["jpeg"]) == {"75 4:2:0"}
    with Image.open(tmp_path / "HCOCO" / pairs["composite"][0]) as picture:
        assert picture.layer[0][1:3] == (2, 2)  # the first plane has twice the samples of the others both ways


# ---- refusals


def test_every_attempt_is_a_row(hcoco):
    """An object's k-th composite was made at attempt n: attempts 1 to n - 1 are rows of rejected.
    Without a composite all eight are."""
    pairs, rejected = tables.read(hcoco / "pairs.parquet"), tables.read(hcoco / "rejected.parquet")
    tried = rejected[rejected["attempt"] > 0].groupby(["source_image", "object", "k"])["attempt"].apply(list).to_dict()
    parts = pairs["pair_id"].str.split("_")
    for key, attempt in zip(zip(pairs["source_image"], parts.str[1], parts.str[2].astype(int)), pairs["attempt"]):
        assert tried.pop(key, []) == list(range(1, attempt))
    assert all(attempts == list(range(1, 9)) for attempts in tried.values())
    assert rejected[~rejected["rule"].isin(["no reference", "drawn before"])]["value"].notna().all()


def two_colours(folder: Path, first, second, size=(making.HEIGHT, making.WIDTH)) -> Path:
    """A source of six photographs: in each split one whose cup has the colour `first` and one with `second`, on grey."""
    made = []
    for number, split in enumerate(("train", "val", "test")):
        for letter, colour in (("a", first), ("b", second)):
            cup = making.ellipse(0.5, 0.5, 14)
            pixels = np.where(cup[..., None], np.uint8(colour), np.uint8(128)).astype(np.int64)
            pixels[cup] += np.random.default_rng(number).integers(-3, 4, (cup.sum(), 3))
            made.append(
                making.photograph(
                    folder / "files",
                    f"{letter}{number}",
                    split,
                    [("cup", cup)],
                    pixels=np.clip(pixels, 0, 255).astype(np.uint8),
                )
            )
    return making.take_in(made, folder / "source")


@pytest.mark.parametrize(
    "first, second, rule",
    [
        ((120, 100, 90), (120, 100, 91), "change too small"),
        ((20, 20, 20), (230, 230, 230), "change too large"),
        ((200, 60, 60), (120, 140, 60), "hue rotation"),
    ],
)
def test_a_candidate_is_refused_by_the_rule_it_breaks(tmp_path, first, second, rule):
    source = two_colours(tmp_path, first, second)
    changes = LOOSE | {"change too small": {"colour_difference": {"low": 5, "high": 1000}}, "change too large": {"colour_difference": {"low": 0, "high": 40}},
                       "hue rotation": {"max_hue_rotation": 30}}[rule]  # fmt: skip
    with pytest.raises(
        UserError, match=rf"no train composite passed; of source \d+ objects and candidates were refused \({rule}: \d+"
    ):
        make(source, tmp_path / "HCOCO", rendering=making.rendering(methods=["reinhard"], **changes))


def test_clipping_is_refused(tmp_path):
    source = two_colours(tmp_path, (250, 250, 250), (253, 253, 253))
    pairs, rejected = make(
        source, tmp_path / "HCOCO", rendering=making.rendering(methods=["reinhard"], **LOOSE | {"max_clipped": 0.01})
    )
    brighter = rejected[rejected["source_image"].str.startswith("a")]
    assert set(brighter["rule"]) == {"clipped"} and (brighter["value"] > 0.01).all() and len(brighter) >= 3 * 8
    assert set(pairs["source_image"]) == {"b0", "b1", "b2"}, "those made darker stay"


def test_a_lone_category_a_repeated_draw_and_too_few_pixels(photos, tmp_path):
    subset = making.subset(composites_per_object=3, max_per_object=3)
    rendering = making.rendering(methods=["xiao"], **LOOSE | {"min_pixels": 400})
    pairs, rejected = make(photos, tmp_path / "HCOCO", subset=subset, rendering=rendering)
    lamp = rejected[rejected["category"] == "lamp"]
    assert list(lamp["rule"]) == ["no reference"] * 3 and list(lamp["k"]) == [1, 2, 3] and (lamp["attempt"] == 0).all()
    assert all(math.isnan(value) for value in lamp["value"]) and not (pairs["category"] == "lamp").any()
    assert "drawn before" in set(rejected["rule"])
    assert pairs.duplicated(["source_image", "mask", "reference_image", "reference_object"]).sum() == 0
    areas = tables.read(photos / "instances.parquet").set_index(["image_id", "instance_id"])["area"]
    small = rejected[rejected["rule"] == "too few pixels"]
    assert len(small) == 8 and set(zip(small["source_image"], small["object"])) == set(areas[areas < 400].index)
    assert (small["k"] == 0).all() and list(small["value"]) == [
        areas[row.source_image, row.object] for row in small.itertuples()
    ]


def test_regions_without_statistics_are_refused(tmp_path):
    speck = np.zeros((making.HEIGHT, making.WIDTH), bool)
    speck[20:23, 20:23] = True  # nine pixels; a colour transfer wants ten
    made = []
    for number in range(6):
        objects = [("cup", speck)] if number % 2 else [("cup", making.ellipse(0.5, 0.5, 14))]
        made.append(
            making.photograph(
                tmp_path / "files", f"p{number}", ("train", "train", "val", "val", "test", "test")[number], objects
            )
        )
    source = making.take_in(made, tmp_path / "source")
    with pytest.raises(UserError, match="no train composite passed"):
        make(
            source,
            tmp_path / "HCOCO",
            rendering=making.rendering(**LOOSE | {"max_area_ratio": 1000}),
            staging=tmp_path / "staging",
        )
    done = "".join(file.read_text() for file in (tmp_path / "staging/done").iterdir())
    assert "too few target pixels" in done and "too few reference pixels" in done


def test_renditions_of_other_sizes_are_refused(tmp_path):
    source = making.fivek_source(tmp_path)
    photographs = tables.read(source / "photographs.parquet")
    odd = photographs["rendition"] == "expertB"
    for name in photographs.loc[odd, "image"]:
        images.write_jpeg(source / name, making.picture(1, height=30, width=40))
        images.write_png(
            (source / "masks" / Path(name).name).with_name(f"{Path(name).stem}_1.png"),
            making.ellipse(0.5, 0.5, 8, 30, 40),
        )
    subset = making.subset(recipe="renditions", prefix="a", composites_per_object=5, max_per_object=5)
    pairs, rejected = make(
        source, tmp_path / "HAdobe5k", name="HAdobe5k", subset=subset, rendering=making.rendering(**LOOSE)
    )
    refused = rejected[rejected["rule"] == "sizes differ"]
    assert (
        len(refused)
        and (
            refused["reference_image"].str.endswith("-expertB") | refused["source_image"].str.endswith("-expertB")
        ).all()
    )
    assert len(pairs) + len(refused) == 8 * 5


def test_nothing_usable_is_told_in_one_line(photos, tmp_path):
    with pytest.raises(UserError) as caught:
        make(photos, tmp_path / "HCOCO", rendering=making.rendering(min_pixels=10**6))
    assert str(caught.value) == (
        "HCOCO: no train composite passed; of photos 33 objects and candidates were refused (too few pixels: 33); "
        "widen composites.rendering.filters or give more photographs"
    )
    assert not (tmp_path / "HCOCO").exists()


# ---- the same bytes


def backwards(function, items):
    return [function(items[index]) for index in range(len(items) - 1, -1, -1)]


def in_chunks(function, items):
    order = np.random.default_rng(1).permutation(len(items))
    return [
        function(item)
        for start in range(0, len(order), 5)
        for item in [items[int(index)] for index in order[start : start + 5]]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("parallel_map", [backwards, in_chunks])
def test_the_order_of_the_work_does_not_show(photos, hcoco, tmp_path, monkeypatch, parallel_map):
    monkeypatch.setattr(builder._Rows.__init__, "__defaults__", (3,))  # tables put together of many small blocks
    make(photos, tmp_path / "HCOCO", parallel_map=parallel_map)
    assert digest(tmp_path / "HCOCO") == digest(hcoco)


@pytest.mark.slow
def test_another_seed_gives_other_composites(photos, hcoco, tmp_path):
    make(photos, tmp_path / "HCOCO", seed=8)
    assert digest(tmp_path / "HCOCO")["pairs.parquet"] != digest(hcoco)["pairs.parquet"]


def test_an_interrupted_synthesis_goes_on_where_it_stopped(photos, hcoco, tmp_path):
    out, staging = tmp_path / "HCOCO", tmp_path / "staging"

    def interrupted(function, items):
        for index in range(10):
            yield function(items[index])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(photos, out, staging=staging, parallel_map=interrupted)
    assert not out.exists()
    finished = {file.name: file.stat().st_ino for file in (staging / "composite_images").iterdir()}
    # what a kill leaves of a file that was being written must not get in the way
    (staging / "composite_images" / ".cp005_2_1.jpg.123.part").write_bytes(b"half")
    make(photos, out, staging=staging)
    assert digest(out) == digest(hcoco) and not staging.exists()
    assert len(finished) >= 5
    for name, inode in finished.items():
        assert (out / "composite_images" / name).stat().st_ino == inode, "made a second time"


@pytest.mark.slow
def test_without_hard_links_files_are_copied(photos, hcoco, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("Operation not supported")

    monkeypatch.setattr(builder.os, "link", refuse)
    make(photos, tmp_path / "HCOCO")
    assert digest(tmp_path / "HCOCO") == digest(hcoco)


@pytest.mark.slow
def test_what_stood_there_is_replaced_whole(photos, hcoco, tmp_path):
    out = tmp_path / "HCOCO"
    (out / "composite_images").mkdir(parents=True)
    (out / "composite_images/old_1_1.jpg").write_bytes(b"old")
    make(photos, out)
    assert digest(out) == digest(hcoco)


def test_rows_come_out_of_blocks_as_they_went_in():
    rows = [{"name": f"n{9 - number}", "value": number / 3} for number in range(10)]
    for block in (1, 3, 10, 1000):
        collected = builder._Rows({"name": str, "value": float}, block)
        for start in range(0, 10, 4):
            collected.add(iter(rows[start : start + 4]))
        expected = pd.DataFrame(rows[::-1]).astype({"name": "str"})
        pd.testing.assert_frame_equal(collected.table(["name"]), expected)
