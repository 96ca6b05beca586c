"""A real set through its stage, inference and evaluation, without Ray."""

import json
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

import stages.evaluate
import stages.infer
import stages.real
from pipeline import tables
from pipeline.data.composites.build import build
from pipeline.errors import ParameterError, UserError
from pipeline.networks import predictor
from tests.pipeline.data.composites import making
from tests.pipeline.data.test_real_sets import iharmony4_folder, pairs_folder

ROOT = Path(__file__).resolve().parents[2]
SETS = {
    "Plain": {"kind": "pairs", "path": "sets/plain", "max_megapixels": 1, "max_rejected": 0.0},
    "Published": {"kind": "iharmony4", "path": "sets/published", "max_megapixels": 1, "max_rejected": 0.0},
}
FOLDERS = ["data/composites/HCOCO", "data/real/Plain", "data/real/Published"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with params.yaml, a small sub-dataset of ours and the two sets as they come."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((ROOT / "presets/embedded.yaml").read_text()) | {"real_sets": SETS, "image_size": 32}
    content["evaluation"]["bootstrap"] = 20
    yaml.dump(content, tmp_path / "params.yaml")
    source = making.photos(tmp_path)
    build(
        Path("data/composites/HCOCO"), name="HCOCO", subset=making.subset(), rendering=making.rendering(), source=source,
        references=source, seed=1, staging=tmp_path / "staging", parallel_map=map,
    )  # fmt: skip
    pairs_folder(tmp_path / "sets/plain")
    iharmony4_folder(tmp_path / "sets/published", test=("c1_2_1", "c2_7_1", "c9_9_1"))
    iharmony4_folder(tmp_path / "sets/published", train=(), test=("f1_1_1",), subset="HFlickr")
    monkeypatch.setattr(
        predictor, "predict_all", lambda *arguments, describe, **options: predictor.predict_plain(*arguments, **options)
    )
    return tmp_path


def infer(*models: str) -> None:
    for name in models:
        options = {"weights": None, "imported": False, "out": None, "index": None, "repeat": 1}
        stages.infer.main(Namespace(model=name, data=FOLDERS, **options))


def take_in() -> None:
    for name in SETS:
        stages.real.main(Namespace(name=name, out=f"data/real/{name}"))


def results(task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    stages.evaluate.main(Namespace(task=task, out=None))
    return tables.read(f"results/{task}/per_image.parquet"), tables.read(f"results/{task}/summary.parquet")


def counts(summary: pd.DataFrame, model: str) -> dict[tuple[str, str], int]:
    part = summary[summary["model"] == model]
    return dict(zip(zip(part["split"], part["subset"]), part["n_images"]))


def test_localization_scores_every_set(workplace):
    take_in()
    infer("constant_map", "gaussian_map")
    per_image, summary = results("localization")
    index = json.loads(Path("artifacts/index/localization/gaussian_map.json").read_text())
    tested = index["splits"]["test"]["n_images"]
    assert {split: (manifest["n_images"], manifest["n_scored"]) for split, manifest in index["splits"].items()} == {
        "test": (tested, tested), "Plain": (2, 2), "Published": (4, 4),
    }  # fmt: skip
    assert counts(summary, "gaussian_map") == counts(summary, "constant_map") == {
        ("test", "HCOCO"): tested, ("test", "All"): tested, ("Plain", "Plain"): 2, ("Plain", "All"): 2,
        ("Published", "HCOCO"): 3, ("Published", "HFlickr"): 1, ("Published", "All"): 4,
    }  # fmt: skip
    part = per_image[(per_image["model"] == "gaussian_map") & (per_image["split"] == "Published")]
    pooled = summary[
        (summary["model"] == "gaussian_map") & (summary["split"] == "Published") & (summary["subset"] == "All")
    ]
    assert pooled["iou"].item() == pytest.approx(part["iou"].mean())


def test_intervals_and_differences_are_those_of_our_own_test_images(workplace):
    take_in()
    infer("constant_map", "gaussian_map")
    per_image, _ = results("localization")
    tested = per_image[(per_image["split"] == "test") & (per_image["model"] == "gaussian_map")]
    intervals, breakdowns = (
        tables.read(f"results/localization/{name}.parquet") for name in ("intervals", "breakdowns")
    )
    assert set(intervals["subset"]) == {"HCOCO", "All"}
    pooled = intervals[
        (intervals["model"] == "gaussian_map") & (intervals["subset"] == "All") & (intervals["metric"] == "ap")
    ]
    assert pooled["mean"].item() == pytest.approx(tested["ap"].mean())
    assert "unknown" not in set(breakdowns["value"])


def test_harmonization_scores_where_there_is_a_truth(workplace):
    take_in()
    infer("composite")
    per_image, summary = results("harmonization")
    splits = json.loads(Path("artifacts/index/harmonization/composite.json").read_text())["splits"]
    assert (splits["Plain"]["n_images"], splits["Plain"]["n_scored"]) == (2, 0) and splits["Published"]["n_scored"] == 4
    assert len(list(Path("artifacts/predictions/composite/Plain").glob("*.png"))) == 2, (
        "what can't be scored is predicted all the same"
    )
    assert set(per_image["split"]) == {"test", "Published"} and not per_image["psnr"].isna().any()
    assert counts(summary, "composite")["Published", "All"] == 4
    overlaps = tables.read("results/harmonization/overlaps.parquet").set_index(["set", "subset"])
    assert overlaps["photographs_shared"].to_dict() == {("Published", "HCOCO"): 1, ("Published", "HFlickr"): 0}


def test_a_set_that_changed_after_inference_stops_the_evaluation(workplace):
    take_in()
    infer("constant_map")
    making.images.write_png(workplace / "sets/plain/image/one.png", making.picture(77, height=40, width=56))
    take_in()
    with pytest.raises(UserError, match="constant_map was run on other data than now stands in"):
        results("localization")


def test_an_unknown_set_is_refused(workplace):
    with pytest.raises(ParameterError, match="real_sets has no 'Plan'; did you mean 'Plain'"):
        stages.real.main(Namespace(name="Plan", out="data/real/Plan"))
    with pytest.raises(UserError, match="sets/plain: no such folder"):
        (workplace / "sets/plain").rename(workplace / "sets/moved")
        take_in()
