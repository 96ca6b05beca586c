"""ONNX files: what they compute is what torch computes, at any size, and what can't be exported says why."""

import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.base import Model
from models.layers.input_size import require_divisible
from pipeline.errors import UserError
from pipeline.networks import apply, export
from tests.models import vector


class Small(Model):
    """Two convolutions with a halving between them, normalized inside."""

    players = ("network",)

    def __init__(self, task: str):
        super().__init__()
        torch.manual_seed(0)
        self.task = task
        self.down = nn.Conv2d(3, 4, 3, 2, 1)
        self.up = nn.ConvTranspose2d(4, 1 if task == "localization" else 3, 2, 2)

    def forward(self, batch):
        picture = batch["image" if self.task == "inpainting" else "composite"]
        require_divisible(picture, 2)
        return torch.sigmoid(self.up(torch.relu(self.down((picture - 0.45) / 0.23))))


class BySize(Small):
    """What it draws depends on whether the picture is taller than 64, which no one trace can hold."""

    def forward(self, batch):
        drawn = super().forward(batch)
        return drawn if int(batch["composite"].shape[2]) <= 64 else drawn / 2


class OfArrays(Small):
    def forward(self, batch):
        image = np.ascontiguousarray(batch["composite"][0].permute(1, 2, 0).cpu().numpy())
        return torch.from_numpy(cv2.blur(image, (3, 3))).permute(2, 0, 1)[None]


class OfValues(Small):
    def forward(self, batch):
        drawn = super().forward(batch)
        return drawn if float(batch["composite"].mean()) > 0.4 else drawn / 2


class Guarded(Small):
    """Divides by a sum that is 0 wherever the picture is black."""

    def forward(self, batch):
        black = torch.relu(batch["composite"] - 2)
        return super().forward(batch) + black / (black + 1e-8)


class WithoutTranslation(Small):
    def forward(self, batch):
        return super().forward(batch) * torch.special.bessel_j0(batch["composite"])


def run(file, **given):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert sorted(entry.name for entry in session.get_inputs()) == sorted(given)
    (output,) = session.run(None, {name: value.numpy() for name, value in given.items()})
    return output


@pytest.mark.slow
def test_a_guard_against_dividing_by_zero_stays_in_the_file(tmp_path):
    made = export.export("guarded", Guarded("harmonization").eval(), tmp_path / "model.onnx", side=32)
    assert not made.fixed and max(check[2] for check in made.checks) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["localization", "harmonization", "inpainting"])
def test_the_file_computes_what_the_method_draws_and_pastes_at_other_sizes_too(task, tmp_path):
    model, file = Small(task).eval(), tmp_path / "model.onnx"
    made = export.export("small", model, file, side=32)
    assert (made.fixed, made.multiple) == ("", 2)
    assert {check[:2] for check in made.checks} == {(32, 64), (96, 32)} and max(c[2] for c in made.checks) < 1e-5
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (46, 74, 3), dtype=np.uint8)
    mask = rng.random((46, 74)) < 0.3
    given = {"picture": torch.from_numpy(picture).permute(2, 0, 1)[None] / 255}
    if task == "localization":
        drawn, _ = apply.predict(task, model, picture)
        assert np.abs(run(file, **given)[0, 0] * 255 - drawn).max() < 0.501
        return
    drawn, _ = apply.predict(task, model, picture, mask)
    output = run(file, **given, mask=torch.from_numpy(mask)[None, None].float())[0].transpose(1, 2, 0)
    assert np.array_equal(output[~mask], (picture / np.float32(255))[~mask]), "pasted: the picture's very values"
    assert np.abs(output[mask] * 255 - drawn[mask]).max() < 0.501, "rounding to 8 bits alone lies between"


@pytest.mark.slow
def test_a_network_whose_trace_holds_for_one_size_gets_a_fixed_one(tmp_path):
    made = export.export("by_size", BySize("harmonization"), tmp_path / "model.onnx", side=48)
    assert made.fixed and "\n" not in made.fixed
    assert [check[:2] for check in made.checks] == [(48, 48), (48, 48)]
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(tmp_path / "model.onnx", picture=torch.zeros(1, 3, 50, 48), mask=torch.zeros(1, 1, 50, 48))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, word",
    [
        (OfArrays, "operator Tensor.numpy: "),
        (OfValues, "operator aten._local_scalar_dense: "),
        (WithoutTranslation, "operator prims.bessel_j0: "),
    ],
)
def test_what_can_not_be_exported_is_named_in_one_line_and_no_file_is_left(kind, word, tmp_path):
    with pytest.raises(UserError, match=rf"^odd can't be exported: .*{word}") as refusal:
        export.export("odd", kind("harmonization"), tmp_path / "model.onnx", side=32)
    assert "\n" not in str(refusal.value) and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_computes_something_else_never_appears(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from torch's by .*, at most -1.0 is accepted"):
        export.export("small", Small("harmonization"), tmp_path / "model.onnx", side=32)
    assert list(tmp_path.iterdir()) == []


def test_a_network_at_two_sizes_resizes_inside():
    """Equal to models.base's harmonize_at, which works on strips of rows."""
    model = vector.load("pct").fresh()
    model.parameter_size = 32
    method = export.Pasted(model).eval()
    picture, mask = export.inputs(method, 72, 88, seed=5)
    size = (32, 32)
    small = {
        "composite": torch.nn.functional.interpolate(picture, size, mode="bilinear", antialias=True),
        "mask": torch.nn.functional.interpolate(mask, size, mode="nearest-exact"),
    }
    with torch.no_grad():
        expected = model.harmonize_at(small, {"composite": picture, "mask": mask}, rows=10)
        output = method(picture, mask)
    inside = (mask > 0.5).expand_as(picture)
    torch.testing.assert_close(output[inside], expected[inside], atol=1e-5, rtol=0)
    assert torch.equal(output[~inside], picture[~inside])


@pytest.mark.parametrize("package", export.PACKAGES)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"the package {package} is not installed.*pip install -e '\.\[export\]'"):
        export.require_packages()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "rainnet", "pct"])
def test_published_networks_in_their_tiny_form(name, tmp_path):
    made = export.export(name, vector.load(name).fresh(), tmp_path / "model.onnx", side=64)
    assert not made.fixed and max(check[2] for check in made.checks) < 1e-4
