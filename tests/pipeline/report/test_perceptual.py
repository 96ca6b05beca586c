import pandas as pd

from pipeline.report import perceptual
from pipeline.scoring.perceptual import COLUMNS
from tests.pipeline.report.test_numbers import read


def test_the_page_says_why_there_are_no_perceptual_scores(finished):
    section = perceptual.section(read(finished), pd.read_parquet(finished / "results/harmonization/perceptual.parquet"))
    assert section["rows"] == [] and section["why_not"] == [
        "LPIPS: evaluation.perceptual.lpips is null: no weights, no LPIPS", "FID: evaluation.perceptual.fid is null: no weights, no FID"
    ]  # fmt: skip


def test_scores_in_the_order_of_the_page(finished):
    results = read(finished)
    row = {
        "task": "harmonization",
        "metric": "lpips",
        "by": "subset",
        "split": "test",
        "n_images": 8,
        "n_photographs": 2,
        "n_resamples": 50,
        "why_not": "",
    }
    rows = [row | {"model": model, "value": value, "score": score, "low": score - 0.01, "high": score + 0.01}
            for model, score in zip(results.order, (0.25, 0.125)) for value in ("All", "HCOCO")]  # fmt: skip
    rows.append(
        row
        | {
            "metric": "fid",
            "model": results.order[0],
            "value": "All",
            "score": float("nan"),
            "low": float("nan"),
            "high": float("nan"),
            "why_not": "n = 2",
        }
    )
    section = perceptual.section(results, pd.DataFrame(rows)[list(COLUMNS)])
    assert [row["model"] for row in section["rows"]] == results.order
    first, second = (row["cells"][0] for row in section["rows"])
    assert (first["text"], first["best"], second["text"], second["best"]) == (
        "0.2500",
        False,
        "0.1250",
        True,
    ) and first["interval"] == "0.2400 to 0.2600"
    assert section["why_not"] == ["FID: n = 2"] and section["metrics"][0]["n_photographs"] == 2
