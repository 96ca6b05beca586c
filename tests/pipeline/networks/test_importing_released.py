"""Every released network that is here, at its full size: a file with the released names and shapes, filled by a seed, becomes
the same network as its values put in by hand, entry by entry in the order of registration."""

import gc
import inspect
import json
from pathlib import Path

import pytest
import torch

import models
from pipeline.networks import importing, weights

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states"

VARIANTS = {
    "dovenet": ("dovenet", {"norm": "instance"}),
    "dovenet_batch": ("dovenet", {"norm": "batch"}),
    "ht": ("dht", {"form": "ht"}),
    "pct_cnn": ("pct", {"backbone": "convolutional"}),
    "gatenet_vgg16": ("gatenet", {"backbone": "vgg16"}),
    "minet": ("minet", {"backbone": "resnet50"}),
    "minet_vgg16": ("minet", {"backbone": "vgg16"}),
    "pconv": ("pconv", {"levels": 7}),
}
"""Released files whose network needs other hyperparameters than the defaults: its name and these."""

NAMES = sorted(file.stem for file in RELEASED.glob("*.json"))


def build(name: str):
    model, hyperparameters = VARIANTS.get(name, (name, {}))
    further = [key for key in inspect.signature(models.class_of(model).__init__).parameters if key.endswith("_weights")]
    torch.manual_seed(0)
    return models.create(model, **dict.fromkeys(further, "none"), **hyperparameters).eval()


def filled(name: str) -> dict[str, torch.Tensor]:
    """Small numbers, so that deep networks stay finite, but variances around 1; counts of batch normalization are whole."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    made = {}
    for entry, shape, *_ in json.loads((RELEASED / f"{name}.json").read_text())["entries"]:
        value = 0.06 * torch.rand(shape, generator=generator) - 0.03
        value = 1 + value if entry.endswith("running_var") else value
        made[entry] = (
            torch.tensor(7)
            if entry.endswith("num_batches_tracked")
            else torch.ones(shape)
            if "mask_conv" in entry
            else value
        )
    return made


def put_in_by_hand(model: torch.nn.Module, released: dict[str, torch.Tensor]) -> None:
    """The released tensors, one after the other, over those of the network that are no discriminator's."""
    values = [
        # the port divides by the window's sum alone, the layer here multiplies by its size too
        value / value[0].numel() if name.endswith("input_conv.weight") else value
        for name, value in released.items()
        if "mask_conv" not in name
    ]
    counted = any(name.endswith("num_batches_tracked") for name in released)
    own = [
        name
        for name in model.state_dict()
        if "discriminator" not in name and (counted or "num_batches_tracked" not in name)
    ]
    assert len(own) == len(values)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in zip(own, values):
            assert state[name].shape == value.shape, name
            state[name].copy_(value)
        for name in set(state) - set(own):
            if name.endswith("num_batches_tracked"):
                state[name].zero_()


def batch_of(model, side: int = 256) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    region = torch.zeros(1, 1, side, side)
    region[:, :, 68:188, 68:188] = 1
    picture = torch.rand(1, 3, side, side, generator=generator)
    if model.task == "inpainting":
        return {"image": picture, "hole": region}
    return {"composite": picture, "mask": region, "real": picture}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    NAMES or [pytest.param("none", marks=pytest.mark.skip(reason="the lists of released state dicts are not here"))],
)
def test_the_forward_pass_equals_that_of_the_values_put_in_by_hand(tmp_path, name):
    released = filled(name)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in released.items()}},
        tmp_path / "released.pth.tar",
    )
    model = build(name)
    pairing = importing.pair(model, [importing.read(tmp_path / "released.pth.tar")], [True])
    (tmp_path / "released.pth.tar").unlink()
    imported = tmp_path / "imported.safetensors"
    importing.write(imported, pairing, {})
    n_paired, by = len(pairing.pairs), pairing.by
    del pairing
    gc.collect()
    weights.load_weights(model, imported)
    batch = batch_of(model)
    with torch.no_grad():
        prediction = model(batch)
    state = {key: value for key, value in model.state_dict().items() if "discriminator" not in key}
    by_hand = build(name)
    put_in_by_hand(by_hand, released)
    for key, value in by_hand.state_dict().items():
        assert "discriminator" in key or torch.equal(value, state[key]), key
    with torch.no_grad():
        assert torch.equal(by_hand(batch), prediction)
    assert prediction.isfinite().all() and by == "position"
    assert n_paired == sum("mask_conv" not in key for key in released)
