"""Inference: in this process while the work is short, else a Ray Data job whose actors load the network once.

torch is imported when a network is loaded: a method that works on arrays (models/arrays.py) does without.
Predictions are saved as the network drew them, 8-bit PNG; what is scored and shown is composed from them later
(pipeline/scoring/image_scores.py).
"""

import functools
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from models.arrays import ArrayMethod
from pipeline import images, params
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.running import cluster, parallel
from pipeline.tasks import TASKS

if TYPE_CHECKING:
    from models.base import Model

OUTSIDE = 1e-3
"""How far a prediction may leave [0, 1] by rounding errors, which saving cuts off."""

COLUMNS = ["image_id", "prediction", "sha256"]


def ready_model(name: str, hyperparameters: dict, weights: Path | None) -> "Model | ArrayMethod":
    """A method as it predicts: built, and with its weights if it has any."""
    if weights is None:
        return params.build_method(name, hyperparameters)
    from pipeline.networks import weights as trained

    if "backbone_weights" in hyperparameters:
        hyperparameters = hyperparameters | {
            "backbone_weights": "none"
        }  # what training began with is not needed any more
    model = params.build_model(name, hyperparameters)
    trained.load_weights(model, weights)
    return model


def draw_by_itself(method: ArrayMethod, items: list[datasets.Item]) -> np.ndarray:
    """What a method that works on arrays draws of one item: (1, 1, C, H, W), expected in [0, 1]."""
    (item,), task = items, TASKS[method.task]
    given = {key: datasets.in_floats(item[key]) for key in (task.picture, task.region) if key}
    return np.atleast_3d(method.draw(given)).transpose(2, 0, 1)[None, None]


class Predictor:
    """A method, loaded once, that turns item numbers into saved predictions.

    `build_model` gives the ready model (weights loaded), `build_data` the dataset whose items are asked for. Of a network
    that draws several answers it saves `samples`: the first beside all other predictions, the others in the folder
    "samples"; rows then say the number of the sample, from 1. With `full_size` every picture has its own size, and is
    predicted as pipeline/networks/full_size.py says; batch_size is then 1.
    """

    def __init__(
        self,
        build_model: Callable,
        build_data: Callable,
        out: Path,
        device: str,
        batch_size: int,
        samples: int = 1,
        full_size: bool = False,
    ):
        self.samples, self.full_size = samples, full_size
        self.draw: Callable[[list[datasets.Item]], np.ndarray]
        method = build_model()
        if isinstance(method, ArrayMethod):
            self.draw, self.together = functools.partial(draw_by_itself, method), 1
        else:
            from pipeline.networks.drawing import Network

            self.draw, self.together = Network(method, device, samples, full_size), batch_size
        self.dataset, self.out, self.batch_size = build_data(), out, batch_size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Ray Data's batch format: {"first": [number of a batch's first item]} to the manifest's columns of its items,
        and "refused", which is empty or the words of a UserError: Ray Data would wrap the error itself beyond recognition."""
        (first,) = batch["first"]
        try:
            rows = [row | {"refused": ""} for row in self.predict(int(first))]
        except UserError as error:
            rows = [{"image_id": "", "prediction": "", "sha256": "", "refused": str(error)}]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    def predict(self, first: int) -> list[dict]:
        """The batch that begins with this item: the same items together, whoever predicts them."""
        numbers = range(first, min(first + self.batch_size, len(self.dataset)))
        few = (numbers[place : place + self.together] for place in range(0, len(numbers), self.together))
        return [row for drawn in few for row in self._predict_together(drawn)]

    def _predict_together(self, numbers: range) -> list[dict]:
        items = [self.dataset.item(number) for number in numbers]
        try:
            drawings = self.draw(items)
        except ValueError as error:
            raise UserError(f"the network refuses {self.dataset.ids[numbers[0]]}: {error}") from error
        rows = []
        for place, number in enumerate(numbers):
            name = self.dataset.ids[number]
            if self.samples == 1:
                rows.append(self._saved(name, drawings[0][place], f"{name}.png"))
                continue
            for sample, drawing in enumerate(drawings, 1):
                file = f"{name}.png" if sample == 1 else f"samples/{name}_{sample}.png"
                rows.append(self._saved(name, drawing[place], file) | {"sample": sample})
        return rows

    def _saved(self, name: str, prediction: np.ndarray, file: str) -> dict:
        if not np.isfinite(prediction).all():
            raise UserError(f"the network's prediction for {name} is not finite")
        low, high = float(prediction.min()), float(prediction.max())
        if low < -OUTSIDE or high > 1 + OUTSIDE:
            raise UserError(
                f"the network's prediction for {name} has values in [{low:.6g}, {high:.6g}], expected [0, 1]"
            )
        # a large picture takes longer to pack than to draw
        images.write_png(self.out / file, images.to_uint8(prediction), effort=1 if self.full_size else 6)
        return {
            "image_id": name,
            "prediction": file,
            "sha256": hashlib.sha256((self.out / file).read_bytes()).hexdigest(),
        }


def predict_all(
    build_model: Callable, build_data: Callable, out: Path, *, batch_size: int, device: str, describe: str, **how: Any
) -> pd.DataFrame:
    """Predict every item of a dataset into `out`; returns image_id, prediction and sha256, ordered by image_id, and what
    else `how`, further arguments of Predictor, makes of it.

    On a CPU the first batches are predicted in this process, and all of them while the work is short. Once it pays
    (`parallel.pays`), and always on GPUs, the rest goes to actors of Ray Data: one per GPU, or one per core. Whoever predicts
    has one thread and the same batches, so the bytes are the same. A killed actor is replaced and its batch done again.
    With SEAMBENCH_RAY=off everything is predicted in this process.
    """
    if cluster.plain():
        return predict_plain(
            build_model, build_data, out, batch_size=batch_size, device=device, describe=describe, **how
        )
    rows: list[dict] = []
    if device == "cpu":
        rows, first, count = _predict_here(build_model, build_data, out, batch_size, describe, **how)
    else:
        first, count = 0, len(build_data())
    if first < count:
        rows += _predict_by_actors(
            build_model, build_data, out, range(first, count, batch_size), count, device, batch_size, describe, how
        )
    return _table(rows)


def predict_plain(
    build_model: Callable,
    build_data: Callable,
    out: Path,
    *,
    batch_size: int,
    device: str = "cpu",
    describe: str = "predict",
    **how: Any,
) -> pd.DataFrame:
    """The same as `predict_all`, in this process, without Ray."""
    rows, _, _ = _predict_here(build_model, build_data, out, batch_size, describe, device, to_the_end=True, **how)
    return _table(rows)


def _table(rows: list[dict]) -> pd.DataFrame:
    if rows and "sample" in rows[0]:
        return pd.DataFrame(rows).sort_values(["image_id", "sample"], ignore_index=True)
    return pd.DataFrame(rows, columns=COLUMNS, dtype="str").sort_values("image_id", ignore_index=True)


def _predict_here(
    build_model: Callable,
    build_data: Callable,
    out: Path,
    batch_size: int,
    describe: str,
    device: str = "cpu",
    to_the_end: bool = False,
    **how: Any,
) -> tuple[list[dict], int, int]:
    """Predict batch after batch, to the end or until the rest would be done earlier by actors. Returns the rows, the number of
    the first item that isn't done, and the number of items."""
    count = len(build_data())
    if not count:
        return [], 0, 0
    rows: list[dict] = []
    with Progress(describe, count * how.get("samples", 1)) as progress:
        predictor = Predictor(build_model, build_data, out, device, batch_size, **how)
        started = time.monotonic()
        for first in range(0, count, batch_size):
            if not to_the_end and parallel.pays(first, count, time.monotonic() - started):
                return rows, first, count
            made = predictor.predict(first)
            rows += made
            progress.add(len(made))
    return rows, count, count


def _predict_by_actors(
    build_model: Callable,
    build_data: Callable,
    out: Path,
    firsts: range,
    count: int,
    device: str,
    batch_size: int,
    describe: str,
    how: dict[str, Any],
) -> list[dict]:
    """The batches that begin with these items of `count`, predicted by actors of Ray Data."""
    import ray
    import ray.data

    with cluster.session():
        if device == "gpu":
            cluster.require_gpus(1)
        for name in ("ray.data", "ray.data.dataset", "ray.data._internal"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = 0
        share = cluster.gpu_share() if device == "gpu" else 0
        actors = min(cluster.gpu_workers() if share else cluster.cores(), len(firsts))
        # from_items, because its blocks are there already: a task that reads them would wait for a core that the
        # actors never give back
        predicted = ray.data.from_items(
            [{"first": first} for first in firsts], override_num_blocks=len(firsts)
        ).map_batches(
            Predictor,
            fn_constructor_args=(build_model, build_data, out.absolute(), device, batch_size),
            fn_constructor_kwargs=how,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=share,
        )
        rows = []
        with (
            cluster.waiting(describe) as heard,
            Progress(describe, (count - firsts[0]) * how.get("samples", 1)) as progress,
        ):
            for row in predicted.iter_rows():
                if refused := row.pop("refused"):
                    raise UserError(refused)
                rows.append(row)
                heard()
                progress.add()
    return rows
