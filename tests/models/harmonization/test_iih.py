import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.harmonization.iih import (
    IIH,
    Guiding,
    Lighting,
    Recomposition,
    Relight,
    gradient_l1,
    second_differences,
)
from tests.models.released import digest, shapes

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states/iih.json"


def given(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, size, size)
    mask[..., 4:20, 8:] = 1
    image = [torch.rand(2, 3, size, size, generator=generator) for _ in range(2)]
    return {"composite": image[0], "mask": mask, "real": image[1]}


def test_state_dict_is_that_of_the_released_network():
    """zhenglab/IntrinsicHarmony, base_lt_gd with its options' defaults."""
    with torch.device("meta"):
        network = models.create("iih")
        paper = models.create("iih", guiding_residuals=6)
    assert sum(p.numel() for p in network.predictor_parameters()) == 33_775_982
    assert digest(shapes(network)) == "1d35d76e8e36fa8e"
    assert sum(p.numel() for p in paper.parameters()) == 40_863_086  # the paper states 40.86 million


@pytest.mark.skipif(not RELEASED.exists(), reason="the list of the released state dict is not here")
def test_digest_is_that_of_the_list():
    assert digest([entry[1] for entry in json.loads(RELEASED.read_text())["entries"]]) == "1d35d76e8e36fa8e"


def test_light_codes_are_those_of_the_means_over_each_region():
    torch.manual_seed(0)
    lighting, inputs = Lighting(2, 3), torch.rand(1, 4, 16, 16)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 0] = 1
    foreground, background = lighting(inputs, mask)
    features = lighting.encoder(inputs)[0]
    inside = (features[:, 1, 0] + features[:, 2, 0]) / 2
    outside = (features.sum((1, 2)) - 2 * inside) / 14
    torch.testing.assert_close(foreground[0], lighting.code(inside))
    torch.testing.assert_close(background[0], lighting.code(outside))
    absent, _ = lighting(inputs, torch.zeros_like(mask))
    torch.testing.assert_close(absent[0], lighting.code.bias)


def test_relighting_by_hand_at_one_place():
    torch.manual_seed(0)
    relight, features = Relight(2, 3), torch.randn(1, 2, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2, 1] = 1
    own, background = torch.randn(1, 3), torch.randn(1, 3)
    relit = relight(features, (own, background), mask)
    before, after = (F.leaky_relu(relight.light(code), 0.2)[0] for code in (own, background))
    expected = after[:2] - before[:2]
    parts = relight.parts(features)[0, :, 2, 1]
    for part in range(3):
        share = [light[2:].view(3, 2).softmax(0)[part] for light in (before, after)]
        expected = expected + parts[2 * part : 2 * part + 2] * share[1] / share[0]
    torch.testing.assert_close(relit[0, :, 2, 1], expected)
    outside = (mask == 0).expand_as(features)
    assert torch.equal(relit[outside], features[outside])


def test_the_same_light_leaves_the_sum_of_the_parts():
    torch.manual_seed(0)
    relight, features, code = Relight(2, 3), torch.randn(2, 2, 4, 4), torch.randn(2, 3)
    relit = relight(features, (code, code), torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(relit, relight.parts(features).unflatten(1, (3, 2)).sum(1), atol=1e-5, rtol=1e-5)


def test_the_match_is_a_softmax_over_all_places_of_ten_covariances():
    torch.manual_seed(0)
    guiding, inputs = Guiding(4, 1), torch.rand(1, 4, 16, 24)
    with torch.no_grad():
        guiding.head.conv.weight.normal_(0, 1)
    mask = torch.zeros(1, 1, 2, 3)
    mask[..., 0, :2] = 1  # places 0 and 1
    match, mean = guiding(inputs, mask)
    vectors = guiding.head(guiding.encoder(inputs))[0].flatten(1)  # (16, 6)
    covariance = torch.stack([torch.cov(vectors[:, [place, 1]].T)[0, 1] for place in range(6)])
    covariance = covariance.detach()
    covariance[:2] = 0  # the foreground's own places take part as zeros
    torch.testing.assert_close(match[0, :, 1], (10 * covariance).softmax(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(match[0, :, 2:], torch.full((6, 4), 1 / 6))
    torch.testing.assert_close(mean, vectors.mean(0).view(1, 1, 2, 3))


def test_recomposition_puts_down_overlapping_patches():
    torch.manual_seed(0)
    recompose, features = Recomposition(3), torch.randn(2, 3, 4, 6)
    match = torch.rand(2, 6, 6).softmax(1)
    padded, put = F.pad(features, (1, 1, 1, 1), mode="reflect"), torch.zeros(2, 3, 6, 8)
    for item in range(2):
        for target in range(6):
            for source in range(6):
                row, column = divmod(source, 3)
                patch = padded[item, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
                row, column = divmod(target, 3)
                put[item, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += match[item, source, target] * patch
    put = put[..., 1:-1, 1:-1] / 4
    expected = features + recompose.join(torch.cat([features, put], 1))
    torch.testing.assert_close(recompose(features, match), expected, atol=1e-5, rtol=1e-5)


def test_gradient_loss_by_hand():
    first, second = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    first[0, 0] = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    first[0, 1, 0, 0] = 2.0  # summed over channels: 3 2 / 0 4
    second[0, 2] = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    # horizontal, absolute: 3 1 / 0 4 against 1 1 / 0 0; vertical: 3 2 / 3 2 against 1 0 / 1 0
    assert gradient_l1(first, second).item() == pytest.approx((2 + 0 + 0 + 4) / 4 + (2 + 2 + 2 + 2) / 4)


def test_second_differences_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 4.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]]])
    down, across = [4 - 0 - 0, 1 + 2, 0], [2.0, 0.0, -4.0]
    # across rows 4 (column 2), 3 (column 1), 0; mixed: differences of the four 2x2 squares
    mixed = [0 - 0 - 1 + 0, 0 - 0 - 4 + 1, 2 - 0 - 0 + 0, 0 - 2 - 0 + 0]
    expected = sum(map(abs, down)) / 3 + sum(map(abs, across)) / 3 + 2 * sum(map(abs, mixed)) / 4
    assert second_differences(image).item() == pytest.approx(expected)


def test_five_losses_and_their_weights():
    torch.manual_seed(0)
    settings = {"l1_weight": 3.0, "reflectance_gradient_weight": 5.0, "illumination_weight": 7.0}
    network, batch = IIH(width=4, smoothness_weight=0.5, guiding_weight=2.0, **settings).eval(), given()
    loss, parts = network.loss("network", batch)
    maps = network.maps(batch)
    assert list(parts) == ["l1", "reflectance_gradient", "illumination", "smoothness", "guiding"]
    torch.testing.assert_close(parts["l1"], (network(batch) - batch["real"]).abs().mean())
    torch.testing.assert_close(parts["illumination"], (maps["illumination"] - batch["real"]).square().mean())
    torch.testing.assert_close(parts["reflectance_gradient"], gradient_l1(maps["reflectance"], batch["real"]))
    assert 0 <= parts["guiding"] <= 1
    weighted = sum(weight * part for weight, part in zip((3, 5, 7, 0.5, 2), parts.values()))
    torch.testing.assert_close(loss.detach(), weighted)
    published = dict(zip(parts, (100, 10, 1, 10, 100)))
    assert IIH(width=4).weights == published


def test_the_illumination_teaches_the_guiding_nothing():
    torch.manual_seed(0)
    network, batch = IIH(width=4), given()
    network.maps(batch)["illumination"].sum().backward()
    assert all(parameter.grad is None for parameter in network.guiding.parameters())
    network.maps(batch)["reflectance"].sum().backward()
    assert all(parameter.grad is not None for parameter in network.guiding.parameters())


@pytest.mark.parametrize("skip", [False, True])
def test_the_prediction_is_the_product_of_the_maps(skip):
    torch.manual_seed(0)
    network, batch = IIH(width=4, global_skip=skip).eval(), given()
    with torch.no_grad():
        maps, drawn = network.maps(batch), network(batch)
    assert all(drawing.min() >= 0 and drawing.max() <= 1 for drawing in maps.values())
    if skip:
        assert (drawn - batch["composite"]).abs().mean() < 0.05
    else:
        torch.testing.assert_close(drawn, maps["reflectance"] * maps["illumination"])


def test_what_it_refuses():
    network = IIH(width=4)
    with pytest.raises(ValueError, match="height 8 is below 16, the least for the reflection padding"):
        network({"composite": torch.rand(1, 3, 8, 16), "mask": torch.zeros(1, 1, 8, 16)})
    with pytest.raises(ValueError, match="width = 5, expected an even number"):
        IIH(width=5)
