"""From votes to preferences: shares of every design, Bradley-Terry scores of pairwise votes."""

import numpy as np
import pandas as pd

from pipeline import seeds
from pipeline.errors import UserError
from pipeline.scoring import statistics
from pipeline.scoring.statistics import Resampling

TOLERANCE = 1e-8
ROUNDS = 100_000


def shares(votes: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    """How often each method was chosen where it was shown: model, share, low, high, n_votes, n_shown, n_raters, best first.

    votes: rows of pipeline/study/votes.py. The interval resamples raters; of one rater no spread can be seen. When all
    methods are shown each time, the shares add up to 1 and are Plackett and Luce's estimates of the first choice.
    """
    shown = votes.assign(model=votes["shown"].str.split(",")).explode("model")
    shown = shown.assign(share=(shown["model"] == shown["chosen"]).astype(float))
    rows = statistics.intervals_table(shown, ["share"], ["model"], "rater", resampling=resampling)
    rows = rows.rename(columns={"mean": "share", "n": "n_shown", "n_groups": "n_raters"})
    rows = rows.assign(n_votes=shown.groupby("model")["share"].sum().reindex(rows["model"]).to_numpy().astype(int))
    columns = ["model", "share", "low", "high", "n_votes", "n_shown", "n_raters"]
    return rows[columns].sort_values("share", ascending=False, kind="stable", ignore_index=True)


def wins(votes: pd.DataFrame, names: list[str]) -> np.ndarray:
    """float (raters, methods, methods): how often each rater, in the order of their names, chose the first over the second.
    `votes` are pairwise."""
    number = {name: index for index, name in enumerate(names)}
    raters, codes = np.unique(votes["rater"], return_inverse=True)
    counts = np.zeros((len(raters), len(names), len(names)))
    for rater, shown, chosen in zip(codes, votes["shown"], votes["chosen"]):
        (other,) = [name for name in shown.split(",") if name != chosen]
        counts[rater, number[chosen], number[other]] += 1
    return counts


def pairs(votes: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """first, second, wins (of the first), n: every pair of methods that was shown together."""
    total = wins(votes, names).sum(axis=0)
    rows = [
        {"first": names[i], "second": names[j], "wins": int(total[i, j]), "n": int(total[i, j] + total[j, i])}
        for i in range(len(names)) for j in range(len(names)) if i != j and total[i, j] + total[j, i]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def bradley_terry(won: np.ndarray) -> np.ndarray:
    """Scores b with P(i is preferred to j) = e^b_i / (e^b_i + e^b_j), their mean 0; one set per leading index.

    won: float (..., k, k), wins of the row over the column. The MM update p_i <- W_i / sum_j n_ij / (p_i + p_j), p
    normalized each round, until no b moves by more than 1e-8. A pair that was compared and always ended the same way
    gets half a virtual win each way, without which its scores would run to infinity. NaN throughout where comparisons
    don't connect all methods: their scores have no common zero.
    """
    together = won + np.swapaxes(won, -1, -2)
    one_sided = (together > 0) & ((won == 0) | (np.swapaxes(won, -1, -2) == 0))
    won = won + 0.5 * one_sided
    n, total = won + np.swapaxes(won, -1, -2), won.sum(axis=-1)
    k = won.shape[-1]
    reached = (n > 0) | np.eye(k, dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(k, 2))))):
        reached = np.matmul(reached.astype(float), reached.astype(float)) > 0
    connected = reached.all(axis=(-1, -2))
    strength = np.full(total.shape, 1 / k)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(ROUNDS):
            update = total / (n / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
            update /= update.sum(axis=-1, keepdims=True)
            moved = np.abs(np.log(update / strength))[connected]
            strength = update
            if not moved.size or moved.max() < TOLERANCE:
                break
        else:
            raise ArithmeticError(f"Bradley-Terry scores still move after {ROUNDS} rounds")
        scores = np.log(strength)
    scores = scores - scores.mean(axis=-1, keepdims=True)
    return np.where(connected[..., None], scores, np.nan)


def scores(votes: pd.DataFrame, names: list[str], resampling: Resampling) -> pd.DataFrame:
    """Bradley-Terry scores of pairwise votes: model, score, low, high, n_wins, n_comparisons, n_raters, n_resamples, best first.

    The interval resamples raters, all votes of a rater together; n_resamples is how many resamples connect all methods and
    so enter it. With one rater there is none. Raises UserError when the votes don't connect all methods.
    """
    by_rater = wins(votes, names)
    total = by_rater.sum(axis=0)
    strengths = bradley_terry(total)
    if np.isnan(strengths).any():
        alone = [name for name, n in zip(names, (total + total.T).sum(axis=0)) if not n]
        raise UserError(
            f"these votes never compare {alone[0]} with another method"
            if alone
            else f"these votes don't connect all of {', '.join(names)}"
        )
    rng, n_raters = seeds.rng("raters", resampling.seed), len(by_rater)
    low = high = np.full(len(names), np.nan)
    used = 0
    if n_raters > 1:
        drawn = rng.multinomial(n_raters, np.full(n_raters, 1 / n_raters), size=resampling.resamples).astype(float)
        resampled = bradley_terry(np.einsum("sr,rij->sij", drawn, by_rater))
        used = int(np.isfinite(resampled[:, 0]).sum())
        if used:
            low, high = np.nanquantile(resampled, [(1 - resampling.level) / 2, (1 + resampling.level) / 2], axis=0)
    frame = pd.DataFrame({
        "model": names, "score": strengths, "low": low, "high": high, "n_wins": total.sum(axis=1).astype(int),
        "n_comparisons": (total + total.T).sum(axis=1).astype(int), "n_raters": n_raters, "n_resamples": used,
    })  # fmt: skip
    return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)
