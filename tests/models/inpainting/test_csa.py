import pytest
import torch
from torch.nn import functional as F

import models
from benchmarks.csa import PlainAttention
from models.inpainting.csa import coherent_attention, feature_hole
from models.losses import perceptual
from tests.models import released


def tiny(**hyperparameters):
    torch.manual_seed(0)
    defaults = {"width": 8, "levels": 4, "discriminator_width": 4, "perceptual_weights": "none"}
    return models.create("csa", **defaults | hyperparameters)


def batch_of(n=2, size=64, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(n, 1, size, size)
    for index in range(n):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        hole[index, :, top : top + side, left : left + side] = 1
    image = F.interpolate(torch.rand(n, 3, size // 8, size // 8, generator=generator), scale_factor=8, mode="bilinear")
    return {"image": image, "hole": hole}


def test_lines_up_with_the_released_generators():
    """KumapowerLIU/CSA-inpainting, train.ipynb: netP (unet_256), then netG (unet_csa)."""
    with torch.device("meta"):
        model = models.create("csa")
    count = lambda network: sum(parameter.numel() for parameter in network.parameters())
    assert (count(model.generator.coarse), count(model.generator.fine)) == (54_419_459, 77_692_291)
    assert sum(p.numel() for p in model.predictor_parameters()) == 132_111_750
    # as the notebook prints them
    assert (count(model.discriminator["image"]), count(model.discriminator["features"])) == (2_766_529, 10_487_296)
    shapes = released.shapes(model.generator)
    assert len(shapes) == 180 and released.digest(shapes) == "029def9f93ad0e77"
    assert released.shapes(model)[:180] == shapes


def features_and_holes(mean=1.0):
    torch.manual_seed(4)
    features, hole = mean + torch.randn(4, 16, 10, 12), torch.zeros(4, 1, 10, 12)
    hole[0, :, 2:7, 3:9] = hole[1, :, :, 5] = hole[1, :, 0, :] = 1
    hole[2, :, 9, 11] = 1  # a single position; the fourth image has no hole at all
    return features, hole


@pytest.mark.parametrize("mean", [1.0, 0.0])  # at 0 half of the similarities are negative
def test_attention_equals_the_plain_double_loop(mean):
    features, hole = features_and_holes(mean)
    wanted, given = features.clone().requires_grad_(), features.clone().requires_grad_()
    gradient = torch.randn_like(features)
    expected, out = PlainAttention.apply(wanted, hole), coherent_attention(given, hole)
    assert not torch.equal(out, features)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    expected.backward(gradient)
    out.backward(gradient)
    torch.testing.assert_close(given.grad, wanted.grad, rtol=0, atol=1e-4)


def test_attention_by_hand():
    """A row of four: two known positions, then two of the hole."""
    known, hole_features = [[2.0, 0.0], [0.0, 1.0]], [[3.0, 1.0], [3.0, 4.0]]
    features = torch.tensor(known + hole_features).t().view(1, 2, 1, 4)
    hole = torch.tensor([0.0, 0, 1, 1]).view(1, 1, 1, 4)
    out = coherent_attention(features, hole)[0, :, 0]
    torch.testing.assert_close(out[:, :2], features[0, :, 0, :2])
    # (3, 1) is most like (2, 0), which comes in whole
    torch.testing.assert_close(out[:, 2], torch.tensor([2.0, 0.0]))
    # (3, 4) is most like (0, 1), m = 4; the feature before gives p = (2, 0).(0.6, 0.8) = 1.2
    torch.testing.assert_close(out[:, 3], torch.tensor([2.0, 0.0]) * 1.2 / 5.2 + torch.tensor([0.0, 1.0]) * 4 / 5.2)


def test_attention_is_bounded_where_similarities_cancel():
    """A generated feature is a convex mix of known ones; dividing by p + m unguarded gives values of any size."""
    for seed in range(20):
        torch.manual_seed(seed)
        features, hole = torch.randn(1, 3, 12, 12), torch.zeros(1, 1, 12, 12)
        hole[..., 3:10, 2:11] = 1
        out = coherent_attention(features, hole)
        known = features[(hole < 1).expand_as(features)]
        assert out[hole.expand_as(out) > 0].abs().max() <= known.abs().max() + 1e-5


def test_attention_without_known_features_or_without_a_hole():
    features = torch.randn(2, 4, 6, 6)
    for value in (0.0, 1.0):
        assert torch.equal(coherent_attention(features, torch.full((2, 1, 6, 6), value)), features)
    hole = torch.ones(2, 1, 6, 6)
    hole[1, :, 0] = 0
    out = coherent_attention(features, hole)
    assert torch.equal(out[0], features[0]) and torch.isfinite(out).all() and not torch.equal(out[1], features[1])


def test_which_positions_are_hole():
    """The released notebook's hole, rows and columns 68 to 187 of 256: averages over 22 pixels, cut at 5/16."""
    hole = torch.zeros(1, 1, 256, 256)
    hole[..., 68:188, 68:188] = 1
    small = feature_hole(hole)
    weights = torch.full((1, 1, 4, 4), 1 / 16)
    share = hole
    for _ in range(3):
        share = F.conv2d(share, weights, None, 2, 1)
    assert small.shape == (1, 1, 32, 32) and torch.equal(small, (share > 5 / 16).float())
    assert 14**2 <= small.sum() <= 17**2


def test_what_the_networks_read():
    model, batch, seen = tiny().eval(), batch_of(1), {}
    model.generator.coarse.register_forward_hook(
        lambda _, given, out: seen.update(coarse_in=given[0].clone(), coarse=out.tanh())
    )
    model.generator.fine.register_forward_pre_hook(lambda _, given: seen.update(fine_in=given[0]))
    model(batch)
    fill = 2 * torch.tensor([123.0, 104.0, 117.0]).view(3, 1, 1) / 255 - 1
    filled = torch.where(batch["hole"] > 0, fill, 2 * batch["image"] - 1)
    torch.testing.assert_close(seen["coarse_in"], filled)
    pasted = torch.where(batch["hole"] > 0, seen["coarse"], filled)
    torch.testing.assert_close(seen["fine_in"], torch.cat([pasted, filled], 1))
    assert not seen["fine_in"].requires_grad


@pytest.mark.slow
def test_losses_with_a_random_vgg(tmp_path):
    """Random weights of VGG-16's layout stand in for ImageNet's."""
    torch.manual_seed(3)
    network = perceptual._layers("vgg16")
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "random.pth")
    model, batch = tiny(width=64, perceptual_weights=str(tmp_path / "random.pth")).eval(), batch_of(1)
    real, hole = 2 * batch["image"] - 1, batch["hole"]
    with torch.no_grad():
        coarse, fine, attended, mirrored = model.draw(batch["image"], hole)
        tap = lambda image, last: network[: last + 1](image)
        inside, wanted = feature_hole(hole), tap(real, 22)
        expected = {"coarse": F.l1_loss(coarse, real), "fine": F.l1_loss(fine, real)}
        expected["consistency"] = sum(
            F.mse_loss(attended_features * inside, wanted * inside) for attended_features in (attended, mirrored)
        )
        scores = {name: [judge(judged) for judged in pair] for name, judge, pair in (
            ("adversarial", model.discriminator["image"], (real, fine)),
            ("feature_adversarial", model.discriminator["features"], (tap(real, 16), tap(fine, 16))),
        )}  # fmt: skip
        for name, (true, fake) in scores.items():
            halves = (
                F.mse_loss(true - fake.mean() + 1, torch.zeros_like(true)),
                F.mse_loss(fake - true.mean() - 1, torch.zeros_like(fake)),
            )
            expected[name] = sum(halves) / 2
    total, parts = model.loss("generator", batch)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-6)
    weights = {"coarse": 100, "fine": 100, "consistency": 1, "adversarial": 0.2, "feature_adversarial": 0.2}
    torch.testing.assert_close(total.detach(), sum(weights[name] * parts[name] for name in weights))
    judged, _ = model.loss("discriminator", batch)
    with torch.no_grad():
        pairs = scores.values()
        expected = (
            sum(
                (true - fake.mean() - 1).square().mean() + (fake - true.mean() + 1).square().mean()
                for true, fake in pairs
            )
            / 4
        )
    torch.testing.assert_close(judged.detach(), expected, rtol=1e-3, atol=1e-6)


def test_both_players_of_a_step_see_the_same_drawing():
    model, batch, calls = tiny().train(), batch_of(), []
    model.generator.register_forward_hook(lambda *_: calls.append(1))
    for player in model.players:
        model.loss(player, batch)
    assert model.players == ("discriminator", "generator") and len(calls) == 1
    model.loss("generator", batch)[0].backward()
    assert len(calls) == 2


def test_the_coarse_network_learns_from_its_own_error_alone():
    model, batch = tiny(adversarial=False), batch_of(1)
    _, fine, *_ = model.draw(batch["image"], batch["hole"])
    fine.sum().backward()
    assert all(p.grad is None for p in model.generator.coarse.parameters())
    assert all(p.grad is not None for p in model.generator.fine.parameters())


def test_without_its_adversaries():
    model = tiny(adversarial=False)
    assert model.players == ("generator",) and not any("discriminator" in name for name in model.state_dict())
    assert set(model.loss("generator", batch_of(size=32, side=16))[1]) == {"coarse", "fine"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": 3}, "levels = 3, expected at least 4"),
        (
            {"perceptual_weights": "torchvision"},
            "width = 8 gives the attention 64 channels, .* take width 64, or perceptual_weights 'none'",
        ),
    ],
)
def test_refused_hyperparameters(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_refused_sizes():
    model = tiny()
    with pytest.raises(ValueError, match="width 60 is not divisible by 16; pad to 64"):
        model({"image": torch.zeros(1, 3, 64, 60), "hole": torch.zeros(1, 1, 64, 60)})
    with pytest.raises(ValueError, match="sides of 64 pixels or more"):
        model.loss("generator", batch_of(1, 48))
