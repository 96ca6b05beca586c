import pytest
import torch

import models
from benchmarks.rainnet import OurRainNet, PlainRainNet
from models.harmonization.rainnet import RainNet, rain_positions
from models.layers.normalization import RAIN, InstanceNorm


def given(size: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, size, size)
    mask[..., size // 8 : size // 2, size // 4 :] = 1
    return {
        "composite": torch.rand(2, 3, size, size, generator=generator),
        "mask": mask,
        "real": torch.rand(2, 3, size, size, generator=generator),
    }


def test_counts_at_published_size():
    with torch.device("meta"):
        network = models.create("rainnet", adversarial=False)
    assert sum(p.numel() for p in network.predictor_parameters()) == 54_759_043
    with torch.device("meta"):
        baseline = models.create("rainnet", adversarial=False, placement="Baseline")
    # RAIN has four numbers a channel, instance norm none: 54.75M, as published for the baseline
    assert sum(p.numel() for p in baseline.parameters()) == 54_759_043 - 4 * (4 * 512 + 256 + 128 + 64)


@pytest.mark.parametrize(
    "name, positions",
    # RainNet's supplementary, Table 1, as in specs/harmonization.md, section 2.1
    [
        ("Baseline", []),
        ("RAIN-Decoder-1", [14]),
        ("RAIN-Decoder-2", [13, 14]),
        ("RAIN-Decoder-3", [12, 13, 14]),
        ("RAIN-Decoder-4", [11, 12, 13, 14]),
        ("RAIN-Decoder", [8, 9, 10, 11, 12, 13, 14]),
        ("RAIN-Encoder", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("RAIN-1", [1, 14]),
        ("RAIN-2", [1, 2, 13, 14]),
        ("RAIN-3", [1, 2, 3, 12, 13, 14]),
        ("RAIN-4", [1, 2, 3, 4, 11, 12, 13, 14]),
        ("RAIN-5", [1, 2, 3, 4, 5, 10, 11, 12, 13, 14]),
        ("RAIN-6", [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14]),
        ("RAIN-Inner-3", [5, 6, 7, 8, 9, 10]),
        ("RAIN-Inner-4", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("RAIN-Inner-5", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ],
)
def test_every_row_of_the_placement_table(name, positions):
    assert sorted(rain_positions(name)) == positions
    assert rain_positions(tuple(positions)) == rain_positions(name)
    network = RainNet(placement=name, width=1, adversarial=False)
    norms = [layer for layer in network.generator.modules() if isinstance(layer, (RAIN, InstanceNorm))]
    # position 7 is the innermost convolution's, which has no norm
    assert len(norms) == 13 and sum(isinstance(layer, RAIN) for layer in norms) == len([p for p in positions if p != 7])


def test_placement_by_position_reaches_the_layer_meant():
    # levels 8: the norm after the second convolution is position 1, that before the head is 14
    network = RainNet(placement=(1, 8), width=1, adversarial=False)
    blocks, block = [], network.generator.inside
    while block is not None:
        blocks.append(block)
        block = block.inside
    halves = [(level, half, getattr(block, half)) for level, block in enumerate(blocks) for half in ("down", "up")]
    assert [(level, half) for level, half, step in halves if isinstance(step.norm, RAIN)] == [(0, "down"), (6, "up")]


def test_placement_at_other_depths_and_refusals():
    assert rain_positions("RAIN-Decoder", 5) == {5, 6, 7, 8}
    assert rain_positions("RAIN-Inner-2", 5) == {3, 4, 5, 6}
    assert rain_positions([2, 3], 5) == {2, 3}
    with pytest.raises(ValueError, match="no placement 'RAIN-Outer'"):
        rain_positions("RAIN-Outer")
    with pytest.raises(ValueError, match="'RAIN-6': with 5 levels, its number is 1 to 4"):
        rain_positions("RAIN-6", 5)
    with pytest.raises(ValueError, match="placement 15: with 8 levels, positions are 1 to 14"):
        rain_positions((3, 15))
    with pytest.raises(ValueError, match="rainnet: placement = 3"):
        models.create("rainnet", placement=3)


def test_the_mask_enters_through_rain_alone():
    batch = given(32)
    other = {**batch, "mask": 1 - batch["mask"]}
    baseline = {"placement": "Baseline"}
    for settings, blind in ((baseline, True), ({}, False), (baseline | {"mask_input": True}, False)):
        torch.manual_seed(0)
        network = RainNet(levels=4, width=4, adversarial=False, **settings).eval()
        with torch.no_grad():
            assert torch.equal(network(batch), network(other)) == blind


@pytest.fixture
def pair() -> tuple[RainNet, PlainRainNet]:
    """Ours and the plain reading, with the same weights; RAIN's not zero."""
    torch.manual_seed(0)
    ours = RainNet(levels=6, width=4, dropout=0.0, discriminator_width=4)
    with torch.no_grad():
        for layer in ours.modules():
            if isinstance(layer, RAIN):
                for parameter in layer.parameters():
                    parameter.normal_(0, 0.2)
    return ours, PlainRainNet(ours, 6, 4, 0.0)


def test_generator_and_discriminators_equal_a_plain_reading(pair):
    (ours, plain), batch = pair, given()
    ours.eval(), plain.discriminator.eval()
    with torch.no_grad():
        image = batch["composite"] * 2 - 1
        expected = plain.generator(image, batch["mask"])
        assert torch.allclose(ours(batch) * 2 - 1, expected, atol=1e-4)
        scores = zip(ours.discriminator(image, batch["mask"]), plain.discriminator(image, batch["mask"]))
        assert all(torch.allclose(*pair, atol=1e-4) for pair in scores)


def test_a_training_step_equals_a_plain_reading(pair):
    (ours, plain), batch = pair, given()
    # in eval mode neither dropout nor power iteration, which ours makes once a step and the plain reading once a call
    ours.eval(), plain.generator.eval(), plain.discriminator.eval()
    for step in (OurRainNet(ours).step, plain.step):
        torch.manual_seed(3)  # of the gradient penalty's mix
        step(batch)
    for mine, theirs in zip(ours.generator.parameters(), plain.generator.in_order()):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4 * theirs.grad.abs().max().item() + 1e-7)
    expected = sorted(p.grad.norm().item() for p in plain.discriminator.parameters())
    norms = sorted(p.grad.norm().item() for p in ours.discriminator.parameters())
    assert norms == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_loss_adds_up_and_is_taken_on_the_pasted_image():
    torch.manual_seed(0)
    network, batch = RainNet(levels=4, width=4, discriminator_width=4).eval(), given(32)
    loss, parts = network.loss("generator", batch)
    with torch.no_grad():
        pasted = torch.lerp(batch["composite"], network(batch), batch["mask"])
    # images in [-1, 1] are twice as far apart
    assert torch.isclose(parts["reconstruction"], 2 * (pasted - batch["real"]).abs().mean(), atol=1e-5)
    assert torch.isclose(loss, 100 * parts["reconstruction"] + parts["global"] + parts["verification"])
    whole, verified = network.discriminator(pasted * 2 - 1, batch["mask"])
    assert torch.isclose(parts["global"], -whole.mean(), atol=1e-5)
    assert torch.isclose(parts["verification"], -verified.mean(), atol=1e-5)


def test_what_the_switches_leave_out():
    alone = RainNet(levels=4, width=4, adversarial=False)
    assert alone.players == ("generator",) and not hasattr(alone, "discriminator")
    with pytest.raises(ValueError, match="has no player 'discriminator'"):
        alone.loss("discriminator", given(32))
    network = RainNet(levels=4, width=4, discriminator_width=4, gradient_penalty=False)
    assert set(network.loss("discriminator", given(32))[1]) == {"global", "verification"}
    assert "gradient_penalty" in RainNet(levels=4, width=4, discriminator_width=4).loss("discriminator", given(32))[1]


@pytest.mark.parametrize("model", ["rainnet", "dovenet"])
def test_a_step_draws_once_and_the_generator_learns_what_it_would_have(model):
    torch.manual_seed(0)
    options = {"levels": 4, "width": 4, "dropout": 0.0, "discriminator_width": 4, "gradient_penalty": False}
    network, batch, drawings = models.create(model, **options).eval(), given(32), []
    network.generator.register_forward_hook(lambda module, given, out: drawings.append(out))

    def gradients(players: tuple[str, ...]) -> list[torch.Tensor]:
        for player in players:
            for parameter in network.parameters():  # as the trainer does
                parameter.requires_grad_(False)
            for parameter in network.parameters_of(player):
                parameter.requires_grad_(True)
            network.zero_grad(set_to_none=True)
            network.loss(player, batch)[0].backward()
            for other in set(network.players) - {player}:
                assert all(parameter.grad is None for parameter in network.parameters_of(other))
        return [parameter.grad for parameter in network.parameters_of("generator")]

    alone = gradients(("generator",))
    together = gradients(("discriminator", "generator"))
    assert len(drawings) == 2 and all(map(torch.equal, alone, together))
    network.loss("discriminator", batch)
    network.loss("generator", given(32))  # equal, but another batch: nothing is taken for it
    assert len(drawings) == 4
    with torch.no_grad():  # nothing to keep
        network.loss("discriminator", batch)
    network.loss("generator", batch)
    assert len(drawings) == 6


def test_parameters_in_the_published_order():
    """Shapes of the released generator's state dict, in its order: models/networks.py of junleen/RainNet."""
    shapes = [(2, 3, 4, 4), (4, 2, 4, 4), (8, 4, 4, 4), (16, 8, 4, 4)] + [(16, 16, 4, 4)] * 4
    for inner, outer, gated in [(16, 16, 0), (32, 16, 0), (32, 16, 0), (32, 16, 0), (32, 8, 1), (16, 4, 1), (8, 2, 1)]:
        shapes += [(inner, outer, 4, 4)] + [(outer,)] * 4
        shapes += [(2 * outer, 2 * outer, 1, 1), (2 * outer,)] if gated else []
    shapes += [(4, 3, 4, 4), (3,)]
    network = RainNet(width=2, adversarial=False)
    assert [tuple(value.shape) for value in network.generator.state_dict().values()] == shapes
