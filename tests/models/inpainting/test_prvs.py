import copy

import pytest
import torch
from skimage.feature import canny
from torch.nn import functional as F

import models
from models.inpainting.prvs import StructureLayer
from models.layers.edges import gray
from models.losses import perceptual
from tests.models import released


def tiny(**hyperparameters):
    torch.manual_seed(0)
    defaults = {"width": 8, "levels": 3, "discriminator_width": 4, "perceptual_weights": "none"}
    return models.create("prvs", **defaults | hyperparameters)


def batch_of(n=2, size=48, side=16, seed=0):
    """Pictures of coloured rectangles, which have edges."""
    generator = torch.Generator().manual_seed(seed)
    image, hole = torch.full((n, 3, size, size), 0.2), torch.zeros(n, 1, size, size)
    for index in range(n):
        for target, value in ((image, torch.rand(3, 1, 1, generator=generator)), (image, 0.9), (hole, 1)):
            top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
            target[index, :, top : top + side, left : left + side] = value
    return {"image": image, "hole": hole}


def test_lines_up_with_the_released_generator():
    """jingyuanli001/PRVS-Image-Inpainting, modules/PRVSNet.py with its defaults: 8 levels, no attention."""
    with torch.device("meta"):
        model = models.create("prvs")
    count = lambda network: sum(parameter.numel() for parameter in network.parameters())
    assert count(model.generator) == 55_543_043 == sum(p.numel() for p in model.predictor_parameters())
    shapes = released.shapes(model.generator)
    assert len(shapes) == 205 and released.digest(shapes) == "fe36e4db69797418"
    assert released.shapes(model)[:205] == shapes
    # EdgeConnect's: 4x4 convolutions without bias, of 2 channels
    assert count(model.discriminator) == 16 * (2 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)


def plain_structure_layer(layer, features, mask, edges):
    """The layer with a mask of as many channels as the features, its new edges written out ring by ring."""

    def partial(convolution, features, mask):
        valid = F.conv2d(
            mask, torch.ones_like(convolution.weight[:1]), None, convolution.stride, convolution.padding
        ).round()
        out = F.conv2d(features * mask, convolution.weight, None, convolution.stride, convolution.padding)
        out = torch.where(valid > 0, out * convolution.weight[0].numel() / valid.clamp(min=1), torch.zeros(()))
        bias = 0 if convolution.bias is None else convolution.bias.view(-1, 1, 1)
        return out + bias * (valid > 0), (valid > 0).float()

    known = mask[:, :1]
    drawn, reached = partial(layer.edge_partial, torch.cat([features, edges], 1), torch.cat([mask, known], 1))
    drawn = layer.edge_out(layer.edge_bottleneck(drawn))
    edges = torch.where(known > 0, edges, torch.where(reached > 0, drawn, torch.zeros(())))
    features, mask = partial(layer.partial, torch.cat([features, edges], 1), torch.cat([mask, reached], 1))
    return layer.activation(layer.norm(layer.up(features))), mask, reached, edges


@pytest.mark.parametrize("stride, up, kernel", [(2, False, 7), (1, True, 3), (1, False, 5)])
def test_structure_layer_equals_its_plain_form(stride, up, kernel):
    torch.manual_seed(1)
    layer = StructureLayer((3, 2), 8, kernel, 8, stride=stride, up=up).eval()
    features, edges = torch.rand(2, 5, 24, 24), (torch.rand(2, 1, 24, 24) > 0.7).float()
    first, second = torch.ones(2, 1, 24, 24), torch.ones(2, 1, 24, 24)
    first[:, :, 4:20, 5:21] = second[0, :, 8:16, 8:16] = second[1, :, :20] = 0
    with torch.no_grad():
        outputs = layer(features, [first, second], edges * first)
        channels = torch.cat([first.expand(-1, 3, -1, -1), second.expand(-1, 2, -1, -1)], 1)
        features, mask, reached, edges = plain_structure_layer(layer, features, channels, edges * first)
    torch.testing.assert_close(outputs[0], features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[2], edges, rtol=1e-4, atol=1e-5)
    small = [F.interpolate(grown, features.shape[2:], mode="nearest") for grown in (mask, reached)]
    torch.testing.assert_close(outputs[1], small[0] * small[1])


def test_edges_grow_by_one_window_a_layer():
    """What is known stays; beyond the half window, 3 pixels of 7x7, nothing is drawn; in between the ring is."""
    torch.manual_seed(2)
    layer = StructureLayer((3,), 8, 7, 8, stride=2).eval()
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    edges = (torch.rand(1, 1, 32, 32) > 0.8).float() * mask
    with torch.no_grad():
        _, _, grown = layer(torch.rand(1, 3, 32, 32), [mask], edges)
    assert torch.equal(grown[mask > 0], edges[mask > 0])
    assert (grown[..., 11:21, 11:21] == 0).all()
    ring = grown[..., 8:24, 8:24].clone()
    ring[..., 3:-3, 3:-3] = 1
    assert (ring != 0).all()


def test_what_the_generator_reads():
    batch = batch_of(1)
    luminance, hole = gray(batch["image"])[0, 0].numpy(), batch["hole"]
    whole = torch.from_numpy(canny(luminance, 2.0)).float()
    valid = torch.from_numpy(canny(luminance, 2.0, mask=hole[0, 0].numpy() == 0)).float()
    assert not torch.equal(whole * (1 - hole[0, 0]), valid)
    for options, training, expected in (
        ({}, True, whole),
        ({}, False, valid),
        ({"training_edges": "valid"}, True, valid),
    ):
        model, seen = tiny(**options), []
        model.generator.register_forward_pre_hook(lambda _, given: seen.append(given))
        model.loss("generator", batch) if training else model.eval()(batch)
        image, mask, edges = seen[0]
        torch.testing.assert_close(image, batch["image"] * (1 - hole))
        torch.testing.assert_close(mask, 1 - hole)
        torch.testing.assert_close(edges[0, 0], expected * (1 - hole[0, 0]))


def test_strict_code_leaves_one_layer_without_activation():
    meant, strict = tiny().eval(), tiny(strict_code=True).eval()
    strict.load_state_dict(meant.state_dict())
    lowest = {}
    for name, model in (("meant", meant), ("strict", strict)):
        model.generator.decoder["2"].register_forward_hook(
            lambda layer, _, out, name=name: lowest.update({name: out[0]})
        )
        model(batch_of())
    torch.testing.assert_close(F.leaky_relu(lowest["strict"], 0.2), lowest["meant"])
    assert lowest["strict"].min() < 0


def test_losses_are_the_released_sums(tmp_path):
    """Random weights of VGG-16's layout stand in for ImageNet's."""
    torch.manual_seed(3)
    network = perceptual._layers("vgg16")
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "random.pth")
    model, batch = tiny(perceptual_weights=str(tmp_path / "random.pth")).eval(), batch_of()
    total, parts = model.loss("generator", batch)
    image, hole = batch["image"], batch["hole"]
    luminance = gray(image)
    edges = torch.stack([torch.from_numpy(canny(picture[0].numpy(), 2.0)) for picture in luminance])[:, None].float()
    with torch.no_grad():
        raw, half, full = model.draw(image, hole, edges)
        composite = image * (1 - hole) + raw * hole
        expected = {
            "hole": F.l1_loss(raw * hole, image * hole),
            "valid": F.l1_loss(raw * (1 - hole), image * (1 - hole)),
        }
        taps = [[network[: index + 1](picture) for index in (4, 9, 16)] for picture in (image, raw, composite)]
        grams = [
            [torch.einsum("nchw,ndhw->ncd", tap, tap) / tap[0].numel() for tap in of_picture] for of_picture in taps
        ]
        for name, features in (("perceptual", taps), ("style", grams)):
            expected[name] = sum(
                F.l1_loss(given, wanted) for drawn in features[1:] for given, wanted in zip(drawn, features[0])
            )
        inside = composite * hole
        expected["variation"] = F.l1_loss(inside[..., 1:], inside[..., :-1]) + F.l1_loss(
            inside[:, :, 1:], inside[:, :, :-1]
        )
        at_half = edges[..., ::2, ::2], luminance[..., ::2, ::2]
        fakes = [
            model.discriminator(torch.cat(pair, 1))[-1].sigmoid() for pair in ((half, at_half[1]), (full, luminance))
        ]
        reals = [model.discriminator(torch.cat(pair, 1))[-1].sigmoid() for pair in (at_half, (edges, luminance))]
        expected["adversarial"] = -sum(fake.log().mean() for fake in fakes)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-6)
    weights = {"hole": 50, "valid": 50, "perceptual": 0.05, "style": 150, "variation": 0.1, "adversarial": 0.1}
    torch.testing.assert_close(total.detach(), sum(weights[name] * parts[name] for name in weights))
    loss, _ = model.loss("discriminator", batch)
    both = -sum(real.log().mean() + (1 - fake).log().mean() for real, fake in zip(reals, fakes)) / 2
    torch.testing.assert_close(loss.detach(), both, rtol=1e-3, atol=1e-6)


def test_the_discriminator_judges_the_generators_drawing_once():
    model, batch, calls = tiny().train(), batch_of(), []
    model.generator.register_forward_hook(lambda *_: calls.append(1))
    for player, drawings in (("generator", 1), ("discriminator", 1), ("discriminator", 2)):
        model.loss(player, batch)
        assert len(calls) == drawings
    model.loss("generator", batch)
    model.loss("discriminator", batch_of(seed=1))  # another batch is drawn
    assert len(calls) == 4


def test_finetune_freezes_the_encoders_statistics_only():
    model, batch = tiny().train(), batch_of()
    model.enter("finetune")
    before = copy.deepcopy(model.state_dict())
    model.loss("generator", batch)[0].backward()
    after = model.state_dict()
    moved = {name for name in after if name.endswith("running_mean") and not torch.equal(after[name], before[name])}
    assert moved and not any(name.startswith("generator.encoder.") for name in moved)
    assert all(p.grad is not None for p in model.generator.encoder.parameters())


def test_without_its_adversary():
    model = tiny(adversarial=False)
    assert model.players == ("generator",) and not any("discriminator" in name for name in model.state_dict())
    assert "adversarial" not in model.loss("generator", batch_of(size=32, side=12))[1]


@pytest.mark.parametrize(
    "options, message",
    [({"width": 6}, "width = 6, expected a multiple of 4"), ({"levels": 2}, "levels = 2, expected at least 3")],
)
def test_refused_hyperparameters(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_refused_sizes():
    model = tiny()
    with pytest.raises(ValueError, match="width 44 is not divisible by 8; pad to 48"):
        model({"image": torch.zeros(1, 3, 48, 44), "hole": torch.zeros(1, 1, 48, 44)})
    with pytest.raises(ValueError, match="sides of 48 pixels or more"):
        model.loss("generator", batch_of(size=40))
    with pytest.raises(ValueError, match="give it a batch of 2"):
        tiny(adversarial=False).loss("generator", batch_of(1, 8, 4))
