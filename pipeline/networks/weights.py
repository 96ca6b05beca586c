"""Weights of a network as safetensors files."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import atomic
from pipeline.errors import UserError


def load_weights(model: nn.Module, file: Path) -> None:
    """Load safetensors into a model. Raises UserError naming the file when it is missing or doesn't fit."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is a {'folder' if file.is_dir() else 'pipe or device'}, expected a safetensors file")
    if not file.exists():
        hint = f"; `dvc repro models/dvc.yaml:train-{file.parent.name}` makes it" if file.parent.parent.name == "models" else ""
        raise UserError(f"{file} is missing{hint}")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file: {error}") from None
    if differs := _differences(model, tensors):
        raise UserError(f"{file} does not fit the network: {differs}")
    model.load_state_dict(tensors)


def _differences(model: nn.Module, tensors: dict) -> str:
    """How a file's tensors differ from a network's, by number and first example; "" where they fit."""
    own = model.state_dict()
    missing, more = [key for key in own if key not in tensors], [key for key in tensors if key not in own]
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
