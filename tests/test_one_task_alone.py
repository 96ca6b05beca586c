"""Whole runs by `dvc repro` that have one task alone: harmonization on the real iHarmony4 (an imitation of its folder), inpainting
on a plain folder of photographs with a folder of masks; and names of params.yaml that a shell would take for more."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import images
from tests.pipeline.data.composites import making
from tests.test_end_to_end import ROOT, environment, project, run, tiny

pytestmark = pytest.mark.slow


def iharmony4(root: Path) -> Path:
    """Two sub-datasets of ten photographs with one object each, three of them tested; one photograph of HCOCO is on both sides."""
    for subset, letter in (("HCOCO", "c"), ("Hday2night", "d")):
        names = {"train": [], "test": []}
        for number in range(10):
            real = f"{letter}{number}" if letter == "c" else f"d{number // 2}-{number}"
            picture, mask = making.picture(number), making.ellipse(0.5, 0.5, 14)
            images.write_jpeg(root / subset / "real_images" / f"{real}.jpg", picture)
            images.write_png(root / subset / "masks" / f"{real}_1.png", mask)
            shifted = np.where(mask[..., None], np.clip(picture.astype(int) + 40, 0, 255), picture).astype(np.uint8)
            images.write_jpeg(root / subset / "composite_images" / f"{real}_1_1.jpg", shifted)
            names["train" if number < 7 else "test"].append(f"{real}_1_1.jpg")
        if letter == "c":
            (root / subset / "masks/c0_2.png").write_bytes((root / subset / "masks/c0_1.png").read_bytes())
            (root / subset / "composite_images/c0_2_1.jpg").write_bytes(
                (root / subset / "composite_images/c0_1_1.jpg").read_bytes()
            )
            names["test"].append("c0_2_1.jpg")
        for split, of_split in names.items():
            (root / subset / f"{subset}_{split}.txt").write_text("".join(f"{name}\n" for name in of_split))
    return root


def alone(*left_out: str, **models: str) -> dict:
    parameters = tiny()
    for key in left_out:
        del parameters[key]
    parameters["models"] = {name: parameters["models"][name] for name in models.values()}
    return parameters


def stages(folder: Path) -> set[str]:
    return {
        line.split()[0].removeprefix("models/dvc.yaml:")
        for line in run(folder, "dvc", "stage", "list", "--all").splitlines()
    }


def up_to_date(folder: Path) -> bool:
    return "up to date" in run(folder, "dvc", "status")


@pytest.fixture(scope="module")
def harmonized(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("harmonized")
    iharmony4(root / "iHarmony4")
    parameters = alone("sources", "irregular_masks", "inpainting", "localization", a="composite", b="rainnet")
    parameters["composites"] = {"subsets": {
        "HCOCO": {"recipe": "iharmony4", "path": "../iHarmony4/HCOCO", "disjoint": True},
        "Hday2night": {"recipe": "iharmony4", "path": "../iHarmony4/Hday2night"},
    }}  # fmt: skip
    (root / "project").mkdir()
    folder = project(root / "project", parameters)
    run(folder, "python", "-m", "commands.cluster", "dvc", "repro")
    return folder


def test_harmonization_alone_on_the_real_iharmony4(harmonized):
    assert stages(harmonized) == {
        "check", "iharmony4@HCOCO", "iharmony4@Hday2night", "lists", "infer-composite", "train-rainnet", "infer-rainnet", "evaluate@harmonization",
        "published", "report",
    }  # fmt: skip
    summary = pd.read_parquet(harmonized / "results/harmonization/summary.parquet").set_index(["model", "subset"])
    assert summary["n_images"].to_dict() == {
        (model, subset): n
        for model in ("composite", "rainnet")
        for subset, n in (("All", 7), ("HCOCO", 4), ("Hday2night", 3))
    }
    pairs = pd.read_parquet(harmonized / "data/composites/HCOCO/pairs.parquet")
    assert set(pairs["split"]) == {"train", "val", "test"} and "c0_1_1" not in set(pairs["pair_id"]), (
        "c0 is tested, so it isn't trained on"
    )
    assert sorted(file.name for file in (harmonized / "data/composites/HCOCO").iterdir()) == [
        "checks.json",
        "overlaps.parquet",
        "pairs.parquet",
        "rejected.parquet",
    ]
    # cameras d0, d1, d2 and d3 are trained on, d3 and d4 tested: stated, and left as published
    overlaps = pd.read_parquet(harmonized / "results/harmonization/overlaps.parquet").set_index("set")
    assert overlaps.loc["HCOCO", ["photographs_shared", "composites_left_out"]].tolist() == [1, 1]
    assert overlaps.loc["Hday2night", ["photographs_shared", "cameras_shared", "composites_left_out"]].tolist() == [
        0,
        1,
        0,
    ]
    printed = pd.read_parquet(harmonized / "results/published/compared.parquet")
    assert {"HCOCO", "Hday2night", "All"} <= set(printed["subset"]) and set(printed["task"]) == {"harmonization"}
    listed = (harmonized / "data/composites/IHD_test.txt").read_text().split()
    assert len(listed) == 7 and "HCOCO/composite_images/c7_1_1.jpg" in listed
    assert len((harmonized / "data/composites/le50_test.txt").read_text().split()) == 7
    page = (harmonized / "report/index.html").read_text()
    assert "1 of 4 test photographs are in its training list too" in page and "Irregular masks" not in page
    assert up_to_date(harmonized)


def test_a_copy_made_by_dvc_finds_the_folder_outside_and_a_changed_picture_is_noticed(harmonized):
    for file in ("dvc.lock", "models/dvc.lock"):
        assert (harmonized / file).is_file()
    run(harmonized, "git", "add", "--all")
    run(harmonized, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")
    said = run(
        harmonized, "dvc", "exp", "run", "--temp", "-S", "composites.subsets.HCOCO.disjoint=false", "iharmony4@HCOCO"
    )
    assert "Ran experiment" in said, said
    picture = harmonized / "../iHarmony4/HCOCO/composite_images/c1_1_1.jpg"
    images.write_jpeg(picture, making.picture(55))
    assert "iharmony4@HCOCO" in run(harmonized, "dvc", "status")


def test_inpainting_alone_on_a_folder_of_photographs_and_one_of_masks(tmp_path):
    for number in range(12):
        split = ("train", "val", "test")[min(max(number - 7, 0), 2)]
        images.write_jpeg(
            tmp_path / "photos/deep" / split / f"{number}.jpg", making.picture(number, height=70, width=90)
        )
    rng = np.random.default_rng(0)
    for low in range(0, 60, 10):
        for number in range(3):
            hole = np.zeros((64, 64), bool)
            rows, start = round(64 * (low + 4 + number) / 100), int(rng.integers(0, 20))
            hole[start : start + rows, :] = True
            images.write_png(tmp_path / f"holes/{low}_{number}.png", hole)
    parameters = (
        alone("composites", "real_sets", "localization", a="telea", b="pconv")
        if "telea" in tiny()["models"]
        else alone("composites", "real_sets", "localization", a="mean_fill", b="pconv")
    )
    parameters["sources"] = {"Places2": {"kind": "folder", "path": "../photos"}}
    parameters["inpainting"]["source"] = "Places2"
    parameters["irregular_masks"] |= {"folder": "../holes", "polarity": "white", "per_bucket": {"train": 1, "test": 2}}
    (tmp_path / "project").mkdir()
    folder = project(tmp_path / "project", parameters)
    run(folder, "python", "-m", "commands.cluster", "dvc", "repro")
    assert stages(folder) == {
        "check", "ingest@Places2", "irregular_masks@Places2", "infer-mean_fill", "train-pconv", "infer-pconv", "evaluate@inpainting", "published", "report",
    }  # fmt: skip
    buckets = pd.read_parquet(folder / "results/inpainting/breakdowns.parquet").query(
        "by == 'hole_ratio_bucket' and metric == 'psnr'"
    )
    assert set(buckets["value"]) == {"0-10", "10-20", "20-30", "30-40", "40-50", "50-60"} and set(buckets["model"]) == {
        "mean_fill",
        "pconv",
    }
    printed = pd.read_parquet(folder / "results/published/compared.parquet")
    assert set(printed["subset"]) == {"Places2"} and set(printed["model"]) == {"pconv"}
    assert ">HCOCO<" not in (folder / "report/index.html").read_text()
    assert up_to_date(folder)
    mask = tmp_path / "holes/0_0.png"
    images.write_png(mask, ~images.read_mask(mask))
    assert "irregular_masks@Places2" in run(folder, "dvc", "status")


def test_a_name_that_a_shell_would_take_for_more_never_reaches_one(tmp_path):
    folder = project(tmp_path)
    hostile = "{kind: bundled, path: pipeline/data/sources/bundled.json}"
    for place in ("params.yaml", "dvc.yaml"):  # commands.graph writes no such name; a person might
        written = (folder / place).read_text()
        start = re.search(r"^( +)bundled:", written, re.MULTILINE)
        line = f"{start[1]}'x;touch pwned;': {hostile}\n"
        (folder / place).write_text(written[: start.start()] + line + written[start.start() :])
    YAML().load((folder / "dvc.yaml").read_text())
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and not list(folder.rglob("pwned*"))
    assert "check: params.yaml: sources.x;touch pwned; = " in done.stdout + done.stderr, (done.stdout + done.stderr)[
        -2000:
    ]
    assert (ROOT / "dvc.yaml").is_file()
