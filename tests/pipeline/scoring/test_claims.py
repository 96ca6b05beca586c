import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ParameterError, UserError
from pipeline.scoring import claims
from pipeline.scoring.statistics import Difference, Resampling

PUBLISHED = (
    Path(__file__).resolve().parents[3] / "../shared/data/published_scores/harmonization_full_resolution.parquet"
)


def scores(shift: float, spread: float, photographs: int = 40) -> pd.DataFrame:
    """Two methods on two images of each photograph: b is a plus `shift`, less or more by `spread` in turns."""
    rows = []
    for photograph in range(photographs):
        for image in range(2):
            a = 10.0 + photograph
            b = a + shift + (spread if photograph % 2 else -spread)
            rows += [
                (f"p{photograph}_{image}", "a", f"p{photograph}", a),
                (f"p{photograph}_{image}", "b", f"p{photograph}", b),
            ]
    return pd.DataFrame(rows, columns=["image_id", "model", "photograph", "fmse"])


@pytest.mark.parametrize(
    "text, shift, spread, verdict",
    [
        ("a < b", 1.0, 0.5, claims.SUPPORTED),
        ("b > a", 1.0, 0.5, claims.SUPPORTED),
        ("a > b", 1.0, 0.5, claims.CONTRADICTED),
        ("b < a", 1.0, 0.5, claims.CONTRADICTED),
        ("a < b", 0.1, 5.0, claims.UNDECIDED),
    ],
)
def test_verdicts(text, shift, spread, verdict):
    answer = claims.ask(scores(shift, spread), claims.parse(text), "fmse", Resampling(1, 500))
    assert answer.verdict == verdict
    assert abs(answer.difference.mean) == pytest.approx(shift) and answer.difference.n_groups == 40
    assert (answer.photographs_needed is not None) == (verdict == claims.UNDECIDED)


def test_how_many_photographs_would_decide():
    # an interval of half width 2 about a mean of 0.5 shrinks to it with 4 squared as many photographs
    assert claims.photographs_needed(Difference(0.5, -1.5, 2.5, 0.4, 80, 0, 40)) == 40 * 16
    assert claims.photographs_needed(Difference(0.0, -1.0, 1.0, 1.0, 80, 0, 40)) is None
    assert claims.photographs_needed(Difference(1.0, math.nan, math.nan, math.nan, 1, 0, 1)) is None


def test_as_many_photographs_as_it_says_do_decide():
    few = claims.ask(scores(0.5, 2.0), claims.parse("a < b"), "fmse", Resampling(1, 2000))
    assert few.verdict == claims.UNDECIDED
    enough = scores(0.5, 2.0, photographs=2 * (int(1.3 * few.photographs_needed) // 2))
    assert claims.ask(enough, claims.parse("a < b"), "fmse", Resampling(1, 2000)).verdict == claims.SUPPORTED


@pytest.mark.parametrize("text", ["a", "a = b", "a < b < c", "a < a", "< b", ""])
def test_what_is_no_claim(text):
    with pytest.raises(ParameterError, match="is no claim|with itself"):
        claims.parse(text)


def test_tables_from_elsewhere(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("image,method,psnr\nc1_2_1.jpg,x,30\nc1_2_1,y,31\nc2_9_1.jpg,x,20\nc2_9_1,y,21\n")
    table = claims.read_scores(file, "psnr")
    assert table["photograph"].tolist() == ["c1", "c1", "c2", "c2"] and table["image_id"].tolist() == [
        "c1_2_1",
        "c1_2_1",
        "c2_9_1",
        "c2_9_1",
    ]
    answer = claims.ask(table, claims.parse("x < y"), "psnr", Resampling(0, 100))
    assert (answer.difference.mean, answer.difference.low, answer.difference.high) == (-1, -1, -1)
    # two photographs agree by chance in every second case
    assert answer.verdict == claims.UNDECIDED and answer.photographs_needed == 6


def test_five_photographs_decide_nothing_at_95_percent_and_six_may():
    assert [claims.least_photographs(level) for level in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    verdicts = {
        n: claims.ask(scores(1.0, 0.5, n), claims.parse("a < b"), "fmse", Resampling(1, 100)).verdict for n in (5, 6)
    }
    assert verdicts == {5: claims.UNDECIDED, 6: claims.SUPPORTED}


def test_a_table_that_does_not_tell_trainings_apart_has_one_of_each():
    said = claims.over_seeds(scores(1.0, 0.5), claims.parse("a < b"), "fmse")
    assert said == "training seeds: 1 of a, 1 of b; how much of the difference is the seed's is not known"


@pytest.mark.parametrize(
    "content, message",
    [
        ("image,psnr\na,1\n", "has no column 'model'"),
        ("image,method,ssim\na,x,1\n", "has no column 'psnr'"),
        ("image,method,psnr\na,x,high\n", "the column 'psnr' holds text"),
    ],
)
def test_tables_that_can_not_be_asked(tmp_path, content, message):
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        claims.read_scores(tmp_path / "scores.csv", "psnr")


def test_methods_that_are_not_there_and_images_that_one_lacks():
    with pytest.raises(UserError, match="c has no scores here; there are a, b"):
        claims.ask(scores(1, 0), claims.parse("a < c"), "fmse", Resampling(0))
    with pytest.raises(UserError, match="has scores for 79 of 80 images"):
        claims.ask(scores(1, 0).iloc[1:], claims.parse("a < b"), "fmse", Resampling(0))


def test_under_how_many_protocols_the_means_stand_so():
    rows = [
        ("p1", "a", 1.0),
        ("p1", "b", 2.0),
        ("p2", "a", 3.0),
        ("p2", "b", 2.0),
        ("p3", "a", 1.0),
        ("p3", "b", np.nan),
    ]
    table = pd.DataFrame(rows, columns=["protocol", "model", "mean"]).assign(subset="All", split="test", metric="fmse")
    assert claims.under_protocols(table, claims.parse("a < b"), "fmse", "All") == (["p1"], ["p2"])
    assert claims.under_protocols(table, claims.parse("a > b"), "fmse", "All") == (["p2"], ["p1"])
    assert claims.under_protocols(table, claims.parse("a < c"), "fmse", "All") == ([], [])


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published scores are not here")
def test_published_scores_can_be_asked():
    table = claims.read_scores(PUBLISHED, "psnr")
    answer = claims.ask(table, claims.parse("pct > pct_cnn"), "psnr", Resampling(0))
    assert answer.verdict == claims.SUPPORTED and answer.difference.n_groups == 4317
    assert answer.difference.mean == pytest.approx(0.99, abs=0.005)
    assert answer.difference.low == pytest.approx(0.89, abs=0.02) and answer.difference.high == pytest.approx(
        1.09, abs=0.02
    )
