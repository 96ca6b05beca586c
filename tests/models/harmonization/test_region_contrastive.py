import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from models.harmonization import region_contrastive
from models.harmonization.region_contrastive import (
    AdaIN,
    DecoderRAIN,
    RegionContrastive,
    StyleFusion,
)
from models.layers.normalization import RAIN


def region(size: int = 32) -> torch.Tensor:
    mask = torch.zeros(2, 1, size, size)
    mask[0, 0, 4:20, 8:24], mask[1, 0, 12:, :12] = 1, 1
    return mask


def given(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = F.interpolate(torch.rand(2, 3, 5, 5, generator=generator), (size, size), mode="bilinear")
    mask = region(size)
    return {"composite": torch.lerp(real, real * 0.7, mask), "mask": mask, "real": real}


def test_counts_at_published_size():
    """Published: 28.37M. Blocks by hand: convolutions with bias and a norm of two numbers a channel; S2AM as in its test."""
    widths, count, before = [32, 64, 128, 256, 512], 0, 4

    def convolutions(before: int, after: int) -> int:
        return (9 * before + 1) * after + 2 * after + 3 * ((9 * after + 1) * after + 2 * after)

    for after in widths:
        count, before = count + convolutions(before, after), after
    for after in widths[-2::-1]:
        both = 2 * after
        attention = 36 * both**2 + 6 * both + 3 * (3 * both * (both // 16) + both // 16 + both)
        count += (4 * both + 1) * after + 2 * after + attention + convolutions(both, after)
    count += 3 * 32 + 3
    assert count == 28_366_583
    for fusion, extra in {"none": 0, "adain": 0, "literal": 1920, "own_first": 1920, "rain": 1920}.items():
        with torch.device("meta"):
            network = models.create("region_contrastive", fusion=fusion)
        assert sum(p.numel() for p in network.predictor_parameters()) == count + extra
        # 192 -> 256 -> 256, which no prediction needs
        assert sum(p.numel() for p in network.parameters()) == count + extra + 193 * 256 + 257 * 256


@pytest.mark.parametrize("own_first", [False, True])
def test_fusion_equals_numpy(own_first):
    torch.manual_seed(0)
    layer, mask = StyleFusion(3, own_first), region(24)
    decoded, encoded = torch.randn(2, 3, 24, 24) * 2 + 1, torch.randn(2, 3, 24, 24) * 0.5 - 3
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        out = layer(decoded, encoded, mask).numpy()
    scale_f, shift_f, scale_b, shift_b = (
        parameter.detach().flatten()[:, None].numpy() for parameter in layer.parameters()
    )
    for image in range(2):
        inside = mask[image, 0].numpy() > 0
        here, style = decoded[image].numpy(), encoded[image].numpy()[:, ~inside]
        foreground, background = here[:, inside], here[:, ~inside]

        def normalized(x, by):
            return (x - by.mean(1, keepdims=True)) / np.sqrt(by.var(1, keepdims=True) + 1e-5)

        if own_first:
            mean, deviation = style.mean(1, keepdims=True), np.sqrt(style.var(1, keepdims=True) + 1e-5)
            fused = normalized(foreground, foreground) * deviation + mean
        else:
            fused = normalized(foreground, style)
        np.testing.assert_allclose(out[image][:, inside], (1 + scale_f) * fused + shift_f, atol=2e-3, rtol=1e-4)
        expected = (1 + scale_b) * normalized(background, background) + shift_b
        np.testing.assert_allclose(out[image][:, ~inside], expected, atol=1e-4)


def test_the_alternatives_read_the_decoder_alone():
    torch.manual_seed(0)
    decoded, encoded, mask = torch.randn(2, 3, 24, 24) * 2 + 1, torch.randn(2, 3, 24, 24), region(24)
    out = AdaIN()(decoded, encoded, mask)
    assert torch.equal(out[mask.expand_as(out) == 0], decoded[mask.expand_as(out) == 0])
    for image in range(2):
        inside = mask[image, 0] > 0
        moments = [
            (x[:, where].mean(1), x[:, where].std(1)) for x, where in ((out[image], inside), (decoded[image], ~inside))
        ]
        for first, other in zip(*moments):
            assert torch.allclose(first, other, atol=2e-2)
    assert torch.equal(DecoderRAIN(3)(decoded, encoded, mask), RAIN(3)(decoded, mask))


@pytest.mark.parametrize("fusion", ["literal", "own_first", "adain", "rain"])
def test_without_a_background_the_foreground_keeps_or_takes_its_own_statistics(fusion):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16) * 2 + 1
    out = region_contrastive.FUSIONS[fusion](3)(x, torch.randn_like(x), torch.ones(2, 1, 16, 16))
    normalized = (x - x.mean((2, 3), keepdim=True)) / x.var((2, 3), keepdim=True, correction=0).sqrt()
    assert torch.allclose(out, normalized if fusion == "literal" else x, atol=1e-3)


def test_patches_lie_on_cells_of_their_region():
    mask = region()
    mask[1] = 0
    mask[1, 0, 17, 5:30] = 1  # too thin for the first pixels of any cell
    torch.manual_seed(0)
    corners, empty = region_contrastive.draw_corners(mask, 500)
    assert corners.shape == (2, 500, 2) and not empty.any()
    # cells 1-4 by 2-5, corners two pixels up and left of theirs
    assert {tuple(corner) for corner in corners[0].tolist()} == {
        (4 * r - 2, 4 * c - 2) for r in range(1, 5) for c in range(2, 6)
    }
    # cell row 4, cell columns 1-7, the last of which is shifted inwards
    assert {tuple(corner) for corner in corners[1].tolist()} == {(14, min(4 * c - 2, 24)) for c in range(1, 8)}
    image = torch.arange(2 * 3 * 32 * 32.0).view(2, 3, 32, 32)
    patches = region_contrastive.patches_at(image, corners)
    top, left = corners[1, 7].tolist()
    assert torch.equal(patches[1, 7].view(3, 8, 8), image[1, :, top : top + 8, left : left + 8])
    assert region_contrastive.draw_corners(torch.zeros(1, 1, 32, 32), 4)[1].tolist() == [True]


def test_contrastive_losses_by_hand():
    torch.manual_seed(0)
    foreground, background, before = (F.normalize(torch.randn(2, 4, 6), dim=2) for _ in range(3))
    for image in range(2):
        n, p, c = (vectors[image].double().numpy() for vectors in (foreground, background, before))
        query_n, query_p = (x.mean(0) / np.linalg.norm(x.mean(0)) for x in (n, p))
        against = np.exp(n @ query_n / 0.07).sum()
        literal = np.mean(
            [
                -np.log(np.exp(query_p @ positive / 0.07) / (np.exp(query_p @ positive / 0.07) + against))
                for positive in p
            ]
        )
        assert region_contrastive.contrast_of_means(foreground, background)[image].item() == pytest.approx(
            literal, rel=1e-4
        )
        goal = 0
        for query, positive in zip(n, p):
            attraction = np.exp(query @ positive / 0.07)
            goal -= np.log(attraction / (attraction + np.exp(c @ query / 0.07).sum())) / 4
        ours = region_contrastive.contrast_of_patches(foreground, background, before)[image]
        assert ours.item() == pytest.approx(goal, rel=1e-4)


def test_the_loss_adds_up_and_an_image_without_a_region_has_no_contrast():
    torch.manual_seed(0)
    network, batch = RegionContrastive(width=4, levels=3, patches=8).eval(), given()
    with torch.no_grad():
        torch.manual_seed(1)
        loss, parts = network.loss("network", batch)
        drawn, mask = network._draw(batch), batch["mask"]
        error = (drawn - batch["real"]).abs()
        area = 3 * mask.sum((1, 2, 3))
        assert torch.isclose(parts["pixel"], ((error * mask).sum((1, 2, 3)) / area).mean())
        assert torch.isclose(parts["l1"], error.mean()) and parts["contrastive"] > 0
        assert torch.isclose(loss, 0.4 * parts["l1"] + 0.5 * parts["pixel"] + 0.1 * parts["contrastive"])
        for share in (0.0, 1.0):
            torch.manual_seed(1)
            altered = {**batch, "mask": batch["mask"].clone()}
            altered["mask"][1] = share
            both = network._contrastive(drawn, altered)
            assert both[1] == 0 and both[0] > 0


def test_what_the_two_contrasts_reward():
    torch.manual_seed(0)
    alike = F.normalize(torch.randn(1, 1, 6).expand(1, 8, 6) + 0.01 * torch.randn(1, 8, 6), dim=2)
    unlike, other = (F.normalize(torch.randn(1, 8, 6), dim=2) for _ in range(2))
    # eq. 11, literally: a foreground whose patches are unlike each other, wherever the background is
    literal = region_contrastive.contrast_of_means
    assert literal(unlike, alike) < literal(alike, alike)
    # the claim: a foreground like the background and unlike what it was
    goal = region_contrastive.contrast_of_patches
    assert goal(alike, alike, -alike) < goal(alike, unlike, -alike) < goal(alike, -alike, alike)


def test_the_contrastive_loss_towards_its_goal_is_learned():
    torch.manual_seed(0)
    network, batch = RegionContrastive(width=4, levels=3, patches=16, contrast="goal"), given()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    history = []
    for _ in range(30):
        loss, parts = network.loss("network", batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(parts["contrastive"].item())
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])


def test_rows_of_the_ablation():
    batch = given()
    bare = {"fusion": "none", "pixel_weight": 0.0, "contrastive_weight": 0.0}
    rows = [bare, bare | {"pixel_weight": 0.5}, {"contrastive_weight": 0.0}, {}]
    counts = []
    for settings in rows:
        network = RegionContrastive(width=4, levels=3, **settings)
        _, parts = network.loss("network", batch)
        counts.append((network.unet.fusions is not None, network.encoder is not None))
        assert ("contrastive" in parts) == (network.encoder is not None)
    assert counts == [(False, False), (False, False), (True, False), (True, True)]


def test_output_is_the_composite_outside_the_mask_and_everywhere_without_one():
    torch.manual_seed(0)
    network, batch = RegionContrastive(width=4, levels=3).eval(), given()
    batch["mask"][1] = 0
    with torch.no_grad():
        out = network(batch)
    outside = batch["mask"].expand_as(out) == 0
    assert torch.equal(out[outside], batch["composite"][outside]) and torch.equal(out[1], batch["composite"][1])
    assert not torch.equal(out[0], batch["composite"][0])


def test_refusals():
    with pytest.raises(ValueError, match="levels = 1, expected 2 or more"):
        RegionContrastive(levels=1)
    with pytest.raises(ValueError, match="patches = 0, expected 1 or more"):
        RegionContrastive(patches=0)
    with pytest.raises(ValueError, match="contrast = 'mean'"):
        models.create("region_contrastive", contrast="mean")
