"""Every trained inpainter runs under bfloat16 autocast and draws about the same picture."""

import pytest
import torch

import models

TINY = {
    "rfr": {"width": 8, "perceptual_weights": "none", "guard": "extra_passes", "iter_num": 1},
    "pconv": {"width": 8, "levels": 4, "perceptual_weights": "none"},
    "gatedconv": {"width": 8, "discriminator_width": 4},
    "prvs": {"width": 8, "levels": 4, "discriminator_width": 4, "perceptual_weights": "none"},
    "csa": {"width": 8, "levels": 5, "discriminator_width": 4, "perceptual_weights": "none"},
    "edgeconnect": {"width": 8, "blocks": 1, "discriminator_width": 4, "perceptual_weights": "none"},
}


@pytest.mark.parametrize("name", TINY)
def test_bfloat16(name):
    torch.manual_seed(0)
    model = models.create(name, **TINY[name])
    hole = torch.zeros(2, 1, 64, 64)
    hole[0, :, 4:60, 4:60] = hole[1, :, 20:30, 10:40] = 1
    batch = {"image": torch.rand(2, 3, 64, 64), "hole": hole}
    with torch.no_grad():
        exact = model.eval()(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.02
    model.train()
    for player in model.players:
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = model.loss(player, batch)
        total.backward()
        assert torch.isfinite(total)
        gradients = [p.grad for p in model.parameters_of(player) if p.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
