"""Saved votes of a preference study, read back: whose they are, what was chosen, and which files can't be counted."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import reading
from pipeline.errors import UserError
from pipeline.study.page import KEY_FORMAT

FORMAT = "seambench-votes"


class Picture(BaseModel):
    model_config = ConfigDict(strict=True)

    split: str
    image_id: str
    model: str


class Key(BaseModel):
    """What a key file states; `pictures` and `comparisons` by their opaque names."""

    model_config = ConfigDict(strict=True)

    study: str
    task: Literal["harmonization", "inpainting"]
    design: Literal["pairs", "best"]
    question: str
    seed: int
    models: list[str] = Field(min_length=2)
    pictures: dict[str, Picture]
    comparisons: dict[str, Annotated[list[str], Field(min_length=2)]]


class Vote(BaseModel):
    """One vote as a page saves it: what was shown from left to right, and what was chosen."""

    model_config = ConfigDict(strict=True)

    comparison: str
    shown: list[str]
    chosen: str
    milliseconds: int


class Votes(BaseModel):
    model_config = ConfigDict(strict=True)

    study: str
    design: str
    rater: str
    votes: list[Vote]
    checksum: str


VOTES = {
    "rater": str, "comparison": str, "image_id": str, "split": str, "shown": str, "chosen": str, "position": int, "seconds": float,
}  # fmt: skip
"""shown: methods from left to right, joined by commas; position: of the chosen picture, 1 = leftmost."""


def read_key(file: Path) -> dict:
    """The key that `commands.study make` wrote beside the page. Raises UserError naming a file that isn't a key."""
    key = reading.as_json(file, "no such file; `python -m commands.study make` writes a key beside each page")
    if not isinstance(key, dict) or key.get("format") != KEY_FORMAT:
        raise UserError(f"{file} is not a study's key")
    try:
        Key.model_validate(key)
    except ValidationError as error:
        raise UserError(f"{file} is not a study's key as it was written: {_wrong(error)}") from None
    for name, picture in key["pictures"].items():
        if picture["model"] not in key["models"]:
            raise UserError(
                f"{file} is not a study's key as it was written: pictures.{name} is of {picture['model']!r}, which isn't in models"
            )
    for comparison, shown in key["comparisons"].items():
        if key["design"] == "pairs" and len(shown) != 2:
            raise UserError(
                f"{file} is not a study's key as it was written: comparisons.{comparison} shows {len(shown)} pictures, not a pair"
            )
        if unknown := [picture for picture in shown if picture not in key["pictures"]]:
            raise UserError(
                f"{file} is not a study's key as it was written: comparisons.{comparison} shows {unknown[0]!r}, which isn't in pictures"
            )
    return key


def _wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place} = {repr(first['input'])[:60]}: {first['msg'].replace('Input should be', 'expected')}"


def checksum(study: str, design: str, rater: str, votes: list[dict]) -> str:
    """What the page writes under "checksum": SHA-256 over lines that say all that counts. It tells a file that was edited or
    cut short from a file as it was saved; against forgery it is no help."""
    lines = [f"{FORMAT} 1", study, design, rater]
    lines += [
        f"{vote['comparison']} {','.join(vote['shown'])} {vote['chosen']} {vote['milliseconds']}" for vote in votes
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read(files: list[Path], key: dict) -> tuple[list[dict], list[dict]]:
    """(rows of VOTES, rejected files as {"file", "reason"}): of the files that are votes of the key's study, once per rater."""
    rows, rejected = [], []
    raters: dict[str, tuple[Path, dict]] = {}
    for file in files:
        try:
            content = _checked(file, key)
            if earlier := raters.get(content["rater"]):
                same = earlier[1] == content
                raise UserError(
                    f"a copy of {earlier[0]}"
                    if same
                    else f"by the same rater as {earlier[0]}; keep the later of the two"
                )
        except UserError as error:
            rejected.append({"file": str(file), "reason": str(error)})
            continue
        raters[content["rater"]] = file, content
        rows += [_row(content["rater"], vote, key) for vote in content["votes"]]
    return rows, rejected


def _checked(file: Path, key: dict) -> dict:
    """The content of a vote file. Raises UserError with the reason why it can't be counted."""
    try:
        content = reading.as_json(file)
    except UserError as error:
        said = str(error).removeprefix(f"{file}: ")
        raise UserError("not JSON, so no saved votes" if said.startswith("not ") else said) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("not a file of votes that a study page saved")
    if content.get("study") != key["study"]:
        raise UserError(f"votes of another study ({content.get('study')}; the key is of {key['study']})")
    try:
        Votes.model_validate(content)
        fits = content["checksum"] == checksum(content["study"], content["design"], content["rater"], content["votes"])
    except ValidationError:
        fits = False
    if not fits:
        raise UserError("edited after it was saved: its checksum doesn't fit")
    seen = set()
    for vote in content["votes"]:
        name, shown = vote["comparison"], vote["shown"]
        if name in seen or sorted(shown) != key["comparisons"].get(name) or vote["chosen"] not in shown:
            raise UserError(f"edited after it was saved: its vote on {name} can't have been cast")
        seen.add(name)
    if not seen:
        raise UserError("holds no vote")
    return content


def _row(rater: str, vote: dict, key: dict) -> dict:
    model_of = {picture: key["pictures"][picture] for picture in vote["shown"]}
    chosen = model_of[vote["chosen"]]
    return {
        "rater": rater,
        "comparison": vote["comparison"],
        "image_id": chosen["image_id"],
        "split": chosen["split"],
        "shown": ",".join(picture["model"] for picture in model_of.values()),
        "chosen": chosen["model"],
        "position": 1 + vote["shown"].index(vote["chosen"]),
        "seconds": vote["milliseconds"] / 1000,
    }


def raters(votes: pd.DataFrame, key: dict) -> pd.DataFrame:
    """One row per rater: n_votes, of (how many the study asks), first_position (share of votes for the leftmost picture),
    median_seconds. What a careless rater looks like is for the reader to judge."""
    rows = votes.groupby("rater").agg(
        n_votes=("chosen", "size"),
        first_position=("position", lambda position: float((position == 1).mean())),
        median_seconds=("seconds", "median"),
    )
    return rows.reset_index().assign(of=len(key["comparisons"]))[
        ["rater", "n_votes", "of", "first_position", "median_seconds"]
    ]
