import pytest
import torch
from skimage.feature import canny
from torch.nn import functional as F

import models
from models.layers.edges import canny_edges
from models.losses import perceptual


def tiny(**hyperparameters):
    torch.manual_seed(0)
    defaults = {"width": 8, "blocks": 1, "discriminator_width": 4, "perceptual_weights": "none"}
    return models.create("edgeconnect", **defaults | hyperparameters)


def batch_of(n=2, size=32, side=12, seed=0):
    """Pictures of coloured rectangles, which have edges."""
    generator = torch.Generator().manual_seed(seed)
    image, hole = torch.full((n, 3, size, size), 0.2), torch.zeros(n, 1, size, size)
    for index in range(n):
        for target, value in ((image, torch.rand(3, 1, 1, generator=generator)), (image, 0.9), (hole, 1)):
            top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
            target[index, :, top : top + side, left : left + side] = value
    return {"image": image, "hole": hole}


def test_published_sizes():
    with torch.device("meta"):
        model = models.create("edgeconnect", perceptual_weights="none")
    count = lambda network: sum(parameter.numel() for parameter in network.parameters())
    assert (count(model.edge_generator), count(model.painter)) == (10_761_089, 10_774_595)
    # 4x4 convolutions without bias: 16 (before 64 + 64 128 + 128 256 + 256 512 + 512)
    inner = 16 * (64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert count(model.edge_discriminator) == inner + 16 * 2 * 64
    assert count(model.image_discriminator) == inner + 16 * 3 * 64
    assert sum(p.numel() for p in model.predictor_parameters()) == 10_761_089 + 10_774_595


def test_what_the_generators_read():
    model, batch = tiny().eval(), batch_of(1)
    seen = {}
    model.edge_generator.register_forward_pre_hook(lambda _, given: seen.update(edge=given[0]))
    model.edge_generator.register_forward_hook(lambda _, given, drawn: seen.update(drawn=drawn.sigmoid()))
    model.painter.register_forward_pre_hook(lambda _, given: seen.update(painter=given[0]))
    model(batch)
    image, hole = batch["image"], batch["hole"]
    gray = (image * torch.tensor([0.2125, 0.7154, 0.0721]).view(3, 1, 1)).sum(1, keepdim=True)
    edges = torch.from_numpy(canny((gray * (1 - hole))[0, 0].numpy(), 2.0, mask=hole[0, 0].numpy() == 0))[
        None, None
    ].float()
    torch.testing.assert_close(seen["edge"], torch.cat([gray * (1 - hole) + hole, edges * (1 - hole), hole], dim=1))
    expected = torch.cat([image * (1 - hole) + hole, edges * (1 - hole) + seen["drawn"] * hole], dim=1)
    torch.testing.assert_close(seen["painter"], expected)


def test_edge_losses():
    model, batch = tiny().eval(), batch_of()
    model.enter("edge")
    total, parts = model.loss("generator", batch)
    with torch.no_grad():
        gray = (batch["image"] * torch.tensor([0.2125, 0.7154, 0.0721]).view(3, 1, 1)).sum(1, keepdim=True)
        edges = canny_edges(gray, 2.0)
        drawn = model.draw_edges(gray, edges, batch["hole"]).sigmoid()
        real, fake = (model.edge_discriminator(torch.cat([gray, edge_map], 1)) for edge_map in (edges, drawn))
    ones, zeros = torch.ones_like(real[-1]), torch.zeros_like(real[-1])
    torch.testing.assert_close(parts["adversarial"], F.binary_cross_entropy(fake[-1].sigmoid(), ones))
    torch.testing.assert_close(
        parts["feature_matching"], sum(F.l1_loss(given, other) for given, other in zip(fake, real))
    )
    torch.testing.assert_close(total.detach(), parts["adversarial"] + 10 * parts["feature_matching"])
    loss, _ = model.loss("discriminator", batch)
    expected = (
        F.binary_cross_entropy(real[-1].sigmoid(), ones) + F.binary_cross_entropy(fake[-1].sigmoid(), zeros)
    ) / 2
    torch.testing.assert_close(loss.detach(), expected)


@pytest.mark.slow
def test_painter_losses_with_a_random_vgg(tmp_path):
    """Random weights of VGG-19's layout stand in for ImageNet's."""
    torch.manual_seed(3)
    network = perceptual._layers("vgg19")
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, tmp_path / "random.pth")
    model, batch = tiny(perceptual_weights=str(tmp_path / "random.pth")).eval(), batch_of()
    model.enter("inpaint")
    total, parts = model.loss("generator", batch)
    image, hole = batch["image"], batch["hole"]
    with torch.no_grad():
        gray = (image * torch.tensor([0.2125, 0.7154, 0.0721]).view(3, 1, 1)).sum(1, keepdim=True)
        painted = model.paint(image, canny_edges(gray, 2.0), hole)
        expected = {"l1": (painted - image).abs().mean() / hole.mean()}
        logits = model.image_discriminator(painted)[-1]
        expected["adversarial"] = F.binary_cross_entropy(logits.sigmoid(), torch.ones_like(logits))
        expected["perceptual"] = sum(
            F.l1_loss(network[: i + 1](painted), network[: i + 1](image)) for i in (1, 6, 11, 20, 29)
        )
        grams = []
        for picture in (painted * hole, image * hole):
            taps = [network[: i + 1](picture) for i in (8, 17, 26, 31)]
            grams.append([torch.einsum("nchw,ndhw->ncd", tap, tap) / tap[0].numel() for tap in taps])
        expected["style"] = sum(F.l1_loss(given, other) for given, other in zip(*grams))
    for name in expected:
        torch.testing.assert_close(parts[name], expected[name], rtol=1e-3, atol=1e-7)
    weights = {"l1": 1, "adversarial": 0.1, "perceptual": 0.1, "style": 250}
    torch.testing.assert_close(total.detach(), sum(weights[name] * parts[name] for name in weights))


@pytest.mark.parametrize(
    "phase, edges_in_joint, movers",
    [
        ("edge", "fixed", {"generator": {"edge_generator"}, "discriminator": {"edge_discriminator"}}),
        ("inpaint", "fixed", {"generator": {"painter"}, "discriminator": {"image_discriminator"}}),
        ("joint", "fixed", {"generator": {"painter"}, "discriminator": {"image_discriminator"}}),
        ("joint", "trained", {"generator": {"edge_generator", "painter"}, "discriminator": {"image_discriminator"}}),
    ],
)
def test_each_phase_and_player_moves_its_own_networks(phase, edges_in_joint, movers):
    for player, expected in movers.items():
        model = tiny(edges_in_joint=edges_in_joint).train()
        model.enter(phase)
        model.loss(player, batch_of())[0].backward()
        moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == expected
        assert all(p.grad is not None for name in expected for p in getattr(model, name).parameters())
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == set.union(
            *movers.values()
        )


def test_painter_without_its_adversary():
    model, batch = tiny(adversarial=False).train(), batch_of()
    assert not any("image_discriminator" in name for name in model.state_dict())
    for phase, movers in (
        ("edge", {"edge_generator", "edge_discriminator"}),
        ("inpaint", {"painter"}),
        ("joint", {"painter"}),
    ):
        model.enter(phase)
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == movers
    total, parts = model.loss("generator", batch)
    assert set(parts) == {"l1"} and total.detach() == parts["l1"]
    total.backward()
    assert all(p.grad is not None for p in model.painter.parameters())
    with pytest.raises(ValueError, match="the discriminator has nothing to train in phase 'joint'"):
        model.loss("discriminator", batch)


def test_a_pictures_brightness_reaches_a_painter_that_normalizes_by_batch():
    torch.manual_seed(1)
    dark = 0.3 + 0.2 * torch.rand(1, 3, 32, 32)
    nothing = torch.zeros(1, 1, 32, 32)
    change = {}
    for norm in ("instance", "batch"):
        painter = tiny(painter_norm=norm).eval().painter
        assert sum(isinstance(module, torch.nn.InstanceNorm2d) for module in painter.modules()) == (
            7 if norm == "instance" else 0
        )
        with torch.no_grad():
            first, other = (painter(torch.cat([dark + shift, nothing], dim=1)) for shift in (0.0, 0.3))
        change[norm] = ((other - first).abs().mean() / first.std()).item()
    # a constant leaves convolution (away from the border: padding reflects) as a constant, and the mean takes that away
    assert change["instance"] < 1e-4 < 1e-2 < change["batch"]


def test_refusals():
    model = tiny()
    with pytest.raises(ValueError, match="height 30 is not divisible by 4; pad to 32"):
        model({"image": torch.zeros(1, 3, 30, 32), "hole": torch.zeros(1, 1, 30, 32)})
    with pytest.raises(ValueError, match="edgeconnect takes sides of 12 pixels or more, got \\(8, 64\\)"):
        model({"image": torch.zeros(1, 3, 8, 64), "hole": torch.zeros(1, 1, 8, 64)})
    with pytest.raises(ValueError, match="sides of 32 pixels or more"):
        model.loss("generator", batch_of(size=28))
    with pytest.raises(ValueError, match="no player 'critic'"):
        model.loss("critic", batch_of())
    with pytest.raises(ValueError, match="no phase 'train'"):
        model.enter("train")


@pytest.mark.parametrize("phase, network", [("edge", "edge_generator"), ("inpaint", "painter"), ("joint", "painter")])
def test_the_discriminator_judges_the_generators_drawing_once(phase, network):
    model, batch, calls = tiny().train(), batch_of(), []
    getattr(model, network).register_forward_hook(lambda *_: calls.append(1))
    model.enter(phase)
    model.loss("generator", batch)
    kept, _ = model.loss("discriminator", batch)
    assert len(calls) == 1
    fresh, _ = model.loss("discriminator", batch)
    assert len(calls) == 2
    if phase == "inpaint":  # nothing moved and nothing is drawn by lot, so that a new drawing is the same
        torch.testing.assert_close(kept, fresh)
    model.loss("generator", batch)
    model.loss("discriminator", batch_of(seed=1))  # another batch is drawn
    assert len(calls) == 4
    model.loss("generator", batch)
    model.enter(phase)  # what another phase drew is not judged
    model.loss("discriminator", batch)
    assert len(calls) == 6
