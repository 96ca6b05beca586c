import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.errors import UserError
from pipeline.scoring import statistics
from pipeline.scoring.statistics import (
    Resampling,
    intervals_table,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_table,
    rank,
)


def test_mean_counts_and_exclusions():
    interval = mean_interval([1.0, 2.0, np.nan, 6.0], ["a", "a", "b", "c"], resampling=Resampling(0))
    assert (interval.mean, interval.n, interval.n_excluded, interval.n_groups) == (3.0, 3, 1, 2)
    assert interval.low <= 3 <= interval.high


def test_two_groups_by_hand():
    """Photograph a has scores 0, 0, 0 and b has 4: resamples are aa (0), ab and ba (4 / 4 = 1) and bb (4)."""
    values, groups = np.array([0.0, 0, 0, 4]), np.array(["a", "a", "a", "b"])
    expected = {0.0: 0.25, 1.0: 0.5, 4.0: 0.25}
    _, _, _, resampled = statistics._resample(values[:, None], np.array([0, 0, 0, 1]), 0, 4000)
    seen, counts = np.unique(resampled, return_counts=True)
    assert seen.tolist() == list(expected)
    np.testing.assert_allclose(counts / 4000, list(expected.values()), atol=0.03)
    assert mean_interval(values, groups, resampling=Resampling(0))[:3] == (1.0, 0.0, 4.0)


def test_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2, 3, 300)
    interval = mean_interval(values, resampling=Resampling(1, 5000))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=2).confidence_interval
    assert interval.low == pytest.approx(theirs.low, abs=0.05)
    assert interval.high == pytest.approx(theirs.high, abs=0.05)


def test_intervals_cover_the_truth():
    """Of 200 samples of 30 photographs with 3 correlated images each, about 95% of the intervals hold the mean."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 3)
    covered, ignoring_groups = 0, 0
    for seed in range(200):
        values = 5 + rng.normal(0, 1, 30)[groups] + rng.normal(0, 0.3, 90)
        interval = mean_interval(values, groups, resampling=Resampling(seed, 300))
        covered += interval.low <= 5 <= interval.high
        interval = mean_interval(values, resampling=Resampling(seed, 300))
        ignoring_groups += interval.low <= 5 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99
    assert ignoring_groups / 200 < 0.82  # what treating images as independent would claim


scores = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@settings(max_examples=40, deadline=None)
@given(scores, st.integers(2, 4))
def test_copies_of_an_image_add_no_certainty(values, copies):
    groups = np.arange(len(values))
    once = mean_interval(values, groups, resampling=Resampling(5, 100))
    often = mean_interval(np.repeat(values, copies), np.repeat(groups, copies), resampling=Resampling(5, 100))
    assert often[:3] == pytest.approx(once[:3], abs=1e-9)
    assert often.n == copies * once.n and often.n_groups == once.n_groups


@settings(max_examples=40, deadline=None)
@given(scores, st.floats(-50, 50), st.floats(0.1, 10))
def test_shift_and_scale(values, shift, scale):
    values = np.array(values)
    plain = np.array(mean_interval(values, resampling=Resampling(1, 100))[:3])
    moved = mean_interval(values * scale + shift, resampling=Resampling(1, 100))[:3]
    np.testing.assert_allclose(moved, plain * scale + shift, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(values, random):
    groups = [f"photo{i % 5}" for i in range(len(values))]
    order = list(range(len(values)))
    random.shuffle(order)
    expected = mean_interval(values, groups, resampling=Resampling(2, 50))
    shuffled = mean_interval([values[i] for i in order], [groups[i] for i in order], resampling=Resampling(2, 50))
    assert shuffled == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, resampling=Resampling(1)) == mean_interval(values, resampling=Resampling(1))
    assert mean_interval(values, resampling=Resampling(1))[1:3] != mean_interval(values, resampling=Resampling(2))[1:3]


def test_all_columns_see_the_same_draws():
    values = np.random.default_rng(0).normal(size=(50, 2))
    assert mean_intervals(values, resampling=Resampling(1))[1] == pytest.approx(
        mean_interval(values[:, 1], resampling=Resampling(1))
    )


def test_nothing_to_say():
    none = mean_interval([np.nan, np.nan], resampling=Resampling(0))
    assert np.isnan(none[:3]).all() and none[3:] == (0, 2, 0)
    one_photograph = mean_interval([1.0, 3.0], ["a", "a"], resampling=Resampling(0))
    assert one_photograph.mean == 2 and np.isnan(one_photograph[1:3]).all() and one_photograph.n_groups == 1
    empty = mean_interval([], resampling=Resampling(0))
    assert np.isnan(empty.mean) and empty.n == 0


def test_paired_difference_is_sharper_than_its_parts():
    """Images differ far more than models do: only pairing shows the model that is better by 0.1 on every image."""
    rng = np.random.default_rng(0)
    easy = rng.normal(30, 5, 200)
    first, second = easy + 0.1 + rng.normal(0, 0.05, 200), easy
    difference = paired_difference(first, second, resampling=Resampling(0))
    assert 0.08 < difference.low < 0.1 < difference.high < 0.12 and difference.p == pytest.approx(2 / 1001)
    first_mean, second_mean = (mean_interval(scores, resampling=Resampling(0)) for scores in (first, second))
    assert first_mean.low < second_mean.high  # apart from each other the two intervals overlap
    back = paired_difference(second, first, resampling=Resampling(0))
    assert back[:3] == pytest.approx((-difference.mean, -difference.high, -difference.low))


def test_paired_edges():
    values = np.array([1.0, 2.0, np.nan, 4.0])
    other = np.array([1.0, np.nan, 3.0, 3.0])
    difference = paired_difference(values, other, resampling=Resampling(0))
    assert (difference.mean, difference.n, difference.n_excluded) == (0.5, 2, 2)
    same = paired_difference(values, values, resampling=Resampling(0))
    assert (same.mean, same.low, same.high, same.p, same.n) == (0, 0, 0, 1, 3)
    constant = paired_difference(np.arange(5.0) + 2, np.arange(5.0), resampling=Resampling(0))
    assert constant[:3] == (2, 2, 2)


def test_ranks_share_what_the_data_cannot_tell_apart():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 3, 400)
    noise = rng.normal(0, 0.5, (400, 4))
    table = pd.DataFrame(
        {
            "worst": image + noise[:, 0],
            "twin": image + 1 + noise[:, 1],
            "best": image + 2 + noise[:, 2],
            "other twin": image + 1.01 + noise[:, 3],
        }
    )
    ranked = rank(table, higher_is_better=True, resampling=Resampling(0)).set_index("model")
    assert ranked["rank"].to_dict() == {"best": 1, "twin": 2, "other twin": 2, "worst": 4}
    assert ranked["rank_worst"].to_dict() == {"best": 1, "twin": 3, "other twin": 3, "worst": 4}
    assert ranked.index[0] == "best" and ranked.index[-1] == "worst"
    reversed_ = rank(-table, higher_is_better=False, resampling=Resampling(0)).set_index("model")
    assert reversed_["rank"].to_dict() == ranked["rank"].to_dict()


def test_ties_need_not_be_transitive():
    """a beats c, b is tied with both: b may be first or last, and c can't be first."""
    step = np.array([1.0, -1.0] * 50)
    table = pd.DataFrame({"a": np.full(100, 0.5), "b": 0.25 + 2 * step, "c": np.zeros(100)})
    ranked = rank(table, higher_is_better=True, resampling=Resampling(0)).set_index("model")
    assert ranked["rank"].to_dict() == {"a": 1, "b": 1, "c": 2}
    assert ranked["rank_worst"].to_dict() == {"a": 2, "b": 3, "c": 3}


def test_identical_models_share_a_rank():
    values = np.arange(10.0)
    ranked = rank(
        pd.DataFrame({"a": values, "copy": values, "b": values - 1}), higher_is_better=True, resampling=Resampling(0)
    )
    assert ranked[["model", "rank", "rank_worst"]].values.tolist() == [["a", 1, 2], ["copy", 1, 2], ["b", 3, 3]]


def test_rank_of_one_model_and_of_a_model_without_scores():
    alone = rank(pd.DataFrame({"only": [1.0, 2.0]}), higher_is_better=True, resampling=Resampling(0))
    assert alone[["rank", "rank_worst"]].values.tolist() == [[1, 1]]
    silent = rank(
        pd.DataFrame({"none": [np.nan] * 3, "some": [1.0, 2.0, 3.0]}), higher_is_better=True, resampling=Resampling(0)
    )
    assert silent["model"].tolist() == ["some", "none"] and silent["n_excluded"].tolist() == [0, 3]


def rows(**models):
    return pd.concat(
        pd.DataFrame({"model": name, "image_id": [f"i{k}" for k in range(len(values))], "psnr": values})
        for name, values in models.items()
    ).assign(photo=lambda table: table["image_id"].map(lambda name: int(name[1:]) // 2))


def test_tables():
    table = rows(a=[1.0, 2, 3, 4], b=[2.0, 3, 4, 5])
    means = intervals_table(table, ["psnr"], ["model"], "photo", resampling=Resampling(0))
    assert means[["model", "metric", "mean", "n", "n_groups"]].values.tolist() == [
        ["a", "psnr", 2.5, 4, 2],
        ["b", "psnr", 3.5, 4, 2],
    ]
    pairs = paired_table(table.sample(frac=1, random_state=0), "psnr", group="photo", resampling=Resampling(0))
    assert pairs[["first", "second", "mean", "low", "high", "n_groups"]].values.tolist() == [
        ["a", "b", -1, -1, -1, 2],
        ["b", "a", 1, 1, 1, 2],
    ]
    assert paired_table(rows(a=[1.0, 2]), "psnr", resampling=Resampling(0)).empty


def test_incomplete_and_repeated_scores_are_refused():
    table = rows(a=[1.0, 2, 3, 4], b=[2.0, 3, 4, 5])
    with pytest.raises(UserError, match="model 'b' has scores for 3 of 4 images"):
        paired_table(table.iloc[:-1], "psnr", resampling=Resampling(0))
    with pytest.raises(UserError, match="1 scores occur twice, such as 'i0' of 'a'"):
        paired_table(pd.concat([table, table.iloc[:1]]), "psnr", resampling=Resampling(0))
    with pytest.raises(ValueError, match=r"models named twice: \['a'\]"):
        rank(pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), higher_is_better=True, resampling=Resampling(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0, np.inf], resampling=Resampling(0)), "1 scores are infinite"),
        (lambda: mean_interval([1.0, 2.0], ["a"], resampling=Resampling(0)), "1 groups for 2 images"),
        (lambda: mean_interval([1.0, 2.0], ["a", None], resampling=Resampling(0)), "1 images have no group"),
        (lambda: mean_interval([1.0, 2.0], resampling=Resampling(0, level=95)), "level = 95"),
        (lambda: mean_interval([1.0, 2.0], resampling=Resampling(0, 0)), "resamples = 0"),
        (lambda: mean_intervals([1.0, 2.0], resampling=Resampling(0)), r"scores have shape \(2,\)"),
        (lambda: paired_difference([1.0, 2.0], [1.0], resampling=Resampling(0)), "paired scores of 2 and 1 images"),
        (lambda: paired_difference([np.inf, 2.0], [np.inf, 1.0], resampling=Resampling(0)), "1 scores are infinite"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---- several trainings of one network


def trainings(seed: int, n_repeats: int, spread: float, offset: float = 0.0, model: str = "net") -> pd.DataFrame:
    """Scores of 40 images of 20 photographs by trainings whose means differ by `spread` on average."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, 40)
    rows = []
    for repeat in range(1, n_repeats + 1):
        shift = rng.normal(0, spread) + offset
        rows += [
            {"model": model, "repeat": repeat, "image_id": f"i{n}", "photograph": f"p{n // 2}", "x": value + shift}
            for n, value in enumerate(image)
        ]
    return pd.DataFrame(rows)


def test_a_single_training_changes_nothing():
    table = pd.concat([trainings(1, 1, 0), trainings(2, 1, 0, model="other")], ignore_index=True)
    without, resampling = table.drop(columns="repeat"), Resampling(3, 200)
    for made in (
        lambda scores: statistics.intervals_table(scores, ["x"], ["model"], "photograph", resampling=resampling),
        lambda scores: statistics.paired_table(scores, "x", "image_id", "photograph", resampling=resampling),
    ):
        pd.testing.assert_frame_equal(made(table), made(without), check_exact=True)


def test_means_over_trainings_and_their_spread_by_hand():
    rows = [
        {"model": "net", "repeat": repeat, "image_id": image, "photograph": image, "x": value}
        for repeat, values in ((1, (1.0, 3.0)), (2, (4.0, 6.0)), (3, (4.0, 12.0)))
        for image, value in zip("ab", values)
    ]
    (row,) = statistics.intervals_table(
        pd.DataFrame(rows), ["x"], ["model"], "photograph", resampling=Resampling(0, 50)
    ).to_dict("records")
    # means of the trainings: 2, 5, 8
    assert (row["mean"], row["repeat_sd"], row["n_repeats"], row["n"], row["n_groups"]) == (5.0, 3.0, 3, 2, 2)


def test_trainings_that_differ_widen_the_interval_and_equal_ones_do_not():
    resampling = Resampling(1, 2000)

    def width(table):
        (row,) = statistics.intervals_table(table, ["x"], ["model"], "photograph", resampling=resampling).to_dict(
            "records"
        )
        return row["high"] - row["low"]

    single, equal, unequal = (width(trainings(5, *how)) for how in ((1, 0.0), (3, 0.0), (3, 1.0)))
    assert equal == pytest.approx(single, abs=1e-12)
    assert unequal > 1.3 * single


def test_the_interval_over_trainings_is_that_of_drawing_them_one_by_one():
    table, resampling = trainings(7, 3, 0.5), Resampling(1, 4000)
    (row,) = statistics.intervals_table(table, ["x"], ["model"], "photograph", resampling=resampling).to_dict("records")
    wide = table.groupby(["photograph", "repeat"])["x"].mean().unstack().to_numpy()
    rng = np.random.default_rng(0)
    drawn = [wide[rng.integers(0, 20, 20)][:, rng.integers(0, 3, 3)].mean() for _ in range(4000)]
    assert (row["low"], row["high"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.06)


def test_differences_pair_every_training_with_every_other():
    table = pd.concat([trainings(1, 3, 0.5), trainings(2, 2, 0.1, 1.0, "other")], ignore_index=True)
    pairs = statistics.paired_table(table, "x", "image_id", "photograph", resampling=Resampling(1, 500))
    means = table.groupby(["model", "repeat"])["x"].mean().groupby("model").mean()
    forward, backward = pairs.set_index(["first", "second"]).loc[[("net", "other"), ("other", "net")]].itertuples()
    assert forward.mean == pytest.approx(means["net"] - means["other"]) and forward.n == 40
    assert (backward.mean, backward.low, backward.high) == pytest.approx((-forward.mean, -forward.high, -forward.low))


def test_two_methods_that_differ_by_their_seeds_alone_are_tied():
    """Of one training each the first is far better; over trainings nothing can be said."""
    table = pd.concat([trainings(1, 3, 2.0), trainings(1, 3, 2.0, model="other")], ignore_index=True)
    shift = {("net", 1): 1.0, ("net", 2): -1.0, ("net", 3): 0.0}
    table["x"] += [shift.get(key, 0.0) for key in zip(table["model"], table["repeat"])]
    first = table[table["repeat"] == 1]
    for part, ranks in ((first, [1, 2]), (table, [1, 1])):
        wide, groups = statistics.wide(part, "x", "image_id", "photograph")
        ranked = statistics.rank(wide, groups, higher_is_better=True, resampling=Resampling(1, 500))
        assert ranked["rank"].tolist() == ranks


def test_trainings_of_other_images_are_refused():
    table = trainings(1, 2, 0.1).iloc[:-1]
    with pytest.raises(UserError, match="the trainings of net were not scored on the same images"):
        statistics.intervals_table(table, ["x"], ["model"], "photograph", resampling=Resampling(1, 50))
