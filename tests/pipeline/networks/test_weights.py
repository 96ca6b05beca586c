"""Weights that are not those of the network, told briefly."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.base import Model
from pipeline.errors import UserError
from pipeline.networks.weights import load_weights, save_weights


class Layers(Model):
    """As many linear layers as asked for, named by their numbers."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        for number in range(depth):
            self.add_module(str(number), nn.Linear(width, width))


def network(width: int = 3, depth: int = 200) -> Layers:
    return Layers(width, depth)


def test_weights_of_another_network_are_one_short_line(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({f"encoder.{number}": torch.zeros(2) for number in range(300)} | {"0.weight": torch.zeros(5, 3)}, file)
    with pytest.raises(UserError) as caught:
        load_weights(network(), file)
    assert str(caught.value) == (
        f"{file} does not fit the network: 399 of its 400 tensors missing in the file (first: 0.bias), "
        "300 tensors unknown to it (first: encoder.0), 1 of another shape (first: 0.weight is (5, 3), in the network (3, 3))"
    )


def test_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "folder"), ("pipe", "pipe or device")):
        with pytest.raises(UserError, match=f"{name} is a {what}, expected a safetensors file"):
            load_weights(network(), tmp_path / name)


def test_round_trip(tmp_path):
    saved, other = network(depth=2), network(depth=2)
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in saved.state_dict().items())
