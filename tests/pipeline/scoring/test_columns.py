"""The dictionary of columns says what the tables hold: no more and no less."""

from pathlib import Path

import pyarrow.parquet
import pytest

from pipeline.scoring import columns, perceptual, samples
from pipeline.tasks import METRICS, TASKS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def schemas(finished) -> dict[str, dict[str, set[str]]]:
    """Task: table: its columns."""
    results = finished / "results"
    return {
        task: {file.stem: set(pyarrow.parquet.read_schema(file).names) for file in (results / task).glob("*.parquet")}
        for task in TASKS
    }


def test_every_table_and_column_is_described_and_every_description_is_of_a_column(schemas):
    for task, tables in schemas.items():
        of_maps = {"curves"} if TASKS[task].at_own_threshold else {"perceptual"}
        assert set(tables) - {"overlaps"} == set(columns.TABLES) - {"curves", "perceptual", "samples"} | of_maps, task
    there = {column for tables in schemas.values() for names in tables.values() for column in names}
    there |= {*samples.COLUMNS, *perceptual.COLUMNS}
    assert there | {"lpips", "fid"} == set(columns.MEANINGS) | set(METRICS)
    assert all(columns.meaning(column) for column in there)


def test_metrics_stand_with_the_tasks_that_have_them(schemas):
    for metric in METRICS.values():
        having = [task for task, tables in schemas.items() if metric.name in tables["per_image"]]
        if metric.name in ("lpips", "fid"):  # weights are needed, which these tables were made without
            having = [task for task in TASKS if metric.name in TASKS[task].perceptual]
        assert columns.tasks_of(metric.name) == having


def test_the_written_page_is_that_of_the_records():
    assert (ROOT / "docs/tables.md").read_text() == columns.page(), "run python -m commands.columns"
