"""Released weights in small: a network of two players, and files of its weights under other names."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from models.base import Model
from models.layers.partial_conv import PartialConv2d
from pipeline.errors import UserError
from pipeline.networks import importing, weights


class Painter(Model):
    """A generator of 7 entries of 7 shapes, and a discriminator."""

    task = "harmonization"
    players = ("discriminator", "generator")

    def __init__(self):
        super().__init__()
        self.discriminator = nn.Conv2d(3, 1, 3)
        self.generator = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 5, padding=2)
        )

    def forward(self, batch):
        return self.generator(torch.cat([batch["composite"], batch["mask"]], 1)).sigmoid()


RELEASED = {
    "net.first.weight": (6, 4, 3, 3), "net.norm.weight": (6,), "net.norm.bias": (6,), "net.norm.running_mean": (6,),
    "net.norm.running_var": (6,), "net.norm.num_batches_tracked": (), "net.last.weight": (3, 6, 5, 5), "net.last.bias": (3,),
}  # fmt: skip


def filled(shapes=RELEASED) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.tensor(9) if name.endswith("tracked") else torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }


def by_hand(released: dict[str, torch.Tensor]) -> torch.Tensor:
    """The prediction for one picture, written out with functions."""
    value = lambda name: released[f"net.{name}"].float()
    features = functional.conv2d(torch.cat([BATCH["composite"], BATCH["mask"]], 1), value("first.weight"), padding=1)
    norm = functional.batch_norm(
        features, value("norm.running_mean"), value("norm.running_var"), value("norm.weight"), value("norm.bias")
    )
    return functional.conv2d(norm.relu(), value("last.weight"), value("last.bias"), padding=2).sigmoid()


BATCH = {
    "composite": torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    "mask": torch.ones(1, 1, 8, 8),
}


def imported(tmp_path, *files, model=None, **options) -> torch.Tensor:
    """The prediction of the network once the files were imported."""
    with torch.device("meta"):
        empty = (model or Painter)()
    pairing = importing.pair(
        empty,
        [importing.read(file, options.get("key")) for file in files],
        [file.suffix != ".safetensors" for file in files],
        options.get("kernels", "detect"),
    )
    (tmp_path / "out.safetensors").unlink(missing_ok=True)
    importing.write(tmp_path / "out.safetensors", pairing, {"network": "painter"})
    ready = (model or Painter)().eval()
    weights.load_weights(ready, tmp_path / "out.safetensors")
    with torch.no_grad():
        return ready(BATCH)


def saved(file, content):
    torch.save(content, file)
    return file


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {
            "iteration": 7,
            "generator": {f"module._orig_mod.{name}": value for name, value in state.items()},
        },
        lambda state: {
            "state_dict": state,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []},
        },
        lambda state: {"checkpoint": {"model": state}, "epoch": 3},
        lambda state: {name: value.double() for name, value in state.items()},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt", ".ckpt"])
def test_files_of_torch_by_position(tmp_path, wrap, suffix):
    released = filled()
    assert torch.allclose(
        imported(tmp_path, saved(tmp_path / f"released{suffix}", wrap(released))), by_hand(released), atol=1e-6
    )


def test_arrays_in_keras_order_without_counters(tmp_path):
    released = filled()
    arrays = {
        name.replace("running", "moving"): value.numpy()
        for name, value in released.items()
        if not name.endswith("tracked")
    }
    arrays = {name: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array for name, array in arrays.items()}
    np.savez(tmp_path / "released.npz", **arrays)
    assert torch.allclose(imported(tmp_path, tmp_path / "released.npz"), by_hand(released), atol=1e-6)
    assert load_file(tmp_path / "out.safetensors")["generator.1.num_batches_tracked"] == 0


def test_by_name_whatever_the_order(tmp_path):
    released = filled()
    own = dict(zip([name for name in Painter().state_dict() if name.startswith("generator")], released.values()))
    save_file({name: value.contiguous() for name, value in reversed(own.items())}, tmp_path / "own.safetensors")
    assert torch.allclose(imported(tmp_path, tmp_path / "own.safetensors"), by_hand(released), atol=1e-6)
    save_file(released, tmp_path / "theirs.safetensors")
    with pytest.raises(
        UserError, match=r"theirs\.safetensors: its names are not those of the network, and safetensors keeps no order"
    ):
        imported(tmp_path, tmp_path / "theirs.safetensors")


def test_several_files_in_the_order_of_the_parts(tmp_path):
    released = filled()
    halves = [dict(list(released.items())[:6]), dict(list(released.items())[6:])]
    files = [saved(tmp_path / f"{name}.pth", half) for name, half in zip(("encoder", "decoder"), halves)]
    assert torch.allclose(imported(tmp_path, *files), by_hand(released), atol=1e-6)
    with pytest.raises(UserError, match=r"another order: give them as encoder\.pth decoder\.pth"):
        imported(tmp_path, *reversed(files))


def test_tensors_that_are_stored_under_two_names_count_once(tmp_path):
    """As a module does that is registered twice: load_state_dict leaves what the last name brings."""
    released = filled()
    twice = {}
    for name, value in released.items():
        twice |= {f"{name}_alias": value, name: value} if name.endswith("last.weight") else {name: value}
    assert torch.allclose(imported(tmp_path, saved(tmp_path / "twice.pth", twice)), by_hand(released), atol=1e-6)


class Holes(Model):
    task = "inpainting"
    players = ("generator",)

    def __init__(self):
        super().__init__()
        self.layer = PartialConv2d(3, 3, 3, 1, 1, bias=True)

    def forward(self, batch):
        return self.layer(batch["image"], batch["known"])[0]


def test_the_port_of_partial_convolutions_divides_by_the_sum_alone(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.rand(3, 3, 3, 3, generator=generator), torch.rand(3, generator=generator)
    known = (torch.rand(1, 1, 8, 8, generator=generator) > 0.4).float()
    image = torch.rand(1, 3, 8, 8, generator=generator)
    monkeypatch.setitem(BATCH, "image", image)
    monkeypatch.setitem(BATCH, "known", known)
    file = saved(
        tmp_path / "port.pth",
        {
            "conv.input_conv.weight": weight,
            "conv.input_conv.bias": bias,
            "conv.mask_conv.weight": torch.ones(3, 3, 3, 3),
        },
    )
    window = functional.conv2d(known.expand(1, 3, 8, 8), torch.ones(3, 3, 3, 3), padding=1)
    expected = functional.conv2d(image * known, weight, padding=1) / window.clamp(min=1) + bias[None, :, None, None]
    expected = torch.where(window > 0, expected, torch.zeros(()))
    assert torch.allclose(imported(tmp_path, file, model=Holes), expected, atol=1e-6)


def changed(**changes) -> dict[str, torch.Tensor]:
    released = filled()
    for name, value in changes.items():
        name = f"net.{name.replace('__', '.')}"
        released = (
            {key: tensor for key, tensor in released.items() if key != name}
            if value is None
            else released | {name: value}
        )
    return released


def bias_before_weight() -> dict[str, torch.Tensor]:
    """Normalization registered in another order, in which every shape still fits."""
    released = filled()
    names = list(released)
    names[1], names[2] = names[2], names[1]
    return {name: released[name] for name in names}


@pytest.mark.parametrize(
    "state, said",
    [
        (changed(last__bias=None), "too few: after bad.pth: net.last.weight [3, 6, 5, 5] nothing is left for generator.3.bias [3]"),
        (changed(more=torch.ones(2)), "too many: bad.pth: net.more [2] has no place in the network, after 8 entries that have"),
        (changed(first__weight=torch.ones(6, 3, 3, 3)), "entry 1 of 8, bad.pth: net.first.weight [6, 3, 3, 3], would become generator.0.weight [6, 4, 3, 3]; do the network's hyperparameters differ?"),
        (changed(last__bias=torch.tensor([1.0, float("nan"), 1])), "net.last.bias has values that are not finite"),
        (bias_before_weight(), "the one is a bias, the other a weight; the file's order is not that of the network"),
        ({"a": filled(), "b": filled()}, "bad.pth holds several state dicts, 'a', 'b'; --key says which one is meant"),
        ({"epoch": 3}, "bad.pth holds no state dict, a mapping of names to tensors"),
        ({"state_dict": filled(), "arguments": argparse.Namespace(lr=1)}, "bad.pth holds more than tensors, numbers and text"),
    ],
    ids=["few", "many", "shape", "nan", "order", "several", "none", "code"],
)  # fmt: skip
def test_what_is_ambiguous_too_much_or_too_little_names_the_entry(tmp_path, state, said):
    with pytest.raises(UserError) as caught:
        imported(tmp_path, saved(tmp_path / "bad.pth", state))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_key_chooses(tmp_path):
    released = filled()
    file = saved(tmp_path / "two.pth", {"netG": released, "ema": {"netG": filled(dict.fromkeys(RELEASED, (1,)))}})
    assert torch.allclose(imported(tmp_path, file, key="netG"), by_hand(released), atol=1e-6)
    with pytest.raises(UserError, match="two.pth: no state dict 'netD'; it has 'netG', 'ema.netG'"):
        importing.read(file, "netD")


class Square(Model):
    task = "harmonization"
    players = ("generator",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, batch):
        return self.layer(batch["composite"])


def test_a_kernel_that_fits_in_both_orders_of_axes_is_ambiguous(tmp_path):
    weight, bias = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(3)), torch.ones(3)
    np.savez(tmp_path / "square.npz", kernel=weight.permute(2, 3, 1, 0).numpy(), bias=bias.numpy())
    with pytest.raises(
        UserError,
        match=r"ambiguous: square\.npz: kernel \[3, 3, 3, 3\] fits in torch's order of axes and in Keras'; --kernels says which",
    ):
        imported(tmp_path, tmp_path / "square.npz", model=Square)
    expected = functional.conv2d(BATCH["composite"], weight, bias, padding=1)
    assert torch.allclose(
        imported(tmp_path, tmp_path / "square.npz", model=Square, kernels="keras"), expected, atol=1e-6
    )
    assert not torch.allclose(
        imported(tmp_path, tmp_path / "square.npz", model=Square, kernels="torch"), expected, atol=1e-3
    )


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("gone.pth", None, "gone.pth: no such file"),
        ("weights.h5", b"x", "weights.h5: expected a file ending in .pth, .pt, .ckpt, .tar, .bin, .npz, .safetensors"),
        ("text.pth", b"not a checkpoint", "text.pth "),
        ("empty.pt", b"", "empty.pt is not a file that torch saved"),
        ("text.npz", b"not an archive", "text.npz is not a file of NumPy arrays"),
        ("text.safetensors", b"no", "text.safetensors is not a safetensors file"),
        ("objects.pth", pickle.dumps({"a": argparse.Namespace()}), "objects.pth "),
    ],
)
def test_files_that_can_not_be_read(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        importing.read(tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value)
