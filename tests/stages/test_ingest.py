import json

import numpy as np
import pytest

from pipeline import images, tables
from tests.pipeline.tiny import random_picture


@pytest.fixture
def coco(project):
    """A COCO folder of four photographs with a square each, as the source "photos"."""
    folder = project.folder / "photos"
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square", "supercategory": "shape"}]}
    for number in range(4):
        images.write_png(folder / f"images/p{number}.png", random_picture(number, 80, 100))
        document["images"].append({"id": number, "file_name": f"p{number}.png", "width": 100, "height": 80})
        square = [10, 10, 60, 10, 60, 60, 10, 60]
        document["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "segmentation": [square],
                "iscrowd": 0,
                "area": 2500,
                "bbox": [10, 10, 50, 50],
            }
        )
    (folder / "instances.json").write_text(json.dumps(document))
    (folder / "splits.json").write_text(
        json.dumps({"train": ["p0.png", "p1.png"], "val": ["p2.png"], "test": ["p3.png"]})
    )
    project.content["sources"]["photos"] = project.content["sources"]["bundled"] | {
        "kind": "coco",
        "path": "photos",
        "max_rejected": 0.3,
    }
    project.write()
    return folder


def test_a_source_becomes_photographs_and_masks(project, coco):
    done = project.run("ingest", "photos", "data/sources/photos")
    assert done.code == 0, done.err
    out = project.folder / "data/sources/photos"
    photographs, instances = (tables.read(out / f"{name}.parquet") for name in ("photographs", "instances"))
    assert photographs.set_index("image_id")["split"].value_counts().to_dict() == {"train": 2, "val": 1, "test": 1}
    assert len(instances) == 4 and np.allclose(instances["area"], 50 * 50, atol=150)
    assert "ingest photos: 4/4 photographs" in done.err


def test_single_bad_photographs_are_told_and_too_many_stop_the_stage(project, coco):
    def truncate(number: int) -> None:
        file = coco / f"images/p{number}.png"
        file.write_bytes(file.read_bytes()[:300])

    truncate(0)
    assert project.run("ingest", "photos", "data/sources/photos").code == 0
    rejected = tables.read(project.folder / "data/sources/photos/rejected.parquet")
    assert rejected.astype(str).apply(lambda row: "p0.png" in " ".join(row), axis=1).any()
    before = (project.folder / "data/sources/photos/photographs.parquet").read_bytes()
    truncate(1)
    code, said = project.refused("ingest", "photos", "data/sources/photos")
    assert code == 1 and said.startswith(
        "photos: 2 of 4 photographs rejected (50.0%, the limit max_rejected is 30.0%), first: p0.png: "
    )
    assert (project.folder / "data/sources/photos/photographs.parquet").read_bytes() == before


def test_a_folder_that_is_not_there(project, coco):
    project.content["sources"]["photos"]["path"] = "elsewhere"
    project.write()
    code, said = project.refused("ingest", "photos", "data/sources/photos")
    assert code == 1 and "elsewhere" in said and not (project.folder / "data").exists()


def test_json_that_is_not_coco(project, coco):
    (coco / "instances.json").write_text('{"images": []}')
    code, said = project.refused("ingest", "photos", "data/sources/photos")
    assert code == 1 and "instances.json" in said and not (project.folder / "data").exists()
