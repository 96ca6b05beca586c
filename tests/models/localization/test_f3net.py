import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.localization.f3net import CrossFeature, structure_loss
from tests.models.released import digest, shapes

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states/f3net.json"
DIGEST = "1e316dd509457724"  # of the 694 shapes of weijun88/F3Net, src/net.py


def batch(side=64):
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, side, side)
    mask[0, :, 8:40, 16:48] = 1
    return {"composite": torch.rand(2, 3, side, side, generator=generator), "mask": mask}


def test_state_lines_up_with_the_released_one():
    """Checked once, outside the repository: a transcription of the released code gives, from the same tensors taken by
    position, the same prediction bit for bit and the same loss within 3e-7 of it, training and evaluating."""
    with torch.device("meta"):
        listed = shapes(models.create("f3net"))
    assert digest(listed) == DIGEST
    if RELEASED.is_file():
        assert listed == [shape for _, shape, *_ in json.loads(RELEASED.read_text())["entries"]]


def test_structure_loss_of_one_pixel_by_hand():
    # one pixel of 1 in a window of 961: its weight is 1 + 5 * 960/961; a probability of 1/2 has cross-entropy log 2
    weight = 1 + 5 * 960 / 961
    expected = math.log(2) + 1 - (weight / 2 + 1) / (weight + 1)
    foreground, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    torch.testing.assert_close(structure_loss(zero, foreground), torch.tensor(expected))
    # an empty picture: weight 1 everywhere, no intersection, union 1/2
    torch.testing.assert_close(structure_loss(zero, zero), torch.tensor(math.log(2) + 1 - 1 / 1.5))


def test_structure_loss_looks_at_boundaries():
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    right = 8 * (2 * mask - 1)
    at_boundary, inside = right.clone(), right.clone()
    at_boundary[..., 40:60, 66] *= -1  # 20 wrong pixels each
    inside[..., 40:60, 110] *= -1
    assert structure_loss(right, mask) < structure_loss(inside, mask) < structure_loss(at_boundary, mask)
    # in the released code only the IoU's part tells the two apart
    told = structure_loss(at_boundary, mask) - structure_loss(inside, mask)
    assert 0 < structure_loss(at_boundary, mask, False) - structure_loss(inside, mask, False) < told


def test_unweighted_cross_entropy_is_the_batch_s_mean():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 1, 20, 20), (torch.rand(2, 1, 20, 20) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, mask)
    weight = 1 + 5 * (F.avg_pool2d(F.pad(mask, [15] * 4), 31, 1) - mask).abs()
    p = logits.sigmoid()
    cut, both = (weight * p * mask).sum((1, 2, 3)), (weight * (p + mask)).sum((1, 2, 3))
    torch.testing.assert_close(structure_loss(logits, mask, False), plain + (1 - (cut + 1) / (both - cut + 1)).mean())


def test_cross_feature_against_a_plain_reading():
    """The released names in the released order, and the paper's equations on them."""
    torch.manual_seed(0)
    block = CrossFeature(3).eval()
    entries = [
        "conv{}.weight",
        "conv{}.bias",
        "bn{}.weight",
        "bn{}.bias",
        "bn{}.running_mean",
        "bn{}.running_var",
        "{}",
    ]
    names = [entry.format(n + side) for side in "hv" for n in "1234" for entry in entries]
    state = dict(zip(names, block.state_dict().values(), strict=True))

    def step(n, x):
        x = F.conv2d(x, state[f"conv{n}.weight"], state[f"conv{n}.bias"], padding=1)
        norm = [state[f"bn{n}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm).relu()

    left, down = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        h, v = step("1h", left), step("1v", F.interpolate(down, (8, 8), mode="bilinear"))
        product = step("2h", h) * step("2v", v)
        expected = step("4h", step("3h", product) + h), step("4v", step("3v", product) + v)
        torch.testing.assert_close(block(left, down), expected)


def test_loss_weighs_the_six_maps():
    torch.manual_seed(0)
    model = models.create("f3net", width=2, channels=4).eval()
    for head in (model.first_head, model.second_head, *model.side_heads):
        torch.nn.init.zeros_(head.weight)  # every map is 1/2, every loss the same
    loss_of_a_map = structure_loss(torch.zeros(2, 1, 64, 64), batch()["mask"])
    total, parts = model.loss("network", batch())
    torch.testing.assert_close(total, loss_of_a_map * (1 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16))
    torch.testing.assert_close(parts["sides"], loss_of_a_map * 15 / 16)
    region = models.create("f3net", width=2, channels=4, objective="region").eval()
    region.load_state_dict(model.state_dict())
    loss_of_a_map = region.region_loss(torch.zeros(2, 1, 64, 64), batch()["mask"], logits=True)[0]
    torch.testing.assert_close(region.loss("network", batch())[0], loss_of_a_map * (1 + 15 / 16))


def test_the_prediction_is_the_second_pass():
    torch.manual_seed(0)
    model = models.create("f3net", width=2, channels=4).eval()
    with torch.no_grad():
        before = model(batch())
        torch.nn.init.normal_(model.first_head.weight)
        assert torch.equal(model(batch()), before)
        torch.nn.init.normal_(model.second_head.weight)
        assert not torch.equal(model(batch()), before)


def test_a_frozen_stem_keeps_its_weights():
    model = models.create("f3net", width=2, channels=4, freeze_stem=True).train()
    model.enter("train")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["backbone.conv1.weight", "backbone.bn1.weight", "backbone.bn1.bias"]
    model.loss("network", batch())[0].backward()
    assert model.backbone.layer1[0].conv1.weight.grad.any()


def test_its_own_colour_statistics():
    model = models.create("f3net", width=2, channels=4)
    grey = torch.tensor([124.55, 118.90, 102.94]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(model.normalize(grey), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    deviation = torch.tensor([56.77, 55.97, 57.50]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(model.normalize(grey + deviation), torch.ones(1, 3, 1, 1))
    with pytest.raises(ValueError, match="channels = 0"):
        models.create("f3net", channels=0)
