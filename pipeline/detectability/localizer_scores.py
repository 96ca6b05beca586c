"""What a trained localizer sees of composites, before and after each harmonizer (tables: pipeline/detectability/credits.py)."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import images, tables
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.metrics import localization
from pipeline.networks import predictor
from pipeline.scoring import predictions as saved
from pipeline.tasks import compose

BEFORE = "before"

MEASURES = ("ap", "inside")
"""ap: average precision of the map against the mask, as in localization. inside: mean probability inside the mask."""

METRICS = tuple(f"{measure}_{when}" for measure in MEASURES for when in ("before", "after", "credit"))
"""credit = before - after, above 0 where less is found than before."""

PER_IMAGE = ("localizer", "model", "subset", "split", "image_id", "photograph", *METRICS)
"""`model` is the harmonizer."""


class Looks:
    """What a localizer is shown: every composite of all test splits, and every harmonizer's version of it, as items of
    (size, size) pixels with the ids before/<split>/<image_id> and <model>/<split>/<image_id>.

    data: folders data/composites/<subset> and data/real/<set>. predictions: folder of the predictions of all `models`.
    Composites above `max_foreground` are left out, as in localization. Raises UserError naming the harmonizer or the
    file where a prediction is missing, was changed after inference or has another size.
    """

    def __init__(self, data: list[Path], predictions: Path, models: list[str], size: int, max_foreground: float):
        self.size, self.shown = size, []
        self.composites: dict[str, datasets.Composites] = {}
        self.masks: dict[str, datasets.Composites] = {}
        self.last: dict[int, tuple[tuple[str, int], datasets.Item]] = {}
        for split in datasets.test_splits("harmonization", data):
            rows = datasets.pairs(data, split, max_foreground).assign(real=None)  # nobody looks at the truth
            # pasted with the mask of harmonization, held against that of localization: they differ at the edge
            self.composites[split] = datasets.Composites(rows, size)
            self.masks[split] = datasets.Composites(rows, size, masks_by_area=True)
            predicted = {model: _predicted(predictions / model / split, list(rows["pair_id"])) for model in models}
            for number in range(len(rows)):
                self.shown += [
                    (BEFORE, split, number, None, ""),
                    *((model, split, number, *predicted[model][number]) for model in models),
                ]
        self.ids = [f"{model}/{split}/{self.composites[split].ids[number]}" for model, split, number, *_ in self.shown]

    def __len__(self) -> int:
        return len(self.shown)

    def item(self, index: int) -> datasets.Item:
        _, split, number, file, sha256 = self.shown[index]
        item = self._decoded(self.composites, split, number)
        if file is None:
            return {"composite": item["composite"]}
        return {"composite": compose("harmonization", saved.read(file, sha256, self.size), item)}

    def mask(self, index: int) -> np.ndarray:
        """bool (size, size): where the pasted region is."""
        _, split, number, *_ = self.shown[index]
        return self._decoded(self.masks, split, number)["mask"]

    def _decoded(self, sets: dict, split: str, number: int) -> datasets.Item:
        """An item of a split; the one asked for last is kept, since all looks at a composite follow one another."""
        if id(sets) not in self.last or self.last[id(sets)][0] != (split, number):
            self.last[id(sets)] = (split, number), sets[split].item(number)
        return self.last[id(sets)][1]

    def about(self, index: int) -> dict:
        model, split, number, *_ = self.shown[index]
        row = self.composites[split].rows.iloc[number]
        return {
            "model": model,
            "subset": row["subset"],
            "split": split,
            "image_id": row["pair_id"],
            "photograph": row["source_image"],
        }


def _predicted(folder: Path, ids: list[str]) -> list[tuple[Path, str]]:
    """File and sha256 of each image's prediction."""
    manifest = tables.read(folder / "predictions.parquet", ["image_id", "prediction", "sha256"])
    twice = manifest["image_id"][manifest["image_id"].duplicated()]
    if len(twice):
        raise UserError(f"{folder / 'predictions.parquet'}: {twice.iloc[0]} occurs twice")
    manifest = manifest.set_index("image_id")
    if missing := sorted(set(ids) - set(manifest.index)):
        raise UserError(
            f"{folder / 'predictions.parquet'} has no prediction for {missing[0]}; `dvc repro models/dvc.yaml:infer-{folder.parent.name}` makes it"
        )
    return [(folder / row.prediction, row.sha256) for row in manifest.loc[ids].itertuples()]


def look(localizer: str, build_model, looks: dict, maps: Path, *, batch_size: int, device: str) -> pd.DataFrame:
    """One localizer's view of every composite before and after every harmonizer: a row of PER_IMAGE per (model, image).

    build_model: gives the localizer, weights loaded. looks: arguments of `Looks`. maps: a folder for its probability
    maps, which are 8-bit as in localization; it is removed in the end. An image whose mask is empty at this size is
    NaN: excluded, and counted.
    """
    try:
        predictor.predict_all(
            build_model,
            functools.partial(Looks, **looks),
            maps,
            batch_size=batch_size,
            device=device,
            describe=f"detect {localizer}",
        )
        shown = Looks(**looks)
        rows = []
        for index, name in enumerate(shown.ids):
            probability, mask = images.read_rgb(maps / f"{name}.png")[..., 0] / 255.0, shown.mask(index)
            values = (
                (localization.average_precision(probability, mask), float(probability[mask].mean()))
                if mask.any()
                else (np.nan, np.nan)
            )
            rows.append(shown.about(index) | dict(zip(MEASURES, values)))
    finally:
        shutil.rmtree(maps, ignore_errors=True)
    frame = pd.DataFrame(rows).assign(localizer=localizer)
    key = ["split", "image_id"]
    before = frame[frame["model"] == BEFORE].set_index(key)[list(MEASURES)].add_suffix("_before")
    after = (
        frame[frame["model"] != BEFORE]
        .rename(columns={measure: f"{measure}_after" for measure in MEASURES})
        .join(before, on=key)
    )
    after = after.assign(
        **{f"{measure}_credit": after[f"{measure}_before"] - after[f"{measure}_after"] for measure in MEASURES}
    )
    return after[list(PER_IMAGE)].sort_values(["localizer", "model", "split", "subset", "image_id"], ignore_index=True)
