"""Holds a network's state dict to the one that its authors released.

Names differ between our code and theirs, so what is compared is the order of registration: the shapes, one after the
other. A released file loads by position exactly when they are equal. The digest stands in the test, so that it needs
no file from elsewhere.
"""

import hashlib
import json

from torch import nn


def shapes(module: nn.Module, skip: tuple[str, ...] = ()) -> list[list[int]]:
    """Shapes of the state dict in its order. Entries whose name ends with one of `skip` are left out."""
    return [list(value.shape) for name, value in module.state_dict().items() if not (skip and name.endswith(skip))]


def digest(listed: list[list[int]]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the shapes, written as JSON without spaces."""
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()[:16]
