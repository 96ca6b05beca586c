"""The methods that params.yaml names, built from their hyperparameters."""

from typing import Any

import models
from pipeline.errors import ParameterError


def task_of(name: str) -> str:
    """`models.task_of`, its refusal told as that of a wrong argument."""
    try:
        return models.task_of(name)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def build_model(name: str, hyperparameters: dict[str, Any]) -> "models.Model":
    """`models.create`, its refusals told as those of params.yaml."""
    return models.as_model(build_method(name, hyperparameters))


def build_method(name: str, hyperparameters: dict[str, Any]) -> Any:
    """`models.build`, its refusals told as those of params.yaml."""
    try:
        return models.build(name, **hyperparameters)
    except ValueError as error:
        raise ParameterError(f"params.yaml: models.{name}.hyperparameters: {error}") from None
