"""Costs and their licences: counted by hand on a small network; refusals told in the row."""

from pathlib import Path

import pytest

import models
from pipeline.errors import UserError
from pipeline.networks import cost

ROOT = Path(__file__).resolve().parents[3]


def test_every_method_has_its_licences():
    page = (ROOT / "docs/licences.md").read_text()
    licences = cost.licences(page, {name: models.task_of(name) for name in models.names()})
    assert all(set(row) == {"code_licence", "weights_licence", "data_licence"} for row in licences.values())
    assert licences["mantranet"]["code_licence"] == "non-commercial" and licences["rfr"]["code_licence"] == "MIT"
    with pytest.raises(UserError, match="its table of methods lacks another"):
        cost.licences(page, {"another": "inpainting"})


def row_of(model: str, **more) -> dict:
    texts = dict.fromkeys(("task", "why_not", "code_licence", "weights_licence", "data_licence"), "")
    numbers = dict.fromkeys(("height", "width", "parameters"), 1) | dict.fromkeys(("gmacs", "ms", "peak_mib"), 1.0)
    return (
        {"model": model, "device": "cpu", "size": "256", "processor": "A", "hyperparameters": "{}"}
        | texts
        | numbers
        | more
    )


def test_earlier_rows_hold_for_the_same_network_on_the_same_processor():
    wide = {"hyperparameters": cost.written({"width": 8, "levels": 4})}
    rows = [
        row_of("same"), row_of("other_machine", processor="B"), row_of("gone"), row_of("same", device="gpu", processor="C"),
        row_of("changed", **wide), row_of("reordered", **wide),
    ]  # fmt: skip
    stated = {"same": {}, "other_machine": {}, "changed": {"width": 16}, "reordered": {"levels": 4, "width": 8}}
    table = cost.kept(cost.table(rows), stated, {"cpu": "A"})
    assert list(zip(table["model"], table["device"])) == [("same", "cpu"), ("same", "gpu"), ("reordered", "cpu")]
    table = cost.kept(cost.table(rows), stated, {"cpu": "A", "gpu": "D"})
    assert list(table["model"]) == ["same", "reordered"]
    with pytest.raises(UserError, match="with other columns"):
        cost.kept(cost.table(rows).drop(columns="processor"), stated, {"cpu": "A"})


@pytest.mark.slow
def test_a_measured_row_and_what_could_not_be_measured():
    hyperparameters = {"width": 4, "levels": 4, "adversarial": False}
    row = cost.measure("rainnet", hyperparameters, "256", "cpu", seconds=120, gib=5)
    assert row["why_not"] == "" and row["ms"] > 0 and row["peak_mib"] > 50
    model = models.create("rainnet", **hyperparameters)
    assert row["parameters"] == cost.parameters_of(model)
    late = cost.measure("rainnet", hyperparameters, "256", "cpu", seconds=0.01, gib=5)
    assert late["why_not"] == "took longer than 0.01 s" and late["ms"] != late["ms"]
    table = cost.table(
        [
            {"task": "harmonization"}
            | measured
            | dict.fromkeys(("code_licence", "weights_licence", "data_licence"), "")
            for measured in (row, late)
        ]
    )
    assert list(table) == list(cost.COLUMNS) and table["height"].tolist() == [256, 256]
