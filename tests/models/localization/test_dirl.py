import pytest
import torch
import torch.nn.functional as F

import models
from models.localization.dirl import (
    ChannelAttention,
    PairIntegration,
    TripleIntegration,
)

BATCH = {
    "composite": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "mask": (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.7).float(),
}


def dirl(**hyperparameters):
    torch.manual_seed(0)
    return models.create("dirl", width=2, channels=4, **hyperparameters)


def test_state_lines_up_with_the_published_one():
    """Entries and the shapes at the joints of the public code's state dict, 583 tensors with the unused convolution.

    Checked once, outside the repository: a transcription of that code at full size gives, from the same tensors taken
    by position, the same prediction and attention maps bit for bit, in training and in evaluation.
    """
    with torch.device("meta"):
        state = list(models.create("dirl").state_dict().items())
    shapes = [tuple(tensor.shape) for _, tensor in state]
    assert len(shapes) == 583
    assert shapes[:2] == [(64, 3, 3, 3), (64,)]
    first = next(i for i, (key, _) in enumerate(state) if key.startswith("integration"))
    # im0: normalization before convolution, top-down before bottom-up, the coarse pair before the fine one
    convolutions = [shape for shape in shapes[first:] if len(shape) == 4][:11]
    assert shapes[first] == (64,)
    assert convolutions == [
        (64, 128, 3, 3), (128, 64, 3, 3), (32, 256, 3, 3), (32, 128, 3, 3),
        (128, 256, 3, 3), (64, 128, 3, 3), (256, 128, 3, 3), (128, 64, 3, 3),
        (32, 128, 3, 3), (32, 256, 3, 3), (32, 512, 3, 3),
    ]  # fmt: skip
    assert shapes[-1] == (32, 64, 3, 3) and [shape for shape in shapes if len(shape) == 3] == [(1, 1, 3)] * 5
    head = [key for key, _ in state].index("decoder.head.weight")
    assert shapes[head - 1] == (32, 32, 3, 3) and shapes[head] == (1, 32, 1, 1)


def test_only_the_published_unused_convolution_is_frozen():
    frozen = [key for key, parameter in dirl().named_parameters() if not parameter.requires_grad]
    assert frozen and all(key.startswith("decoder.unused.") for key in frozen)


def test_integration_keeps_each_level_at_its_size():
    low, middle, high = torch.rand(2, 2, 16, 16), torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)
    assert TripleIntegration(2, 4, 8, 5)(low, middle, high).shape == (2, 5, 8, 8)
    assert PairIntegration(2, 4, 5, at_high=False)(low, middle).shape == (2, 5, 16, 16)
    assert PairIntegration(2, 4, 5, at_high=True)(low, middle).shape == (2, 5, 8, 8)


def test_information_flows_both_ways_through_a_triple():
    torch.manual_seed(0)
    block = TripleIntegration(2, 4, 8, 5).eval()
    levels = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((2, 16), (4, 8), (8, 4))]
    block(*levels)[0, 0, 4, 4].backward()
    assert all(level.grad.any() for level in levels)


def test_channel_attention_by_hand():
    attention = ChannelAttention()
    attention.conv.weight.data = torch.tensor([[[1.0, 2.0, 3.0]]])
    x = torch.stack([torch.full((2, 2), value) for value in (0.1, 0.2, 0.3)])[None]
    # gate of the middle channel: its left neighbour x1, itself x2, its right neighbour x3
    expected = torch.sigmoid(torch.tensor([2 * 0.1 + 3 * 0.2, 0.1 + 2 * 0.2 + 3 * 0.3, 0.2 + 2 * 0.3]))
    torch.testing.assert_close(attention(x)[0, :, 0, 0], expected * torch.tensor([0.1, 0.2, 0.3]))


def test_loss_sums_five_supervised_maps():
    model = dirl().eval()
    with torch.no_grad():
        logits, maps = model._predict(BATCH)
        total, parts = model.loss("network", BATCH)
    assert [tuple(logits.shape[2:]) for logits in maps] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    by_hand = sum(
        model.region_loss(F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False), BATCH["mask"])[0]
        for logits in maps
    )
    torch.testing.assert_close(parts["attention"], by_hand)
    torch.testing.assert_close(total, parts["final"] + parts["attention"])


def test_without_attention_weight_the_maps_are_not_supervised():
    loss, parts = dirl(attention_weight=0.0).eval().loss("network", BATCH)
    torch.testing.assert_close(loss.detach(), parts["final"])
    assert set(parts) == {"final"}
    with pytest.raises(ValueError, match="attention_weight = -1"):
        dirl(attention_weight=-1.0)


def test_the_finest_level_serves_supervision_only():
    model = dirl().eval()
    composite = BATCH["composite"]
    with torch.no_grad():
        before = model({"composite": composite})
        for parameter in model.integration.level0.parameters():
            parameter.zero_()
        assert torch.equal(model({"composite": composite}), before)
