import numpy as np
import pytest
import torch
from scipy import ndimage

import models
from models.localization.rsrnet import (
    ConvGRU,
    StyleSimilarity,
    background_style,
    local_style,
)

BATCH = {
    "composite": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "mask": (torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.7).float(),
}
COMMON = {"decoder", "reasoning"}


def rsrnet(**hyperparameters):
    torch.manual_seed(0)
    return models.create("rsrnet", width=2, **hyperparameters)


def test_background_style_against_numpy():
    generator = np.random.default_rng(0)
    feature, weight = generator.normal(2, 3, (2, 5, 6, 7)), generator.random((2, 1, 6, 7))
    style = background_style(torch.from_numpy(feature), torch.from_numpy(weight)).numpy()
    for n in range(2):
        for c in range(5):
            mean = np.average(feature[n, c], weights=weight[n, 0])
            variance = np.average((feature[n, c] - mean) ** 2, weights=weight[n, 0])
            assert style[n, c] == pytest.approx(mean, rel=1e-5)
            assert style[n, 5 + c] == pytest.approx(np.sqrt(variance), rel=1e-4)


def test_background_style_ignores_the_foreground():
    feature, weight = torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    weight[..., :2] = 0
    changed = feature.clone()
    changed[..., :2] += 100
    torch.testing.assert_close(background_style(feature, weight), background_style(changed, weight))
    nothing = background_style(feature, torch.zeros(1, 1, 4, 4))
    assert torch.isfinite(nothing).all()


def test_local_style_against_scipy():
    feature = np.random.default_rng(0).normal(0, 2, (1, 2, 9, 9))
    style = local_style(torch.from_numpy(feature)).numpy()
    for c in range(2):
        mean = ndimage.generic_filter(feature[0, c], np.mean, 3)[1:-1, 1:-1]
        deviation = ndimage.generic_filter(feature[0, c], np.std, 3)[1:-1, 1:-1]
        np.testing.assert_allclose(style[0, c, 1:-1, 1:-1], mean, atol=1e-9)
        np.testing.assert_allclose(style[0, 2 + c, 1:-1, 1:-1], deviation, atol=1e-4)
    corner = feature[0, 0, :2, :2]
    assert style[0, 0, 0, 0] == pytest.approx(corner.mean())


def test_similarity_is_one_where_all_is_background_of_one_style():
    similarity = StyleSimilarity((3,), 4)
    flat = torch.ones(1, 3, 8, 8) * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    maps = similarity(similarity.project([flat]), torch.zeros(1, 1, 2, 2))
    torch.testing.assert_close(maps, torch.ones(1, 1, 2, 2))


def test_similarity_is_lower_where_the_style_differs():
    similarity = StyleSimilarity((2,), 2)
    similarity.projections[0].weight.data = torch.eye(2).view(2, 2, 1, 1)
    similarity.projections[0].bias.data.zero_()
    feature = torch.zeros(1, 2, 8, 8)
    feature[:, 0] = 1
    feature[:, :, :4, :4] = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1
    maps = similarity(similarity.project([feature]), mask)[0, 0]
    assert maps[0, 0] < 0.2 and maps[3, 3] > 0.95
    assert maps.min() >= -1 and maps.max() <= 1


def test_gru_against_the_published_equations():
    """One pixel, so a 3x3 convolution is its middle tap: Z, R and the candidate state by hand."""
    gru = ConvGRU(1, 1)
    weights = {gru.update: (0.5, -1.0, 0.1), gru.reset: (1.5, 0.3, -0.2), gru.candidate: (2.0, 1.0, 0.0)}
    for layer, (h, x, b) in weights.items():
        layer.weight.data.zero_()
        layer.weight.data[0, :, 1, 1] = torch.tensor([h, x])
        layer.bias.data.fill_(b)
    h, x = 0.4, 0.7
    z = 1 / (1 + np.exp(-(0.5 * h - 1.0 * x + 0.1)))
    r = 1 / (1 + np.exp(-(1.5 * h + 0.3 * x - 0.2)))
    candidate = np.tanh(2.0 * r * h + 1.0 * x)
    new = gru(torch.full((1, 1, 1, 1), h), torch.full((1, 1, 1, 1), x))
    assert new.item() == pytest.approx((1 - z) * h + z * candidate, rel=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
def test_one_assignment_per_iteration_after_the_first(iterations):
    model = rsrnet(iterations=iterations).eval()
    with torch.no_grad():
        masks = model._reason(BATCH)[0]
        _, parts = model.loss("network", BATCH)
    assert [tuple(mask.shape) for mask in masks] == [(2, 1, 4, 4)] * (iterations + 1)
    assert set(parts) == COMMON | {"combined", "gate_mean"} | {f"iou_{k}" for k in range(iterations + 1)}


@pytest.mark.parametrize(
    "ablation, absent",
    [
        ({"recurrent": False}, "reasoning.update.reset"),
        ({"gate": False}, "gate."),
        ({"attention_guidance": False}, None),
        ({"detach_assignment": True}, None),
        ({"recurrent": False, "gate": False, "attention_guidance": False}, "gate."),
    ],
)
def test_ablations_train_what_they_keep(ablation, absent):
    model = rsrnet(**ablation)
    kept, whole = ([key for key, _ in network.named_parameters()] for network in (model, rsrnet()))
    if absent is not None:
        assert any(key.startswith(absent) for key in whole) and not any(key.startswith(absent) for key in kept)
    with torch.no_grad():
        prediction, full = model.eval()(BATCH), rsrnet().eval()(BATCH)
    assert prediction.shape == (2, 1, 64, 64)
    assert torch.equal(prediction, full) == ("detach_assignment" in ablation)  # that one changes gradients only
    loss, _ = model.train().loss("network", BATCH)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_recurrence_there_is_one_assignment():
    assert len(rsrnet(recurrent=False, iterations=4).eval()._reason(BATCH)[0]) == 2


def test_without_the_gate_the_decoder_decides():
    model = rsrnet(gate=False).eval()
    with torch.no_grad():
        _, _, logits = model._reason(BATCH)
        assert torch.equal(model(BATCH), logits.sigmoid())
        total, parts = model.loss("network", BATCH)
    assert set(parts) >= COMMON and not {"combined", "gate_mean"} & set(parts)
    torch.testing.assert_close(total, parts["decoder"] + parts["reasoning"])


def test_the_gate_mixes_the_two_masks():
    model = rsrnet().eval()
    for bias, kept in ((30.0, 1.0), (-30.0, 0.0)):
        model.gate[-1].weight.data.zero_()
        model.gate[-1].bias.data.fill_(bias)
        with torch.no_grad():
            masks, _, logits = model._reason(BATCH)
            reasoned = torch.nn.functional.interpolate(masks[-1], (64, 64), mode="bilinear", align_corners=False)
            torch.testing.assert_close(model(BATCH), kept * logits.sigmoid() + (1 - kept) * reasoned)
            assert model.loss("network", BATCH)[1]["gate_mean"].item() == pytest.approx(kept, abs=1e-6)


def test_loss_is_the_sum_of_its_three_parts():
    total, parts = rsrnet().eval().loss("network", BATCH)
    torch.testing.assert_close(total.detach(), parts["combined"] + parts["decoder"] + parts["reasoning"])


def test_the_first_assignment_teaches_through_the_later_ones_unless_detached():
    def slope(**hyperparameters):
        model = rsrnet(iterations=1, **hyperparameters).eval()
        masks = model._reason(BATCH)[0]
        return torch.autograd.grad(masks[1].sum(), masks[0], allow_unused=True)[0]

    assert slope().any() and slope(detach_assignment=True) is None


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="iterations = 0"):
        rsrnet(iterations=0)
