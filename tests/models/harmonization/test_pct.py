import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import models
from models.harmonization.pct import (
    PARAMETERS,
    PCT,
    sobel_magnitude,
    transformed,
    untransformed,
)
from tests.models import released

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states"
TINY = {
    "transformer": {"width": 16, "layers": 2, "dropout": 0.0, "perceptual_weights": "none"},
    "convolutional": {"backbone": "convolutional", "width": 4, "levels": 3, "perceptual_weights": "none"},
}


def given(height: int = 32, width: int = 24, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (height, width), mode="bilinear")
    mask = torch.zeros(count, 1, height, width)
    mask[..., 4:20, 3:16] = 1
    return {"composite": torch.lerp(real, real * 0.7, mask), "mask": mask, "real": real}


# shapes of ViT_pct and CNN_pct in rakutentech/PCT-Net-Image-Harmonization, iharm/mconfigs/base.py, in the order of their state dicts
@pytest.mark.parametrize(
    "backbone, parameters, digest, file",
    [
        ("transformer", 4_809_896, "5a6b4814be495223", "pct.json"),
        ("convolutional", 2_185_736, "93fd5c3800f6889f", "pct_cnn.json"),
    ],
)
def test_state_dict_lines_up_with_the_released_one(backbone, parameters, digest, file):
    with torch.device("meta"):
        network = models.create("pct", backbone=backbone)
    assert sum(p.numel() for p in network.predictor_parameters()) == parameters
    assert released.digest(released.shapes(network)) == digest
    if (RELEASED / file).exists():
        assert released.shapes(network) == [entry[1] for entry in json.loads((RELEASED / file).read_text())["entries"]]


def test_transforms_by_hand():
    colour = torch.tensor([0.5, 0.2, 0.1]).view(1, 3, 1, 1)

    def result(kind: str, *numbers: float) -> list[float]:
        return transformed(kind, colour, torch.tensor(numbers).view(1, -1, 1, 1)).flatten().tolist()

    assert result("linear", 1, 2, 3, 0, 1, 0, 0, 0, 2, 0.1, 0.2, 0.3) == pytest.approx([1.3, 0.4, 0.5])
    # rows (1, 4, 6), (4, 2, 5), (6, 5, 3)
    assert result("linear_sym", 1, 2, 3, 4, 5, 6) == pytest.approx([0.5 + 0.8 + 0.6, 2 + 0.4 + 0.5, 3 + 1 + 0.3])
    powers = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.02, 0.25, 0.04, 0.01])
    assert result("polynomial", *range(27)) == pytest.approx((np.arange(27).reshape(3, 9) @ powers).tolist())
    assert result("identity", 0.3, 0.4, 0.5) == pytest.approx([0.3, 0.4, 0.5])
    assert result("mul", 2, 3, 4) == pytest.approx([1, 0.6, 0.4])
    assert result("add", 0.1, 0.2, 0.3) == pytest.approx([0.6, 0.4, 0.4])
    for kind in ("linear", "linear_sym", "polynomial", "mul", "add"):
        assert torch.equal(transformed(kind, colour, untransformed(kind).view(1, -1, 1, 1)), colour)


def test_sobel_as_scipy_has_it():
    maps = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = [
        [np.hypot(*(ndimage.sobel(channel, axis, mode="nearest") / 8 for axis in (0, 1))) for channel in item]
        for item in maps.numpy()
    ]
    np.testing.assert_allclose(sobel_magnitude(maps), np.sqrt(np.square(expected) + 1e-6), rtol=1e-4)


@pytest.mark.parametrize("backbone", TINY)
def test_two_sizes(backbone):
    """With the same small picture, a large one is transformed by the enlarged parameters, whatever the strips' height."""
    torch.manual_seed(0)
    network, small = PCT(**TINY[backbone], global_skip=True).eval(), given()
    full = {key: F.interpolate(small[key], (75, 50), mode="nearest") for key in ("composite", "mask")}
    with torch.no_grad():
        parameters = F.interpolate(network.predict_parameters(small), (75, 50), mode="bicubic", align_corners=False)
        expected = network.apply_parameters(parameters, full)
    for rows in (1, 32, 100):
        torch.testing.assert_close(network.harmonize_at(small, full, rows=rows), expected, atol=1e-5, rtol=0)
    assert network.full_resolution and network.parameter_size == 256
    with torch.no_grad():
        at_own_size = network.harmonize_at(small, small)
        torch.testing.assert_close(at_own_size, network(small), atol=1e-5, rtol=0)


def test_the_transformer_pastes_and_the_convolutional_backbone_blends():
    batch = given()
    network = PCT(**TINY["transformer"]).eval()
    outside = (batch["mask"] == 0).expand_as(batch["composite"])
    with torch.no_grad():
        assert torch.equal(network(batch)[outside], batch["composite"][outside])
        network = PCT(**TINY["convolutional"]).eval()
        parameters = network.predict_parameters(batch)
        blend = parameters[:, 12:]
        assert parameters.shape[1] == 13 and blend.min() >= 0 and blend.max() <= 1
        mean, std = (
            torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
            torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
        )
        drawn = transformed("linear", (batch["composite"] - mean) / std, parameters[:, :12]).clamp(0, 1)
        torch.testing.assert_close(network(batch), (blend * drawn + (1 - blend) * batch["composite"]).clamp(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("transform", PARAMETERS)
def test_every_transform_learns(backbone, transform):
    torch.manual_seed(0)
    network, batch = PCT(**TINY[backbone], transform=transform, global_skip=True, least_area=1.0), given()
    optimizer = torch.optim.Adam(network.parameters_of("network"), lr=3e-3)
    losses = []
    for step in range(25):
        loss, parts = network.loss("network", batch)
        assert set(parts) == {"pixel", "smoothness"} and loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            # the released network's to_rgb is never used, and rests
            assert {name for name, value in network.named_parameters() if value.grad is None} <= {
                "network.decoder.to_rgb.weight",
                "network.decoder.to_rgb.bias",
            }
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("backbone", TINY)
def test_loss_in_the_range_that_the_backbone_sees(backbone):
    torch.manual_seed(0)
    network, batch = PCT(**TINY[backbone]).eval(), given()
    with torch.no_grad():
        loss, parts = network.loss("network", batch)
        error = (network(batch) - batch["real"]).square()
        if backbone == "convolutional":
            error = error / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) ** 2
    # 208 pixels of foreground count as 1000
    assert parts["pixel"].item() == pytest.approx((error.sum((1, 2, 3)) / 3000).mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(parts["pixel"].item() + 0.1 * parts["smoothness"].item(), rel=1e-5)


def test_style_loss_needs_weights_and_counts_with_its_weight():
    torch.manual_seed(0)
    network, batch = PCT(**TINY["transformer"] | {"perceptual_weights": "missing.pth"}), given()
    with pytest.raises(ValueError, match="perceptual_weights = 'missing.pth': no such file"):
        network.loss("network", batch)
    network.features = lambda image: [image]
    loss, parts = network.loss("network", batch)
    rest = parts["pixel"] + 0.1 * parts["smoothness"]
    assert 0 < parts["style"] <= 2 and torch.isclose(loss, rest + 0.01 * parts["style"])
    alone = {key: value[:1] for key, value in batch.items()}
    assert network.loss("network", alone)[0].isfinite(), "a batch of one has the composite as its only negative"


@pytest.mark.parametrize("backbone, by", [("transformer", 4), ("convolutional", 4)])
def test_sizes(backbone, by):
    network = PCT(**TINY[backbone])
    with pytest.raises(ValueError, match=f"height 30 is not divisible by {by}; pad to 32"):
        network(given(30, 32))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = network.loss("network", given(36, 20, count=1))
        drawn = network(given(36, 20, count=1))
    loss.backward()
    assert loss.isfinite() and drawn.dtype == torch.float32 and drawn.shape == (1, 3, 36, 20)
    if backbone == "convolutional":
        with pytest.raises(ValueError, match="batch normalization a single value"):
            network(given(4, 4, count=1))


def test_without_the_contract_a_network_says_so():
    with pytest.raises(TypeError, match="S2AM predicts no parameters for another size"):
        models.create("s2am").harmonize_at(given(), given())
