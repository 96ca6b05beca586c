"""The registry: a network is found by the name of its file, `models/<task>/<name>.py`.

Importing this package imports no network and not even torch, so that whatever only needs the names stays
light; a network's file is imported when `create` or `build` asks for it.
"""

import difflib
import importlib
import inspect
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.base import Model

TASKS = ("localization", "harmonization", "inpainting")


def names(task: str | None = None) -> tuple[str, ...]:
    """Names of all methods, or of one task's, in alphabetical order within each task."""
    if task is not None and task not in TASKS:
        raise ValueError(f"no task {task!r}; the tasks are {', '.join(TASKS)}")
    here = Path(__file__).parent
    return tuple(
        path.stem
        for folder in (TASKS if task is None else (task,))
        for path in sorted((here / folder).glob("*.py"))
        if not path.stem.startswith("_")
    )


def task_of(name: str) -> str:
    """The task of a method. Raises ValueError, naming the nearest known name, when there is no such method."""
    for task in TASKS:
        if name in names(task):
            return task
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no model {name!r}{hint} (known: {', '.join(names())})")


def create(name: str, **hyperparameters) -> "Model":
    """Build a method from its hyperparameters, as a torch module. Takes and raises what `build` does."""
    return as_model(build(name, **hyperparameters))


def as_model(method: typing.Any) -> "Model":
    """What `build` gave, as a torch module; a network comes back as it is."""
    if isinstance(method, importlib.import_module("models.base").Model):
        return method
    return importlib.import_module("models.array_model").ArrayModel(method)


def build(name: str, **hyperparameters) -> typing.Any:
    """Build a method from its hyperparameters, as its file has it: a `models.base.Model`, or where there is nothing to train
    a `models.arrays.ArrayMethod`, for which torch is not imported. What is left out takes the published value.

    Raises ValueError for an unknown name, an unknown hyperparameter, one of the wrong type, or a value of which torch makes no
    layer (a width of 0).
    """
    cls = class_of(name)
    _check(name, cls, hyperparameters)
    try:
        method = cls(**hyperparameters)
        why = "a layer of it has no channels" if any(not weights.numel() for weights in method.parameters()) else ""
    except (IndexError, RuntimeError, ArithmeticError) as error:
        why = str(error).splitlines()[0]
    if why:
        counts = {key: value for key, value in hyperparameters.items() if type(value) is int and value <= 0}
        named = ", ".join(f"{key} = {value!r}" for key, value in (counts or hyperparameters).items())
        raise ValueError(f"{name}: no network can be built with {named} ({why})")
    return method


def class_of(name: str) -> type[typing.Any]:
    """The class of a method, out of its file. Raises ValueError for an unknown name."""
    module = importlib.import_module(f"models.{task_of(name)}.{name}")
    classes: list[typing.Any] = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and hasattr(value, "task")
    ]
    (cls,) = classes
    return cls


def _check(name: str, cls: type[typing.Any], hyperparameters: dict) -> None:
    accepted = {
        key: parameter
        for key, parameter in inspect.signature(cls.__init__).parameters.items()  # type: ignore[misc]  # of a class
        if key != "self"
        and parameter.kind is not parameter.VAR_KEYWORD
        and parameter.kind is not parameter.VAR_POSITIONAL
    }
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]  # of a class
    for key, value in hyperparameters.items():
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name} has no hyperparameter {key!r}{hint} (known: {', '.join(accepted) or 'none'})")
        if key in hints and not _fits(value, hints[key]):
            expected = getattr(hints[key], "__name__", None) if isinstance(hints[key], type) else str(hints[key])
            raise ValueError(f"{name}: {key} = {value!r}, expected {expected}")


def _fits(value, hint) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, alternative) for alternative in arguments)
    if origin in (tuple, list):
        if not isinstance(value, (tuple, list)):
            return False
        fixed = origin is tuple and Ellipsis not in arguments
        each = arguments if fixed else arguments[:1] * len(value)
        return len(value) == len(each) and all(_fits(item, expected) for item, expected in zip(value, each))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True


def __getattr__(attribute: str):
    if attribute == "Model":
        return importlib.import_module("models.base").Model
    raise AttributeError(f"module 'models' has no attribute {attribute!r}")
