import json
from pathlib import Path

import pytest
import torch

import models
from models.harmonization.dht import DHT, patches
from tests.models.released import digest, shapes

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states"
# zhenglab/HarmonyTransformer, DHT+ and HT+ with 2 heads and 9 layers
FORMS = {"dht": (21_771_718, "ac62a6e5d7f286a2"), "ht": (4_772_867, "086809ac368a747a")}


def given(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, size, size)
    mask[..., 4:15, 8:] = 1
    image = [torch.rand(2, 3, size, size, generator=generator) for _ in range(2)]
    return {"composite": image[0], "mask": mask, "real": image[1]}


@pytest.mark.parametrize("form", FORMS)
def test_state_dict_is_that_of_the_released_network(form):
    parameters, expected = FORMS[form]
    with torch.device("meta"):
        network = models.create("dht", form=form)
    assert sum(p.numel() for p in network.predictor_parameters()) == parameters
    assert digest(shapes(network)) == expected
    if (RELEASED / f"{form}.json").exists():
        entries = json.loads((RELEASED / f"{form}.json").read_text())["entries"]
        assert digest([entry[1] for entry in entries]) == expected


def test_the_papers_light_has_an_encoder_more():
    with torch.device("meta"):
        network = models.create("dht", light_encoder=True)
    # in and out of attention, two linear layers, two norms
    layer = 768 * 257 + 256 * 257 + 512 * 257 + 256 * 513 + 4 * 256
    assert sum(p.numel() for p in network.parameters()) == 21_771_718 + 9 * layer == 26_515_654


def test_patches_are_ordered_by_row_column_and_channel():
    image = torch.arange(2 * 2 * 4 * 6).view(2, 2, 4, 6)
    cut = patches(image, 2)
    assert cut.shape == (2, 6, 8)
    # the patch in the second row of patches and third column: rows 2 and 3, columns 4 and 5
    expected = [image[1, channel, row, column] for row in (2, 3) for column in (4, 5) for channel in (0, 1)]
    assert cut[1, 5].tolist() == expected


def test_the_light_sees_no_patch_that_touches_the_foreground():
    torch.manual_seed(0)
    network, batch = DHT(width=4, layers=1).eval(), given()
    with torch.no_grad():
        light = network.light(batch["composite"], batch["mask"])
        inside, beside, away = (batch["composite"].clone() for _ in range(3))
        inside[..., 6, 20] = 0
        beside[..., 15, 20] = 0  # background, of a patch (rows 8 to 15) that the foreground touches
        away[..., 16, 20] = 0
        assert torch.equal(network.light(inside, batch["mask"]), light)
        assert torch.equal(network.light(beside, batch["mask"]), light)
        assert not torch.equal(network.light(away, batch["mask"]), light)
        everywhere = network.light(batch["composite"], torch.ones_like(batch["mask"]))
        nowhere = network.light(batch["composite"], torch.zeros_like(batch["mask"]))
    torch.testing.assert_close(everywhere, nowhere)


def test_the_light_is_that_of_the_background():
    torch.manual_seed(0)
    network, batch, seen = DHT(width=4, layers=1).eval(), given(), []
    network.light.register_forward_pre_hook(lambda light, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(batch)
    inside = batch["mask"].expand_as(seen[0]) == 1
    assert (seen[0][inside] == 0).all() and torch.equal(seen[0][~inside], batch["composite"][~inside])


@pytest.mark.parametrize("skip", [False, True])
def test_the_prediction_is_the_product_of_the_maps(skip):
    torch.manual_seed(0)
    network, batch = DHT(width=4, layers=1, global_skip=skip).eval(), given()
    with torch.no_grad():
        maps, drawn = network.maps(batch), network(batch)
    assert list(maps) == ["reflectance", "illumination"]
    assert all(drawing.min() >= 0 and drawing.max() <= 1 for drawing in maps.values())
    if skip:
        assert (drawn - batch["composite"]).abs().mean() < 0.05
    else:
        torch.testing.assert_close(drawn, maps["reflectance"] * maps["illumination"])


def test_ht_is_trained_on_its_tanh_and_clipped():
    torch.manual_seed(0)
    network, batch, drawn = DHT(form="ht", width=4, layers=1).eval(), given(), []
    network.head.register_forward_hook(lambda head, inputs, output: drawn.append(output.tanh()))
    with torch.no_grad():
        loss, parts = network.loss("network", batch)
        prediction = network(batch)
    assert drawn[0].min() < 0 and network.maps(batch) == {}
    torch.testing.assert_close(parts["l1"], (drawn[0] - batch["real"]).abs().mean())
    torch.testing.assert_close(loss, 100 * parts["l1"])
    torch.testing.assert_close(prediction, drawn[0].clamp(0, 1))


def test_ht_with_a_skip_begins_near_the_composite():
    torch.manual_seed(0)
    network, batch = DHT(form="ht", width=4, layers=1, global_skip=True).eval(), given()
    with torch.no_grad():
        assert (network(batch) - batch["composite"]).abs().mean() < 0.05


def test_the_loss_is_a_hundred_times_l1_of_the_whole_output():
    torch.manual_seed(0)
    network, batch = DHT(width=4, layers=1), given()
    with torch.no_grad():
        loss, parts = network.loss("network", batch)
        torch.testing.assert_close(loss, 100 * (network(batch) - batch["real"]).abs().mean())
    assert list(parts) == ["l1"]


def test_heads_must_share_the_channels():
    with pytest.raises(ValueError, match="tokens of 16 channels \\(4 \\* width\\) cannot be shared among 3 heads"):
        DHT(width=4, heads=3)
