import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from models.harmonization.regional_references import (
    Foreground,
    LocationTransfer,
    PatchTransfer,
    RegionalReferences,
    SelfAttention,
    _PatchTokens,
    attend,
)
from models.layers.normalization import RAIN


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def given(channels: int = 5, height: int = 12, width: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, height, width)
    mask[0, 0, 3:9, 2:8], mask[1, 0, 8:, 9:12] = 1, 1
    return torch.randn(2, channels, height, width) * 2 + 1, mask


@pytest.mark.parametrize("width, millions", [(32, 7.71), (64, 30.82), (96, 56.75), (128, 89.69)])
def test_counts_at_published_widths(width, millions):
    """U-Net by arithmetic as the specs have it (6.27, 25.05, 43.76, 66.61M), then what the modules add."""
    channels = [min(width * 2**level, 1024) for level in range(5)]
    down = 16 * (4 * width + sum(a * b for a, b in zip(channels, channels[1:])))
    inputs = [channels[4], *(2 * width for width in channels[3::-1])]
    up = 16 * sum(a * b for a, b in zip(inputs, [*channels[3::-1], 3])) + 3
    norms = 2 * sum(channels[1:4]) + 2 * sum(channels[:4])
    unet = {32: 6.27, 64: 25.05, 96: 43.76, 128: 66.61}[width]
    assert (down + up + norms) / 1e6 == pytest.approx(unet, abs=0.011)
    deep, shallow = 2 * channels[2], 2 * channels[0]
    ltl = 4 * deep * deep + 4 * deep + 2 * deep * deep + deep
    ptl = 16 * 16 * shallow * shallow
    with torch.device("meta"):
        network = models.create("regional_references", width=width)
    count = sum(p.numel() for p in network.parameters())
    assert count == down + up + norms + ltl + ptl and round(count / 1e6, 2) == millions


def test_ltl_equals_a_loop_over_locations():
    x, mask = given()
    for scaled in (False, True):
        layer = LocationTransfer(5, scaled)
        with torch.no_grad():
            out = layer(x, mask).numpy()
            normalized = layer.attention(x)
        for image in range(2):
            maps = normalized[image].double().numpy()
            maps = (maps - maps.mean((1, 2), keepdims=True)) / np.sqrt(maps.var((1, 2), keepdims=True) + 1e-5)
            expected, inside = maps.copy(), mask[image, 0].numpy() > 0
            background = maps[:, ~inside].T
            weight, bias = layer.fuse.weight.detach().double().numpy(), layer.fuse.bias.detach().double().numpy()
            for row, column in zip(*np.nonzero(inside)):
                own = maps[:, row, column]
                borrowed = softmax(background @ own / (np.sqrt(5) if scaled else 1)) @ background
                expected[:, row, column] = weight @ np.concatenate([own, borrowed]) + bias
            np.testing.assert_allclose(out[image], expected, atol=1e-4)


def test_self_attention_equals_plain_matrices():
    x, _ = given()
    layer = SelfAttention(5).double()
    with torch.no_grad():
        tokens = x.double().flatten(2).transpose(1, 2)
        queries, keys, values = layer.read(tokens).split(5, dim=2)
        attended = layer.project((queries @ keys.transpose(1, 2) / 5**0.5).softmax(2) @ values)
        expected = x.double() + attended.transpose(1, 2).reshape(x.shape)
        assert torch.allclose(layer.float()(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "patch, stride, projection", [(4, 2, "flattened"), (3, 2, "flattened"), (4, 4, "flattened"), (4, 1, "mean")]
)
def test_ptl_equals_a_loop_over_patches(patch, stride, projection):
    """Also where a patch has no background (the first image's foreground holds one of 4x4) or less than 1/16 of it."""
    x, mask = given()
    layer = PatchTransfer(5, patch, stride, projection)
    with torch.no_grad():
        out = layer(x, mask).numpy()
    weight = layer.project.weight.detach().double().numpy()
    for image in range(2):
        maps, inside = x[image].double().numpy(), mask[image, 0].numpy() > 0
        tokens, means, deviations = [], [], []
        for top in range(0, 12 - patch + 1, stride):
            for left in range(0, 14 - patch + 1, stride):
                here = np.s_[top : top + patch, left : left + patch]
                outside = ~inside[here]
                if outside.sum() < patch * patch / 16:
                    continue
                block = maps[:, here[0], here[1]]
                mean, deviation = block[:, outside].mean(1), np.sqrt(block[:, outside].var(1) + 1e-5)
                normalized = (block - mean[:, None, None]) / deviation[:, None, None] * outside
                tokens.append(weight @ (normalized.ravel() if projection == "flattened" else mean))
                means.append(mean)
                deviations.append(deviation)
        own = maps[:, inside].T
        content = (own - own.mean(0)) / np.sqrt(own.var(0) + 1e-5)
        weights = softmax(content @ np.array(tokens).T)
        expected = maps.copy()
        expected[:, inside] = (content * (weights @ np.array(deviations)) + weights @ np.array(means)).T
        np.testing.assert_allclose(out[image], expected, atol=1e-4)


@pytest.mark.parametrize("patch, stride", [(4, 1), (4, 2), (3, 2), (4, 4)])
def test_patch_tokens_and_their_gradient_equal_those_of_unfolded_patches(patch, stride):
    torch.manual_seed(0)
    rows, columns = (9 - patch) // stride + 1, (11 - patch) // stride + 1
    x = torch.randn(2, 3, 9, 11, dtype=torch.double)
    mean, deviation = (
        torch.randn(2, 3, rows, columns, dtype=torch.double),
        torch.rand(2, 3, rows, columns).double() + 0.5,
    )
    inputs = [
        tensor.requires_grad_() for tensor in (x, mean, deviation, torch.randn(4, 3, patch, patch, dtype=torch.double))
    ]
    background = (torch.rand(2, 1, 9, 11) > 0.3).double()
    ours = _PatchTokens.apply(x, background, mean, deviation, inputs[3], stride)
    blocks, kept = (F.unfold(picture, patch, stride=stride).unflatten(1, (-1, patch**2)) for picture in (x, background))
    normalized = (blocks - mean.flatten(2)[:, :, None]) / deviation.flatten(2)[:, :, None] * kept
    plain = torch.einsum("ncpk,dcp->nkd", normalized, inputs[3].flatten(2))
    assert torch.allclose(ours, plain)
    gradient = torch.randn_like(plain)
    for own, other in zip(torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(plain, inputs, gradient)):
        assert torch.allclose(own, other)


def test_attention_rows_sum_to_one_over_what_is_usable():
    torch.manual_seed(0)
    queries, keys = torch.randn(3, 7, 4) * 5, torch.randn(3, 9, 4) * 5
    usable = torch.rand(3, 9) > 0.4
    usable[2] = False
    rows = attend(queries, keys, torch.eye(9).expand(3, 9, 9), usable, 1.0)
    assert torch.allclose(rows.sum(2), torch.ones(3, 7), atol=1e-5) and (rows >= 0).all()
    assert rows[:2].transpose(1, 2)[~usable[:2]].abs().max() == 0
    expected = softmax((queries[2] @ keys[2].t()).double().numpy())
    np.testing.assert_allclose(rows[2].numpy(), expected, atol=1e-5)


def test_nothing_but_the_foreground_is_touched_and_nothing_at_all_without_references():
    x, mask = given()
    ptl, ltl = PatchTransfer(5, 4, 2), LocationTransfer(5)
    with torch.no_grad():
        assert torch.equal(ptl(x, mask)[mask.expand_as(x) == 0], x[mask.expand_as(x) == 0])
        assert not torch.equal(ptl(x, mask)[mask.expand_as(x) > 0], x[mask.expand_as(x) > 0])
        for share in (0, 1):
            mask[1] = share
            assert torch.equal(ptl(x, mask)[1], x[1])
            normalized = ltl.norm(ltl.attention(x))
            assert torch.allclose(ltl(x, mask)[1], normalized[1], atol=1e-6)
            assert not torch.allclose(ltl(x, mask)[0], normalized[0], atol=1e-3)


def test_features_stay_laid_out_channel_by_channel():
    # torch's CPU convolutions have gone wrong on other layouts
    x, mask = given(8)
    for layer in (SelfAttention(8), LocationTransfer(8), PatchTransfer(8, 4, 2)):
        assert layer(x, mask).is_contiguous()


def test_foreground_of_unlike_sizes():
    x, mask = given(2, 3, 4)
    mask.zero_()
    mask[0, 0, 1, 1:3], mask[1, 0, 2, 0] = 1, 1
    foreground = Foreground(mask)
    assert foreground.at.shape == (2, 2) and foreground.real[:, 0].tolist() == [[True, True], [True, False]]
    assert torch.equal(foreground.of(x)[0], x[0, :, 1, 1:3])
    put = foreground.put(torch.zeros(2, 2, 2), x, torch.tensor([True, True]))
    assert torch.equal(put, x * (1 - mask))


def test_output_is_the_composite_outside_the_mask_and_everywhere_without_one():
    for residual in (False, True):
        torch.manual_seed(0)
        network = RegionalReferences(width=8, image_size=64, residual=residual).eval()
        batch = {"composite": torch.rand(2, 3, 64, 64), "mask": torch.zeros(2, 1, 64, 64)}
        batch["mask"][0, :, 10:30, 12:50] = 1
        with torch.no_grad():
            out = network(batch)
        outside = batch["mask"].expand_as(out) == 0
        assert torch.equal(out[outside], batch["composite"][outside])
        assert not torch.equal(out[0], batch["composite"][0]) and torch.equal(out[1], batch["composite"][1])


def test_the_loss_is_eq_8_divided_by_three_and_unclipped():
    torch.manual_seed(0)
    network = RegionalReferences(width=8, image_size=64).eval()
    batch = {name: torch.rand(2, 3, 64, 64) for name in ("composite", "real")} | {"mask": torch.zeros(2, 1, 64, 64)}
    batch["mask"][0, :, 10:30, 12:50], batch["mask"][1, :, :5, :5] = 1, 1
    with torch.no_grad():
        network.head.weight.mul_(50)
        drawn = network._draw(batch)
        loss, parts = network.loss("network", batch)
        assert drawn.max() > 1 and torch.equal(network(batch), drawn.clamp(0, 1))
    error = ((drawn - batch["real"]) ** 2).sum((1, 2, 3))
    assert torch.isclose(loss, (error[0] / (3 * 20 * 38) + error[1] / (3 * 100)) / 2)
    assert parts == {"foreground_mse": loss}


def test_every_row_of_the_ablation_tables():
    """Which modules stand where: specs/harmonization.md, 5.1."""
    bare = {"ltl": (), "ptl": ()}
    rows = {
        "Base": (bare | {"residual": False}, {}),
        "RBase": (bare, {}),
        "+LTL": ({"ltl": (16, 32, 64), "ptl": ()}, {LocationTransfer: 3, SelfAttention: 3}),
        "LTL at 16": ({"ltl": (16,), "ptl": ()}, {LocationTransfer: 1, SelfAttention: 1}),
        "+Self-Attention": (bare | {"self_attention": (32,)}, {SelfAttention: 1}),
        "+AdaIN": (bare | {"adain": (128,)}, {RAIN: 1}),
        "+PTL": ({"ltl": ()}, {PatchTransfer: 1}),
        "+LTL+PTL": ({}, {LocationTransfer: 1, SelfAttention: 1, PatchTransfer: 1}),
    }
    kinds = (LocationTransfer, PatchTransfer, SelfAttention, RAIN)
    for name, (settings, expected) in rows.items():
        with torch.device("meta"):
            network = models.create("regional_references", **settings)
        counted = {kind: sum(isinstance(module, kind) for module in network.modules()) for kind in kinds}
        assert counted == dict.fromkeys(kinds, 0) | expected, name
    for patch, stride, pixels, step in (
        (4, 4, 32, 32),
        (4, 8, 32, 16),
        (4, 16, 32, 8),
        (8, 8, 16, 16),
        (8, 16, 16, 8),
        (8, 32, 16, 4),
    ):
        with torch.device("meta"):
            network = models.create("regional_references", patch=patch, stride=stride, width=2)
        (ptl,) = (module for module in network.modules() if isinstance(module, PatchTransfer))
        assert (ptl.patch, ptl.stride) == (pixels, step)


def test_places_are_the_decoder_levels_relative_to_256():
    seen = {}
    network = RegionalReferences(width=2, image_size=128, ltl=(16, 32, 64)).eval()
    for module in network.modules():
        if isinstance(module, (LocationTransfer, PatchTransfer)):
            module.register_forward_pre_hook(
                lambda layer, inputs: seen.setdefault(type(layer), []).append(tuple(inputs[0].shape[1:]))
            )
            if isinstance(module, PatchTransfer):
                assert (module.patch, module.stride) == (8, 2)
    network({"composite": torch.rand(1, 3, 128, 128), "mask": torch.ones(1, 1, 128, 128)})
    # width 2 has 2, 4, 8, 16, 32 channels, joined with as many
    assert seen == {LocationTransfer: [(32, 8, 8), (16, 16, 16), (8, 32, 32)], PatchTransfer: [(4, 64, 64)]}


def test_refusals():
    with pytest.raises(
        ValueError, match="ltl at 16: with 4 levels the decoder's features have 128, 64, 32 at 256 pixels"
    ):
        RegionalReferences(levels=4, ltl=(16,))
    with pytest.raises(ValueError, match="levels = 1, expected 2 or more"):
        RegionalReferences(levels=1)
    with pytest.raises(ValueError, match="below a patch of 16; set image_size lower"):
        RegionalReferences(width=2, levels=2, ltl=())(
            {"composite": torch.rand(1, 3, 16, 16), "mask": torch.ones(1, 1, 16, 16)}
        )
