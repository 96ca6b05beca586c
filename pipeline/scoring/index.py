"""artifacts/index/<task>/<model>.json: what inference states of a method, read back only as inference writes it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import reading
from pipeline.errors import UserError

Count = Field(ge=0)


class Split(BaseModel):
    """`predictions` is the sha256 of the split's predictions.parquet; `n_scored` counts images with a ground truth."""

    model_config = ConfigDict(strict=True)

    n_images: int = Count
    n_scored: int = Count
    predictions: str


class Index(BaseModel):
    """`truth` holds the sha256 of the tables that the data folders `data` had."""

    model_config = ConfigDict(strict=True)

    task: Literal["localization", "harmonization", "inpainting"]
    model: str
    n_parameters: int = Count
    trained: bool
    data: list[str]
    options: dict[str, Any]
    truth: list[str]
    splits: dict[str, Split]


def read(file: Path) -> dict:
    """The content of an index file. Raises UserError, naming file and key, for one that isn't as inference writes it."""
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
        raise UserError(f"{file}: {place} = {shown}: {first['msg'].replace('Input should be', 'expected')}; {anew} anew") from None
    return content


def _content(file: Path, anew: str) -> Any:
    if not file.exists():
        raise UserError(f"{file}: no such file; {anew}")
    try:
        return reading.as_json(file)
    except UserError as error:
        raise UserError(f"{error}; {anew} anew") from None
