"""What networks are fed: composites with their masks, photographs with holes.

Manifests in, uint8 arrays out. A dataset knows nothing of devices or batches; `collate` makes the float32 batch
that models/base.py describes.
"""

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from pipeline import images, seeds, tables
from pipeline.data import mask_transforms
from pipeline.data.kept import Decoded, Latest, Shrunk
from pipeline.errors import ParameterError, UserError
from pipeline.tasks import TASKS

if TYPE_CHECKING:
    import torch

ORIGINAL: Final = "original"
Original = Literal["original"]

Item = dict[str, np.ndarray]
"""uint8 RGB (H, W, 3) under composite, real, image; bool (H, W) under mask, hole."""

PAIR_FILES = ("composite", "mask", "real")
LARGEST_HOLE = 0.6
"""Share of the picture to which published masks go: no variant of a mask goes beyond it."""


def pairs(subsets: list[Path], split: str, max_foreground: float = 1.0) -> pd.DataFrame:
    """The rows of pairs.parquet of these sub-datasets in one split, files as paths from the working folder; `real` is
    missing where there is no ground truth.

    `subsets` are folders data/composites/<subset> or data/real/<set>. Composites whose foreground share is above
    `max_foreground` are left out. Raises UserError when no row is left.
    """
    frames = []
    for subset in subsets:
        frame = tables.read(subset / "pairs.parquet")
        frame = frame[(frame["split"] == split) & (frame["foreground_ratio"] <= max_foreground)]
        frames.append(
            frame.assign(
                **{
                    key: [str(subset / name) if isinstance(name, str) else None for name in frame[key]]
                    for key in PAIR_FILES
                }
            )
        )
    rows = pd.concat(frames, ignore_index=True).sort_values("pair_id", kind="stable", ignore_index=True)
    if rows.empty:
        raise UserError(
            f"no {split} composite in {', '.join(map(str, subsets))} with a foreground of at most {max_foreground:g}"
        )
    _refuse_clashes(frames, subsets)
    return rows


def _refuse_clashes(frames: list[pd.DataFrame], folders: list[Path]) -> None:
    """Raise UserError where two folders hold composites of one name, or sub-datasets of one name: tables could not tell them apart."""
    for column, what in (("pair_id", "composites"), ("subset", "sub-datasets")):
        owner: dict[str, Path] = {}
        for frame, folder in zip(frames, folders):
            for name in frame[column].unique():
                if owner.setdefault(name, folder) != folder:
                    raise UserError(
                        f"{owner[name]} and {folder} both have {what} called {name}; name or number them otherwise"
                    )


def evenly(total: int, count: int) -> list[int]:
    """Numbers of at most `count` of `total` items, evenly over them: sets are sorted by name, so that their beginning
    would be one sub-dataset."""
    count = min(total, count)
    return [number * total // count for number in range(count)]


def photographs(root: Path, split: str) -> pd.DataFrame:
    """The rows of a source's photographs.parquet in one split, `image` as a path from the working folder."""
    frame = tables.read(root / "photographs.parquet")
    frame = frame[frame["split"] == split].sort_values("image_id", ignore_index=True)
    if frame.empty:
        raise UserError(f"{root / 'photographs.parquet'}: no photograph in the split {split!r}")
    return frame.assign(image=[str(root / name) for name in frame["image"]])


class Composites:
    """Composites with mask and real image, as items of (size, size) pixels, or without a size of the files' own.

    `rows` needs the columns pair_id, composite, mask and real (file paths; real may be missing on sets without
    ground truth, the item then has no "real").
    """

    def __init__(self, rows: pd.DataFrame, size: int | None, masks_by_area: bool = False):
        self.masks_by_area = masks_by_area
        self.rows, self.size = rows.reset_index(drop=True), size
        self.decoded: Decoded | Latest = Decoded()
        self.shrunk = Shrunk()
        self.ids = list(rows["pair_id"])

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Item:
        """As `fitted` says, read from its files."""
        return self.fitted(self.original(index))

    def fitted(self, full: Item) -> Item:
        """An item at its original size, resized as the protocol seam-256 does: images bilinear with antialiasing; masks
        nearest (harmonization) or by area and a threshold of one half (localization). See docs/protocol.md."""
        if self.size is None:
            return full
        if self.masks_by_area and full["mask"].shape != (self.size, self.size):
            soft = cv2.resize(full["mask"].astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA)
            pictures = {key: value for key, value in full.items() if key != "mask"}
            return {"mask": soft >= 0.5} | {
                key: images.resize(value, (self.size, self.size), "image") for key, value in pictures.items()
            }
        return {
            key: images.resize(value, (self.size, self.size), "mask" if value.dtype == bool else "image")
            for key, value in full.items()
        }

    def original_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the composite's file."""
        return images.header_size(self.rows.iloc[index]["composite"], max_pixels=images.PILLOW_LIMIT)

    def framed(self, picture: np.ndarray) -> np.ndarray:
        """What of a picture of the original's size is an item: all of it."""
        return picture

    def item_at(self, index: int, size: tuple[int, int]) -> Item:
        """The item at its original size, or fitted to another square."""
        full = self.original(index)
        if full["composite"].shape[:2] == size:
            return full
        other = copy.copy(self)
        other.size = size[0]
        return other.fitted(full)

    def augmented(self, index: int, augmentation, *seed) -> Item:
        """A random resized crop and flip that belong to `seed`; colours are never touched, they are the label."""
        assert self.size is not None  # a batch of training has one size
        rng = seeds.rng(*seed)
        if augmentation.crop is None:
            return self._whole(index, augmentation.flip and rng.random() < 0.5)
        full = self.original(index)
        height, width = full["mask"].shape
        for _ in range(4):
            top, left, side_y, side_x = _crop_box(rng, height, width, augmentation.crop)
            window: tuple[slice, slice] = np.s_[top : top + side_y, left : left + side_x]
            if full["mask"][window].sum() > 10:
                break
        else:
            window = np.s_[:, :]
        flip = augmentation.flip and rng.random() < 0.5
        return {key: _resized(value[window], self.size, flip) for key, value in full.items()}

    def _whole(self, index: int, flip: bool) -> Item:
        """An item of training without a crop, which is the same in every epoch."""
        side = self.size
        assert side is not None  # a batch of training has one size

        def make() -> np.ndarray:
            full = self._read(index, Latest())  # the originals won't be needed again
            shrunk = {key: _resized(full[key], side, flip) for key in keys}
            return np.dstack([shrunk[key].view(np.uint8) for key in keys])

        row = self.rows.iloc[index]
        keys = [key for key in PAIR_FILES if isinstance(row[key], str)]
        layers = self.shrunk([row[key] for key in keys], f"{side}{' flipped' if flip else ''}", make)
        item, first = {}, 0
        for key in keys:
            if key == "mask":
                item[key], first = layers[..., first].view(bool), first + 1
            else:
                item[key], first = layers[..., first : first + 3], first + 3
        return item

    def original(self, index: int) -> Item:
        """An item as its files hold it. Raises UserError naming two files that differ in size."""
        return self._read(index, self.decoded)

    def _read(self, index: int, decoded: Decoded | Latest) -> Item:
        row = self.rows.iloc[index]
        composite = decoded(images.read_rgb, row["composite"])
        item = {"composite": composite, "mask": decoded(images.read_mask, row["mask"])}
        if isinstance(row["real"], str):
            item["real"] = decoded(images.read_rgb, row["real"])
        for key, picture in item.items():
            if picture.shape[:2] != composite.shape[:2]:
                raise UserError(
                    f"{row[key]} is {_size(picture)} and {row['composite']} is {_size(composite)}; they must be equal"
                )
        return item


class Holes:
    """Photographs with irregular holes, as items of (size, size) pixels, or without a size of the centre square's own.

    `rows` needs image_id and image; `masks` needs mask (file paths). With `assigned` (image_id, hole_ratio_bucket,
    mask; one row per item) the pairs are fixed; without it each draw takes a mask at random and varies it as
    `mask_augmentation` (schema.MaskAugmentation) says; None takes masks as they are.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        masks: pd.DataFrame,
        size: int | None,
        assigned: pd.DataFrame | None = None,
        mask_augmentation=None,
    ):
        self.mask_augmentation = mask_augmentation
        self.masks, self.size = list(masks["mask"]), size
        self.decoded: Decoded | Latest = Decoded()
        if assigned is None:
            self.files, self.ids, self.fixed = list(rows["image"]), list(rows["image_id"]), None
        else:
            if odd := set(assigned["image_id"]) ^ set(rows["image_id"]):
                raise UserError(
                    f"masks are assigned to other photographs than are tested: {sorted(odd)[0]} is on one side only"
                )
            merged = assigned.merge(rows[["image_id", "image"]], on="image_id", validate="many_to_one")
            self.files, self.fixed = list(merged["image"]), list(merged["mask"])
            self.ids = [
                f"{image_id}_{bucket}" for image_id, bucket in zip(merged["image_id"], merged["hole_ratio_bucket"])
            ]
            self.rows = merged

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Item:
        """The centre square of the photograph, bicubic with antialiasing (docs/protocol.md), and its assigned mask
        (without one: the mask of its number)."""
        picture = _centre_square(self.decoded(images.read_rgb, self.files[index]))
        mask = self.fixed[index] if self.fixed else self.masks[index % len(self.masks)]
        side = self.size or picture.shape[0]
        if picture.shape[:2] != (side, side):
            picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        return {"image": picture, "hole": self._hole(mask, side)}

    def original_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the photograph's file."""
        return images.header_size(self.files[index], max_pixels=images.PILLOW_LIMIT)

    def framed(self, picture: np.ndarray) -> np.ndarray:
        """What of a picture of the original's size is an item: its centre square."""
        return _centre_square(picture)

    def item_at(self, index: int, size: tuple[int, int]) -> Item:
        """The item in another square than the set's, its mask enlarged or shrunk from the file."""
        other = copy.copy(self)
        other.size = size[0]
        return other.item(index)

    def augmented(self, index: int, augmentation, *seed) -> Item:
        """A random square crop and flip, and a random mask, itself varied, that belong to `seed`."""
        assert self.size is not None  # a batch of training has one size
        rng = seeds.rng(*seed)
        picture = _centre_square(self.decoded(images.read_rgb, self.files[index]))
        side = picture.shape[0]
        top, left, side_y, side_x = _crop_box(rng, side, side, augmentation.crop)
        picture = picture[top : top + side_y, left : left + side_x]
        hole = self._hole(self.masks[rng.integers(len(self.masks))], self.size)
        if self.mask_augmentation is not None:
            how = self.mask_augmentation
            varied = mask_transforms.augment(
                hole, seeds.derive(*seed, "hole"), how.flips, how.rotations, how.dilation, how.crop
            )
            hole = varied if varied.mean() <= max(LARGEST_HOLE, hole.mean()) else hole
        return {"image": _resized(picture, self.size, augmentation.flip and rng.random() < 0.5), "hole": hole}

    def _hole(self, file: str, side: int) -> np.ndarray:
        return images.resize(self.decoded(images.read_mask, file), (side, side), "mask")


def for_training(
    task: str,
    data: list[Path],
    size: int,
    max_foreground: float = 1.0,
    mask_augmentation=None,
    shrunk_in: Path | None = None,
) -> tuple:
    """(training set, validation set) of a task from its data folders.

    localization, harmonization: data = sub-datasets, data/composites/<subset> each
    inpainting: data = [data/sources/<source>, data/irregular_masks]; training draws its masks from those of the
    training split and varies them by `mask_augmentation`, validation gives each photograph one of them

    shrunk_in: folder for composites at training's size that don't fit into memory, see kept.Shrunk
    """
    if TASKS[task].trains_on == "photographs":
        source, masks = _source_and_masks(task, data)
        holes = hole_masks(masks, "train")
        return tuple(
            Holes(photographs(source, split), holes, size, mask_augmentation=mask_augmentation)
            for split in ("train", "val")
        )
    sets = [
        Composites(pairs(data, split, max_foreground), size, TASKS[task].region is None) for split in ("train", "val")
    ]
    sets[0].shrunk = Shrunk(shrunk_in)
    return tuple(sets)


def _source_and_masks(task: str, data: list[Path]) -> list[Path]:
    if len(data) != 2:
        given = " ".join(map(str, data)) or "none"
        raise ParameterError(
            f"--data {given}: {task} takes two folders, the photographs of a source and the irregular masks"
        )
    return data


def test_splits(task: str, data: list[Path]) -> list[str]:
    """Names of the splits that a method is tested on, with these data folders: "test", and each real set under its own."""
    if TASKS[task].trains_on == "photographs":
        return ["test"]
    splits = {split for folder in data for split in tables.read(folder / "pairs.parquet", ["split"])["split"].unique()}
    if "test" not in splits:
        raise UserError(f"no composite in {', '.join(map(str, data))} is in the split test")
    return sorted(splits - {"train", "val"}, key=lambda split: (split != "test", split))


def at_side(side: int | Original) -> str:
    """Name of the split "test" at another side in pixels than `image_size`, "test@512", or at the pictures' own sizes,
    "test@original". No real set can have one."""
    return f"test@{side}"


def side_of(split: str) -> int | Original | None:
    """The side in pixels that a split's name carries, "original", or None for a split at `image_size`."""
    _, at, side = split.partition("@")
    if not at:
        return None
    return ORIGINAL if side == ORIGINAL else int(side)


def by_side(side: int | Original) -> float:
    """A key to sort sides by: the pictures' own sizes come last."""
    return math.inf if side == ORIGINAL else side


def for_testing(
    task: str, data: list[Path], size: int, split: str, max_foreground: float = 1.0
) -> "Composites | Holes":
    """The set that a method is tested on; data as in `for_training`. In inpainting every photograph comes with the
    masks assigned to it, one of each hole-ratio bucket.

    A split such as "test@512" is "test" at that side in place of `size`, without the pictures whose shorter side is
    below it, which resizing would have to invent; it may be empty. In "test@original" every picture has its own size, and
    few are kept in memory.
    """
    side = side_of(split)
    if side == ORIGINAL:
        dataset = _for_testing(task, data, None, None, split.partition("@")[0], max_foreground)
        dataset.decoded = Latest()
        return dataset
    return _for_testing(task, data, side or size, side, split.partition("@")[0], max_foreground)


def _for_testing(
    task: str, data: list[Path], size: int | None, side: int | None, split: str, max_foreground: float
) -> "Composites | Holes":
    if TASKS[task].trains_on == "photographs":
        source, masks = _source_and_masks(task, data)
        rows, assigned = photographs(source, split), tables.read(masks / "assigned.parquet")
        assigned = assigned.assign(mask=[str(masks / name) for name in assigned["mask"]])
        if side:
            rows = rows[_large_enough(rows["image"], side)]
            assigned = assigned[assigned["image_id"].isin(rows["image_id"])]
        return Holes(rows, hole_masks(masks, split), size, assigned)
    rows = pairs(data, split, max_foreground)
    if side:
        rows = rows[_large_enough(rows["composite"], side)]
    return Composites(rows, size, TASKS[task].region is None)


def _large_enough(files: pd.Series, side: int) -> list[bool]:
    return [min(images.header_size(file, max_pixels=images.PILLOW_LIMIT)) >= side for file in files]


def scored(task: str, dataset: "Composites | Holes") -> int:
    """How many items a task's metrics can be taken of: harmonization needs the real image."""
    return int(dataset.rows["real"].notna().sum()) if TASKS[task].truth == "real" else len(dataset)


def manifests(data: list[Path]) -> list[Path]:
    """The tables that say, by sha256, what stands in these data folders."""
    names = ("pairs.parquet", "overlaps.parquet", "photographs.parquet", "masks.parquet", "assigned.parquet")
    return [folder / name for folder in data for name in names if (folder / name).exists()]


def hole_masks(root: Path, split: str) -> pd.DataFrame:
    """The masks of one split, `mask` as a path from the working folder."""
    frame = tables.read(root / "masks.parquet")
    frame = frame[frame["split"] == split]
    if frame.empty:
        raise UserError(f"{root / 'masks.parquet'}: no mask in the split {split!r}")
    return frame.assign(mask=[str(root / name) for name in frame["mask"]])


def in_floats(array: np.ndarray) -> np.ndarray:
    """An item's picture as float32 in [0, 1], or its mask as it is: what a method that works on arrays is given."""
    return array if array.dtype == bool else array.astype(np.float32) / 255


def collate(items: list[Item]) -> "dict[str, torch.Tensor]":
    """A batch: float32 tensors in [0, 1], images (N, 3, H, W), masks (N, 1, H, W)."""
    import torch

    batch = {}
    for key in items[0]:
        stacked = torch.from_numpy(np.stack([item[key] for item in items]))
        # contiguous, because torch 2.15 on a CPU corrupted memory in the backward pass of channels-last convolutions (seen: unet, width 8, 64 px)
        batch[key] = (
            stacked[:, None].float()
            if stacked.dtype == torch.bool
            else stacked.permute(0, 3, 1, 2).contiguous().float() / 255
        )
    return batch


def _crop_box(rng: np.random.Generator, height: int, width: int, share) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop whose area share lies in `share` (None: everything), its aspect ratio
    within 3:4 and 4:3 of the picture's."""
    if share is None:
        return 0, 0, height, width
    area = rng.uniform(share.low, share.high)
    stretch = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)) / 2)
    side_y = min(height, max(1, round(height * np.sqrt(area) * stretch)))
    side_x = min(width, max(1, round(width * np.sqrt(area) / stretch)))
    return int(rng.integers(height - side_y + 1)), int(rng.integers(width - side_x + 1)), side_y, side_x


def _resized(array: np.ndarray, size: int, flip: bool) -> np.ndarray:
    """Training pictures: area-weighted when they shrink, which costs a tenth of Pillow's antialiasing."""
    array = np.ascontiguousarray(array)
    pixels = array.view(np.uint8) if array.dtype == bool else array
    if flip:
        pixels = cv2.flip(pixels, 1)  # a tenth of the time that NumPy takes to copy a mirrored view
    if array.dtype == bool:
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_NEAREST).view(bool)
    shrinks = min(array.shape[:2]) > size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _centre_square(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
