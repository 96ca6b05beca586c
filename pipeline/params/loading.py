"""params.yaml, read once into typed objects.

`load()` validates the whole file, whichever part a stage then uses, so that a slip anywhere stops every stage before it
touches anything.
"""

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from pipeline import reading
from pipeline.data.sources.kinds import KINDS
from pipeline.errors import ParameterError, UserError
from pipeline.params.schema import Params


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file.

    Raises ParameterError with one line: the file, the key, what was found and what was expected.
    """
    path = Path(path)
    try:
        content = YAML(typ="safe", pure=True).load(
            reading.text(path, "missing; `make preset NAME=embedded` writes the default")
        )
    except UserError as error:
        raise ParameterError(str(error)) from None
    except RecursionError:
        raise ParameterError(f"{path} is nested too deeply to be read") from None
    except YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        params = Params.model_validate(with_recipes(path, content))
    except ValidationError as error:
        # by name, because an edit of the words must not rerun every stage that reads parameters
        wording = importlib.import_module("pipeline.params.wording")
        raise ParameterError(f"{path}: {wording.one_line(error)}") from None
    _check_names(path, params)
    _remember_places(content, params)
    return params


def with_recipes(path: Path, content: Any) -> Any:
    """The file's content with the recipe that a training block names filled in below what the block states itself.

    Mappings are merged key by key; any other value of the block takes the place of the recipe's. Raises ParameterError for
    the name of a recipe that isn't there. What has another form than expected is left for the schema to refuse.
    """
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        return content
    recipes = content.get("recipes") or {}
    filled = {}
    for name, block in content["models"].items():
        training = block.get("training") if isinstance(block, dict) else None
        if isinstance(training, dict) and "recipe" in training and isinstance(recipes, dict):
            recipe = recipes.get(training["recipe"]) if isinstance(training["recipe"], str) else None
            if not isinstance(recipe, dict):
                there = ", ".join(recipes) or "none"
                raise ParameterError(
                    f"{path}: models.{name}.training.recipe = {training['recipe']!r}: expected one of recipes ({there})"
                )
            block = block | {"training": merged(recipe, training)}
        filled[name] = block
    return content | {"models": filled}


def merged(recipe: dict, own: dict) -> dict:
    """`recipe` with the values of `own` over it, mappings key by key."""
    both = dict(recipe)
    for key, value in own.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def _remember_places(content: dict, params: Params) -> None:
    for name, block in content["models"].items():
        params._stated[name] = set(block or {})
        training = (block or {}).get("training") or {}
        if "recipe" in training:
            places = leaves_of(content["recipes"][training["recipe"]])
            own = leaves_of(training)
            read = sorted(place for place in places if not any(place[: len(leaf)] == leaf for leaf in own))
            params._recipe_leaves[name] = [".".join(("recipes", training["recipe"], *place)) for place in read]


def leaves_of(block: Any, place: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The places of all values in a nested mapping that are no mapping themselves."""
    if not isinstance(block, dict):
        return {place}
    return {leaf for key, value in block.items() for leaf in leaves_of(value, (*place, key))}


def _check_names(path: Path, params: Params) -> None:
    """What a schema of single values can't see: names that must exist elsewhere in the file or in the code."""

    def refuse(key: str, value, expected: str) -> None:
        raise ParameterError(f"{path}: {key} = {value!r}: expected {expected}")

    _check_subsets(params, refuse)
    for name in params.real_sets:
        if name in ("train", "val", "test", "All"):
            refuse("real_sets", name, "another name; it becomes the name of a split beside train, val and test")
    if params.image_size in params.inference.resolutions:
        refuse(
            "inference.resolutions",
            params.inference.resolutions,
            f"sides other than image_size = {params.image_size}, which is scored anyway",
        )
    if params.inpainting is not None and params.inpainting.source not in params.sources:
        refuse(
            "inpainting.source", params.inpainting.source, f"one of the sources ({', '.join(params.sources) or 'none'})"
        )
    for name, block in params.models.items():
        if block.outputs is not None:
            if name in models.names():
                refuse(
                    f"models.{name}.outputs",
                    block.outputs,
                    f"another name for the method, as {name} is one of this repository",
                )
            if name == "All" or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
                refuse("models", name, "a name of letters, digits, _ and - that begins with a letter and is not All")
            if "artifacts" in (parts := Path(os.path.normpath(block.outputs)).parts)[:1] or not parts:
                refuse(
                    f"models.{name}.outputs",
                    block.outputs,
                    "a folder of your own outside artifacts/, which stages empty and write",
                )
            continue
        try:
            models.task_of(name)
        except ValueError as error:
            raise ParameterError(f"{path}: models.{name}: {error}") from None
    needed: dict[str, dict[str, object]] = {
        "localization": {"composites": params.subsets, "localization": params.localization},
        "harmonization": {"composites": params.subsets},
        "inpainting": {"inpainting": params.inpainting, "irregular_masks": params.irregular_masks},
    }
    for task in params.tasks:
        for key, stated in needed[task].items():
            if not stated:
                key = "composites.subsets" if key == "composites" else key
                raise ParameterError(
                    f"{path}: {key} is missing, which {params.models_of(task)[0]} and all methods of {task} need"
                )


def _check_subsets(params: Params, refuse: Callable) -> None:
    sources = params.sources
    prefixes: dict[str, str] = {}
    known = ", ".join(sources) or "none"
    for name, subset in params.subsets.items():
        if name == "All":
            refuse("composites.subsets", name, "another name; tables call all sub-datasets together All")
        if subset.recipe == "iharmony4":
            continue
        if params.composites is not None and params.composites.rendering is None:
            refuse("composites.rendering", None, f"a block; {name} is made by recipe {subset.recipe}")
        other = prefixes.setdefault(subset.prefix, name)
        if other != name:
            refuse(f"composites.subsets.{name}.prefix", subset.prefix, f"another letter than that of {other}")
        for key in ("source", "references"):
            place, source = f"composites.subsets.{name}.{key}", getattr(subset, key)
            if source not in sources:
                refuse(place, source, f"one of the sources ({known})")
            if not KINDS[sources[source].kind].has_objects:
                refuse(place, source, f"a source with objects; one of kind {sources[source].kind} has none")
        if subset.recipe != "transfer" and subset.references != subset.source:
            refuse(
                f"composites.subsets.{name}.references",
                subset.references,
                f"{subset.source}, the source itself, whose other renditions are used",
            )
