"""Weights of a network as safetensors files."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline import atomic
from pipeline.errors import UserError


def load_weights(model: nn.Module, file: Path) -> None:
    """Load safetensors into a model. Raises UserError naming the file when it is missing or doesn't fit."""
    if not file.exists():
        hint = f"; `dvc repro models/dvc.yaml:train-{file.parent.name}` makes it" if file.parent.parent.name == "models" else ""
        raise UserError(f"{file} is missing{hint}")
    try:
        model.load_state_dict(load_file(file))
    except SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file: {error}") from None
    except RuntimeError as error:
        raise UserError(f"{file} does not fit the network: {str(error).splitlines()[-1].strip()}") from None


def save_weights(model: nn.Module, file: Path) -> None:
    """Write a model's state dict to a safetensors file, which appears whole or not at all."""
    # safetensors refuses tensors that share memory, so each is written on its own
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    with atomic.file(file) as path:
        save_file(tensors, path)
