"""Irregular holes for inpainting: every published generator, drawn freely or into an exact hole-ratio bucket.

`KINDS` are the irregular generators, `REGULAR_KINDS` the boxes that the same papers compare with; `generate` and
`draw` take both. Data sets of masks are made by `dataset`, existing folders read by `folder`, test images paired with
masks by `assignment`; training varies its masks by pipeline/data/mask_transforms.py.
"""

from pipeline.irregular_masks.buckets import BUCKETS, bucket_of
from pipeline.irregular_masks.generation import draw, generate
from pipeline.irregular_masks.recipes import KINDS, REGULAR_KINDS

__all__ = ["BUCKETS", "KINDS", "REGULAR_KINDS", "bucket_of", "draw", "generate"]
