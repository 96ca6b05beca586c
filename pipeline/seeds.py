"""Random numbers that depend on what they are for, never on order, time or the number of workers."""

import hashlib

import numpy as np


def derive(*parts) -> int:
    """A seed in 0 .. 2**63-1 from the parts that name a draw, such as (seed, "HCOCO", "c12", 3).

    Parts are strings, integers, floats, booleans, None and tuples of these. Their types count: 1 and "1"
    give different seeds. The value is the same on every machine and in every Python version.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(*parts) -> np.random.Generator:
    """A NumPy generator seeded by `derive(*parts)`."""
    return np.random.default_rng(derive(*parts))


def share(*parts) -> float:
    """A number in [0, 1) that belongs to the parts: ordering or splitting items by it needs no list."""
    return derive(*parts) / 2**63
