"""Weights of a network as safetensors files."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.base import Model
from pipeline import atomic
from pipeline.errors import UserError


def load_weights(model: Model, file: Path) -> list[str]:
    """Load safetensors into a model; returns the names of the entries that the file lacks.

    Only entries that no prediction reads may be missing, such as a discriminator's, which released files leave out. Raises
    UserError naming the file when it is missing or doesn't fit.
    """
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is a {'folder' if file.is_dir() else 'pipe or device'}, expected a safetensors file")
    if not file.exists():
        hint = (
            f"; `dvc repro models/dvc.yaml:train-{file.parent.name}` makes it"
            if file.parent.parent.name == "models"
            else ""
        )
        raise UserError(f"{file} is missing{hint}")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file: {error}") from None
    needed = set(predictor_entries(model))
    if differs := _differences(model, tensors, needed):
        raise UserError(f"{file} does not fit the network: {differs}")
    model.load_state_dict(tensors, strict=False)
    return [key for key in model.state_dict() if key not in tensors]


def predictor_entries(model: Model) -> list[str]:
    """Names of the state dict's entries that a prediction reads, in their order: the parameters that tables count, and
    the buffers that stand among them (a buffer belongs to the innermost module around it that has parameters)."""
    of_prediction = {id(parameter) for parameter in model.predictor_parameters()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    used = {name for name, parameter in parameters.items() if id(parameter) in of_prediction}
    owners: dict[str, bool | None] = {}  # a module's path: whether one of the parameters below it is used

    def reads(owner: str) -> bool | None:
        """None for a module without parameters."""
        if owner not in owners:
            below = [name in used for name in parameters if not owner or name.startswith(f"{owner}.")]
            owners[owner] = any(below) if below else None
        return owners[owner]

    def is_read(name: str) -> bool:
        if name in parameters:
            return name in used
        owner = name.rpartition(".")[0]
        while owner and reads(owner) is None:
            owner = owner.rpartition(".")[0]
        return bool(reads(owner))

    return [name for name in model.state_dict() if is_read(name)]


def _differences(model: nn.Module, tensors: dict, needed: set[str]) -> str:
    """How a file's tensors differ from a network's, by number and first example; "" where they fit, and where what is
    missing isn't `needed`."""
    own = model.state_dict()
    missing, more = (
        [key for key in own if key in needed and key not in tensors],
        [key for key in tensors if key not in own],
    )
    other = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    said = [f"{len(missing)} of its {len(own)} tensors missing in the file (first: {missing[0]})"] if missing else []
    said += [f"{len(more)} tensors unknown to it (first: {more[0]})"] if more else []
    if other:
        first = other[0]
        shapes = f"{first} is {tuple(tensors[first].shape)}, in the network {tuple(own[first].shape)}"
        said.append(f"{len(other)} of another shape (first: {shapes})")
    return ", ".join(said)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's state dict to a safetensors file, which appears whole or not at all."""
    # safetensors refuses tensors that share memory, so each is written on its own
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    with atomic.file(file) as path:
        save_file(tensors, path)
