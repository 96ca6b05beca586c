import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score
from torch import nn

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.networks import predictor
from pipeline.running import parallel
from pipeline.scoring import evaluation, protocols, summaries
from pipeline.scoring.statistics import Resampling
from pipeline.tasks import TASKS
from tests.pipeline.tiny import random_picture, subset

SIZE = 24
OPTIONS = {"resampling": Resampling(1, 200, 0.9)}


class Brighter(nn.Module):
    """Draws what it is given, brighter by `by`; as a map, its red channel."""

    def __init__(self, task: str, by: float):
        super().__init__()
        self.task, self.by = task, by

    def forward(self, batch):
        drawn = (batch["image" if self.task == "inpainting" else "composite"] + self.by).clamp(0, 1)
        return drawn[:, :1] if self.task == "localization" else drawn


def index_of(
    task: str,
    model: str,
    data: list[Path],
    predictions: Path,
    by: float = 0.0,
    splits: list[str] | None = None,
    **options,
) -> dict:
    """Predict by a method and state it as inference does."""
    chosen, splits = splits or datasets.test_splits(task, data), {}
    for split in chosen:
        dataset = datasets.for_testing(task, data, SIZE, split, **options)
        out = predictions / model / split
        table = predictor.predict_plain(lambda: Brighter(task, by), lambda: dataset, out, batch_size=2)
        tables.write(out / "predictions.parquet", table)
        splits[split] = {
            "n_images": len(dataset),
            "n_scored": datasets.scored(task, dataset),
            "predictions": sha256(out / "predictions.parquet"),
        }
    truth = [sha256(file) for file in datasets.manifests(data)]
    return {
        "task": task, "model": model, "repeat": 1, "n_parameters": 7 if model == "a" else 9, "trained": True, "origin": "trained here", "data": [str(folder) for folder in data],
        "options": options, "threshold": None, "threshold_from": None, "truth": truth, "splits": splits,
    }  # fmt: skip


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def restate(index: dict, predictions: Path, table: pd.DataFrame) -> dict:
    """Write another manifest, and the index that belongs to it."""
    file = predictions / index["model"] / "test" / "predictions.parquet"
    tables.write(file, table)
    return index | {"splits": {"test": index["splits"]["test"] | {"predictions": sha256(file)}}}


@pytest.fixture
def made(tmp_path):
    """Two methods on three test composites of two sub-datasets: folder of predictions, data folders, indexes."""
    row = lambda name, ratio, **more: {"pair_id": name, "split": "test", "foreground_ratio": ratio} | more
    data = [
        subset(
            tmp_path / "HCOCO",
            [row("c1_1_1", 0.25), row("c1_1_2", 0.5, transfer="pitie"), row("c9_1_1", 0.25, split="train")],
        ),
        subset(tmp_path / "HFlickr", [row("f1_1_1", 0.25, category="dog")]),
    ]
    methods = [
        index_of("harmonization", "a", data, tmp_path / "p"),
        index_of("harmonization", "b", data, tmp_path / "p", by=0.2),
    ]
    return tmp_path / "p", data, methods


def scores_of(made) -> pd.DataFrame:
    predictions, _, methods = made
    return evaluation.per_image("harmonization", methods, predictions, SIZE)


# ---- one row per image


def test_every_method_and_image_has_a_row_that_says_what_it_is(made):
    scores = scores_of(made)
    contract = ["task", "model", "subset", "split", "image_id"]
    assert list(scores.columns)[:5] == contract and set(TASKS["harmonization"].metrics) <= set(scores.columns)
    assert list(zip(scores["model"], scores["subset"], scores["image_id"])) == [
        (model, *image) for model in "ab" for image in [("HCOCO", "c1_1_1"), ("HCOCO", "c1_1_2"), ("HFlickr", "f1_1_1")]
    ]
    first = scores.iloc[1]
    assert (first["task"], first["split"], first["photograph"], first["transfer"], first["category"]) == (
        "harmonization",
        "test",
        "c1",
        "pitie",
        "cat",
    )
    assert first["foreground_ratio"] == 0.5 and not first["simulated"]


def test_scores_are_those_of_the_composed_prediction(made):
    predictions, data, _ = made
    row = scores_of(made).set_index(["model", "image_id"]).loc["b", "f1_1_1"]
    item = datasets.for_testing("harmonization", data, SIZE, "test").item(2)
    drawn = np.asarray(Image.open(predictions / "b/test/f1_1_1.png")).astype(float)
    composed = np.where(item["mask"][..., None], drawn, item["composite"])
    squared = (composed - item["real"]) ** 2
    assert row["mse"] == pytest.approx(squared.mean())
    assert row["fmse"] == pytest.approx(squared[item["mask"]].mean())
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / squared.mean()))


def test_localization_and_inpainting_have_their_own_columns(tmp_path):
    data = [
        subset(
            tmp_path / "HCOCO",
            [
                {"pair_id": "c1_1_1", "split": "test", "foreground_ratio": 0.25},
                {"pair_id": "c2_1_1", "split": "test", "foreground_ratio": 0.75},
            ],
        )
    ]
    index = index_of("localization", "a", data, tmp_path / "p", max_foreground=0.5)
    scores = evaluation.per_image("localization", [index], tmp_path / "p", SIZE)
    assert scores["image_id"].tolist() == ["c1_1_1"] and {"ap", "f1", "iou"} <= set(scores.columns)
    source, masks = tmp_path / "photos", tmp_path / "masks"
    images.write_png(source / "images/p0.png", random_picture(0))
    hole = np.zeros((SIZE, SIZE), bool)
    hole[:6] = True
    images.write_png(masks / "test/m0.png", hole)
    tables.write(
        source / "photographs.parquet", pd.DataFrame([{"image_id": "p0", "split": "test", "image": "images/p0.png"}])
    )
    tables.write(masks / "masks.parquet", pd.DataFrame([{"mask_id": "m0", "split": "test", "mask": "test/m0.png"}]))
    assigned = {"image_id": "p0", "hole_ratio_bucket": "20-30%", "mask": "test/m0.png", "hole_ratio": 0.25}
    tables.write(masks / "assigned.parquet", pd.DataFrame([assigned]))
    index = index_of("inpainting", "a", [source, masks], tmp_path / "p", by=0.1)
    (row,) = evaluation.per_image("inpainting", [index], tmp_path / "p", SIZE).to_dict("records")
    assert (row["subset"], row["photograph"], row["hole_ratio_bucket"], row["hole_ratio"]) == (
        "photos",
        "p0",
        "20-30%",
        0.25,
    )
    # a quarter of the picture is brighter by 0.1, but for what was nearly white
    assert 0.01 < row["l1"] <= 0.1 / 4 + 1e-3


def test_without_ground_truth_harmonization_has_no_row_and_localization_has(tmp_path):
    rows = [
        {"pair_id": name, "split": split, "foreground_ratio": 0.25}
        for name, split in (("r1", "rhm"), ("r2", "rhm"), ("c1", "test"))
    ]
    root = subset(tmp_path / "HCOCO", rows)
    table = tables.read(root / "pairs.parquet")
    tables.write(
        root / "pairs.parquet", table.assign(real=pd.Series([None, table["real"][1], table["real"][2]], dtype="str"))
    )
    index = index_of("harmonization", "a", [root], tmp_path / "p")
    scores = evaluation.per_image("harmonization", [index], tmp_path / "p", SIZE)
    assert list(zip(scores["split"], scores["image_id"])) == [("rhm", "r2"), ("test", "c1")]
    means = summaries.summary("harmonization", scores, [index]).set_index(["subset", "split"])["n_images"]
    assert means["All", "rhm"] == 1 == means["All", "test"]
    index = index_of("localization", "a", [root], tmp_path / "q", max_foreground=1.0)
    assert len(evaluation.per_image("localization", [index], tmp_path / "q", SIZE)) == 3


# ---- what is refused


def refused(made, message: str) -> None:
    with pytest.raises(UserError) as caught:
        scores_of(made)
    line = str(caught.value)
    assert "\n" not in line and message in line, line


def test_a_missing_prediction(made):
    (made[0] / "b/test/c1_1_2.png").unlink()
    refused(made, "b/test/c1_1_2.png is missing")


def test_a_prediction_that_was_changed_after_inference(made):
    images.write_png(made[0] / "a/test/f1_1_1.png", random_picture(5, SIZE, SIZE))
    refused(made, "a/test/f1_1_1.png was changed after inference (sha256 differs from predictions.parquet)")


def test_a_prediction_of_another_size(made):
    predictions, _, (a, b) = made
    file = predictions / "a/test/c1_1_1.png"
    images.write_png(file, random_picture(5, SIZE, SIZE + 1))
    table = tables.read(predictions / "a/test/predictions.parquet")
    table.loc[table["image_id"] == "c1_1_1", "sha256"] = sha256(file)
    refused(
        (predictions, made[1], [restate(a, predictions, table), b]),
        f"a/test/c1_1_1.png is {SIZE + 1}x{SIZE}, expected {SIZE}x{SIZE}",
    )


def test_a_prediction_that_is_no_picture(made):
    predictions, _, (a, b) = made
    file = predictions / "a/test/c1_1_1.png"
    file.write_bytes(b"not a picture")
    table = tables.read(predictions / "a/test/predictions.parquet")
    table.loc[table["image_id"] == "c1_1_1", "sha256"] = sha256(file)
    refused((predictions, made[1], [restate(a, predictions, table), b]), "a/test/c1_1_1.png: not a picture")


def test_predictions_that_occur_twice(made):
    predictions, _, (a, b) = made
    table = tables.read(predictions / "a/test/predictions.parquet")
    twice = restate(a, predictions, pd.concat([table, table.iloc[:1]]))
    refused((predictions, made[1], [twice, b]), "a/test/predictions.parquet: c1_1_1 occurs twice")


def test_fewer_or_more_predictions_than_images(made):
    predictions, _, (a, b) = made
    table = tables.read(predictions / "a/test/predictions.parquet")
    fewer = restate(a, predictions, table.iloc[1:])
    refused(
        (predictions, made[1], [fewer, b]),
        "predictions.parquet has 2 images, the split test has 3; c1_1_1 is on one side only",
    )
    more = restate(a, predictions, pd.concat([table, table.iloc[:1].assign(image_id="zzz")]))
    refused((predictions, made[1], [more, b]), "has 4 images, the split test has 3; zzz is on one side only")


def test_a_manifest_that_inference_did_not_write(made):
    predictions, data, methods = made
    table = tables.read(predictions / "b/test/predictions.parquet")
    tables.write(predictions / "b/test/predictions.parquet", table.iloc[::-1])
    refused(made, "b/test/predictions.parquet is not the one that inference wrote")
    (predictions / "b/test/predictions.parquet").unlink()
    refused(made, "b/test/predictions.parquet: no such table")


def test_a_method_without_predictions(made, tmp_path):
    predictions, data, (a, b) = made
    refused(
        (predictions, data, [a, b | {"splits": {}}]),
        "b has no predictions for test; `dvc repro models/dvc.yaml:infer-b` makes them",
    )
    with pytest.raises(UserError, match="index/inpainting: no method has predictions there; `dvc repro` makes them"):
        evaluation.indexes(tmp_path / "index/inpainting")


def test_methods_that_saw_other_data(made):
    predictions, data, (a, b) = made
    refused((predictions, data, [a, b | {"data": ["elsewhere"]}]), "artifacts/index/harmonization: a was run on [")
    refused((predictions, data, [a, b | {"options": {"max_foreground": 0.5}}]), "b on {'max_foreground': 0.5}")
    table = tables.read(data[0] / "pairs.parquet")
    tables.write(data[0] / "pairs.parquet", table.assign(foreground_ratio=0.3))
    refused(made, f"a was run on other data than now stands in {data[0]}, {data[1]}")


STATED = {
    "repeat": 1,
    "n_parameters": 3,
    "trained": True,
    "origin": "trained here",
    "data": ["data/a"],
    "options": {},
    "threshold": None,
    "threshold_from": None,
    "truth": ["0" * 64],
    "splits": {"test": {"n_images": 2, "n_scored": 2, "predictions": "1" * 64}},
}


def test_indexes_come_by_name_and_must_be_json(tmp_path):
    folder = tmp_path / "inpainting"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.json").write_text(json.dumps({"task": "inpainting", "model": name} | STATED))
    assert [method["model"] for method in evaluation.indexes(folder)] == ["a", "b"]
    (folder / "c.json").write_text("{")
    anew = "; `dvc repro models/dvc.yaml:infer-c` makes it anew"
    for text, message in (
        ("{", ": not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[" * 100_000, ": not JSON that can be read (nested too deeply)"),
        ("[]", ": the file = []: expected a valid dictionary or instance of Index"),
        (
            json.dumps(
                {"task": "inpainting", "model": "c"} | {key: value for key, value in STATED.items() if key != "truth"}
            ),
            " does not state truth",
        ),
        (
            json.dumps({"task": "inpainting", "model": "c"} | STATED | {"n_parameters": "three"}),
            ": n_parameters = 'three': expected a valid integer",
        ),
        (
            json.dumps(
                {"task": "inpainting", "model": "c"}
                | STATED
                | {"splits": {"test": {"n_images": "2", "n_scored": 2, "predictions": ""}}}
            ),
            ": splits.test.n_images = '2': expected a valid integer",
        ),
        (json.dumps({"task": "inpainting", "model": "a"} | STATED), " is of a (inpainting), expected c (inpainting)"),
    ):
        (folder / "c.json").write_text(text)
        with pytest.raises(UserError) as caught:
            evaluation.indexes(folder)
        assert str(caught.value) == f"{folder / 'c.json'}{message}{anew}"


def test_counts_of_the_index_that_are_not_those_of_the_data(made):
    predictions, data, (a, b) = made
    for key in ("n_images", "n_scored"):
        other = b | {"splits": {"test": b["splits"]["test"] | {key: 2}}}
        refused(
            (predictions, data, [a, other]),
            f"artifacts/index/harmonization/b.json states {key} = 2 for test, the data have 3",
        )


def test_a_map_in_colour(tmp_path):
    data = [subset(tmp_path / "HCOCO", [{"pair_id": "c1_1_1", "split": "test", "foreground_ratio": 0.25}])]
    index = index_of("localization", "a", data, tmp_path / "p", max_foreground=1.0)
    file = tmp_path / "p/a/test/c1_1_1.png"
    images.write_png(file, random_picture(5, SIZE, SIZE))
    table = tables.read(tmp_path / "p/a/test/predictions.parquet").assign(sha256=sha256(file))
    with pytest.raises(UserError, match="a/test/c1_1_1.png is in colour, expected a grey probability map$"):
        evaluation.per_image("localization", [restate(index, tmp_path / "p", table)], tmp_path / "p", SIZE)


# ---- protocols, other sides, and any number of workers


def test_protocols_are_scored_on_the_originals(made):
    predictions, data, methods = made
    scores, by_protocol, _ = evaluation.score("harmonization", methods, predictions, SIZE, ["saic", "rainnet"])
    names = {column.split(" ")[0] for column in by_protocol if " " in column}
    assert names == {"seam-256", "rainnet", "saic"} and len(by_protocol) == len(scores) == 6
    for number, name in enumerate(("c1_1_1", "c1_1_2", "f1_1_1")):
        row = datasets.for_testing("harmonization", data, SIZE, "test").rows.iloc[number]
        full = [images.read_rgb(row[key]) for key in ("composite", "real", "mask")]
        assert full[0].shape == (40, 60, 3)
        drawn = images.read_rgb(predictions / f"b/test/{name}.png")
        scored = by_protocol.set_index(["model", "image_id"]).loc[("b", name)]
        for protocol, metric, value in protocols.harmonization.score(
            drawn, *full[:2], full[2][..., 0], protocols.chosen("harmonization", ["saic", "rainnet"])
        ):
            assert scored[f"{protocol} {metric}"] == pytest.approx(value, nan_ok=True)
        per_image = scores.set_index(["model", "image_id"]).loc[("b", name)]
        assert all(scored[f"seam-256 {metric}"] == per_image[metric] for metric in TASKS["harmonization"].seam_metrics)


@pytest.mark.parametrize(
    "named, expected",
    [
        (None, {record.name for record in protocols.localization.PROTOCOLS}),
        (["dirl"], {"seam-256", "dirl"}),
        ([], set()),
    ],
)
def test_protocols_are_those_that_were_named(tmp_path, named, expected):
    data = [subset(tmp_path / "HCOCO", [{"pair_id": "c1_1_1", "split": "test", "foreground_ratio": 0.25}])]
    index = index_of("localization", "a", data, tmp_path / "p", max_foreground=1.0)
    scores, by_protocol, _ = evaluation.score("localization", [index], tmp_path / "p", SIZE, named)
    assert {column.split(" ")[0] for column in by_protocol if " " in column} == expected and len(by_protocol) == bool(
        expected
    )
    if expected:
        row = by_protocol.iloc[0]
        assert (
            row["seam-256 f1"] == scores["f1"][0]
            and row.get("seam-256-minmax f1", scores["f1_minmax"][0]) == scores["f1_minmax"][0]
        )


def test_curves_are_means_over_images_and_the_own_threshold_has_its_scores(tmp_path):
    names = ("c1_1_1", "c1_1_2", "c1_1_3")
    rows = [{"pair_id": name, "split": "test", "foreground_ratio": 0.25} for name in names]
    data = [subset(tmp_path / "HCOCO", rows)]
    index = index_of("localization", "a", data, tmp_path / "p", max_foreground=1.0) | {"threshold": 100 / 255}
    scores, _, curves = evaluation.score("localization", [index], tmp_path / "p", SIZE)
    assert (curves["n_images"] == 3).all() and len(curves) == 2 * 256 and set(curves["subset"]) == {"All", "HCOCO"}
    pooled = curves[curves["subset"] == "All"].set_index("threshold")
    at_half = pooled.loc[127 / 255]  # above level 127 and above 0.5 are the same pixels
    assert [at_half["f1"], at_half["iou"], at_half["precision"], at_half["recall"]] == pytest.approx(
        scores[["f1", "iou", "precision", "recall"]].mean().tolist(), abs=1e-15
    )
    dataset = datasets.for_testing("localization", data, SIZE, "test", max_foreground=1.0)
    for number, name in enumerate(names):
        detected = images.read_rgb(tmp_path / f"p/a/test/{name}.png")[..., 0] > 100
        mask, row = dataset.item(number)["mask"], scores.set_index("image_id").loc[name]
        assert row["f1_val"] == pytest.approx(f1_score(mask.ravel(), detected.ravel()), abs=1e-15)
        assert row["iou_val"] == pytest.approx(jaccard_score(mask.ravel(), detected.ravel()), abs=1e-15)
    table = summaries.summary("localization", scores, [index | {"threshold_from": "3 images"}])
    assert (table["threshold"] == 100 / 255).all() and (table["threshold_from"] == "3 images").all()
    # a method without a threshold lacks both for every image; its images are not odd for that
    index |= {"threshold": None, "threshold_from": "none: no reason"}
    scores = evaluation.per_image("localization", [index], tmp_path / "p", SIZE)
    table = summaries.summary("localization", scores, [index])
    assert scores["f1_val"].isna().all() and table["threshold"].isna().all() and (table["n_excluded"] == 0).all()


def of_sizes(root: Path, **sides: tuple[int, int]) -> list[Path]:
    """A sub-dataset with a test composite of each (height, width)."""
    folder = subset(root, [{"pair_id": f"c{name}_1_1", "split": "test", "foreground_ratio": 0.25} for name in sides])
    for number, (name, (height, width)) in enumerate(sides.items()):
        mask = np.zeros((height, width), bool)
        mask[:, : width // 4] = True
        images.write_png(folder / f"masks/c{name}_1_1.png", mask)
        for kind, seed in (("composite", number), ("real", 50 + number)):
            images.write_png(folder / f"{kind}_images/c{name}_1_1.png", random_picture(seed, height, width))
    return [folder]


def test_other_sides_leave_out_what_is_smaller_and_say_so(tmp_path):
    data = of_sizes(tmp_path / "HCOCO", small=(30, 90), middle=(40, 60), large=(90, 70))
    splits = ["test", "test@32", "test@64", "test@128"]
    methods = [
        index_of("harmonization", name, data, tmp_path / "p", by=by, splits=splits)
        for name, by in (("a", 0.0), ("b", 0.2))
    ]
    scores, by_protocol, _ = evaluation.score("harmonization", methods, tmp_path / "p", SIZE)
    assert scores[scores["model"] == "a"].groupby("split")["image_id"].agg(list).to_dict() == {
        "test": ["clarge_1_1", "cmiddle_1_1", "csmall_1_1"], "test@32": ["clarge_1_1", "cmiddle_1_1"], "test@64": ["clarge_1_1"],
    }  # fmt: skip
    # at the side that the split is named after
    composite, real = (
        images.resize(images.read_rgb(data[0] / f"{kind}_images/clarge_1_1.png"), (64, 64)).astype(float)
        for kind in ("composite", "real")
    )
    row = scores.set_index(["model", "split", "image_id"]).loc[("a", "test@64", "clarge_1_1")]
    assert row["mse"] == pytest.approx(((composite - real) ** 2).mean())
    assert summaries.summary("harmonization", scores, methods).set_index(["model", "split", "subset"])[
        "n_images"
    ].to_dict() == {
        (model, split, subset_): n
        for model in "ab"
        for split, n in (("test", 3), ("test@32", 2), ("test@64", 1))
        for subset_ in ("All", "HCOCO")
    }
    means = summaries.by_resolution("harmonization", scores, methods, SIZE, **OPTIONS).set_index(
        ["by", "value", "model", "metric"]
    )
    n = means["n"].unstack("value")[["24", "32", "64", "128"]].loc[(slice(None), "b", "psnr"), :]
    assert n.loc["resolution"].to_numpy().tolist() == [[3, 2, 1, 0]] and n.loc[
        "resolution_same_images"
    ].to_numpy().tolist() == [[1, 1, 1, 0]]
    tested = scores[(scores["model"] == "b") & (scores["split"] == "test")].set_index("image_id")["psnr"]
    assert means.loc[("resolution", "24", "b", "psnr"), "mean"] == pytest.approx(tested.mean())
    assert means.loc[("resolution_same_images", "24", "b", "psnr"), "mean"] == pytest.approx(tested["clarge_1_1"])
    assert np.isnan(means.loc[("resolution", "128", "b", "psnr"), "mean"])
    # nothing else takes notice of them
    assert set(summaries.intervals("harmonization", scores, **OPTIONS)["n"]) == {3}
    assert summaries.breakdowns("harmonization", scores, **OPTIONS)["n"].max() == 3


def test_another_side_needs_predictions_of_every_model(tmp_path):
    data = of_sizes(tmp_path / "HCOCO", large=(90, 70))
    methods = [
        index_of("harmonization", name, data, tmp_path / "p", splits=splits)
        for name, splits in (("a", ["test"]), ("b", ["test", "test@64"]))
    ]
    with pytest.raises(
        UserError, match="^a has no predictions for test@64; `dvc repro models/dvc.yaml:infer-a` makes them$"
    ):
        evaluation.score("harmonization", methods, tmp_path / "p", SIZE)
    assert summaries.by_resolution("harmonization", pd.DataFrame(), methods[:1], SIZE, **OPTIONS).empty


@pytest.mark.slow
def test_workers_change_nothing(made, monkeypatch, tmp_path):
    monkeypatch.setenv("SEAMBENCH_CPUS", "2")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    predictions, _, methods = made
    alone = evaluation.score("harmonization", methods, predictions, SIZE, None)
    spread = evaluation.score(
        "harmonization",
        methods,
        predictions,
        SIZE,
        None,
        functools.partial(parallel.ordered_map, describe="score", chunk=1),
    )
    for table, other in zip(alone, spread):
        pd.testing.assert_frame_equal(table, other, check_exact=True)
    (predictions / "b/test/c1_1_2.png").unlink()
    with pytest.raises(UserError, match="b/test/c1_1_2.png is missing$"):
        evaluation.score(
            "harmonization",
            methods,
            predictions,
            SIZE,
            None,
            functools.partial(parallel.ordered_map, describe="score", chunk=1),
        )


# ---- means


def by_hand() -> tuple[pd.DataFrame, list[dict]]:
    """Scores of two models on images of two sub-datasets, of unequal size."""
    rows = []
    for model, offset in (("a", 0.0), ("b", 2.0)):
        for subset_, image, photograph, psnr in [
            ("X", "1", "p", 20),
            ("X", "2", "p", 30),
            ("X", "3", "q", 40),
            ("Y", "4", "r", 60),
        ]:
            metrics = {
                "mse": 4.0,
                "fmse": np.nan if image == "2" else 8.0,
                "psnr": psnr + offset,
                "ssim": 0.5,
                "fssim": 0.25,
            }
            about = {
                "photograph": photograph,
                "foreground_ratio": int(image) / 20,
                "category": "c",
                "transfer": "t",
                "simulated": subset_ == "Y",
            }
            rows.append(
                {"task": "harmonization", "model": model, "repeat": 1}
                | {"subset": subset_, "split": "test", "image_id": image}
                | about
                | metrics
            )
    methods = [
        {
            "model": name,
            "repeat": 1,
            "n_parameters": number,
            "origin": "trained here",
            "splits": {"test": {"n_images": 4, "n_scored": 4}},
        }
        for name, number in (("a", 7), ("b", 9))
    ]
    return pd.DataFrame(rows), methods


def test_means_by_hand():
    scores, methods = by_hand()
    table = summaries.summary("harmonization", scores, methods).set_index(["model", "subset"])
    assert list(table.index) == [("a", "All"), ("a", "X"), ("a", "Y"), ("b", "All"), ("b", "X"), ("b", "Y")]
    assert table["n_images"].tolist() == [4, 3, 1] * 2 and table["n_parameters"].tolist() == [7] * 3 + [9] * 3
    assert table.loc[("a", "X"), "psnr"] == 30 and table.loc[("a", "Y"), "psnr"] == 60
    # all images pooled: (20 + 30 + 40 + 60) / 4, not the mean 45 of the two sub-datasets' means
    assert table.loc[("a", "All"), "psnr"] == 37.5 and table.loc[("b", "All"), "psnr"] == 39.5
    # an image that a metric is undefined for is left out of that mean alone, and counted
    assert table.loc[("a", "All"), "fmse"] == 8.0 and table["n_excluded"].tolist() == [1, 1, 0] * 2


def test_every_table_says_which_share_of_its_images_is_simulated():
    scores, methods = by_hand()
    scores.loc[scores["image_id"] == "1", "category"] = (
        "dog"  # of X, so it is real; the only simulated image is that of Y
    )
    shares = {"All": 1 / 4, "X": 0.0, "Y": 1.0}
    made = {
        name: getattr(summaries, name)("harmonization", scores, **OPTIONS)
        for name in ("intervals", "differences", "ranks")
    }
    for name, table in (made | {"summary": summaries.summary("harmonization", scores, methods)}).items():
        assert dict(zip(table["subset"], table["simulated"])) == shares, name
    assert not {"simulated"} & set(summaries.metric_columns("harmonization", scores))
    parts = summaries.breakdowns("harmonization", scores, **OPTIONS)
    parts = parts[parts["by"] == "category"]
    assert dict(zip(parts["value"], parts["simulated"])) == {"dog": 0.0, "c": 1 / 3}
    holes = scores.drop(columns=["simulated", "category", "transfer", "foreground_ratio"]).assign(
        hole_ratio_bucket="0-10", l1=0.1
    )
    assert "simulated" not in summaries.breakdowns("inpainting", holes, **OPTIONS), (
        "photographs with holes are no composites"
    )


def test_no_mean_over_what_happens_to_be_there():
    scores, methods = by_hand()
    fewer = scores[~((scores["model"] == "b") & (scores["image_id"] == "3"))]
    with pytest.raises(UserError, match=r"^b: 3 scores for the 4 images with a truth in its manifest \(test\)$"):
        summaries.summary("harmonization", fewer, methods)
    with pytest.raises(UserError, match=r"^b: 0 scores for the 4 images with a truth in its manifest \(test\)$"):
        summaries.summary("harmonization", scores[scores["model"] == "a"], methods)


def test_the_summary_of_a_run_has_the_contracts_columns(made):
    table = summaries.summary("harmonization", scores_of(made), made[2])
    assert {"task", "model", "subset", "n_images", "n_parameters"} | set(TASKS["harmonization"].metrics) <= set(
        table.columns
    )
    assert table.set_index(["model", "subset"])["n_images"].to_dict() == {
        (model, name): count for model in "ab" for name, count in (("All", 3), ("HCOCO", 2), ("HFlickr", 1))
    }


def test_dvcs_metrics_are_one_mean_per_trained_method_over_all_test_images():
    scores, methods = by_hand()
    means = summaries.summary("harmonization", pd.concat([scores, scores.assign(split="rhm", psnr=99.0)]), [
        method | {"splits": {"test": {"n_scored": 4}, "rhm": {"n_scored": 4}}} for method in methods
    ])  # fmt: skip
    headline = summaries.headline("harmonization", means)
    assert headline == {"a": {"fmse": 8.0}, "b": {"fmse": 8.0}}
    without = means.assign(n_parameters=means["n_parameters"].where(means["model"] == "b", 0))
    assert list(summaries.headline("harmonization", without)) == ["b"], "no parameter moves a method without training"


def test_intervals_lie_around_the_means_of_the_summary():
    scores, methods = by_hand()
    means = summaries.summary("harmonization", scores, methods).set_index(["model", "subset"])
    table = summaries.intervals("harmonization", scores, **OPTIONS)
    for row in table.to_dict("records"):
        assert row["mean"] == pytest.approx(means.loc[(row["model"], row["subset"]), row["metric"]])
        if row["n_groups"] > 1:
            assert row["low"] <= row["mean"] <= row["high"]
    assert set(table["subset"]) == {"All", "X", "Y"} and set(table["metric"]) >= set(TASKS["harmonization"].metrics)


def test_a_constant_difference_between_models_is_certain():
    table = summaries.differences("harmonization", by_hand()[0], **OPTIONS)
    row = table[(table["subset"] == "All") & (table["metric"] == "psnr")].iloc[0]
    assert (row["first"], row["second"], row["mean"], row["low"], row["high"], row["n"]) == ("a", "b", -2, -2, -2, 4)


def test_differences_by_size_compare_images_of_a_size_alone():
    scores, _ = by_hand()
    better = (scores["model"] == "b") & scores["image_id"].isin(["2", "3"])  # those of 10% and 15%
    table = summaries.differences_by_size("harmonization", scores.assign(psnr=scores["psnr"] + better), **OPTIONS)
    differences = table[table["metric"] == "psnr"].set_index(["first", "value"])
    assert differences.loc["b", "mean"].to_dict() == {"0%-5%": 2, "5%-15%": 3, "15%-100%": 2}
    assert differences.loc["b", "n"].to_dict() == {"0%-5%": 1, "5%-15%": 2, "15%-100%": 1} and set(table["by"]) == {
        "foreground_share"
    }
    assert differences.loc["b", "simulated"].to_dict() == {
        "0%-5%": 0,
        "5%-15%": 0,
        "15%-100%": 1,
    }  # image 4 is simulated


def test_ranks_say_which_way_is_better():
    table = summaries.ranks("harmonization", by_hand()[0], **OPTIONS).set_index(["subset", "metric", "model"])["rank"]
    assert table["All", "psnr", "b"] == 1 and table["All", "psnr", "a"] == 2  # two more dB everywhere
    assert table["All", "mse", "a"] == 1 == table["All", "mse", "b"]  # equal everywhere


def test_breakdowns_by_what_kind_of_image_it_is():
    scores, _ = by_hand()
    table = summaries.breakdowns("harmonization", scores, **OPTIONS)
    rows = table[(table["metric"] == "psnr") & (table["model"] == "a") & (table["by"] == "foreground_share")].set_index(
        "value"
    )
    # shares 0.05, 0.10, 0.15, 0.20 of images 1 .. 4; bins hold their upper end
    assert rows["mean"].to_dict() == {"0%-5%": 20, "5%-15%": 35, "15%-100%": 60} and rows["n"].to_dict() == {
        "0%-5%": 1,
        "5%-15%": 2,
        "15%-100%": 1,
    }
    assert set(table["by"]) == {"foreground_share", "category", "transfer"}


def test_foregrounds_above_half_stand_apart_in_localization():
    scores, _ = by_hand()
    scores = scores.assign(ap=0.5, f1=0.5, iou=0.5, foreground_ratio=[0.02, 0.2, 0.5, 0.7] * 2)
    table = summaries.breakdowns("localization", scores, **OPTIONS)
    assert set(table.loc[table["by"] == "foreground_share", "value"]) == {"0%-5%", "15%-30%", "30%-50%", "50%-100%"}
