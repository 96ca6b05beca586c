"""What pydantic finds wrong with params.yaml, in one line for a person.

Imported by name, when something is wrong: the words of an error are no dependency of the stages that could raise it.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.params.schema import SUBSET_KINDS, Params


def one_line(error: ValidationError) -> str:
    # a misspelled key is also reported as missing; the spelling is what the reader wants to hear of
    first, *others = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    # parts in square brackets are pydantic's own: the key of a mapping, the kind of a sub-dataset
    place = [str(part) for part in first["loc"] if not str(part).startswith("[")]
    key = ".".join(place) or "the file"
    value = first["input"]
    shown = f" = {value!r}" if isinstance(value, (str, int, float, bool, type(None), list)) else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(list(map(str, first["loc"][:-1])))
        near = difflib.get_close_matches(place[-1], known, n=1)
        message = f"{key} is not a parameter" + (
            f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        )
    elif first["type"] == "missing":
        message = f"{key} is missing; expected {_expected(first)}"
    else:
        message = f"{key}{shown}: {_expected(first)}"
    message += f" (and {len(others)} more)" if others else ""
    return " ".join(message.splitlines())  # a key may hold line ends


def _expected(problem: Mapping[str, Any]) -> str:
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "a value here"
    if kind in ("model_type", "dict_type"):
        return "expected keys and values"
    if kind in ("too_short", "too_long"):
        bound = f"at least {limits['min_length']}" if kind == "too_short" else f"at most {limits['max_length']}"
        return f"expected {bound} of them, found {limits['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"expected text of the form {limits['pattern']}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _keys_at(place: list[str]) -> list[str]:
    """Names of the fields of the block at a place in the file."""
    block: type[BaseModel] = Params
    for part in place:
        if part in SUBSET_KINDS:
            block = SUBSET_KINDS[part]
            continue
        field = block.model_fields.get(part) if isinstance(block, type) and issubclass(block, BaseModel) else None
        annotation = field.annotation if field else block
        block = next((inner for inner in _blocks_in(annotation)), block)
    return list(block.model_fields)


def _blocks_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for argument in getattr(annotation, "__args__", ()) for block in _blocks_in(argument)]
