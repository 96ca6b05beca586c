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
