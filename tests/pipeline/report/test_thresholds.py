"""The report's section of thresholds: a row per method, the best of each column, and three charts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from pipeline.report import thresholds
from pipeline.tasks import TASKS

SHOWN = TASKS["localization"].shown_beside


def results():
    base = dict.fromkeys(SHOWN, 0.5) | {"subset": "All", "split": "test"}
    rows = [
        base
        | {
            "model": "unet",
            "threshold": 0.25,
            "threshold_from": "12 validation images",
            "f1_val": 0.75,
            "ap_inverted": 0.1,
        },
        base
        | {
            "model": "theirs",
            "threshold": np.nan,
            "threshold_from": "made elsewhere",
            "f1_val": np.nan,
            "ap_inverted": 0.2,
        },
        base | {"model": "unet", "split": "rhm", "threshold": 0.9, "threshold_from": "", "f1_val": 0.1},
    ]
    methods = {"unet": {"trained": True}, "theirs": {"trained": False}}
    return SimpleNamespace(
        task="localization", summary=pd.DataFrame(rows), order=["unet", "theirs"], methods=methods, trained=["unet"]
    )


def curves():
    levels = np.arange(256) / 255
    columns = {
        "subset": "All",
        "split": "test",
        "threshold": levels,
        "recall": 1 - levels,
        "false_positive_rate": (1 - levels) ** 2,
    }
    columns |= {"precision": np.where(levels < 1, 0.5 + levels / 2, 0), "f1": levels * (1 - levels), "iou": levels / 4}
    return pd.concat([pd.DataFrame({"model": name, **columns}) for name in ("unet", "theirs")])


def test_a_row_per_method_with_its_own_threshold_and_the_best_of_each_column():
    section = thresholds.section(results(), curves())
    assert [label for label, _, _ in section["metrics"]][2] == "F1 (own threshold)"
    unet, theirs = section["rows"]
    assert (unet["threshold"], unet["threshold_from"]) == ("0.250", "12 validation images")
    assert (theirs["threshold"], theirs["threshold_from"]) == ("", "made elsewhere")
    place = {name: SHOWN.index(name) for name in SHOWN}
    assert unet["cells"][place["f1_val"]] == {"text": "0.750", "best": True}
    assert not theirs["cells"][place["f1_val"]]["best"]
    assert (
        unet["cells"][place["ap_inverted"]]["best"] and not theirs["cells"][place["ap_inverted"]]["best"]
    )  # less is better
    assert unet["cells"][place["auc"]]["best"] and theirs["cells"][place["auc"]]["best"]


def test_the_same_curves_give_the_same_three_charts():
    first, second = (thresholds.section(results(), curves())["charts"] for _ in range(2))
    assert first == second and len(set(first)) == 3
    assert "false positive rate" in first[1] and "precision" in first[0]
