"""Which composites are to be tried: for every object its draws of reference and method, before any pixel is read.

Every draw belongs to (seed, subset, real image, object, k, attempt), so the plan is the same on any number of workers.
References come from the same split as the object, never from its own photograph or scene.
"""

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from pipeline import seeds, tables
from pipeline.data.composites import filters as rules

RETOUCH, RELIGHT = "retouch", "relight"
"""Transfers that are simulated by a camera model (pipeline/data/renditions.py)."""

RENDITION, MOMENT = "rendition", "moment"
"""Transfers that take the object's pixels out of another picture of the same scene."""


@dataclass(frozen=True)
class Draw:
    """One candidate: which picture and mask lend their colours (empty for a simulated one), and how."""

    attempt: int
    transfer: str
    seed: int
    reference_image: str = ""
    reference_object: str = ""
    image: Path | None = None
    mask: Path | None = None

    @property
    def simulated(self) -> bool:
        return self.transfer in (RETOUCH, RELIGHT)


@dataclass(frozen=True)
class Target:
    """An object and, for each of its composites k = 1, 2, ..., the draws to try until one passes the filters."""

    subset: str
    image_id: str
    real: str
    object: str
    category: str
    split: str
    image: Path
    mask: Path
    foreground_ratio: float
    draws: tuple[tuple[Draw, ...], ...]


class Plan(Sequence):
    """The targets of one sub-dataset, made as they are asked for, so that a long plan needs little memory."""

    def __init__(self, name: str, subset, methods: list[str], filters, source: Path, references: Path, seed: int):
        self.name, self.subset, self.methods, self.filters, self.source, self.seed = (
            name,
            subset,
            methods,
            filters,
            source,
            seed,
        )
        columns = ["image_id", "instance_id", "category", "split", "mask", "image", "foreground_ratio", "area"]
        objects = tables.read(source / "instances.parquet", columns).sort_values(
            ["image_id", "instance_id"], ignore_index=True
        )
        photographs = tables.read(source / "photographs.parquet", ["image_id", "group", "rendition", "image"])
        photographs = photographs.assign(real=_names(photographs, subset)).sort_values("image_id", ignore_index=True)
        objects = objects.merge(
            photographs[["image_id", "group", "rendition", "real"]], on="image_id", validate="many_to_one"
        )
        if subset.recipe == "renditions":
            objects = objects[self._is_real(objects)]
        refusals = [
            rules.refusal_of_object(ratio, area, filters)
            for ratio, area in zip(objects["foreground_ratio"], objects["area"])
        ]
        passed = np.array([refusal is None for refusal in refusals], bool)
        rules_met, values = (
            zip(*(refusal for refusal in refusals if refusal is not None)) if not passed.all() else ((), ())
        )
        self._refused = objects[~passed].assign(rule=rules_met, value=values)
        objects = objects[passed]
        if subset.recipe == "transfer":
            self.pool = _Pool(references, same_source=references == source)
        else:  # iHarmony4 has one foreground per photograph here: the largest
            largest = objects.sort_values(["area", "instance_id"], ascending=[False, True], kind="stable")
            objects = largest.drop_duplicates("image_id").sort_values("image_id")
        self.objects = _Records(objects)
        self.photographs, self.scenes = _Records(photographs), photographs.groupby("group").indices

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._target(self.objects[position]) for position in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._target(self.objects[index])

    def refused(self) -> Iterator[dict]:
        """The objects that no composite is made of, as rows of rejected.parquet."""
        draw = {"k": 0, "attempt": 0, "reference_image": "", "reference_object": "", "transfer": ""}
        for row in self._refused.itertuples(index=False):
            about = {
                "subset": self.name,
                "split": row.split,
                "source_image": row.image_id,
                "object": row.instance_id,
                "category": row.category,
            }
            yield about | draw | {"simulated": self._simulated(row), "rule": row.rule, "value": float(row.value)}

    def _target(self, row) -> Target:
        number = row.instance_id if self.subset.recipe == "transfer" else "1"
        return Target(
            subset=self.name, image_id=row.image_id, real=row.real, object=number, category=row.category, split=row.split,
            image=self.source / row.image, mask=self.source / row.mask, foreground_ratio=float(row.foreground_ratio),
            draws=self._draws(row, number),
        )  # fmt: skip

    def _draws(self, row, number: str) -> tuple[tuple[Draw, ...], ...]:
        def seed_of(k: int, attempt: int) -> int:
            return seeds.derive(self.seed, self.name, row.real, number, k, attempt)

        wanted = range(1, self._how_many(row) + 1)
        attempts = range(1, self.filters.attempts + 1)
        if self.subset.recipe == "transfer":
            lenders = self.pool.lenders(row, self.subset.same_category, self.filters)
            if not lenders.count:
                return ((),) * len(wanted)
            return tuple(
                lenders.draws([(attempt, seed_of(k, attempt)) for attempt in attempts], self.methods) for k in wanted
            )
        if self._simulated(row):
            simulated = RETOUCH if self.subset.recipe == "renditions" else RELIGHT
            return tuple(tuple(Draw(attempt, simulated, seed_of(k, attempt)) for attempt in attempts) for k in wanted)
        return self._taken_from_others(row, wanted, attempts, seed_of)

    def _simulated(self, row) -> bool:
        """Whether what lends this object its pixels has to be made by a camera model."""
        return self.subset.recipe != "transfer" and not row.rendition

    def _taken_from_others(self, row, wanted: range, attempts: range, seed_of) -> tuple[tuple[Draw, ...], ...]:
        """For every wanted composite the other pictures of the scene to try, none of them under two k.

        Renditions stand in iHarmony4's order (input, experts A to E), so that k says which of the others it is; moments,
        and renditions of which fewer are wanted than there are, in an order drawn by the seed.
        """
        scene = [self.photographs[int(place)] for place in self.scenes[row.group]]
        others = [picture for picture in scene if picture.image_id != row.image_id]
        others.sort(key=lambda picture: (picture.rendition != "input", picture.rendition))
        count = min(len(wanted), max(len(others), 1))
        day2night = self.subset.recipe == "day2night"
        if day2night or count < len(others):
            others = [others[place] for place in np.random.default_rng(seed_of(0, 0)).permutation(len(others))]
        taken = MOMENT if day2night else RENDITION
        return tuple(
            tuple(
                Draw(attempt, taken, seed_of(k, attempt), picture.image_id, "", self.source / picture.image)
                for attempt, picture in zip(attempts, others[k - 1 :: count])
            )
            for k in wanted[:count]
        )

    def _how_many(self, row) -> int:
        """Composites of one object: the mean over many objects is `composites_per_object`, none exceeds the maximum."""
        whole = int(self.subset.composites_per_object)
        share = seeds.share(self.seed, self.name, "composites", row.image_id, row.instance_id)
        return min(whole + (share < self.subset.composites_per_object - whole), self.subset.max_per_object)

    def _is_real(self, objects: pd.DataFrame) -> pd.Series:
        """Which objects are of a photograph that serves as real image: of a scene that comes in several renditions, one of
        those that have a mask, drawn by the seed."""
        drawn = objects["image_id"].map(lambda image_id: seeds.share(self.seed, self.name, "real", image_id))
        return (drawn == drawn.groupby(objects["group"]).transform("min")) | (objects["rendition"] == "")


class _Records:
    """A table's rows by their number, as named tuples: pandas is much slower at finding one."""

    def __init__(self, frame: pd.DataFrame):
        self.row: Callable[..., Any] = namedtuple("Row", list(frame))  # type: ignore[misc]  # columns are known when run
        table = pyarrow.Table.from_pandas(frame, preserve_index=False).combine_chunks()
        self.columns, self.count = table.columns, len(table)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int):
        return self.row(*(column[place].as_py() for column in self.columns))


class _Pool:
    """Reference objects by split and category, each list in the order of their areas."""

    def __init__(self, root: Path, same_source: bool):
        columns = ["image_id", "instance_id", "category", "split", "mask", "image", "area"]
        frame = tables.read(root / "instances.parquet", columns).sort_values(
            ["area", "image_id", "instance_id"], ignore_index=True
        )
        areas = frame["area"].to_numpy()
        lists = {**frame.groupby("split").indices, **frame.groupby(["split", "category"]).indices}
        groups = tables.read(root / "photographs.parquet", ["image_id", "group"]).set_index("image_id")["group"]
        self.root, self.objects = root, _Records(frame[["image_id", "instance_id", "image", "mask"]])
        self.lists = {key: (rows, areas[rows]) for key, rows in lists.items()}
        self.of_group = frame.groupby(frame["image_id"].map(groups)).indices if same_source else {}

    def lenders(self, row, same_category: bool, filters) -> "_Lenders":
        """The objects that may lend their colours to this one: of the same split (and category if asked), of another
        scene, of an area within max_area_ratio either way."""
        none = np.empty(0, np.int64)
        rows, areas = self.lists.get((row.split, row.category) if same_category else row.split, (none, none))
        low = np.searchsorted(areas, max(row.area / filters.max_area_ratio, filters.min_pixels))
        high = np.searchsorted(areas, row.area * filters.max_area_ratio, side="right")
        fitting, own = rows[low:high], self.of_group.get(row.group, none)
        places = np.searchsorted(fitting, own)
        skipped = [
            int(place) for place, number in zip(places, own) if place < len(fitting) and fitting[place] == number
        ]
        return _Lenders(self, fitting, skipped)


@dataclass(frozen=True)
class _Lenders:
    """Rows of the pool, but for those at the places `skipped` (ascending): leaving them out needs no copy of the rows,
    of which COCO's commonest category has hundreds of thousands."""

    pool: _Pool
    rows: np.ndarray
    skipped: list[int]

    @property
    def count(self) -> int:
        return len(self.rows) - len(self.skipped)

    def draws(self, attempts: list[tuple[int, int]], methods: list[str]) -> tuple[Draw, ...]:
        """Reference and method of each (attempt, seed), both drawn uniformly."""
        made = []
        for attempt, seed in attempts:
            place = seeds.derive(seed, "reference") % self.count
            for skipped in self.skipped:
                place += place >= skipped
            lender = self.pool.objects[int(self.rows[place])]
            method = methods[seeds.derive(seed, "method") % len(methods)]
            files = self.pool.root / lender.image, self.pool.root / lender.mask
            made.append(Draw(attempt, method, seed, lender.image_id, lender.instance_id, *files))
        return tuple(made)


def _names(photographs: pd.DataFrame, subset) -> pd.Series:
    """What each photograph is called as a real image: prefix and id. Of a scene in several renditions only one becomes
    a real image, under the scene's name; names that bring the letter (FiveK's a0001) don't get it twice."""
    names = photographs["image_id"]
    if subset.recipe == "renditions":
        names = names.where(photographs["rendition"] == "", photographs["group"])
    return names if names.str.match(rf"{subset.prefix}\d").all() else subset.prefix + names
