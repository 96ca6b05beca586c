import numpy as np
from PIL import Image

from pipeline import images, tables

BUCKETS = 6


def test_masks_of_every_bucket_and_their_assignment(project):
    source, out = project.make_photographs()
    done = project.run("irregular_masks", source, out)
    assert done.code == 0, done.err
    masks, assigned = (tables.read(project.folder / out / f"{name}.parquet") for name in ("masks", "assigned"))
    assert (
        masks.groupby("split")["hole_ratio_bucket"].nunique().to_dict() == {"test": BUCKETS, "train": BUCKETS}
        and len(masks) == 2 * BUCKETS
    )
    assert sorted(set(assigned["image_id"])) == ["p2", "p3"] and len(assigned) == 2 * BUCKETS  # the test photographs
    tested = set(masks.loc[masks["split"] == "test", "mask_id"])
    assert set(assigned["mask_id"]) <= tested
    for row in masks.itertuples():
        hole = np.asarray(Image.open(project.folder / out / row.mask)) > 127
        low, high = (float(bound) / 100 for bound in row.hole_ratio_bucket.rstrip("%").split("-"))
        assert hole.shape == (32, 32) and low <= hole.mean() < high


def test_a_kind_that_does_not_exist(project):
    project.content["irregular_masks"]["kinds"] = ["stroke"]
    project.write()
    code, said = project.refused("irregular_masks", *project.make_photographs())
    assert code == 2 and said.startswith("params.yaml: irregular_masks.kinds.0 = 'stroke': expected 'random_walk'")


def test_a_folder_of_masks_in_place_of_generated_ones(project, dark_hole):
    project.content["irregular_masks"]["folder"] = "masks"
    project.write()
    data = project.make_photographs()
    code, said = project.refused("irregular_masks", *data)
    assert code != 0 and "masks" in said
    (project.folder / "masks").mkdir()
    for number, rows in enumerate((1, 5, 8, 11, 14, 18) * 2):
        hole = np.zeros((32, 32), bool)
        hole[:rows, 1:31] = True
        images.write_png(project.folder / f"masks/m{number}.png", np.roll(hole, number, axis=0))
    done = project.run("irregular_masks", *data)
    assert done.code == 0, done.err
    assert len(tables.read(project.folder / "data/irregular_masks/assigned.parquet")) == 2 * BUCKETS


def test_without_photographs_no_mask_is_drawn(project, monkeypatch):
    from pipeline.irregular_masks import dataset

    monkeypatch.setattr(dataset, "build", None)
    code, said = project.refused("irregular_masks", "data/sources/bundled", "data/irregular_masks")
    assert code == 1 and said == "data/sources/bundled/photographs.parquet: no such table"
