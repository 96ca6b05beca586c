import numpy as np
import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.scoring import protocol_comparison, protocols
from pipeline.scoring.statistics import Resampling

OPTIONS = {"resampling": Resampling(1, 200, 0.9)}


def scores() -> pd.DataFrame:
    """Two models on four images of two sub-datasets: under saic `a` loses 3 dB and `b` 1 dB, so that `b` is better there."""
    rows = []
    for model, seam, saic in (("a", [30, 32, 34, 40], [27, 29, 31, 37]), ("b", [29, 31, 33, 39], [28, 30, 32, 38])):
        for number, (subset, image) in enumerate([("X", "1"), ("X", "2"), ("X", "3"), ("Y", "4")]):
            values = {
                "seam-256 psnr": seam[number],
                "seam-256 ssim": 0.5,
                "saic psnr": saic[number],
                "saic fpsnr": np.nan if image == "2" else 20.0,
            }
            rows.append(
                {
                    "model": model,
                    "repeat": 1,
                    "subset": subset,
                    "split": "test",
                    "image_id": image,
                    "photograph": f"p{number}",
                }
                | values
            )
    return pd.DataFrame(rows)


@pytest.fixture
def table():
    made = protocol_comparison.table("harmonization", scores(), 256, **OPTIONS)
    return made.set_index(["subset", "protocol", "metric", "model"])


def test_means_gaps_and_ranks_by_hand(table):
    seam, saic = table.loc[("All", "seam-256", "psnr", "a")], table.loc[("All", "saic", "psnr", "a")]
    assert (seam["mean"], saic["mean"], saic["gap"], saic["gap_low"], saic["gap_high"], seam["gap"]) == (
        34,
        31,
        -3,
        -3,
        -3,
        0,
    )
    assert table.loc[("All", "saic", "psnr", "b"), "gap"] == -1 and table.loc[("X", "saic", "psnr", "b"), "mean"] == 30
    # one dB everywhere is certain: the protocol turns the order round
    ranks = table["rank"].unstack("model").loc["All"]
    assert ranks.loc[("seam-256", "psnr")].to_dict() == {"a": 1, "b": 2} and ranks.loc[("saic", "psnr")].to_dict() == {
        "a": 2,
        "b": 1,
    }
    assert saic["low"] <= saic["mean"] <= saic["high"] and saic["low"] < saic["high"]


def test_images_that_a_metric_is_undefined_for_are_counted(table):
    row = table.loc[("All", "saic", "fpsnr", "b")]
    assert (row["n_images"], row["n_excluded"], row["mean"]) == (4, 1, 20) and np.isnan(row["gap"])
    assert table.loc[("Y", "seam-256", "psnr", "a"), ["n_images", "n_excluded"]].tolist() == [1, 0]


def test_every_row_says_what_it_can_not_say(table):
    assert (table.loc[("All", "seam-256"), "caveat"] == "").all()
    assert (
        table.loc[("All", "saic", "psnr", "a"), "caveat"]
        == next(record.caveat for record in protocols.harmonization.PROTOCOLS if record.name == "saic")
        != ""
    )
    small = protocol_comparison.table("harmonization", scores(), 64, **OPTIONS)
    assert small["caveat"].str.startswith("scored at 64 pixels in place of 256").all()


def test_nothing_scored_nothing_told():
    empty = protocol_comparison.table("harmonization", scores().iloc[:0], 256, **OPTIONS)
    assert list(empty.columns) == list(protocol_comparison.COLUMNS) and empty.empty


@pytest.mark.parametrize("change", [lambda frame: frame.iloc[1:], lambda frame: pd.concat([frame, frame.iloc[:1]])])
def test_models_must_share_their_images(change):
    with pytest.raises(UserError, match=r"^the models were not scored on the same images, each once: \{'a': "):
        protocol_comparison.table("harmonization", change(scores()), 256, **OPTIONS)


def test_intervals_are_over_trainings_too():
    first = scores()
    second = first[first["model"] == "a"].assign(repeat=2)
    second["seam-256 psnr"] += 8
    second["saic psnr"] += 10
    made = protocol_comparison.table("harmonization", pd.concat([first, second]), 256, **OPTIONS)
    made = made[made["subset"] == "All"].set_index(["protocol", "metric", "model"])
    a, b = made.loc[("saic", "psnr", "a")], made.loc[("saic", "psnr", "b")]
    # trainings of 31 and 41 dB; 3 dB below seam-256 in the first, 1 dB in the second
    assert (a["mean"], a["gap"], a["n_images"], a["n_repeats"]) == (36, -2, 4, 2)
    assert a["repeat_sd"] == pytest.approx(10 / 2**0.5)
    # on every photograph the gap is the same, so that its interval is that of the trainings alone
    assert (a["gap_low"], a["gap_high"]) == (-3, -1)
    assert (b["mean"], b["gap_low"], b["gap_high"], b["n_repeats"]) == (32, -1, -1, 1) and np.isnan(b["repeat_sd"])
    # the first training of `a` is worse than `b` everywhere, the second better: which is better depends on the seed
    assert (a["rank"], a["rank_worst"], b["rank"]) == (1, 2, 1)
