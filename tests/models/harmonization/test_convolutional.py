"""What every trained network here must do, on tiny ones."""

import pytest
import torch
from torch import Tensor

import models

BY_FOREGROUND = {"reconstruction": "foreground_mse", "global_skip": True}
TINY = {
    "iih": {"width": 4, "reflectance_residuals": 1, "lighting_blocks": 1, "recompositions": 1},
    "iih by foreground": {"width": 4, "guiding_residuals": 1, "lighting_blocks": 1, "recompositions": 1}
    | BY_FOREGROUND,
    "dht": {"width": 4, "layers": 2},
    "dht with the light's encoder": {"width": 4, "layers": 1, "light_encoder": True},
    "dht by foreground": {"width": 4, "layers": 2} | BY_FOREGROUND,
    "dht as ht": {"form": "ht", "width": 8, "layers": 2},
    "dht as ht by foreground": {"form": "ht", "width": 8, "layers": 2} | BY_FOREGROUND,
    "rainnet": {"levels": 4, "width": 8, "dropout": 0.0, "adversarial": False},
    "rainnet with mask and discriminators": {"levels": 4, "width": 4, "mask_input": True, "discriminator_width": 4},
    "dovenet": {"levels": 4, "width": 8, "dropout": 0.0, "adversarial": False},
    "dovenet with discriminators": {"levels": 4, "width": 4, "norm": "batch", "discriminator_width": 4},
    "s2am": {"levels": 4, "width": 8},
    "s2am with global skip": {"levels": 4, "width": 8, "global_skip": True},
    "dih": {"levels": 3, "width": 8},
    "dih with rain": {"levels": 3, "width": 8, "rain": True},
    "bargainnet": {"levels": 4, "width": 8, "dropout": 0.0, "encoder_levels": 3},
    "regional_references": {"levels": 4, "width": 8, "image_size": 32},
    "regional_references on the decoder's features": {"levels": 4, "width": 8, "image_size": 32, "features": "decoder"},
    "regional_references, other modules": {"levels": 4, "width": 8, "ltl": [], "ptl": [], "self_attention": [32], "adain": [128]},
    "regional_references, bare": {"levels": 4, "width": 8, "residual": False, "ltl": [], "ptl": []},
    "rainnet by foreground": {"levels": 4, "width": 8, "dropout": 0.0, "adversarial": False} | BY_FOREGROUND,
    "dovenet by foreground": {"levels": 4, "width": 8, "dropout": 0.0, "adversarial": False} | BY_FOREGROUND,
    "s2am by foreground": {"levels": 4, "width": 8} | BY_FOREGROUND,
    "dih by foreground": {"levels": 3, "width": 8} | BY_FOREGROUND,
    "bargainnet by foreground": {"levels": 4, "width": 8, "dropout": 0.0, "encoder_levels": 3} | BY_FOREGROUND,
    "region_contrastive by foreground": {"levels": 4, "width": 8, "patches": 16} | BY_FOREGROUND,
    "region_contrastive": {"levels": 4, "width": 8, "patches": 16},
    "region_contrastive towards its goal": {"levels": 4, "width": 8, "patches": 16, "contrast": "goal", "fusion": "own_first"},
    "region_contrastive without contrast": {"levels": 4, "width": 8, "contrastive_weight": 0.0},
    "region_contrastive with adain": {"levels": 4, "width": 8, "contrastive_weight": 0.0, "fusion": "adain"},
}


def tiny(kind: str) -> models.Model:
    torch.manual_seed(0)
    return models.create(kind.split()[0].strip(","), **TINY[kind])


def given(count: int = 2, size: int = 32) -> dict[str, Tensor]:
    """Smooth real pictures, and composites of them whose foreground is darker and redder."""
    generator = torch.Generator().manual_seed(1)
    real = torch.nn.functional.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (size, size), mode="bilinear")
    mask = torch.zeros(count, 1, size, size)
    for index in range(count):
        mask[index, :, size // 8 : size // 2 + 4 * index + 2, : size // 2 + 1] = 1
    changed = real * torch.tensor([0.9, 0.6, 0.6]).view(1, 3, 1, 1)
    return {"composite": torch.lerp(real, changed, mask), "mask": mask, "real": real}


@pytest.fixture(params=TINY)
def kind(request) -> str:
    return request.param


def test_prediction(kind):
    network, batch = tiny(kind).eval(), given()
    with torch.no_grad():
        prediction = network({name: batch[name] for name in ("composite", "mask")})
    assert network.task == "harmonization"
    assert prediction.shape == batch["composite"].shape and prediction.dtype == torch.float32
    assert prediction.min() >= 0 and prediction.max() <= 1


def test_gradients_reach_every_parameter_of_the_player_and_no_other(kind):
    network, batch = tiny(kind), given()
    everything = dict(network.named_parameters())
    for name, parameter in everything.items():
        if name.endswith("weigh.0.bias"):  # S2AM's channel gates: a hidden layer this small may start dead
            torch.nn.init.constant_(parameter, 2)
    assert sorted(p for player in network.players for p in map(id, network.parameters_of(player))) == sorted(
        map(id, everything.values())
    )
    for player in network.players:
        network.zero_grad(set_to_none=True)
        loss, parts = network.loss(player, batch)
        loss.backward()
        assert loss.isfinite() and not any(part.requires_grad or part.dim() for part in parts.values())
        own = set(map(id, network.parameters_of(player)))
        for name, parameter in everything.items():
            assert (parameter.grad is not None) == (id(parameter) in own), name
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0 or _may_be_without_effect(kind, name), name


def _may_be_without_effect(kind: str, name: str) -> bool:
    # a bias before an instance norm; a discriminator's last biases while both hinges are active, which move the scores of
    # real and fake images alike; what is done to the background behind the last layer that mixes pixels
    if (kind == "dovenet" and name.endswith("conv.bias")) or (name.startswith("discriminator") and name.endswith("bias")):
        return True
    if kind.startswith("dht"):
        # what the light's queries collect begins at 0: the first self-attention averages equal values, the bias of its
        # values, which is 0 at the start; so neither its weights nor what reads or scales the average have an effect yet
        first = "light.decoder.layers.0"
        ends = "self_attention.in_proj_weight", "self_attention.out_proj.weight", "norm_attention.weight"
        return name in [f"{first}.{end}" for end in ends] or _before_instance_norm(name, "reflectance_stem")
    if kind.startswith("iih"):
        return _before_instance_norm(name, "reflectance_encoder", "illumination_encoder")
    if kind.startswith("region_contrastive"):
        return name.startswith("unet.fusions.2.background") or name.endswith(("conv.bias", "convolutions.0.bias", "up.0.bias"))
    return name.endswith("read.bias")  # of which the keys' part adds the same to all of a row's logits


def _before_instance_norm(name: str, *encoders: str) -> bool:
    return name in {f"{encoder}.{layer}.conv.bias" for encoder in encoders for layer in range(3)}


def test_items_do_not_mix(kind):
    network, batch = tiny(kind).eval(), given()
    with torch.no_grad():
        together = network(batch)
        alone = [network({name: value[index : index + 1] for name, value in batch.items()}) for index in range(2)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_pasting_changes_nothing_outside_the_mask(kind):
    network, batch = tiny(kind).eval(), given()
    batch["mask"][1] = 0
    with torch.no_grad():
        pasted = torch.lerp(batch["composite"], network(batch), batch["mask"])
    outside = batch["mask"].expand_as(pasted) == 0
    assert torch.equal(pasted[outside], batch["composite"][outside])
    assert torch.equal(pasted[1], batch["composite"][1]) and not torch.equal(pasted[0], batch["composite"][0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_empty_or_full_mask_trains_without_harm(kind, share):
    network, batch = tiny(kind), given()
    batch["mask"] = torch.full_like(batch["mask"], share)
    batch["composite"] = batch["real"] if share == 0 else batch["composite"]
    for player in network.players:
        network.zero_grad(set_to_none=True)
        loss, _ = network.loss(player, batch)
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters_of(player))


# a contrastive loss pulls against the pixels, and more so on a batch of two; its own tests say that it is learned
@pytest.mark.parametrize(
    "kind", [name for name in TINY if "discriminators" not in name and "patches" not in TINY[name]], indirect=True
)
def test_overfits_one_small_batch(kind):
    network, batch = tiny(kind), given()
    (player,) = network.players
    # transformers, and products of two maps, lose their way at the rate of the others
    slow = kind.startswith(("iih", "dht"))
    optimizer = torch.optim.Adam(network.parameters_of(player), 3e-3 if slow else 1e-2)
    before = foreground_error(network, batch)
    for _ in range(60):
        loss, _ = network.loss(player, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    composite = ((batch["composite"] - batch["real"]).square() * batch["mask"]).sum()
    after = foreground_error(network, batch)
    assert after < 0.5 * min(before, composite)


def foreground_error(network: models.Model, batch: dict[str, Tensor]) -> Tensor:
    # in training mode: statistics of batch normalization would lag behind in so few steps
    with torch.no_grad():
        return ((network(batch) - batch["real"]).square() * batch["mask"]).sum()


@pytest.mark.parametrize("kind", [name for name in TINY if "discriminators" in name], indirect=True)
def test_the_players_take_turns(kind):
    network, batch = tiny(kind), given()
    assert network.players == ("discriminator", "generator")
    optimizers = {player: torch.optim.Adam(network.parameters_of(player), 2e-3, (0.5, 0.999)) for player in network.players}
    reconstruction = []
    for _ in range(20):
        for player in network.players:
            loss, parts = network.loss(player, batch)
            optimizers[player].zero_grad()
            loss.backward()
            optimizers[player].step()
        reconstruction.append(parts["reconstruction"].item())
    assert reconstruction[-1] < 0.85 * reconstruction[0]


def test_a_size_that_does_not_fit_is_refused_in_words(kind):
    network = tiny(kind).eval()
    if kind.startswith(("iih", "dht")):
        by = 4 if "as ht" in kind else 8
    else:
        by = 2 ** (TINY[kind]["levels"] - kind.startswith("region_contrastive"))
    with pytest.raises(ValueError, match=rf"width 50 is not divisible by {by}; pad to {-(-50 // by) * by}"):
        network({"composite": torch.rand(1, 3, 32, 50), "mask": torch.zeros(1, 1, 32, 50)})


def test_sides_may_differ(kind):
    network = tiny(kind).eval()
    batch = {"composite": torch.rand(1, 3, 32, 48), "mask": torch.zeros(1, 1, 32, 48)}
    batch["mask"][..., 8:20, 8:30] = 1
    with torch.no_grad():
        assert network(batch).shape == (1, 3, 32, 48)


def test_bfloat16_autocast_stays_near(kind):
    network, batch = tiny(kind).eval(), given()
    with torch.no_grad():
        exact = network(batch)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = network(batch)
    assert reduced.dtype == torch.float32 and (reduced - exact).abs().mean() < 0.03
    with torch.autocast("cpu", torch.bfloat16):
        losses = [network.loss(player, batch)[0] for player in network.players]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)


def test_an_unknown_player(kind):
    network = tiny(kind)
    for call in (lambda: network.loss("critic", given()), lambda: network.parameters_of("critic")):
        with pytest.raises(ValueError, match="has no player 'critic'"):
            call()


def test_a_state_dict_restores_the_prediction(kind):
    network, batch = tiny(kind).eval(), given()
    torch.manual_seed(5)
    other = models.create(kind.split()[0].strip(","), **TINY[kind]).eval()
    with torch.no_grad():
        assert not torch.equal(network(batch), other(batch))
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(batch), other(batch))
