import contextlib
from pathlib import Path

import pandas as pd
import pytest

from pipeline.report import buckets, paper_tables
from tests.pipeline.report.test_numbers import read


@pytest.fixture(scope="module")
def shown(finished) -> list[dict]:
    with contextlib.chdir(finished):
        return buckets.tables(read(Path("."), "inpainting"), Path("results/inpainting"))


def test_a_table_per_metric_with_methods_in_rows_and_buckets_in_columns(finished, shown):
    scores = pd.read_parquet(finished / "results/inpainting/per_image.parquet").query("split == 'test'")
    means = scores.groupby(["model", "hole_ratio_bucket"])[["ssim", "psnr", "l1"]].mean()
    assert [table["metric"] for table in shown] == ["SSIM", "PSNR", "L1"]
    for table, (metric, higher) in zip(shown, {"ssim": True, "psnr": True, "l1": False}.items()):
        assert table["higher"] == higher and table["buckets"] == sorted(set(scores["hole_ratio_bucket"]))
        for row in table["rows"]:
            for bucket, cell in zip(table["buckets"], row["cells"], strict=True):
                mean = means.loc[(row["model"], bucket), metric]
                assert cell["text"] == paper_tables.number(mean, metric)
                column = [paper_tables.number(value, metric) for value in means.xs(bucket, level=1)[metric]]
                better = max if higher else min
                assert cell["best"] == (cell["text"] == better(column, key=float))


def test_the_means_are_those_of_the_command(finished, shown):
    printed = paper_tables.read("inpainting", finished / "results/inpainting", "bucket", ["psnr"])
    assert [row["model"] for row in shown[1]["rows"]] == list(printed.means.index)
    for row in shown[1]["rows"]:
        cells = [paper_tables.number(value, "psnr") for value in printed.means.loc[row["model"]]]
        assert [cell["text"] for cell in row["cells"]] == cells
