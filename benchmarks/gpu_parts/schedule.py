"""Who is measured when, and for how long, within a fixed number of seconds.

Parts follow each other: the first gives every network its turn, later ones go on while time is left. Nothing here looks at a
clock, so that all of it can be worked out by hand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PARTS = ("plain", "graphs", "loader", "compile")
"""plain: fp32, bf16, bf16 with channels_last. graphs: CUDA graphs. loader: waiting for data. compile: torch.compile."""


@dataclass(frozen=True)
class Part:
    """Seconds, and a share of the whole."""

    share: float
    """of all seconds, by whose end a part should be over; what it leaves is its successors'"""
    least: float
    """seconds below which its turn isn't worth beginning"""
    most: float
    """seconds that a turn aims at where there is time enough"""
    patience: float
    """seconds after which a turn is ended whatever it aims at: compiling and first calls take time that no aim shortens"""


LIMITS = {
    "plain": Part(share=0.55, least=0.0, most=12.0, patience=40.0),
    "graphs": Part(share=0.15, least=1.0, most=5.0, patience=30.0),
    "loader": Part(share=0.1, least=1.0, most=4.0, patience=30.0),
    "compile": Part(share=0.2, least=15.0, most=3.0, patience=120.0),
}


@dataclass(frozen=True)
class Turn:
    """Seconds: what a turn aims at, and when it is ended."""

    aim: float
    limit: float


def ends(seconds: float, parts: Sequence[str]) -> dict[str, float]:
    """Seconds after the beginning at which each of `parts` should be over; the last one at `seconds`."""
    whole, passed, moments = sum(LIMITS[part].share for part in parts), 0.0, {}
    for part in parts:
        passed += LIMITS[part].share
        moments[part] = seconds * passed / whole
    return moments


def turn(part: str, now: float, end: float, seconds: float, turns: int) -> Turn | None:
    """The next turn of a part, or None where its time is used up.

    now: seconds since the beginning. end: when the part should be over. seconds: when everything must be.
    turns: how many of this part are left, this one included.

    Of the time to `end` every turn gets the same. The part "plain" gives a turn to each network while there is any time at
    all; another ends where turns would get too short, but for "compile", whose turns can't be made shorter and are
    taken one after the other while there is time for one.
    """
    limits, left = LIMITS[part], seconds - now
    aim = max(0.0, end - now) / turns
    if part == "compile":
        aim = limits.most
    if left <= 0 or left < limits.least or (part in ("graphs", "loader") and end - now < limits.least):
        return None
    aim = max(min(aim, limits.most, left), min(limits.least, limits.most, left))
    return Turn(aim, min(left, max(limits.patience, 4 * aim)))


def likeliest(names: Iterable[str], reached: dict[str, float]) -> list[str]:
    """Networks in the order in which torch.compile and CUDA graphs are likely to help: first those whose steps reach the least
    arithmetic per second, which wait for memory or for the launch of small kernels. Of the others nothing is known."""
    return sorted(names, key=lambda name: (name not in reached, reached.get(name, 0.0)))
