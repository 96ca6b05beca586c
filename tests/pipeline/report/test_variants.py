import pandas as pd

from pipeline.report import variants
from tests.pipeline.report.test_numbers import read


def test_the_protocol_table_says_what_the_parquet_says(finished):
    results, table = read(finished), pd.read_parquet(finished / "results/harmonization/protocols.parquet")
    section = variants.protocols(results, table)
    first = section["tables"][0]
    assert first["metric"] == "PSNR" and [method["model"] for method in first["methods"]] == results.order
    stated = table[(table["subset"] == "All") & (table["metric"] == "psnr")].set_index(["protocol", "model"])
    for row in first["rows"]:
        for model, cell in zip(results.order, row["cells"]):
            assert cell["text"] == f"{stated.loc[(row['protocol'], model), 'mean']:.2f}"
    means = stated["mean"].unstack("model")
    assert section["words"]["low"]["protocol"] == means[section["words"]["first"]].idxmin()
    assert {caveat["protocol"] for caveat in section["caveats"]} == set(table["protocol"])  # 48 pixels in place of 256
    assert variants.protocols(results, table.iloc[:0]) is None


def test_resolutions_count_what_is_smaller(finished):
    results = read(finished)
    assert variants.resolutions(results) == []
    rows = [
        {
            "by": by,
            "value": side,
            "model": model,
            "metric": "fmse",
            "mean": 5.0,
            "low": 4.0,
            "high": 6.0,
            "n": n,
            "n_excluded": 0,
            "n_groups": n,
        }
        for by, counts in (("resolution", {"48": 8, "512": 3}), ("resolution_same_images", {"48": 3, "512": 3}))
        for side, n in counts.items()
        for model in results.order
    ]
    object.__setattr__(results, "breakdowns", pd.concat([results.breakdowns, pd.DataFrame(rows)]))
    every, same = variants.resolutions(results)
    assert [(side["side"], side["n"], side["smaller"]) for side in every["sides"]] == [("48", 8, 0), ("512", 3, 5)]
    own = [row | {"value": "original"} for row in rows if row["by"] == "resolution" and row["value"] == "48"]
    object.__setattr__(results, "breakdowns", pd.concat([results.breakdowns, pd.DataFrame(own)]))
    assert [(side["side"], side["n"], side["smaller"]) for side in variants.resolutions(results)[0]["sides"]] == [
        ("48", 8, 0),
        ("512", 3, 5),
        ("original", 8, 0),
    ]
    assert same["same"] and [side["smaller"] for side in same["sides"]] == [0, 0]
