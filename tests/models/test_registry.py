import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
from models.arrays import ArrayMethod
from models.base import Model
from tests.models import vector

ROOT = Path(__file__).resolve().parents[2]


def test_names_are_the_files_in_the_folders_of_the_tasks():
    for task in models.TASKS:
        files = {file.stem for file in (ROOT / "models" / task).glob("*.py")} - {"__init__"}
        assert set(models.names(task)) == files and files
    assert models.names() == sum((models.names(task) for task in models.TASKS), ())
    assert len(set(models.names())) == len(models.names()), "a name stands for one method"


def test_the_methods_that_every_table_needs_are_there():
    needed = "unet constant_map composite reinhard_lab histogram poisson rainnet regional_references region_contrastive mean_fill telea navier_stokes rfr"
    assert set(needed.split()) <= set(models.names())


def test_unknown_names_are_answered_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="^no model 'rainet'; did you mean 'rainnet'\\? \\(known: .*unet.*\\)$"):
        models.create("rainet")
    with pytest.raises(ValueError, match="^no model '__init__' \\(known: "):
        models.task_of("__init__")
    with pytest.raises(
        ValueError, match="no task 'segmentation'; the tasks are localization, harmonization, inpainting"
    ):
        models.names("segmentation")


def test_model_is_the_base_class():
    assert models.Model is Model
    with pytest.raises(AttributeError, match="no attribute 'model'"):
        models.model


def test_names_need_neither_torch_nor_any_network():
    code = "import sys, models; models.names(); models.task_of('unet'); print('torch' in sys.modules, len([m for m in sys.modules if m.startswith('models.')]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]


@pytest.mark.parametrize("name", models.names())
def test_every_method_builds_as_published_and_keeps_the_contract(name):
    with torch.device("meta"):  # full size, no memory
        model = models.create(name)
    assert isinstance(model, Model) and model.task == models.task_of(name)
    assert isinstance(model.players, tuple) and isinstance(model.phases, tuple) and model.phases
    owned = [id(parameter) for player in model.players for parameter in model.parameters_of(player)]
    assert len(set(owned)) == len(owned), "a parameter moves with one player"
    assert set(owned) <= {id(parameter) for parameter in model.parameters()}
    if not model.players:
        assert not [parameter for parameter in model.parameters() if parameter.requires_grad], (
            "without players nothing learns"
        )
    for phase in model.phases:
        model.enter(phase)
    for refused in (lambda: model.enter("no such phase"), lambda: model.parameters_of("nobody")):
        with pytest.raises(ValueError, match="no such phase|nobody"):
            refused()
    counted = {id(parameter) for parameter in model.predictor_parameters()}
    assert counted <= {id(parameter) for parameter in model.parameters()}
    hints = inspect.signature(models.class_of(name).__init__).parameters
    assert all(
        hint.default is not hint.empty and hint.annotation is not hint.empty
        for key, hint in hints.items()
        if key not in ("self", "args", "kwargs")
    )


@pytest.mark.parametrize("name", sorted(set(models.names()) - set(vector.trained_names())))
def test_a_method_without_weights_works_on_arrays(name):
    assert isinstance(models.build(name), ArrayMethod)


@pytest.mark.parametrize(
    "hyperparameters, message",
    [
        ({"norn": "batch"}, "dovenet has no hyperparameter 'norn'; did you mean 'norm'? (known: "),
        ({"norm": "layer"}, "dovenet: norm = 'layer', expected typing.Literal['instance', 'batch']"),
        ({"norm": 1}, "dovenet: norm = 1, expected typing.Literal['instance', 'batch']"),
    ],
)
def test_hyperparameters_are_checked_before_anything_is_built(hyperparameters, message):
    with pytest.raises(ValueError) as caught:
        models.create("dovenet", **hyperparameters)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "hint, fits, misfits",
    [
        (int, [1, -3], [1.0, True, "1", None]),
        (float, [1, 0.5], [True, "0.5", None]),
        (bool, [True], [1, 0, "true"]),
        (str, ["a"], [1, None]),
        (int | None, [None, 2], ["2", 2.0, False]),
        (tuple[int, ...], [(), (1, 2), [1, 2, 3]], [1, (1, "2"), (1.5,)]),
        (tuple[int, float], [(1, 2.5), [1, 2]], [(1,), (1, 2, 3), (1.5, 2)]),
        (list[str], [[], ["a"]], ["a", [1]]),
    ],
)
def test_what_fits_a_type_hint(hint, fits, misfits):
    assert all(models._fits(value, hint) for value in fits)
    assert not any(models._fits(value, hint) for value in misfits)
