"""What benchmarks measure, kept: one Parquet file per run of the suite, which a later run is held against.

A benchmark calls `record`; alone it then only prints. `python -m benchmarks` runs all that take minutes and keeps what they
recorded.
"""

import json
import os
from pathlib import Path

KEPT_IN = "SEAMBENCH_BENCH"
"""Name of the environment variable that holds the file which records are added to."""


def record(benchmark: str, row: str, quantity: str, value: float, better: str) -> None:
    """Keep a number. benchmark: the module. better: "higher" or "lower". Ratios to a peer, measured in the same run, are what can be
    compared between machines."""
    if better not in ("higher", "lower"):
        raise ValueError(f"better = {better!r}: expected higher or lower")
    if file := os.environ.get(KEPT_IN):
        with Path(file).open("a") as handle:
            handle.write(json.dumps([benchmark, row, quantity, float(value), better]) + "\n")
