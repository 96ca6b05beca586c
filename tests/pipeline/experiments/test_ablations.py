"""Definitions, names, refusals and the collected table; the queue itself is DVC's."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

import models
from pipeline import params
from pipeline.errors import ParameterError, UserError
from pipeline.experiments import ablations, dvc_queue
from pipeline.scoring import published

ROOT = Path(__file__).resolve().parents[3]
TABLES = ablations.load(ROOT / "ablations.yaml")
SMALL = {
    "rainnet": {"width": 4, "adversarial": False},
    "dih": {"width": 4},
    "rsrnet": {"width": 4},
    "rfr": {"width": 8, "perceptual_weights": "none"},
    "regional_references": {"width": 2},
    "region_contrastive": {"width": 16},
}
ROWS = [(name, label) for name, table in TABLES.items() for label in table.rows]


# ---- the definitions


@pytest.mark.parametrize("name, label", ROWS)
def test_every_row_can_be_built(name, label):
    table = TABLES[name]
    with torch.device("meta"):
        models.create(table.model, **SMALL[table.model] | table.rows[label].set)


@pytest.mark.parametrize("name", TABLES)
def test_rows_differ_and_name_what_is_printed(name):
    table, printed = TABLES[name], published.table()
    settings = [json.dumps(row.set, sort_keys=True) for row in table.rows.values()]
    assert len(set(settings)) == len(settings)
    for row in table.rows.values():
        if row.published:
            cells = printed[
                (printed["paper"] == table.paper)
                & (printed["table"] == row.published.table)
                & (printed["subset"] == table.subset)
            ]
            assert row.published.model in set(cells["model"])


def test_rain_placement_has_the_sixteen_rows_of_the_supplement():
    positions = {label: models_positions(row.set["placement"]) for label, row in TABLES["rain_placement"].rows.items()}
    assert len(positions) == 16 and positions["Baseline"] == set()
    assert positions["RAIN-Decoder-4"] == set(range(11, 15)) and positions["RAIN-Decoder"] == set(range(8, 15))
    assert positions["RAIN-Encoder"] == set(range(1, 9)) and positions["RAIN-2"] == {1, 2, 13, 14}
    assert positions["RAIN-6"] == {*range(1, 7), *range(9, 15)} and positions["RAIN-Inner-5"] == set(range(3, 13))


def models_positions(placement: str) -> set[int]:
    from models.harmonization.rainnet import rain_positions

    return set(rain_positions(placement))


@pytest.mark.parametrize(
    "edit, said",
    [
        (lambda table: table.update(model="rainet"), "t.model: no model 'rainet'; did you mean 'rainnet'?"),
        (lambda table: table["rows"].popitem(), "at least 2"),
        (
            lambda table: table["rows"]["b"]["set"].update(width=3),
            "row 'b' sets levels, width, row 'a' levels: expected the same",
        ),
        (
            lambda table: table["rows"]["b"].update(published={"table": "x", "model": "y"}),
            "published numbers need `paper` and `subset`",
        ),
        (lambda table: table.update(modell="x"), "modell"),
    ],
)
def test_slips_in_a_definition_are_told_in_one_line(tmp_path, edit, said):
    table = {"says": "x", "model": "rainnet", "rows": {"a": {"set": {"levels": 4}}, "b": {"set": {"levels": 5}}}}
    edit(table)
    file = tmp_path / "ablations.yaml"
    YAML().dump({"t": table}, file)
    with pytest.raises(ParameterError) as caught:
        ablations.load(file)
    assert said in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


# ---- overrides, as DVC itself reads them


@pytest.mark.parametrize(
    "value",
    ["RAIN-3", "+AdaIN", "null", "1", "it's", "a,b=c:[d] {e}", 3, 0.5, 1e-7, True, None, [16, 32], ["a", "b"], []],
)
def test_an_override_arrives_as_it_was_meant(tmp_path, value):
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    file.write_text("models: {net: {hyperparameters: {there: 1}, rate: 1e-3}}\n")
    for key in ("there", "new"):
        overrides = to_path_overrides([dvc_queue.override(f"models.net.hyperparameters.{key}", value)])
        assert list(overrides) == ["params.yaml"]
        apply_overrides(file, overrides["params.yaml"])
    block = YAML(typ="safe", pure=True).load(file.read_text())["models"]["net"]
    assert block == {"hyperparameters": {"there": value, "new": value}, "rate": 1e-3}
    assert type(block["hyperparameters"]["new"]) is type(value)


def test_a_backslash_is_refused():
    with pytest.raises(UserError, match="backslash"):
        dvc_queue.override("a", "b\\")


# ---- names


@pytest.fixture
def parameters(monkeypatch) -> params.Params:
    monkeypatch.chdir(ROOT)
    return params.load("presets/embedded.yaml")


def names(parameters, table=TABLES["rain_placement"]):
    rows = [(label, table.rows[label]) for label in ("Baseline", "RAIN-Decoder-2")]
    return [ablations.experiment_name("rain_placement", label, table, row, parameters) for label, row in rows]


@pytest.mark.slow
def test_names_are_refs_that_follow_what_the_numbers_depend_on(parameters, monkeypatch):
    first = names(parameters)
    assert first == names(parameters) and len(set(first)) == 2
    assert first[1].startswith("rain_placement-RAIN-Decoder-2-") and not any(
        set(" ~^:?*[\\/") & set(name) for name in first
    )
    other = parameters.model_copy(update={"seed": parameters.seed + 1})
    assert not set(first) & set(names(other))
    elsewhere = parameters.models | {"unet": parameters.models["pconv"]}
    assert first == names(parameters.model_copy(update={"models": elsewhere})), (
        "another network's parameters count for nothing"
    )
    read, file = Path.read_bytes, Path("models/layers/unet.py")
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path == file else b""))
    assert not set(first) & set(names(parameters))


# ---- refusals


def refused(capsys, monkeypatch, *arguments) -> str:
    from commands import ablation
    from pipeline import command

    parser = command.parser("x")
    parser.add_argument("table", nargs="?")
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    monkeypatch.setattr(sys, "argv", ["ablations", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.run(ablation.main, parser.parse_args())
    assert ended.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["rain"], "has no table 'rain'; there are rain_placement, "),
        (["rain_placement", "--rows", "RAIN-9"], "no row 'RAIN-9'; there are Baseline, "),
        (["rain_placement", "--without", "RAIN-9"], "no row 'RAIN-9'"),
        (["rain_placement", "--jobs", "0"], "--jobs 0: expected 1 or more"),
        (
            ["rain_placement"],
            "row 'RAIN-6': placement 'RAIN-6': with 6 levels, its number is 1 to 5; `--without 'RAIN-6'` leaves it out",
        ),
    ],
)
def test_what_can_not_be_run_is_refused_before_anything_is_queued(parameters, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(params, "load", lambda *path: parameters)
    monkeypatch.setattr(dvc_queue, "enqueue", lambda *_: pytest.fail("queued"))
    assert said in refused(capsys, monkeypatch, *arguments)


def test_a_network_that_is_not_trained_is_refused_with_the_presets_that_train_it(parameters, monkeypatch):
    without = parameters.model_copy(
        update={"models": {name: block for name, block in parameters.models.items() if name != "dih"}}
    )
    with pytest.raises(ParameterError) as caught:
        ablations.require_trained("dih_rain", TABLES["dih_rain"], without)
    assert "models.dih.training is missing, which dih_rain ablates" in str(
        caught.value
    ) and "presets/paper.yaml" in str(caught.value)


# ---- running, with DVC's part played


@pytest.fixture
def queue(monkeypatch):
    """Experiments that finish when the queue is run, but for those named in `failing`."""

    class Queue:
        def __init__(self):
            self.done, self.waits, self.failing, self.enqueued = {}, {}, (), []

        def enqueue(self, name, targets, overrides):
            self.enqueued.append((name, targets, overrides))
            self.waits[name] = "Queued"

        def run(self, jobs):
            self.done |= {
                name: name[-6:] for name in self.waits if not any(failure in name for failure in self.failing)
            }
            self.waits.clear()

    experiments = Queue()
    monkeypatch.setattr(dvc_queue, "finished", lambda: dict(experiments.done))
    monkeypatch.setattr(dvc_queue, "waiting", lambda: dict(experiments.waits))
    monkeypatch.setattr(dvc_queue, "stale_stages", lambda *_, **__: [])
    monkeypatch.setattr(dvc_queue, "enqueue", experiments.enqueue)
    monkeypatch.setattr(dvc_queue, "run_queue", experiments.run)
    return experiments


def test_what_is_done_or_queued_is_not_queued_again(parameters, queue):
    table = TABLES["rain_placement"]
    rows = ablations.chosen(table, ["Baseline", "RAIN-3", "RAIN-1"], [])
    assert list(rows) == ["Baseline", "RAIN-1", "RAIN-3"]
    queue.failing = ("RAIN-3",)
    with pytest.raises(UserError, match="^rain_placement: RAIN-3 failed; `dvc queue logs rain_placement-RAIN-3-"):
        ablations.run("rain_placement", table, rows, 1, parameters)
    assert queue.enqueued[1][1:] == (
        ["models/dvc.yaml:train-rainnet", "models/dvc.yaml:infer-rainnet", "evaluate@harmonization"],
        ["++models.rainnet.hyperparameters.placement='RAIN-1'"],
    )
    queue.failing = ()
    assert list(ablations.run("rain_placement", table, rows, 1, parameters)) == list(rows)
    assert [name.rsplit("-", 1)[0] for name, *_ in queue.enqueued] == [
        f"rain_placement-{row}" for row in ("Baseline", "RAIN-1", "RAIN-3", "RAIN-3")
    ]


@pytest.mark.slow
def test_outputs_that_are_not_up_to_date_are_named(parameters, queue, monkeypatch):
    monkeypatch.setattr(dvc_queue, "stale_stages", lambda *_, **__: ["synthesize@HCOCO"])
    with pytest.raises(UserError, match="synthesize@HCOCO is not up to date.*`dvc repro evaluate@harmonization` first"):
        ablations.run("rain_placement", TABLES["rain_placement"], TABLES["rain_placement"].rows, 1, parameters)
    assert not queue.enqueued


# ---- the table


def test_ours_stand_beside_what_is_printed(parameters, monkeypatch):
    """RFR's Table 5: DownSamp 1 is printed in three buckets, its memory is not measured here, and buckets that the paper
    leaves out stay without a published number."""
    labelled = params.load(ROOT / "presets/labelled.yaml")
    parameters = parameters.model_copy(update={"models": parameters.models | {"rfr": labelled.models["rfr"]}})
    buckets = ["0-10", "10-20", "20-30", "30-40", "40-50", "50-60"]
    made = {
        "intervals": pd.DataFrame(
            {
                "model": ["rfr", "telea"],
                "subset": "All",
                "metric": "psnr",
                "mean": [25.0, 1.0],
                "low": 24.0,
                "high": 26.0,
                "n": 12,
            }
        ),
        "breakdowns": pd.DataFrame(
            {
                "by": "hole_ratio_bucket",
                "value": buckets,
                "model": "rfr",
                "metric": "l1",
                "mean": np.arange(6) / 100,
                "low": 0.0,
                "high": 0.1,
                "n": 2,
            }
        ),
        "summary": pd.DataFrame(
            {
                "model": ["rfr", "telea"],
                "subset": "All",
                "split": "test",
                "n_images": 12,
                "n_parameters": [2_000_000, 0],
            }
        ),
    }
    monkeypatch.setattr(dvc_queue, "read_table", lambda commit, path: made[Path(path).stem])
    monkeypatch.setattr(
        dvc_queue, "read", lambda commit, path: b"models: {rfr: {hyperparameters: {width: 8, down_samp: 1}}}"
    )
    monkeypatch.setattr(params, "load", lambda *path: parameters)
    collected = ablations.collect("rfr_placement", TABLES["rfr_placement"], {"DownSamp 1": "abc"}, parameters)
    assert list(collected.columns) == list(ablations.COLUMNS) and set(collected["row"]) == {"DownSamp 1"}
    assert json.loads(collected["hyperparameters"].iloc[0]) == {"width": 8, "down_samp": 1}
    rows = collected.set_index(["metric", "condition"])
    assert rows.loc[("psnr", ""), ["mean", "low", "high", "n_images"]].tolist() == [25.0, 24.0, 26.0, 12]
    assert rows.loc[("parameters", ""), "mean"] == 2.0
    assert rows.loc[("l1", "30-40"), ["mean", "published"]].tolist() == [0.03, 0.0279]
    assert np.isnan(rows.loc[("l1", "20-30"), "published"]) and np.isnan(rows.loc[("psnr", ""), "published"])
    memory = rows.loc[("memory", "")]
    assert np.isnan(memory["mean"]) and memory["published"] == 1122 and memory["n_images"] == 0
    assert rows.loc[("psnr", "10-20"), "published"] == 31.72 and np.isnan(rows.loc[("psnr", "10-20"), "mean"])
    assert "DownSamp 1" in ablations.shown(collected, "inpainting") and "25" in ablations.shown(collected, "inpainting")


def test_per_cents_are_shown_as_shares(parameters):
    ours = pd.DataFrame(
        {
            "subset": ["All"],
            "condition": [""],
            "metric": ["iou_minmax"],
            "mean": [0.5],
            "low": [0.4],
            "high": [0.6],
            "n_images": [3],
        }
    )
    table = TABLES["rsrnet_parts"]
    compared = ablations.beside_published(ours, table, table.rows["whole"]).set_index("metric")
    printed = published.table()
    cell = printed[
        (printed["table"] == "poster")
        & (printed["model"] == "rsrnet")
        & (printed["subset"] == "All")
        & (printed["metric"] == "iou")
    ]
    assert cell["unit"].item() == "percent" and compared.loc["iou_minmax", "published"] == pytest.approx(
        cell["value"].item() / 100
    )


def test_a_model_that_an_experiment_does_not_hold_is_named(monkeypatch):
    empty = pd.DataFrame(
        {
            "by": ["hole_ratio_bucket"],
            "value": ["x"],
            "model": ["other"],
            "subset": ["All"],
            "split": ["test"],
            "metric": ["psnr"],
            "mean": [1.0],
            "low": [1.0],
            "high": [1.0],
            "n": [1],
            "n_images": [1],
            "n_parameters": [1],
        }
    )
    monkeypatch.setattr(
        dvc_queue,
        "read_table",
        lambda commit, path: empty.drop(columns="n_images") if "summary" not in path else empty.drop(columns="n"),
    )
    with pytest.raises(UserError, match="experiment abc: results/inpainting has no row for rfr"):
        ablations.ours("inpainting", "rfr", "abc")


def test_a_table_of_a_network_that_the_parameters_lack_is_refused(parameters):
    without = parameters.model_copy(update={"models": {}})
    table = TABLES["rfr_placement"]
    with pytest.raises(ParameterError, match=r"the table varies rfr, which params\.yaml doesn't name"):
        ablations.hyperparameters(table, next(iter(table.rows.values())), without)
