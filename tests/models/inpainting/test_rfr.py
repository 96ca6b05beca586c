import copy

import pytest
import torch
import torchvision
from torch.nn import functional as F

import models
from benchmarks.rfr import plain_draw
from models.inpainting.rfr import FeatureMerge, KnowledgeConsistentAttention
from tests.models import training, vector


def tiny(**hyperparameters):
    torch.manual_seed(0)
    return models.create("rfr", **{"width": 8, "perceptual_weights": "none", **hyperparameters})


def batch_of(n=2, size=32, seed=0, side=12):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(n, 1, size, size)
    for index in range(n):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        hole[index, :, top : top + side, left : left + side] = 1
    return {"image": torch.rand(n, 3, size, size, generator=generator), "hole": hole}


def square_hole(side, size=256):
    hole = torch.zeros(1, 1, size, size)
    start = (size - side) // 2
    hole[..., start : start + side, start : start + side] = 1
    return hole


@pytest.mark.parametrize(
    "hyperparameters, count",
    [  # published with attention; bare; 5x5 variant
        ({}, 31_224_065),
        ({"attention": "none"}, 30_699_264),
        ({"small_hole": True}, 30_929_153),
    ],
)
def test_published_sizes(hyperparameters, count):
    with torch.device("meta"):
        model = models.create("rfr", perceptual_weights="none", **hyperparameters)
        longer = models.create("rfr", perceptual_weights="none", iter_num=8, **hyperparameters)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert [p.shape for p in longer.parameters()] == [p.shape for p in model.parameters()]
    assert model.parameters_of("generator") == list(model.parameters())


def test_parameters_stand_in_published_order():
    """Order and shapes of the released code: encoder, area identification, module (attention between encoder and
    decoder), then the layers after the merge. Batch norms bring scale and shift."""
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in models.create("rfr", perceptual_weights="none").parameters()]
    norm = lambda channels: [(channels,)] * 2
    seven = (64, 64, 7, 7)
    expected = [(64, 3, 7, 7), *norm(64), seven, *norm(64), seven, seven, *norm(64)]
    for before, after in ((64, 128), (128, 256), (256, 512), (512, 512), (512, 512), (512, 512)):
        expected += [(after, before, 3, 3), *norm(after)]
    expected += [(1,), (512, 1024, 1, 1), (512,)]
    expected += [(512, 1024, 3, 3), *norm(512)] * 2
    for before, after in ((1024, 512), (768, 256), (384, 64), (64, 64)):
        expected += [(before, after, 4, 4), *norm(after)]
    expected += [
        (32, 67, 3, 3),
        (8, 32, 1, 1),
        *norm(8),
        (8, 8, 3, 3),
        *norm(8),
        (32, 8, 1, 1),
        *norm(32),
        (3, 64, 3, 3),
    ]
    assert shapes == expected


@pytest.mark.parametrize("training", [False, True])
def test_equals_a_plain_reading_of_the_paper(training):
    model, batch = tiny().train(training), batch_of(2, 64, side=30)
    expected = plain_draw(model, batch["image"], batch["hole"])
    expected_gradient = torch.autograd.grad(expected.square().sum(), model.area1.weight)[0]
    drawn = model.draw(batch["image"], batch["hole"])
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.autograd.grad(drawn.square().sum(), model.area1.weight)[0]
    # batch statistics of few values amplify float32's rounding, so gradients are compared as a whole
    assert (gradient - expected_gradient).norm() < 1e-2 * expected_gradient.norm()


@pytest.mark.parametrize(
    "side, small_hole, closes", [(162, False, True), (164, False, False), (110, True, True), (112, True, False)]
)
def test_reach_of_six_passes(side, small_hole, closes):
    """Pixels per layer: 3, 6, then 12 a pass = 81 on each side; with 5x5 kernels 3, 4 and 8 a pass = 55."""
    model = tiny(small_hole=small_hole)
    unfilled = model.unfilled_fraction(square_hole(side))
    assert (unfilled.item() == 0) == closes
    if not closes:
        assert unfilled.item() <= 4 / 128**2  # the core of a hole that is 2 px too large


def test_unfilled_is_what_the_last_mask_leaves_and_the_guard_closes_it():
    hole = torch.cat([square_hole(100), square_hole(220), torch.ones(1, 1, 256, 256), torch.zeros(1, 1, 256, 256)])
    plain, guarded = tiny(iter_num=2).eval(), tiny(iter_num=2, guard="extra_passes").eval()
    features = torch.rand(4, 8, 128, 128)
    mask = plain.partial2.grow(plain.partial1.grow(1 - hole))
    with torch.no_grad():
        for model in (plain, guarded):
            merged = model._recur(features, mask)
            torch.testing.assert_close(model.unfilled_fraction(hole), 1 - merged.mask.mean((1, 2, 3)))
    # two passes reach 9 + 24 px: of 100 px 34 remain, of 220 px 154; an image without a valid pixel stays empty
    torch.testing.assert_close(plain.unfilled_fraction(hole), torch.tensor([(34 / 256) ** 2, (154 / 256) ** 2, 1, 0]))
    torch.testing.assert_close(guarded.unfilled_fraction(hole), torch.tensor([0.0, 0, 1, 0]))


@pytest.mark.parametrize("merge", ["last", "average", "adaptive"])
def test_guard_does_not_touch_images_that_are_closed(merge):
    plain, guarded = (tiny(iter_num=1, guard=guard, merge=merge).eval() for guard in ("none", "extra_passes"))
    hole = torch.cat([square_hole(20, 96), square_hole(80, 96), square_hole(30, 96)])
    batch = {"image": torch.rand(3, 3, 96, 96), "hole": hole}
    with torch.no_grad():
        before, after = plain(batch), guarded(batch)
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=1e-4, atol=1e-5)
        assert (after[1] - before[1]).abs().max() > 1e-3
        alone = guarded({key: value[1:2] for key, value in batch.items()})
        torch.testing.assert_close(after[1:2], alone, rtol=1e-4, atol=1e-5)
        guarded.train()
        plain.train()
        torch.testing.assert_close(guarded.draw(*batch.values()), plain.draw(*batch.values()), rtol=0, atol=0)


def reference_scores(features, mode):
    """Section 3.3 (as released, or as printed) with a loop over targets; features (C, h, w) -> (targets, sources)."""
    channels, height, width = features.shape
    flat = features.reshape(channels, -1)
    unit = flat / flat.norm(dim=0)
    logits = torch.zeros(height * width, height * width, dtype=features.dtype)
    for row in range(height):
        for column in range(width):
            for i in range(max(row - 1, 0), min(row + 2, height)):
                for j in range(max(column - 1, 0), min(column + 2, width)):
                    target = i * width + j
                    similarity = (flat if mode == "code" else unit)[:, target] @ unit
                    logits[row * width + column] += similarity if mode == "code" else similarity / 9 * 10
    return logits.softmax(dim=1), unit if mode == "code" else flat


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_attention_scores_follow_the_equations(mode):
    torch.manual_seed(3)
    layer = KnowledgeConsistentAttention(6, mode, consistent=True)
    features = torch.randn(2, 6, 4, 5)
    scores, values = layer.scores(features)
    torch.testing.assert_close(scores.sum(2), torch.ones(2, 20))
    for index in range(2):
        expected, expected_values = reference_scores(features[index].double(), mode)
        torch.testing.assert_close(scores[index], expected.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[index], expected_values.float(), rtol=1e-4, atol=1e-5)
    out, memory = layer(features, torch.ones(2, 1, 8, 10), None)
    attended = torch.einsum("nts,ncs->nct", scores, values).view(2, 6, 4, 5)
    torch.testing.assert_close(out, layer.fuse(torch.cat([attended, features], dim=1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory[0], scores)


def test_negligible_attention_is_none_and_no_number_is_denormal():
    """Logits spread over several hundred: a plain softmax has denormal scores and gradients, which a CPU is slow at."""
    torch.manual_seed(0)
    layer = KnowledgeConsistentAttention(16, "code", consistent=True)
    features = (8 * torch.randn(1, 16, 8, 8)).requires_grad_()
    scores, _ = layer.scores(features)
    weights = torch.rand(1, 64, 64)
    (gradient,) = torch.autograd.grad((scores * weights).sum(), features)

    exact = features.detach().double().requires_grad_()
    sources = F.normalize(exact.flatten(2), dim=1)
    targets = 9 * F.avg_pool2d(exact, 3, 1, 1).flatten(2)
    plain = (targets.transpose(1, 2) @ sources).softmax(dim=2)
    (expected,) = torch.autograd.grad((plain * weights).sum(), exact)
    smallest = torch.finfo(torch.float32).tiny
    assert ((plain > 0) & (plain < smallest)).any()  # what is to be avoided does occur here
    assert not ((scores > 0) & (scores < smallest)).any()
    torch.testing.assert_close(scores.double(), plain, rtol=1e-3, atol=1e-18)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-5)


def test_attention_is_carried_on_where_the_previous_pass_was_valid():
    layer = KnowledgeConsistentAttention(4, "code", consistent=True)
    new, old = torch.rand(2, 1, 6, 6).softmax(3)
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1]).view(1, 6, 1)
    with torch.no_grad():
        layer.ratio.fill_(-0.5)  # its absolute value counts: lambda = 0.5 / 1.5
        mixed = layer.mix(new, (old, mask))
        torch.testing.assert_close(mixed[0, 0], new[0, 0] / 3 + old[0, 0] * 2 / 3)
        torch.testing.assert_close(mixed[0, 1], new[0, 1])
        torch.testing.assert_close(mixed.sum(2), torch.ones(1, 6))
        torch.testing.assert_close(layer.mix(new, (old, torch.zeros_like(mask))), new)
        layer.ratio.fill_(0)
        torch.testing.assert_close(layer.mix(new, (old, torch.ones_like(mask))), old)
        assert layer.mix(new, None) is new


def test_contextual_attention_forgets_and_kca_remembers():
    features, earlier = torch.randn(2, 1, 8, 4, 4)
    mask = torch.ones(1, 1, 4, 4)
    for consistent in (False, True):
        torch.manual_seed(0)
        layer = KnowledgeConsistentAttention(8, "code", consistent)
        _, memory = layer(earlier, mask, None)
        changed = (layer(features, mask, memory)[0] - layer(features, mask, None)[0]).abs().max() > 1e-4
        assert changed == consistent and (memory is not None) == consistent


def test_merge_is_equation_3():
    generator = torch.Generator().manual_seed(1)
    maps, masks = torch.randn(4, 2, 3, 5, 5, generator=generator), torch.rand(4, 2, 1, 5, 5, generator=generator)
    masks = (masks.sort(dim=0).values > 0.6).float()  # they grow from pass to pass
    masks[:, 0, 0, 0, 0] = 0
    maps = maps * masks
    results = {}
    for kind in ("last", "average", "adaptive"):
        merged = FeatureMerge(kind, maps[0], masks[0])
        for features, mask in zip(maps[1:], masks[1:]):
            merged.add(features, mask, torch.arange(2))
        results[kind] = merged.result()
    weight = masks.sum(0)
    expected = torch.where(weight > 0, (maps * masks).sum(0) / weight.clamp(min=1), torch.zeros(()))
    torch.testing.assert_close(results["adaptive"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results["average"], maps.mean(0))
    torch.testing.assert_close(results["last"], maps[-1], rtol=0, atol=0)
    full = FeatureMerge("adaptive", maps[0], torch.ones_like(masks[0]))
    full.add(maps[1], torch.ones_like(masks[0]), torch.arange(2))
    torch.testing.assert_close(full.result(), (maps[0] + maps[1]) / 2)


def test_what_stands_in_the_first_maps_hole_never_reaches_the_merge():
    model = tiny().eval()
    features, mask = torch.randn(1, 8, 16, 16), torch.ones(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 0
    with torch.no_grad():
        clean = model._recur(features * mask, mask).result()
        dirty = model._recur(features * mask + 1e3 * (1 - mask), mask).result()
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"down_samp": 0},
        {"down_samp": 2},
        {"down_samp": 3},
        {"kca_mode": "paper"},
        {"attention": "contextual"},
        {"small_hole": True},
    ]
    + [{"merge": "last"}, {"merge": "average"}, {"loss_profile": "paper"}],
)
def test_every_switch_trains_every_parameter(hyperparameters):
    placement = {"attention": "none"} if "down_samp" in hyperparameters else {}
    model = vector.build("rfr", {"width": 8, "perceptual_weights": "none"} | hyperparameters | placement)
    # a bottleneck of one channel, whose ReLU some weights shut
    training.assert_gradients(model, vector.batch("inpainting", 64), ["bottleneck.[013].*"])


@pytest.mark.parametrize(
    "profile, weights",
    [
        ("code", {"hole": 6, "valid": 1, "perceptual": 0.05, "style": 120, "variation": 0.1}),
        ("paper", {"hole": 6, "valid": 1, "perceptual": 0.1, "style": 180}),
    ],
)
def test_loss_is_the_weighted_sum_of_section_3_4(profile, weights, tmp_path):
    torch.manual_seed(5)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"][:10])  # random: no ImageNet here
    path = tmp_path / "random_vgg16.pth"
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    model, batch = tiny(loss_profile=profile, perceptual_weights=str(path)).eval(), batch_of()
    total, parts = model.loss("generator", batch)
    with torch.no_grad():
        raw = model.draw(batch["image"], batch["hole"])
        real, hole = batch["image"], batch["hole"]
        composite = real * (1 - hole) + raw * hole
        expected = {"hole": ((raw - real).abs() * hole).mean(), "valid": ((raw - real).abs() * (1 - hole)).mean()}
        expected["perceptual"] = expected["style"] = 0
        for index in (4, 9, 16):
            wanted = features[: index + 1](real)
            for image in (raw, composite):
                given = features[: index + 1](image)
                expected["perceptual"] += (given - wanted).abs().mean()
                products = [torch.einsum("nchw,ndhw->ncd", x, x) / x[0].numel() for x in (given, wanted)]
                expected["style"] += (products[0] - products[1]).abs().mean()
        if "variation" in weights:
            inside = composite * hole
            across, down = inside[..., 1:] - inside[..., :-1], inside[..., 1:, :] - inside[..., :-1, :]
            expected["variation"] = across.abs().mean() + down.abs().mean()
    assert parts.keys() == weights.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(total.detach(), sum(weights[name] * parts[name] for name in parts))
    assert model.state_dict().keys() == tiny().state_dict().keys()  # the VGG is no part of the network


def test_finetune_keeps_statistics_and_trains_scale_and_shift():
    model, batch = tiny(), batch_of(2, 64)
    model.train()
    model.enter("finetune")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss("generator", batch)[0].backward()
    optimizer.step()
    after = model.state_dict()
    for name in after:
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert not torch.equal(after["norm1.weight"], before["norm1.weight"])
    model.train()
    model.enter("train")
    model.loss("generator", batch)
    assert not torch.equal(model.state_dict()["norm1.running_mean"], before["norm1.running_mean"])
    with pytest.raises(ValueError, match="no phase 'anneal'"):
        model.enter("anneal")


@pytest.mark.parametrize(
    "hyperparameters, line",
    [
        ({"width": 20}, "width = 20, expected a multiple of 8"),
        ({"iter_num": 0}, "iter_num = 0, expected at least 1"),
        ({"down_samp": 4}, "down_samp = 4, expected 0 to 3"),
        ({"merge": "mean"}, "merge = 'mean'"),
    ],
)
def test_refuses_what_cannot_be_built(hyperparameters, line):
    with pytest.raises(ValueError, match=line):
        tiny(**hyperparameters)


def test_refuses_sizes_that_do_not_fit():
    model = tiny()
    with pytest.raises(ValueError, match="height 100 is not divisible by 16; pad to 112"):
        model({"image": torch.zeros(1, 3, 100, 64), "hole": torch.zeros(1, 1, 100, 64)})
    with pytest.raises(ValueError, match="batch"):
        model({"image": torch.zeros(1, 3, 16, 16), "hole": torch.zeros(1, 1, 16, 16)})
