import math
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.report import numbers


def read(finished, task="harmonization"):
    return numbers.read_results(task, finished / "results" / task, finished / "artifacts/index" / task)


def results_of(rows: dict, intervals=(), differences=()) -> numbers.Results:
    """Localization results from {model: (ap, f1, iou)}."""
    metrics = ["ap", "f1", "iou"]
    summary = pd.DataFrame(
        [
            {"model": model, "subset": "All", "split": "test", "n_images": 2, "n_parameters": 0}
            | dict(zip(metrics, row))
            for model, row in rows.items()
        ]
    )
    scores = pd.DataFrame(
        [
            {"model": model, "subset": "S", "split": "test", "image_id": str(n), "photograph": "p"}
            | dict(zip(metrics, row))
            for model, row in rows.items()
            for n in (1, 2)
        ]
    )
    frame = pd.DataFrame(
        [
            {"model": model, "subset": "All", "metric": metric, "low": math.nan, "high": math.nan}
            for model in rows
            for metric in metrics
        ]
    )
    ranks = pd.DataFrame(
        [{"subset": "All", "metric": "ap", "model": model, "rank": 1, "rank_worst": len(rows)} for model in rows]
    )
    pairs = [(model, other) for model in rows for other in rows if model != other]
    paired = pd.DataFrame(
        [
            {
                "subset": "All",
                "metric": "ap",
                "first": a,
                "second": b,
                "mean": rows[a][0] - rows[b][0],
                "low": -1.0,
                "high": 1.0,
            }
            for a, b in pairs
        ],
        columns=["subset", "metric", "first", "second", "mean", "low", "high"],
    )
    methods = {model: {"trained": False, "origin": "not trained", "n_parameters": 0} for model in rows}
    return numbers.Results("localization", methods, scores, summary, frame, paired, ranks, pd.DataFrame())


def test_headline_agrees_with_summary(finished):
    results = read(finished)
    table = numbers.score_table(results, "All")
    means = results.summary[results.summary["subset"] == "All"].set_index("model")
    assert means.loc["rainnet", "fmse"] < means.loc["composite", "fmse"]  # the fixture's network is the better one
    assert [row["model"] for row in table["rows"]] == ["rainnet", "composite"]
    (first, second) = table["rows"]
    assert [cell["text"] for cell in first["cells"]] == [
        f"{means.loc['rainnet', 'mse']:.1f}", f"{means.loc['rainnet', 'fmse']:.1f}", f"{means.loc['rainnet', 'psnr']:.2f}",
        f"{means.loc['rainnet', 'ssim']:.4f}", f"{means.loc['rainnet', 'fssim']:.4f}",
    ]  # fmt: skip
    assert first["cells"][1]["best"] and not second["cells"][1]["best"]
    assert (first["parameters"], second["parameters"]) == ("1.2 M", "0")
    assert (first["trained"], second["trained"]) == (True, False)
    assert (table["n_images"], table["n_photographs"]) == (8, 2)
    difference = means.loc["composite", "fmse"] - means.loc["rainnet", "fmse"]
    assert first["behind"] == "" and second["behind"]["text"] == f"+{difference:.1f}"


def test_best_is_what_reads_as_best():
    """Means that are printed alike are bold alike; a higher mean of MSE-like metrics would not be."""
    table = numbers.score_table(results_of({"a": (0.50004, 0.2, math.nan), "b": (0.50001, 0.3, math.nan)}), "All")
    best = {row["model"]: [cell["best"] for cell in row["cells"]] for row in table["rows"]}
    assert best == {"a": [True, False, False], "b": [True, True, False]}
    assert table["rows"][0]["cells"][2]["text"] == "–"
    assert table["excluded"] == ["a 2", "b 2"]


def test_order_ranks_and_ties():
    results = results_of({"low": (0.1, 0.1, 0.1), "high": (0.9, 0.1, 0.1), "undefined": (math.nan, 0.1, 0.1)})
    table = numbers.score_table(results, "All")
    assert [row["model"] for row in table["rows"]] == ["high", "low", "undefined"]
    assert [row["rank"] for row in table["rows"]] == ["1–3"] * 3
    assert table["rows"][1]["behind"] == {"text": "−0.800", "interval": "−1.000 to 1.000", "tied": True}
    assert table["rows"][2]["behind"] == ""


def test_other_splits_have_neither_ranks_nor_intervals(finished):
    results = read(finished)
    summary = pd.concat(
        [results.summary, results.summary[results.summary["subset"] == "All"].assign(split="realhm", subset="All")]
    )
    scores = pd.concat([results.per_image, results.per_image.assign(split="realhm")])
    both = numbers.Results(
        results.task,
        results.methods,
        scores,
        summary,
        results.intervals,
        results.differences,
        results.ranks,
        results.breakdowns,
    )
    table = numbers.score_table(both, "All", "realhm")
    assert table["rows"] and all(row["cells"] for row in table["rows"])
    assert not table["stated"] and all(row["rank"] == "" and row["behind"] == "" for row in table["rows"])
    assert all(cell["interval"] == "" for row in table["rows"] for cell in row["cells"])


@pytest.mark.parametrize("name", numbers.RESULT_TABLES)
def test_missing_table_is_named(finished, tmp_path, name):
    shutil.copytree(finished / "results/inpainting", tmp_path / "inpainting")
    (tmp_path / "inpainting" / f"{name}.parquet").unlink()
    with pytest.raises(UserError, match=rf"inpainting/{name}\.parquet: no such table") as refusal:
        numbers.read_results("inpainting", tmp_path / "inpainting", finished / "artifacts/index/inpainting")
    assert "\n" not in str(refusal.value)


def test_index_and_summary_must_name_the_same_methods(finished, tmp_path):
    shutil.copytree(finished / "artifacts/index/inpainting", tmp_path / "index")
    (tmp_path / "index/pconv.json").unlink()
    with pytest.raises(UserError, match="pconv is in one only"):
        numbers.read_results("inpainting", finished / "results/inpainting", tmp_path / "index")
    with pytest.raises(UserError, match="no method has predictions"):
        numbers.read_results("inpainting", finished / "results/inpainting", tmp_path / "nothing")


def test_training_budget(finished):
    training = numbers.read_training(finished / "artifacts/models/pconv")
    own = SimpleNamespace(batch_size=4, optimization=SimpleNamespace(optimizer="adam", learning_rate=1e-3))
    (row,) = numbers.training_rows([training], {"pconv": SimpleNamespace(training=own)})
    assert (row["epochs"], row["steps"], row["images"], row["seconds"]) == ("2 + 1", "30", "120", "2 min 5 s")
    with pytest.raises(UserError, match="pconv as trained"):
        numbers.training_rows([training], {})


def test_training_without_epochs():
    empty = numbers.Training(
        "pconv",
        pd.DataFrame(),
        {"device": "CPU", "workers": 2, "images_per_second": 0.0, "seconds_of_the_last_run": 0.0},
    )
    own = SimpleNamespace(batch_size=4, optimization=SimpleNamespace(optimizer="adam", learning_rate=1e-3))
    (row,) = numbers.training_rows([empty], {"pconv": SimpleNamespace(training=own)})
    assert (row["epochs"], row["steps"], row["hardware"]) == ("0", "0", "CPU, 2 workers")


@pytest.mark.parametrize("name", ["history.parquet", "training.json"])
def test_missing_training_is_named(finished, tmp_path, name):
    shutil.copytree(finished / "artifacts/models/pconv", tmp_path / "pconv")
    (tmp_path / "pconv" / name).unlink()
    with pytest.raises(UserError, match=rf"pconv/{name}: no such"):
        numbers.read_training(tmp_path / "pconv")


def test_counts(finished):
    folder = finished / "data/composites/HCOCO"
    sheet = numbers.counts(pd.read_parquet(folder / "pairs.parquet"), pd.read_parquet(folder / "rejected.parquet"))
    assert sheet["splits"] == ["train", "test"] and (sheet["n"], sheet["n_simulated"], sheet["n_rejected"]) == (8, 0, 3)
    assert sheet["by_split"][1] == {"split": "test", "composites": 4, "photographs": 2, "objects": 2}
    assert sheet["by_transfer"] == [
        {"value": "reinhard", "n": 4, "of": [2, 2]},
        {"value": "xiao", "n": 4, "of": [2, 2]},
    ]
    assert sheet["rules"] == [
        {"rule": "clipped", "n": 2, "values": "0.5 to 0.75"},
        {"rule": "no reference", "n": 1, "values": ""},
    ]
    assert sheet["more_categories"] < 0


def test_counts_without_what_real_sets_lack():
    pairs = pd.DataFrame(
        {
            "split": ["test"] * 2,
            "source_image": ["a", "b"],
            "mask": ["a", "b"],
            "transfer": ["", None],
            "category": [None, None],
        }
    )
    sheet = numbers.counts(pairs, pd.DataFrame({"rule": [], "value": []}))
    assert (
        sheet["by_transfer"] == [{"value": "not known", "n": 2, "of": [2]}]
        and sheet["rules"] == []
        and sheet["n_simulated"] == 0
    )


def test_overlaps_of_the_official_lists_in_words(tmp_path):
    # the counts of the dataset's own lists for the le50 lists, and a set without a training list
    columns = ["set", "subset", "composites_train", "composites_test", "photographs_train", "photographs_test", "photographs_shared",
               "test_composites_of_shared_photographs", "cameras_shared", "test_composites_of_shared_cameras"]  # fmt: skip
    rows = [("Real", "HCOCO", 37704, 4207, 26741, 3392, 1389, 1804, 0, 0), ("Real", "HAdobe5k", 18582, 2057, 3740, 413, 0, 0, 0, 0),
            ("Real", "Hday2night", 309, 131, 81, 24, 0, 0, 5, 28), ("Sample", "HAdobe5k", 0, 1, 0, 1, 0, 0, 0, 0)]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "overlaps.parquet")
    assert numbers.overlaps(tmp_path / "overlaps.parquet") == {"Real": [
        "HCOCO: 1,389 of 3,392 test photographs are in its training list too, with 1,804 of 4,207 test composites",
        "HAdobe5k: 0 of 413 test photographs are in its training list too",
        "Hday2night: 0 of 24 test photographs are in its training list too; 28 test composites are of the 5 cameras that it knows",
    ]}  # fmt: skip
    assert numbers.overlaps(tmp_path / "none.parquet") == {}


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599.4, "59 min 59 s"), (7440, "2 h 4 min")],
)
def test_duration(seconds, text):
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (999, "999"), (1000, "1.0 k"), (3_140_000, "3.1 M"), (2.5e9, "2.5 G")]
)
def test_count(value, text):
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    "value, metric, text",
    [(0.12345, "ap", "0.123"), (1544.66, "fmse", "1544.7"), (math.nan, "psnr", "–"), (None, "psnr", "–")],
)
def test_number(value, metric, text):
    assert numbers.number(value, metric) == text
