import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline import tables
from pipeline.data.sources import iharmony4

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{kind}_{split}.txt" for kind in ("IHD", "le50") for split in ("train", "test")]


def subset(root: Path, name: str, composites: dict[str, tuple[str, float]]) -> Path:
    """A sub-dataset's table: composite -> (split, foreground share)."""
    rows = {
        "subset": name,
        "split": [properties[0] for properties in composites.values()],
        "foreground_ratio": [properties[1] for properties in composites.values()],
    }
    tables.write(
        root / name / "pairs.parquet",
        pd.DataFrame({"composite": [f"composite_images/{path}" for path in composites], **rows}),
    )
    return root / name


def lists(out: Path, *subsets: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.lists", *subsets, "--out", out], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def made(tmp_path):
    # Hday2night before HCOCO: the lists are sorted, whatever the order of the arguments
    night = subset(tmp_path, "Hday2night", {"d90-26_1_1.jpg": ("test", 0.5), "d90-26_1_2.jpg": ("test", 0.51)})
    coco = subset(
        tmp_path,
        "HCOCO",
        {
            "c9_2_1.jpg": ("train", 0.9),
            "c10_1_1.jpg": ("val", 0.2),
            "c10_1_2.jpg": ("train", 0.5),
            "c3_1_1.jpg": ("test", 0.01),
        },
    )
    done = lists(tmp_path / "lists", night, coco)
    assert (done.returncode, done.stderr) == (0, "")
    return tmp_path / "lists"


def test_joint_lists_hold_every_composite_sorted_with_unix_ends(made):
    assert sorted(file.name for file in made.iterdir()) == sorted(NAMES)
    # validation photographs are training data to iHarmony4; "c10_" sorts before "c9_"
    assert (made / "IHD_train.txt").read_bytes() == (
        b"HCOCO/composite_images/c10_1_1.jpg\nHCOCO/composite_images/c10_1_2.jpg\nHCOCO/composite_images/c9_2_1.jpg\n"
    )
    assert (made / "IHD_test.txt").read_bytes() == (
        b"HCOCO/composite_images/c3_1_1.jpg\nHday2night/composite_images/d90-26_1_1.jpg\nHday2night/composite_images/d90-26_1_2.jpg\n"
    )


def test_le50_lists_leave_out_more_than_half(made):
    assert (made / "le50_train.txt").read_text().split() == [
        "HCOCO/composite_images/c10_1_1.jpg",
        "HCOCO/composite_images/c10_1_2.jpg",
    ]
    assert (made / "le50_test.txt").read_text().split() == [
        "HCOCO/composite_images/c3_1_1.jpg",
        "Hday2night/composite_images/d90-26_1_1.jpg",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_one_of_iharmony4s(made, name):
    for line in (made / name).read_text().splitlines():
        assert iharmony4.parse(line, "test").composite_file == line


def test_a_missing_sub_dataset_is_told_in_one_line(tmp_path):
    done = lists(tmp_path / "lists", tmp_path / "HFlickr")
    assert done.returncode == 1
    assert done.stderr == f"lists: {tmp_path}/HFlickr/pairs.parquet: no such table\n"
