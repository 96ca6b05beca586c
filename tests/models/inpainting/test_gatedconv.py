import pytest
import torch
from torch.nn import functional as F

import models
from models.inpainting import gatedconv
from models.inpainting.gatedconv import GatedConv2d
from tests.models import training, vector


def tiny(**hyperparameters):
    torch.manual_seed(0)
    return models.create("gatedconv", **{"width": 8, "discriminator_width": 4, **hyperparameters})


def batch_of(n=2, size=32, side=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(n, 1, size, size)
    for index in range(n):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        hole[index, :, top : top + side, left : left + side] = 1
    return {"image": torch.rand(n, 3, size, size, generator=generator), "hole": hole}


def gated_parameters(c, inputs, gate_output):
    """From the layer table: (kernel, channels in, channels out), each with a feature and a gate of its own."""

    def decoder(before):
        return [
            (3, before, 4 * c),
            (3, 4 * c, 4 * c),
            (3, 4 * c, 2 * c),
            (3, 2 * c, 2 * c),
            (3, 2 * c, c),
            (3, c, c // 2),
        ]

    dilated, four = [(3, 4 * c, 4 * c)] * 4, (3, 4 * c, 4 * c)
    stage1 = [
        (5, inputs[0], c),
        (3, c, 2 * c),
        (3, 2 * c, 2 * c),
        (3, 2 * c, 4 * c),
        four,
        four,
        *dilated,
        *decoder(4 * c),
    ]
    start = [(5, inputs[1], c), (3, c, c), (3, c, 2 * c)]
    branch_a = [*start, (3, 2 * c, 2 * c), (3, 2 * c, 4 * c), four, *dilated]
    branch_b = [*start, (3, 2 * c, 4 * c), four, four, four, four]
    layers = stage1 + branch_a + branch_b + decoder(8 * c)
    last = (9 * (c // 2) + 1) * 3
    return sum(2 * (kernel**2 * before + 1) * after for kernel, before, after in layers) + 2 * last * (
        2 if gate_output else 1
    )


@pytest.mark.parametrize("layout, count", [("official", 4_052_478), ("port", 16_174_956)])
def test_published_sizes(layout, count):
    """4,052,478 is the specification's number, 16.17 M the port's."""
    with torch.device("meta"):
        model = models.create("gatedconv", layout=layout)
    table = gated_parameters(24, (5, 3), False) if layout == "official" else gated_parameters(48, (4, 4), True)
    assert sum(parameter.numel() for parameter in model.predictor_parameters()) == count == table
    assert model.parameters_of("generator") == model.predictor_parameters()
    widths = [64, 128, 256, 256, 256, 256]
    expected = sum((25 * before + 1) * after for before, after in zip([4, *widths], widths))
    assert sum(parameter.numel() for parameter in model.parameters_of("discriminator")) == expected


def test_gated_convolution_by_hand():
    torch.manual_seed(0)
    layer = GatedConv2d(3, 5, stride=2)
    features = torch.randn(1, 3, 8, 8)
    out = layer(features)
    feature, gate = F.conv2d(F.pad(features, (0, 1, 0, 1)), layer.convolution.weight, layer.convolution.bias, 2).split(
        5, 1
    )
    torch.testing.assert_close(out, F.elu(feature) * torch.sigmoid(gate))
    assert GatedConv2d(3, 4, up=True)(features).shape == (1, 4, 16, 16)
    assert GatedConv2d(3, 4, dilation=4)(features).shape == (1, 4, 8, 8)


def test_inputs_of_both_stages():
    model, batch = tiny().eval(), batch_of(1)
    seen = {}
    model.generator.coarse.register_forward_pre_hook(lambda _, given: seen.update(coarse=given[0]))
    model.generator.hallucination.register_forward_pre_hook(lambda _, given: seen.update(fine=given[0]))
    coarse, _ = model.draw(image=batch["image"], hole=batch["hole"])
    image, hole = 2 * batch["image"] - 1, batch["hole"]
    torch.testing.assert_close(seen["coarse"], torch.cat([image * (1 - hole), torch.ones_like(hole), hole], dim=1))
    torch.testing.assert_close(seen["fine"], image * (1 - hole) + coarse * hole)


def test_the_attentions_hole_takes_the_pixels_of_aligned_corners(monkeypatch):
    """A side of 32 at a quarter: round(31 i / 7) = 0, 4.43, 8.86, 13.29, 17.71, 22.14, 26.57, 31."""
    seen = {}

    def spy(features, hole):
        seen["hole"] = hole
        return features

    monkeypatch.setattr(gatedconv, "contextual_attention", spy)
    batch, kept = batch_of(1), [0, 4, 9, 13, 18, 22, 27, 31]
    batch["hole"] = (torch.rand(batch["hole"].shape, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    tiny()(batch)
    assert torch.equal(seen["hole"], batch["hole"][:, :, kept][..., kept])


def test_losses():
    model, batch = tiny().eval(), batch_of()
    total, parts = model.loss("generator", batch)
    real, hole = 2 * batch["image"] - 1, batch["hole"]
    with torch.no_grad():
        coarse, fine = model.draw(batch["image"], hole)
        composite = real * (1 - hole) + fine * hole
        fake_logits = model.discriminator(torch.cat([composite, hole], 1))[-1]
        real_logits = model.discriminator(torch.cat([real, hole], 1))[-1]
    torch.testing.assert_close(parts["coarse"], (coarse - real).abs().mean())
    torch.testing.assert_close(parts["fine"], (fine - real).abs().mean())
    torch.testing.assert_close(parts["adversarial"], -fake_logits.mean())
    torch.testing.assert_close(total.detach(), sum(parts.values()))
    loss, _ = model.loss("discriminator", batch)
    expected = (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2
    torch.testing.assert_close(loss.detach(), expected)


def test_without_the_adversary():
    model, batch = tiny(adversarial=False), batch_of()
    assert model.players == ("generator",) and not any("discriminator" in name for name in model.state_dict())
    total, parts = model.loss("generator", batch)
    coarse, fine = model.draw(batch["image"], batch["hole"])
    real = 2 * batch["image"] - 1
    torch.testing.assert_close(total, (coarse - real).abs().mean() + (fine - real).abs().mean())
    assert set(parts) == {"coarse", "fine"}
    with pytest.raises(ValueError, match="no player 'discriminator'; it has \\('generator',\\)"):
        model.loss("discriminator", batch)


def test_refusals():
    with pytest.raises(ValueError, match="width = 6, expected a multiple of 4"):
        tiny(width=6)
    with pytest.raises(ValueError, match="height 36 is not divisible by 8; pad to 40"):
        tiny()({"image": torch.zeros(1, 3, 36, 32), "hole": torch.zeros(1, 1, 36, 32)})


def test_the_port_trains_both_players():
    model = vector.build("gatedconv", {"width": 8, "discriminator_width": 4, "layout": "port"})
    # biases that move the scores of real and drawn pictures alike, which cancels while both hinges are active
    cancel = ["discriminator.layers.[45].1.bias"]
    training.assert_gradients(model, vector.batch("inpainting", 32), cancel)
