"""What every protocol's scores look like."""

from typing import NamedTuple

SEAM = "seam-256"
"""The protocol that Seambench adopts; all others are held against it."""


class Row(NamedTuple):
    """One score: the protocol's name, the metric and its value (NaN: the protocol has no value for this image)."""

    protocol: str
    metric: str
    value: float
