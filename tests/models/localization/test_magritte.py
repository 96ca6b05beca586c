import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.localization.magritte import (
    MAGritte,
    PatchDiscriminator,
    balanced_l1,
    nearest,
)
from tests.models import released, training, vector
from tests.models.localization.test_networks import pasted_squares

TINY = {"levels": 4, "width": 4, "discriminator_width": 4}
SCRIPT = {"upsampling": "nearest", "annotation": "mask_and_edge"}


def tiny(**hyperparameters) -> MAGritte:
    torch.manual_seed(0)
    return models.create("magritte", **TINY | hyperparameters)


def given(count: int = 2, side: int = 32) -> dict[str, torch.Tensor]:
    real = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))
    return pasted_squares(count, side) | {"real": real}


def test_state_lines_up_with_the_released_one():
    """Retoucher, then annotator: vlkniaz/MAGritte, model `magritte` with its defaults (unet_256, 3 to 4 and 3 to 3).

    Checked once, outside the repository: on equal weights both generators, also with `nearest`, answer bit for bit what
    the released code's classes do, in training and in evaluation.
    """
    with torch.device("meta"):
        model = models.create("magritte")
    generators = torch.nn.ModuleList([model.retoucher, model.annotator])
    assert sum(parameter.numel() for parameter in generators.parameters()) == 108_829_959
    assert released.digest(released.shapes(generators)) == "85a33aeb2ace3d24"
    assert list(model.state_dict())[:164] == [
        f"{name}.{key}" for name in ("retoucher", "annotator") for key in getattr(model, name).state_dict()
    ]
    listed = Path(__file__).parents[4] / "shared" / "released_states" / "magritte.json"
    if listed.exists():
        assert released.shapes(generators) == [shape for _, shape, *_ in json.loads(listed.read_text())["entries"]]


def test_counts_of_the_form_that_the_script_trains():
    with torch.device("meta"):
        model = models.create("magritte", **SCRIPT)
    counts = [
        round(sum(parameter.numel() for parameter in model.parameters_of(name)) / 1e6, 2) for name in model.players
    ]
    assert counts == [2.77, 2.77, 39.16, 39.16]
    assert {id(parameter) for parameter in model.predictor_parameters()} == {
        id(parameter) for parameter in model.annotator.parameters()
    }


def test_doubling_by_hand():
    layer = nearest(1, 1, bias=False)
    layer[2].weight.data = torch.arange(9.0).view(1, 1, 3, 3)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    rows = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[0, 0]
    # the mirror image beyond the border of a doubled picture is the pixel itself
    padded = torch.cat([rows[:1], rows, rows[-1:]])
    padded = torch.cat([padded[:, :1], padded, padded[:, -1:]], dim=1)
    taps = torch.arange(9.0).view(3, 3)
    expected = [[(padded[i : i + 3, j : j + 3] * taps).sum().item() for j in range(4)] for i in range(4)]
    assert layer(x)[0, 0].tolist() == expected


def test_a_discriminator_sees_patches_of_70_pixels():
    network = PatchDiscriminator(1, 2).eval()
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    logits = network(image)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    seen = image.grad[0, 0].abs() > 0
    assert seen.any(0).sum() == 70 and seen.any(1).sum() == 70


def test_balanced_l1_by_hand():
    target = torch.tensor([1.0, -1, -1, -1]).view(1, 1, 2, 2)
    prediction = torch.tensor([0.5, -1, 0.2, -0.4]).view(1, 1, 2, 2)
    # 0.5 missed of 1 pixel, 1.2 + 0.6 false on 3 pixels
    assert balanced_l1(prediction, target, torch.ones(1)).item() == pytest.approx(0.5 + 1.8 / 3)
    # nothing there: only what is false counts, over the whole area; channels are weighted, images averaged
    both = torch.cat([target, torch.full_like(target, -1)], dim=1)
    given = prediction.expand(1, 2, 2, 2)
    second = (1.5 + 0 + 1.2 + 0.6) / 4
    assert balanced_l1(given, both, torch.tensor([0.2, 0.8])).item() == pytest.approx(0.2 * 1.1 + 0.8 * second)
    twice = torch.cat([given, both]), torch.cat([both, both])
    assert balanced_l1(*twice, torch.tensor([0.2, 0.8])).item() == pytest.approx((0.2 * 1.1 + 0.8 * second) / 2)


@pytest.mark.parametrize("kind", [{}, SCRIPT, {"pristine": False}, SCRIPT | {"retouched_weight": 1.0}])
def test_each_turn_moves_its_player_alone(kind):
    model = tiny(**kind)
    assert model.players == tuple(
        name for name in ("annotation_discriminator", "retouch_discriminator", "annotator", "retoucher")
        if name != "retouch_discriminator" or kind.get("pristine", True)
    )  # fmt: skip
    assert hasattr(model, "retouch_discriminator") == kind.get("pristine", True)
    training.assert_gradients(vector.build("magritte", TINY | kind), given())


def test_losses_by_hand():
    weights = {"composite_weight": 2.0, "pristine_weight": 3.0, "retouched_weight": 5.0}
    weights |= {"annotator_adversarial_weight": 0.5}
    model, batch = tiny(**SCRIPT, **weights, similarity_weight=4.0, edge_share=0.25).eval(), given()
    with torch.no_grad():
        composite, real = batch["composite"] * 2 - 1, batch["real"] * 2 - 1
        drawn = model.retoucher(composite).tanh()
        alpha = (drawn[:, 3:] + 1) / 2
        retouched = composite * (1 - alpha) + drawn[:, :3] * alpha
        mask = batch["mask"]
        edge = F.max_pool2d(mask, 5, 1, 2) + F.max_pool2d(-mask, 5, 1, 2)
        target = torch.cat([mask, edge], dim=1) * 2 - 1
        pictures = {"c": composite, "p": real, "r": retouched}
        annotations = {name: model.annotator(picture).tanh() for name, picture in pictures.items()}
        share = torch.tensor([0.75, 0.25])
        adversarial = F.softplus(
            -model.annotation_discriminator(torch.cat([retouched, annotations["r"]], dim=1))
        ).mean()
        wanted = {
            "composite": balanced_l1(annotations["c"], target, share),
            "pristine": balanced_l1(annotations["p"], torch.full_like(target, -1), share),
            "retouched": balanced_l1(annotations["r"], target, share),
            "adversarial": adversarial,
        }
        loss, parts = model.loss("annotator", batch)
        for name, value in wanted.items():
            torch.testing.assert_close(parts[name], value)
        total = 2 * wanted["composite"] + 3 * wanted["pristine"] + 5 * wanted["retouched"] + 0.5 * adversarial
        torch.testing.assert_close(loss, total)

        loss, parts = model.loss("retoucher", batch)
        torch.testing.assert_close(parts["similarity"], (retouched - composite).abs().mean())
        torch.testing.assert_close(parts["hiding"], annotations["r"].mean() + 1)
        torch.testing.assert_close(parts["adversarial"], F.softplus(-model.retouch_discriminator(retouched)).mean())
        torch.testing.assert_close(loss, 4 * parts["similarity"] + 10 * parts["hiding"] + 0.1 * parts["adversarial"])

        loss, parts = model.loss("retouch_discriminator", batch)
        fake, true = model.retouch_discriminator(retouched), model.retouch_discriminator(real)
        torch.testing.assert_close(loss, (F.softplus(fake).mean() + F.softplus(-true).mean()) / 2)
        torch.testing.assert_close(model(batch), (annotations["c"][:, :1] + 1) / 2)


def test_an_empty_mask_leaves_nothing_to_hide():
    batch = given() | {"mask": torch.zeros(2, 1, 32, 32)}
    assert tiny().loss("retoucher", batch)[1]["hiding"] == 0


def test_the_retoucher_draws_once_a_step():
    model, batch, drawings = tiny().train(), given(), []
    model.retoucher.register_forward_hook(lambda *_: drawings.append(1))
    for player in model.players:
        model.loss(player, batch)
    assert len(drawings) == 1
    model.loss("annotation_discriminator", batch)
    with torch.no_grad():
        model.retoucher.up.weight += 1
    model.loss("annotator", batch)
    assert len(drawings) == 3, "other weights draw anew"


def test_running_statistics_are_those_of_composites():
    model, batch = tiny().train(), given()
    norm = next(layer for layer in model.annotator.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    for player in ("annotation_discriminator", "retoucher"):
        model.loss(player, batch)
    assert torch.equal(norm.running_mean, before)
    model.loss("annotator", batch)
    once = tiny().train()
    once.annotator(batch["composite"] * 2 - 1)
    other = next(layer for layer in once.annotator.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    assert norm.momentum == 0.1


def test_without_pristine_real_images_are_not_read():
    model, batch = tiny(pristine=False, dropout=0.0).train(), given()
    del batch["real"]
    for player in model.players:
        assert torch.isfinite(model.loss(player, batch)[0])
    with pytest.raises(ValueError, match="no real images, which `pristine` true asks for"):
        tiny().loss("annotator", batch)


def test_sizes():
    model = tiny()
    assert model.eval()({"composite": torch.rand(1, 3, 48, 64)}).shape == (1, 1, 48, 64)
    with pytest.raises(ValueError, match="height 40 is not divisible by 16; pad to 48"):
        model({"composite": torch.rand(1, 3, 40, 64)})
    with pytest.raises(ValueError, match="trains on sides of 32 pixels or more, got \\(16, 16\\)"):
        model.loss("annotator", given(2, 16))
    with pytest.raises(ValueError, match="edge_share = 1.5"):
        tiny(edge_share=1.5)
