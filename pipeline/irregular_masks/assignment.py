"""Which test image gets which mask."""

from collections.abc import Iterable

import pandas as pd

from pipeline import seeds


def assign(image_ids: Iterable[str], masks: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One mask of every bucket for every image: columns image_id, hole_ratio_bucket, mask_id, mask, hole_ratio.

    `masks` are the rows of masks.parquet of one split, in any order. The pair (image, bucket) is drawn by the seed and
    the image's id alone, so that the masks of one image don't depend on which others are evaluated or in what order
    (the published protocol's "mask i for image i" does); masks are therefore used evenly only on average. Rows come
    in the order of the ids, then of the buckets. Raises ValueError for ids or mask ids that repeat, for masks of
    several splits and for none.
    """
    image_ids = [str(image_id) for image_id in image_ids]
    if len(set(image_ids)) < len(image_ids):
        raise ValueError(
            f"image id {next(image_id for image_id in image_ids if image_ids.count(image_id) > 1)!r} is given twice"
        )
    if masks.empty:
        raise ValueError("no masks to assign")
    if "split" in masks and masks["split"].nunique() > 1:
        splits = ", ".join(sorted(masks["split"].unique()))
        raise ValueError(f"masks of the splits {splits} together; pass the rows of one split")
    if masks["mask_id"].duplicated().any():
        raise ValueError(f"mask id {masks['mask_id'][masks['mask_id'].duplicated()].iloc[0]!r} is given twice")
    buckets = {
        bucket: list(rows.itertuples()) for bucket, rows in masks.sort_values("mask_id").groupby("hole_ratio_bucket")
    }
    chosen = []
    for image_id in image_ids:
        for bucket in sorted(buckets, key=lambda name: float(name.split("-")[0])):
            among = buckets[bucket]
            mask = among[seeds.derive(int(seed), "assign", image_id, bucket) % len(among)]
            chosen.append((image_id, bucket, mask.mask_id, mask.mask, mask.hole_ratio))
    return pd.DataFrame(chosen, columns=["image_id", "hole_ratio_bucket", "mask_id", "mask", "hole_ratio"])
