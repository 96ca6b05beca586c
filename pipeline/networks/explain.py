"""What a method is and what its hyperparameters mean, out of its signature and its docstrings."""

import importlib
import inspect
import re
import textwrap
import typing

import models
from pipeline.params import task_of

WIDTH = 100


def explain(name: str) -> str:
    """The text that `python -m commands.graph --explain NAME` prints: a method's source, and for each hyperparameter its
    type, its default (the published value), the values it may take and its meaning.

    Raises ParameterError for a name that no method has.
    """
    task = task_of(name)
    cls = models.class_of(name)
    module = importlib.import_module(cls.__module__)
    lines = [f"{name} ({task})", "", textwrap.indent(inspect.cleandoc(module.__doc__ or ""), "  "), ""]
    meanings = meanings_of(cls)
    hints = typing.get_type_hints(cls.__init__)
    for key, parameter in hyperparameters_of(cls).items():
        lines.append(f"{key}: {written(hints[key])} = {parameter.default!r}")
        lines += textwrap.wrap(
            meanings.get(key, "(not explained)"), WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    if not hyperparameters_of(cls):
        lines.append("It has no hyperparameters.")
    return "\n".join(lines)


def hyperparameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a model's constructor, by name."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    signature = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # of a class
    return {key: value for key, value in signature.items() if key != "self" and value.kind not in variable}


def written(hint) -> str:
    """A type as a person reads it: "int", "one of 'a', 'b'", "tuple of float"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        inner = [written(argument) for argument in arguments if argument is not Ellipsis]
        return "tuple of " + (inner[0] if Ellipsis in arguments else ", ".join(inner))
    if arguments:
        return " or ".join(written(argument) for argument in arguments)
    return "none" if hint is type(None) else hint.__name__


def meanings_of(cls: type) -> dict[str, str]:
    """Hyperparameter -> what the docstrings of the class and its constructor say of it.

    A docstring explains one hyperparameter, or several at once, as "name, other: text", up to the next such head.
    """
    names = list(hyperparameters_of(cls))
    if not names:
        return {}
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    mention = rf'`?(?:{known})`?(?: (?:"[^"]*"|\([^():]*\)|(?:True|False|true|false|\d[\w.]*)))?'
    head = re.compile(rf"(?:(?<=^)|(?<=[.;:)] )|(?<=\n))({mention}(?:(?:, | and |, and ){mention})*):\s", re.MULTILINE)
    meanings: dict[str, str] = {}
    for text in (cls.__doc__, cls.__init__.__doc__):  # type: ignore[misc]  # of a class
        text = " ".join(inspect.cleandoc(text or "").split())
        heads = list(head.finditer(text))
        for this, following in zip(heads, [*heads[1:], None]):
            meaning = text[this.end() : following.start() if following else len(text)].strip(" ;")
            for key in re.findall(rf"\b(?:{known})\b", this[1]):
                meanings.setdefault(key, meaning)
    return meanings
