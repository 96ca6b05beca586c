"""The pictures of the report: contact sheets, the worst images of each method, and samples of the data.

Every picture becomes a data URI, so that the page needs no file beside it: JPEG for photographs, PNG for masks. Which
images are shown is a rule, never a choice by hand: the median, the worst and the best image by the task's leading
metric of its best method, then images drawn by a fixed seed, photographs that aren't shown yet first.
"""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from pipeline import images, seeds, tables
from pipeline.data import datasets, renditions
from pipeline.report.numbers import Results, number, stated
from pipeline.tasks import METRICS, TASKS, compose, shown_input

TILE, STRIP = 256, 128
"""Longest side in pixels of a tile of a contact sheet, and of a part of a strip; smaller pictures keep their size."""

ERROR_CEILING = 64
"""Error maps are brightest at this mean absolute difference, of 255 grey levels."""

THRESHOLD = 0.5
"""Localization: from this probability on a pixel counts as found in the second view."""

FOUND, FALSE_ALARM, MISSED = (255, 255, 255), (240, 140, 0), (60, 130, 255)


@dataclass(frozen=True)
class Tile:
    """One picture of a contact sheet. `second` is the other view that the sheet can be switched to: the error map, or
    in localization what was found and missed."""

    name: str
    kind: str  # input, mask, truth, method
    source: str
    second: str | None = None
    note: str = ""
    trained: bool = True


@dataclass(frozen=True)
class Row:
    """One image of a contact sheet: by which rule it is there, what it is, its tiles."""

    rule: str
    image_id: str
    about: str
    tiles: list[Tile]


@dataclass(frozen=True)
class Strip:
    """Input, output and truth of one image in one picture."""

    source: str
    image_id: str
    note: str


class Shown:
    """The test items of a task as the page shows them, each decoded once."""

    def __init__(self, results: Results, predictions: Path, size: int):
        first = results.methods[results.order[0]]
        folders = [Path(folder) for folder in first["data"]]
        self.results, self.predictions, self.task = results, predictions, TASKS[results.task]
        self.dataset = datasets.for_testing(results.task, folders, size, "test", **first["options"])
        self.number_of = {name: number for number, name in enumerate(self.dataset.ids)}
        self.decoded: dict[str, datasets.Item] = {}

    def item(self, image_id: str) -> datasets.Item:
        if image_id not in self.decoded:
            self.decoded[image_id] = self.dataset.item(self.number_of[image_id])
        return self.decoded[image_id]

    def output(self, model: str, image_id: str) -> np.ndarray:
        """What was scored: uint8 RGB (H, W, 3), or (H, W) probabilities times 255 in localization."""
        picture = images.read_rgb(self.predictions / model / "test" / f"{image_id}.png")
        picture = picture[..., 0] if self.task.region is None else picture
        return compose(self.results.task, picture, self.item(image_id))

    def start(self, image_id: str) -> np.ndarray:
        """What a method is given: the composite, or the photograph with its hole in grey."""
        return shown_input(self.results.task, self.item(image_id))

    def truth(self, image_id: str) -> np.ndarray:
        """What a method should find: the mask, the real photograph."""
        return self.item(image_id)[self.task.truth]

    def second(self, output: np.ndarray, image_id: str) -> np.ndarray:
        """The other view of an output, see `Tile`."""
        if self.task.region is None:
            return hits_and_misses(self.item(image_id)["composite"], output >= 255 * THRESHOLD, self.truth(image_id))
        return error_map(output, self.truth(image_id))


def contact_sheet(shown: Shown, rows: int) -> list[Row]:
    """Input, mask, truth and every method's output for `rows` images (fewer where there are fewer)."""
    results = shown.results
    scores = results.tested.pivot(index="image_id", columns="model", values=results.leading)
    described = results.tested.drop_duplicates("image_id").set_index("image_id")
    sheet = []
    for rule, image_id in picks(results, rows):
        truth = shown.truth(image_id)
        tiles = [Tile("input", "input", encode(shown.start(image_id)))]
        if shown.task.region and shown.task.truth != shown.task.picture:
            tiles.append(Tile("mask", "mask", encode(shown.item(image_id)["mask"])))
        tiles.append(Tile("truth", "truth", encode(truth)))
        for model in results.order:
            output = shown.output(model, image_id)
            note = number(scores.loc[image_id, model], results.leading)
            tiles.append(
                Tile(
                    model,
                    "method",
                    encode(output),
                    encode(shown.second(output, image_id)),
                    note,
                    results.methods[model]["trained"],
                )
            )
        sheet.append(Row(rule, image_id, about(described.loc[image_id]), tiles))
    return sheet


def picks(results: Results, rows: int) -> list[tuple[str, str]]:
    """(rule, image_id) of the images to show, see the head of this file."""
    metric, best = results.leading, results.order[0]
    part = results.tested[(results.tested["model"] == best) & results.tested[results.leading].notna()]
    order = list(
        part.sort_values([metric, "image_id"], ascending=[not results.metrics[metric], True], kind="stable")["image_id"]
    )
    if not order:
        return []
    chosen = {order[(len(order) - 1) // 2]: "median"}
    chosen.setdefault(order[-1], "worst")
    chosen.setdefault(order[0], "best")
    photograph = dict(zip(part["image_id"], part["photograph"]))
    left = sorted(set(order) - set(chosen), key=lambda image_id: seeds.derive("contact sheet", results.task, image_id))
    while left and len(chosen) < rows:
        seen = Counter(photograph[image_id] for image_id in chosen)
        # the first in drawn order among the least seen
        drawn = min(left, key=lambda image_id: seen[photograph[image_id]])
        left.remove(drawn)
        chosen[drawn] = "random"
    return [(rule, image_id) for image_id, rule in chosen.items()][:rows]


def about(row: pd.Series) -> str:
    """An image in words: where it is from and what makes it easy or hard."""
    if "hole_ratio" in row:
        return f"{row['subset']}, hole {row['hole_ratio']:.0%}"
    parts = [
        row["subset"],
        stated(row["transfer"]),
        stated(row["category"]),
        f"foreground {row['foreground_ratio']:.0%}",
    ]
    return ", ".join(part for part in parts if part)


def worst(shown: Shown, model: str, many: int) -> list[Strip]:
    """The images that a method does worst on by the leading metric, the worst first."""
    results = shown.results
    metric = results.leading
    part = results.tested[(results.tested["model"] == model) & results.tested[metric].notna()]
    part = part.sort_values([metric, "image_id"], ascending=[results.metrics[metric], True], kind="stable").head(many)
    strips = []
    for _, row in part.iterrows():
        image_id = row["image_id"]
        start = shown.start(image_id)
        if shown.task.region and shown.task.truth != shown.task.picture:
            start = outlined(start, shown.item(image_id)["mask"])
        parts = [start, shown.output(model, image_id), shown.truth(image_id)]
        note = f"{METRICS[metric].label} {number(row[metric], metric)}"
        strips.append(Strip(encode(beside(parts), 3 * STRIP + 2 * 4), image_id, f"{note} · {about(row)}"))
    return strips


def transfer_sheet(folder: Path, pairs: pd.DataFrame, references: Path | None, rows: int) -> dict[str, list[dict]]:
    """Samples of a sub-dataset for each transfer: real photograph, mask, composite, and what lent the foreground its
    colours: the reference with its object outlined, the other rendition or moment, or the simulated one, made again.

    The rows are drawn by a fixed seed. `references` is the folder data/sources/<source> of the references; it is read
    where a row names one, and may be None where none does. A row: pair_id, note, tiles (name, source). A set that isn't ours may lack the real
    photograph and the reference.
    """
    lenders = _Lenders(references)
    sheet = {}
    named = pairs.assign(transfer=[stated(value) or "not known" for value in pairs["transfer"]])
    for transfer, part in named.groupby("transfer"):
        order = sorted(part["pair_id"], key=lambda pair_id: seeds.derive("data sheet", folder.name, pair_id))[:rows]
        made = []
        for _, row in part.set_index("pair_id").loc[order].iterrows():
            composite = images.read_rgb(folder / row["composite"])
            mask = images.read_mask(folder / row["mask"], size=composite.shape[:2])
            real = images.read_rgb(folder / row["real"]) if stated(row["real"]) else None
            tiles = [("mask", mask), ("composite", composite)]
            if real is not None:
                tiles.insert(0, ("real", real))
            if row.get("simulated"):
                assert real is not None  # it is a rendition of the real photograph
                tiles.append(("simulated rendition", renditions.BY_TRANSFER[row["transfer"]](real, row["seed"])))
            elif stated(row["reference_image"]):
                tiles.append(
                    ("reference", lenders.picture(row["reference_image"], stated(row.get("reference_object"))))
                )
            note = ", ".join(
                part for part in (stated(row["category"]), f"foreground {row['foreground_ratio']:.0%}") if part
            )
            made.append(
                {
                    "pair_id": row.name,
                    "note": note,
                    "tiles": [{"name": name, "source": encode(picture, 192)} for name, picture in tiles],
                }
            )
        sheet[transfer] = made
    return sheet


class _Lenders:
    """Reference photographs of a source, their objects outlined; the source's tables are read at the first use."""

    def __init__(self, root: Path | None):
        self.root = root if root is not None else Path()  # never read where no row names a reference
        self.photographs: pd.Series | None = None
        self.objects: pd.Series | None = None

    def picture(self, image_id: str, object_id: str) -> np.ndarray:
        if self.photographs is None or self.objects is None:
            self.photographs = tables.read(self.root / "photographs.parquet", ["image_id", "image"]).set_index(
                "image_id"
            )["image"]
            objects = tables.read(self.root / "instances.parquet", ["image_id", "instance_id", "mask"])
            self.objects = objects.set_index(["image_id", "instance_id"])["mask"]
        photograph = images.read_rgb(self.root / self.photographs[image_id])
        if not object_id:
            return photograph
        return outlined(
            photograph, images.read_mask(self.root / self.objects[image_id, object_id], size=photograph.shape[:2])
        )


def mask_sheet(root: Path, masks: pd.DataFrame) -> dict:
    """Irregular masks by kind and hole-ratio bucket: one mask of each cell, and how many there are.

    {"buckets": [...], "rows": [{"kind", "cells": [{"source", "n"}]}]}; an empty cell's source is None.
    """
    buckets = sorted(masks["hole_ratio_bucket"].unique(), key=lambda bucket: float(bucket.split("-")[0]))
    rows = []
    for kind, part in masks.groupby("kind"):
        cells = []
        for bucket in buckets:
            inside = part[part["hole_ratio_bucket"] == bucket].sort_values("mask_id")
            cells.append(
                {
                    "n": len(inside),
                    "source": encode(images.read_mask(root / inside["mask"].iloc[0]), 96) if len(inside) else None,
                }
            )
        rows.append({"kind": kind, "cells": cells})
    return {"buckets": buckets, "rows": rows}


def error_map(output: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute difference of two uint8 RGB pictures, black at 0 to bright at ERROR_CEILING and above, as RGB."""
    difference = np.abs(output.astype(np.float32) - truth.astype(np.float32)).mean(axis=2)
    level = np.clip(np.rint(difference * (255 / ERROR_CEILING)), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def hits_and_misses(composite: np.ndarray, detected: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The composite in dim grey; what was found in FOUND, falsely found in FALSE_ALARM, not found in MISSED.

    uint8 RGB (H, W, 3), bool (H, W) twice -> uint8 RGB.
    """
    grey = cv2.cvtColor(composite, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2).astype(np.float32) * 0.45
    for where, colour in ((detected & mask, FOUND), (detected & ~mask, FALSE_ALARM), (~detected & mask, MISSED)):
        grey[where] = 0.45 * grey[where] + 0.7 * np.array(colour, np.float32)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the edge of the mask drawn: white inside, black outside, thick enough to survive shrinking."""
    thick = max(1, round(max(mask.shape) / 120))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thick + 1, 2 * thick + 1))
    area = mask.astype(np.uint8)
    # the mask goes on beyond the frame: no line is drawn along it
    inner = cv2.erode(area, kernel, borderType=cv2.BORDER_REPLICATE).astype(bool)
    outer = cv2.dilate(area, kernel, borderType=cv2.BORDER_REPLICATE).astype(bool)
    drawn = picture.copy()
    drawn[outer & ~mask] = 0
    drawn[mask & ~inner] = 255
    return drawn


def beside(parts: list[np.ndarray], side: int = STRIP, gap: int = 4) -> np.ndarray:
    """Pictures of one size side by side on grey, each at most `side` wide or high."""
    rgb = [fitted(picture, side) for picture in parts]
    rgb = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2) for picture in rgb]
    height = rgb[0].shape[0]
    gutter = np.full((height, gap, 3), 128, np.uint8)
    return np.concatenate([piece for picture in rgb for piece in (gutter, picture)][1:], axis=1)


def fitted(array: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) or (H, W), shrunk so that no side is longer than `side`; a mask becomes uint8, 255 = in."""
    array = array.astype(np.uint8) * 255 if array.dtype == bool else array
    height, width = array.shape[:2]
    if max(height, width) <= side:
        return array
    scale = side / max(height, width)
    return cv2.resize(
        array, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )


def encode(array: np.ndarray, side: int = TILE) -> str:
    """A data URI: bool masks (H, W) as PNG, uint8 pictures (H, W, 3) and maps (H, W) as JPEG of quality 85."""
    text, content = io.BytesIO(), fitted(array, side)
    picture = Image.fromarray(content)
    if array.dtype == bool:
        picture.convert("1" if content.shape == array.shape else "L").save(text, "PNG", optimize=True)
    else:
        picture.save(text, "JPEG", quality=85, subsampling="4:2:0", optimize=True)
    kind = "png" if array.dtype == bool else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(text.getvalue()).decode()}"
