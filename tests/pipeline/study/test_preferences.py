import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from pipeline.errors import UserError
from pipeline.scoring import published
from pipeline.scoring.statistics import Resampling
from pipeline.study import preferences

OPTIONS = {"resampling": Resampling(0, 200, 0.95)}


def cast(*votes) -> pd.DataFrame:
    """Votes from (rater, chosen, shown) each."""
    return pd.DataFrame([{"rater": rater, "chosen": chosen, "shown": shown} for rater, chosen, shown in votes])


def test_the_founding_papers_table_comes_out_of_its_counts():
    """Region-wise Contrastive Learning (2022): 28 raters x 99 groups, the best of five."""
    counts = {"composite": 326, "dih": 521, "bargainnet": 491, "rainnet": 618, "region_contrastive": 816}
    ballots = list(itertools.chain.from_iterable([name] * count for name, count in counts.items()))
    assert len(ballots) == 28 * 99 == 2772
    votes = cast(*((f"rater {number % 28}", name, ",".join(counts)) for number, name in enumerate(ballots)))
    shares = preferences.shares(votes, **OPTIONS).set_index("model")
    assert (
        shares["n_votes"].to_dict() == counts and (shares["n_shown"] == 2772).all() and (shares["n_raters"] == 28).all()
    )
    printed = published.table()
    printed = printed[printed["metric"] == "vote_share"].set_index("model")["value"]
    assert set(printed.index) == set(counts)
    for model, share in printed.items():
        assert f"{100 * shares.loc[model, 'share']:.2f}" == f"{share:.2f}"
    assert shares["share"].sum() == pytest.approx(1) and list(shares.index)[0] == "region_contrastive"
    assert ((shares["low"] <= shares["share"]) & (shares["share"] <= shares["high"])).all()


def test_two_methods_by_hand():
    # 3 to 1: odds of 3, scores half of log 3 on either side of 0
    strengths = preferences.bradley_terry(np.array([[0.0, 3.0], [1.0, 0.0]]))
    np.testing.assert_allclose(strengths, [np.log(3) / 2, -np.log(3) / 2], atol=1e-7)


def test_a_one_sided_pair_gets_half_a_win_each_way():
    np.testing.assert_allclose(
        preferences.bradley_terry(np.array([[0.0, 4.0], [0.0, 0.0]])), [np.log(9) / 2, -np.log(9) / 2], atol=1e-7
    )
    # and only that pair: the others stay 3 to 1
    won = np.array([[0, 3, 4], [1, 0, 3], [0, 1, 0]], dtype=float)
    helped = won + np.array([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_array_equal(preferences.bradley_terry(won), preferences.bradley_terry(helped))


def likelihood(scores, won) -> float:
    """Log-likelihood of pairwise wins under Bradley and Terry's model."""
    return sum(
        won[i, j] * -np.logaddexp(0, scores[j] - scores[i]) for i in range(len(won)) for j in range(len(won)) if i != j
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5).flatmap(lambda k: st.lists(st.integers(1, 20), min_size=k * (k - 1), max_size=k * (k - 1))))
def test_the_scores_are_the_most_likely_ones(counts):
    k = round((1 + np.sqrt(1 + 4 * len(counts))) / 2)
    won = np.zeros((k, k))
    won[~np.eye(k, dtype=bool)] = counts
    strengths = preferences.bradley_terry(won)
    best = optimize.minimize(lambda candidate: -likelihood(candidate, won), np.zeros(k), method="BFGS").x
    np.testing.assert_allclose(strengths, best - best.mean(), atol=1e-3)
    assert strengths.mean() == pytest.approx(0, abs=1e-12)
    # many sets at once are each as if alone
    np.testing.assert_allclose(preferences.bradley_terry(np.stack([won, won.T]))[0], strengths, atol=1e-6)


def test_known_strengths_are_found_again():
    rng, names, truth = np.random.default_rng(0), ["a", "b", "c"], np.array([0.8, 0.0, -0.8])
    votes = []
    for rater in range(30):
        for i, j in list(itertools.combinations(range(3), 2)) * 10:
            first = rng.random() < 1 / (1 + np.exp(truth[j] - truth[i]))
            votes.append((f"r{rater}", names[i if first else j], f"{names[i]},{names[j]}"))
    scored = preferences.scores(cast(*votes), names, **OPTIONS).set_index("model")
    assert (
        list(scored.index) == names and (scored["n_comparisons"] == 600).all() and (scored["n_resamples"] == 200).all()
    )
    for name, score in zip(names, truth):
        assert scored.loc[name, "low"] < score < scored.loc[name, "high"]
        assert scored.loc[name, "high"] - scored.loc[name, "low"] < 0.5
    counted = preferences.pairs(cast(*votes), names).set_index(["first", "second"])
    assert (counted["n"] == 300).all() and counted.loc[("a", "b"), "wins"] + counted.loc[("b", "a"), "wins"] == 300


def test_shares_of_pairs_by_hand():
    votes = cast(("r1", "a", "a,b"), ("r1", "a", "c,a"), ("r2", "b", "a,b"), ("r2", "c", "b,c"))
    shares = preferences.shares(votes, **OPTIONS).set_index("model")
    assert shares["share"].to_dict() == {
        "a": pytest.approx(2 / 3),
        "b": pytest.approx(1 / 3),
        "c": pytest.approx(1 / 2),
    }
    assert shares["n_shown"].to_dict() == {"a": 3, "b": 3, "c": 2}


def test_one_rater_gives_scores_and_no_interval():
    scored = preferences.scores(cast(("r", "a", "a,b"), ("r", "b", "b,a")), ["a", "b"], **OPTIONS)
    assert (
        scored["score"].tolist() == [0, 0]
        and scored[["low", "high"]].isna().all(axis=None)
        and (scored["n_resamples"] == 0).all()
    )


def test_methods_that_no_vote_connects_are_refused():
    with pytest.raises(UserError, match="these votes never compare c with another method"):
        preferences.scores(cast(("r", "a", "a,b")), ["a", "b", "c"], **OPTIONS)
    with pytest.raises(UserError, match="these votes don't connect all of a, b, c, d"):
        preferences.scores(cast(("r", "a", "a,b"), ("r", "c", "c,d")), list("abcd"), **OPTIONS)


def test_resamples_that_connect_nothing_are_counted_out():
    # without rater 2 nobody compared c
    scored = preferences.scores(cast(("1", "a", "a,b"), ("2", "b", "b,c")), ["a", "b", "c"], **OPTIONS)
    assert 0 < scored["n_resamples"].iloc[0] < 200 and scored["low"].notna().all()
