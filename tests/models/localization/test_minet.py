import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.localization.minet import AggregateInteraction, SelfInteraction, consistency_loss
from tests.models.released import digest, shapes

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states"
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# the released names, in the order of registration
PAIR = "h2h_0 l2l_0 bnh_0 bnl_0 h2h_1 h2l_1 l2h_1 l2l_1 bnl_1 bnh_1"
FINEST = f"{PAIR} h2h_2 l2h_2 bnh_2 h2h_3 bnh_3 identity"
COARSEST = f"{PAIR} h2l_2 l2l_2 bnl_2 l2l_3 bnl_3 identity"
INNER = (
    "h2h_0 m2m_0 l2l_0 bnh_0 bnm_0 bnl_0 h2h_1 h2m_1 m2h_1 m2m_1 m2l_1 l2m_1 l2l_1 bnh_1 bnm_1 bnl_1 "
    "h2m_2 l2m_2 m2m_2 bnm_2 m2m_3 bnm_3 identity"
)
SELF = "h2l_0 h2h_0 bnl_0 bnh_0 h2h_1 h2l_1 l2h_1 l2l_1 bnl_1 bnh_1 h2h_2 l2h_2 bnh_2"


class Reading:
    """A block's tensors under the released names, to write the paper's equations with."""

    def __init__(self, block, names):
        for value in block.state_dict().values():
            if value.is_floating_point():
                torch.nn.init.uniform_(value, 0.1, 0.5)
        keys = [f"{name}.{entry}" for name in names.split() for entry in (NORM if name.startswith("bn") else NORM[:2])]
        self.state = dict(zip(keys, block.state_dict().values(), strict=True))

    def conv(self, name, x):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        weight, bias, mean, variance = (self.state[f"{name}.{entry}"] for entry in NORM[:4])
        return F.batch_norm(x, mean, variance, weight, bias)


def half(x):
    return F.avg_pool2d(x, 2)


def double(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(
    "backbone, file, published",  # of the 638 and 871 shapes of lartpang/MINet, code/network/MINet.py
    [("vgg16", "minet_vgg16.json", "7c0754282190d7e4"), ("resnet50", "minet.json", "aeb424874d2d0d96")],
)
def test_state_lines_up_with_the_released_one(backbone, file, published):
    """Checked once, outside the repository: a transcription of the released code gives, from the same tensors taken by
    position, the same prediction within 1e-6, training and evaluating."""
    with torch.device("meta"):
        listed = shapes(models.create("minet", backbone=backbone))
    assert digest(listed) == published
    if RELEASED.is_dir():
        assert listed == [shape for _, shape, *_ in json.loads((RELEASED / file).read_text())["entries"]]


def test_an_inner_level_against_a_plain_reading():
    torch.manual_seed(0)
    block = AggregateInteraction((2, 3, 4), 1, 5).eval()
    read = Reading(block, INNER)
    conv, norm = read.conv, read.norm
    levels = [torch.rand(1, 2, 8, 8), torch.rand(1, 3, 4, 4), torch.rand(1, 4, 2, 2)]
    with torch.no_grad():
        h, m, l = (norm(f"bn{k}_0", conv(f"{k}2{k}_0", x)).relu() for k, x in zip("hml", levels))
        h, m, l = (
            norm("bnh_1", conv("h2h_1", h) + conv("m2h_1", double(m))).relu(),
            norm("bnm_1", conv("h2m_1", half(h)) + conv("m2m_1", m) + conv("l2m_1", double(l))).relu(),
            norm("bnl_1", conv("m2l_1", half(m)) + conv("l2l_1", l)).relu(),
        )
        m = norm("bnm_2", conv("h2m_2", half(h)) + conv("m2m_2", m) + conv("l2m_2", double(l))).relu()
        expected = (norm("bnm_3", conv("m2m_3", m)) + conv("identity", levels[1])).relu()
        torch.testing.assert_close(block(levels), expected)


@pytest.mark.parametrize("own, names", [(0, FINEST), (1, COARSEST)])
def test_an_end_level_against_a_plain_reading(own, names):
    torch.manual_seed(0)
    block = AggregateInteraction((3, 2), own, 5).eval()
    read = Reading(block, names)
    conv, norm = read.conv, read.norm
    levels = [torch.rand(1, 3, 4, 4), torch.rand(1, 2, 2, 2)]
    with torch.no_grad():
        h, l = (norm(f"bn{k}_0", conv(f"{k}2{k}_0", x)).relu() for k, x in zip("hl", levels))
        h, l = (
            norm("bnh_1", conv("h2h_1", h) + conv("l2h_1", double(l))).relu(),
            norm("bnl_1", conv("h2l_1", half(h)) + conv("l2l_1", l)).relu(),
        )
        k = "hl"[own]
        fused = conv("h2h_2", h) + conv("l2h_2", double(l)) if own == 0 else conv("h2l_2", half(h)) + conv("l2l_2", l)
        fused = norm(f"bn{k}_2", fused).relu()
        expected = (norm(f"bn{k}_3", conv(f"{k}2{k}_3", fused)) + conv("identity", levels[own])).relu()
        torch.testing.assert_close(block(levels), expected)


def test_self_interaction_against_a_plain_reading():
    torch.manual_seed(0)
    block = SelfInteraction(4, 2).eval()
    read = Reading(block, SELF)
    conv, norm = read.conv, read.norm
    x = torch.rand(1, 4, 6, 10)

    def enlarge(low):
        return F.interpolate(low, (6, 10), mode="bilinear", align_corners=False)

    with torch.no_grad():
        h, l = norm("bnh_0", conv("h2h_0", x)).relu(), norm("bnl_0", conv("h2l_0", half(x))).relu()
        h, l = (
            norm("bnh_1", conv("h2h_1", h) + conv("l2h_1", enlarge(l))).relu(),
            norm("bnl_1", conv("l2l_1", l) + conv("h2l_1", half(h))).relu(),
        )
        expected = x + norm("bnh_2", conv("h2h_2", h) + conv("l2h_2", enlarge(l))).relu()
        torch.testing.assert_close(block(x), expected)


def test_consistency_loss_by_hand():
    def values(*v):
        return torch.tensor(v).view(1, 1, 1, -1)

    # wrong by 1/2 and by 1, of areas 3/2 and 1
    torch.testing.assert_close(consistency_loss(values(0.5, 1.0), values(1.0, 0.0)), torch.tensor(0.6))
    torch.testing.assert_close(consistency_loss(values(0.0, 1.0), values(0.0, 1.0)), torch.tensor(0.0))
    torch.testing.assert_close(consistency_loss(values(1.0, 0.0), values(0.0, 1.0)), torch.tensor(1.0))
    # what is right in the background counts nothing: balance
    more = consistency_loss(values(0.5, 1.0, 0.0, 0.0), values(1.0, 0.0, 0.0, 0.0))
    torch.testing.assert_close(more, torch.tensor(0.6))


def test_loss_adds_the_consistency_at_its_weight():
    torch.manual_seed(0)
    batch = {"composite": torch.rand(2, 3, 32, 32), "mask": (torch.rand(2, 1, 32, 32) > 0.5).float()}
    model = models.create("minet", width=4, consistency_weight=0.5).eval()
    with torch.no_grad():
        prediction = model(batch)
        total, parts = model.loss("network", batch)
        bce = F.binary_cross_entropy(prediction, batch["mask"])
        consistency = consistency_loss(prediction, batch["mask"])
        torch.testing.assert_close(total, bce + 0.5 * consistency)
        torch.testing.assert_close(parts, {"bce": bce, "consistency": consistency})
        region = models.create("minet", width=4, objective="region").eval()
        region.load_state_dict(model.state_dict())
        expected = region.region_loss(prediction, batch["mask"])[0]
        torch.testing.assert_close(region.loss("network", batch)[0], expected, atol=1e-5, rtol=0)


def test_resnet_form_predicts_at_full_size_and_refuses_small_pictures_in_words():
    torch.manual_seed(0)
    model = models.create("minet", backbone="resnet50", width=4)
    batch = {"composite": torch.rand(1, 3, 64, 96), "mask": torch.ones(1, 1, 64, 96)}
    with torch.no_grad():
        assert model.eval()(batch).shape == (1, 1, 64, 96)
        with pytest.raises(ValueError, match="at least 64 pixels with this backbone, got 32x64"):
            model({"composite": torch.rand(1, 3, 32, 64)})
    with pytest.raises(ValueError, match="single value per channel at 1/64 of the size"):
        model.train()(batch)
    batch = {"composite": torch.rand(2, 3, 64, 64), "mask": torch.ones(2, 1, 64, 64)}
    model.loss("network", batch)[0].backward()
    reached = [parameter.grad is not None for parameter in model.parameters()]
    assert all(reached)


def test_widths_and_weights_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="width = 6, expected a multiple of 4"):
        models.create("minet", width=6)
    with pytest.raises(ValueError, match="consistency_weight = -1"):
        models.create("minet", width=4, consistency_weight=-1.0)
