from typing import Literal

import pytest

import models
from pipeline.errors import ParameterError
from pipeline.networks import explain


@pytest.mark.parametrize("name", models.names())
def test_every_hyperparameter_of_every_method_is_explained(name):
    cls = models.class_of(name)
    lacking = set(explain.hyperparameters_of(cls)) - set(explain.meanings_of(cls))
    assert not lacking, f"{name}: no docstring says `{sorted(lacking)[0]}: what it is`"


class Toy:
    """`width`: channels; 64 published. `depth`, `rate`: of the (one) trunk: both matter."""

    def __init__(self, width: int = 64, depth: int | None = None, rate: float = 0.1, kind: Literal["a", "b"] = "a"):
        """kind: "a" or "b"."""


def test_meanings_by_hand():
    assert explain.meanings_of(Toy) == {
        "width": "channels; 64 published.",
        "depth": "of the (one) trunk: both matter.",
        "rate": "of the (one) trunk: both matter.",
        "kind": '"a" or "b".',
    }


@pytest.mark.parametrize(
    "hint, text",
    [
        (int, "int"),
        (int | None, "int or none"),
        (Literal["a", 2], "one of 'a', 2"),
        (tuple[float, ...], "tuple of float"),
        (str | tuple[int, ...], "str or tuple of int"),
    ],
)
def test_types_as_a_person_reads_them(hint, text):
    assert explain.written(hint) == text


def test_what_is_printed():
    text = explain.explain("telea")
    assert text.startswith("telea (inpainting)\n\n  Telea 2004,")
    assert text.endswith("radius: int = 3\n    of the neighbourhood that a filled pixel is computed from, in pixels.")
    assert explain.explain("mean_fill").endswith("It has no hyperparameters.")


def test_a_name_that_no_method_has():
    with pytest.raises(ParameterError, match="no model 'telia'; did you mean 'telea'"):
        explain.explain("telia")
