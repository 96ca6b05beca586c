import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models.localization.gatenet import FoldedPyramid, Gate
from tests.models.released import digest, shapes

RELEASED = Path(__file__).resolve().parents[4] / "shared/released_states"


@pytest.mark.parametrize(
    "backbone, file, published",  # of the 524 and 337 shapes of Xiaoqi-Zhao-DLUT/GateNet-RGB-Saliency
    [("resnet50", "gatenet.json", "1c36741cb1ecf893"), ("vgg16", "gatenet_vgg16.json", "4a8626544abfd6c6")],
)
def test_state_lines_up_with_the_released_one(backbone, file, published):
    """Checked once, outside the repository: a transcription of the released code gives, from the same tensors taken by
    position, the same prediction within 6e-7, training and evaluating."""
    with torch.device("meta"):
        listed = shapes(models.create("gatenet", backbone=backbone))
    assert digest(listed) == published
    if RELEASED.is_dir():
        assert listed == [shape for _, shape, *_ in json.loads((RELEASED / file).read_text())["entries"]]


def test_folding_is_the_released_unfolding():
    """The released code unfolds windows into channels and folds them back, which it can for squares alone."""
    torch.manual_seed(0)
    block = FoldedPyramid(3, 4).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        folded = nn.Unfold(2, stride=2)(block.reduce(x)).view(2, 16, 4, 4)
        image = F.interpolate(block.image(folded.mean((2, 3), keepdim=True)), (4, 4), mode="bilinear")
        fused = block.fuse(torch.cat([*(branch(folded) for branch in block.branches), image], dim=1))
        expected = block.mix(F.fold(fused.flatten(2), 8, 2, stride=2))
        torch.testing.assert_close(block(x), expected)
        assert block(torch.rand(2, 3, 8, 12)).shape == (2, 4, 8, 12)
    assert [branch[0].dilation for branch in block.branches] == [(1, 1), (2, 2), (4, 4), (6, 6)]


def test_a_gate_is_the_mean_of_a_sigmoid_not_the_sigmoid_of_a_mean():
    gate = Gate(2, ())
    (conv,) = gate.layers
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[0, 0, 1, 1] = conv.weight[1, 1, 1, 1] = 1
    encoded, decoded = torch.tensor([[[[-100.0, 100.0]]]]), torch.tensor([[[[100.0, 100.0]]]])
    for_pyramid, for_parallel = gate(encoded, decoded)
    assert (for_pyramid.item(), for_parallel.item()) == (0.5, 1.0)


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16"])
def test_shut_gates_leave_nothing_of_the_picture(backbone):
    torch.manual_seed(0)
    model = models.create("gatenet", backbone=backbone, width=4).eval()
    for gate in model.gates:
        nn.init.zeros_(gate.layers[-1].weight)
        nn.init.constant_(gate.layers[-1].bias, -1000.0)
    with torch.no_grad():
        first, other = model({"composite": torch.rand(2, 3, 64, 64)})
        assert torch.equal(first, other)
        for gate in model.gates:
            nn.init.constant_(gate.layers[-1].bias, 0.0)
        first, other = model({"composite": torch.rand(2, 3, 64, 64)})
        assert not torch.equal(first, other)


def test_prediction_sums_both_branches_and_loss_sums_both_maps():
    torch.manual_seed(0)
    model = models.create("gatenet", width=4).eval()
    batch = {"composite": torch.rand(2, 3, 64, 64), "mask": (torch.rand(2, 1, 64, 64) > 0.5).float()}
    with torch.no_grad():
        pyramid, final = model.logits(batch)
        nn.init.zeros_(model.parallel[-1].weight)
        nn.init.constant_(model.parallel[-1].bias, 2.0)
        same, shifted = model.logits(batch)
        torch.testing.assert_close(same, pyramid)
        torch.testing.assert_close(shifted, pyramid + 2)
        total, parts = model.loss("network", batch)
        expected = [F.binary_cross_entropy_with_logits(logits, batch["mask"]) for logits in (same, shifted)]
        torch.testing.assert_close(total, sum(expected))
        torch.testing.assert_close(list(parts.values()), expected)
        region = models.create("gatenet", width=4, objective="region").eval()
        region.load_state_dict(model.state_dict())
        expected = sum(region.region_loss(logits, batch["mask"], logits=True)[0] for logits in (same, shifted))
        torch.testing.assert_close(region.loss("network", batch)[0], expected)


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="width = 5, expected an even number"):
        models.create("gatenet", width=5)
