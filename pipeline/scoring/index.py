"""artifacts/index/<task>/<model>.json: what inference states of a method, read back only as inference writes it."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import atomic, reading
from pipeline.data import datasets
from pipeline.errors import UserError
from pipeline.scoring import thresholds

Count = Field(ge=0)

TRAINED, WITHOUT_WEIGHTS = "trained here", "no weights"
"""Origins of predictions that this repository's methods make by themselves."""

TRAINED_ON_REAL = "trained here, on real photographs beside the composites"
"""Origin of a localizer whose hyperparameters ask for the composites' real photographs, which the others never see."""


class Samples(BaseModel):
    """How many samples there are of each image; `predictions` is the sha256 of samples.parquet."""

    model_config = ConfigDict(strict=True)

    n: int = Field(ge=2)
    predictions: str


class Split(BaseModel):
    """`predictions` is the sha256 of the split's predictions.parquet; `n_scored` counts images with a ground truth."""

    model_config = ConfigDict(strict=True)

    n_images: int = Count
    n_scored: int = Count
    predictions: str
    samples: Samples | None = None


class Index(BaseModel):
    """`truth` holds the sha256 of the tables that the data folders `data` had; `origin` says in words where predictions come
    from; `repeat` tells the trainings of one network apart (pipeline/repeats.py); `n_parameters` is missing where nobody knows. `threshold` is a localizer's own, chosen on validation images
    (pipeline/scoring/thresholds.py); `threshold_from` says in words what it was chosen on, or why there is none. Both are
    None in tasks whose predictions are pictures."""

    model_config = ConfigDict(strict=True)

    task: Literal["localization", "harmonization", "inpainting"]
    model: str
    repeat: Annotated[int, Field(ge=1)]
    n_parameters: Annotated[int, Count] | None
    trained: bool
    origin: str
    data: list[str]
    options: dict[str, Any]
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    threshold_from: str | None
    truth: list[str]
    splits: dict[str, Split]


def read(file: Path) -> dict:
    """The content of an index file. Raises UserError, naming file and key, where it isn't as inference writes it."""
    anew = f"`dvc repro models/dvc.yaml:infer-{file.stem}` makes it"
    content = _content(file, anew)
    try:
        Index.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        if first["type"] == "missing":
            raise UserError(f"{file} does not state {place}; {anew} anew") from None
        shown = repr(first["input"])[:60]
        raise UserError(
            f"{file}: {place} = {shown}: {first['msg'].replace('Input should be', 'expected')}; {anew} anew"
        ) from None
    return content


def _content(file: Path, anew: str) -> Any:
    if not file.exists():
        raise UserError(f"{file}: no such file; {anew}")
    try:
        return reading.as_json(file)
    except UserError as error:
        raise UserError(f"{error}; {anew} anew") from None


def of_split(
    task: str, manifest: Path, predictions: pd.DataFrame, dataset: datasets.Composites | datasets.Holes
) -> dict:
    """What an index states of one split, from its predictions.parquet, `manifest`."""
    return {
        "n_images": len(predictions),
        "n_scored": datasets.scored(task, dataset),
        "predictions": hashlib.sha256(manifest.read_bytes()).hexdigest(),
    }


def of_method(
    task: str,
    model: str,
    *,
    origin: str,
    n_parameters: int | None,
    data: list[str],
    options: dict,
    splits: dict[str, dict],
    threshold: thresholds.Threshold | None = None,
    repeat: int = 1,
) -> dict:
    """The content of a method's index. data: folders as they stand in the command. options: further arguments of the test
    set. splits: `of_split` of each. threshold: of a method that predicts maps. repeat: which training
    of several."""
    return {
        "task": task,
        "model": model,
        "repeat": repeat,
        "n_parameters": n_parameters,
        "trained": origin in (TRAINED, TRAINED_ON_REAL),
        "origin": origin,
        "data": data,
        "options": options,
        "threshold": None if threshold is None else threshold.value,
        "threshold_from": None if threshold is None else threshold.origin,
        "truth": [
            hashlib.sha256(manifest.read_bytes()).hexdigest()
            for manifest in datasets.manifests([Path(folder).absolute() for folder in data])
        ],
        "splits": splits,
    }


def write(file: str | Path, content: dict) -> None:
    """Write an index, which appears whole or not at all."""
    with atomic.file(file) as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
