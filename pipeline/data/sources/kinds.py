"""The kinds of sources of photographs: one line each.

A kind KIND is read by `read` of pipeline/data/sources/KIND.py, which is given the source's path and the keys of its block that
`takes` names, and returns photographs and rows of rejected.parquet (pipeline/data/sources/base.py).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What is known of one kind before its files are read."""

    takes: tuple[str, ...] = ()
    """Keys of the source's block in params.yaml that only some kinds have a use for, this one among them."""
    has_objects: bool = True
    """Whether its photographs come with objects; without them inpainting alone can use it."""
    may_lack_splits: bool = False
    """Whether photographs of some splits may be missing, which are then taken from others."""


KINDS = {
    "bundled": Kind(),
    "coco": Kind(takes=("crowd_objects",)),
    "fivek": Kind(takes=("mask_value", "mask_channel")),
    "timelapse": Kind(takes=("mask_value", "mask_channel")),
    "folder": Kind(takes=("lists",), has_objects=False, may_lack_splits=True),
}
