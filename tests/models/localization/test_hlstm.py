import pytest
import torch
import torch.nn.functional as F

import models
from models.localization.hlstm import HLSTM, PatchReader, hilbert_order, upsample
from tests.models import training, vector
from tests.models.localization.test_networks import pasted_squares

TINY = {"image_size": 64, "patch": 16, "angles": 3, "width": 4, "hidden": 8}


def tiny(**hyperparameters) -> HLSTM:
    torch.manual_seed(0)
    return models.create("hlstm", **TINY | hyperparameters)


def test_parameter_count_by_hand():
    """The spec's sum is 2.21M; here it is done again, layer by layer."""
    with torch.device("meta"):
        model = models.create("hlstm")
    pairs = [(3, 32), (32, 64), (64, 128), (128, 256)]
    # convolution and its norm; two norms and two convolutions with a bias
    encoder = sum(9 * a * b + 2 * b + 2 * (2 * b + 9 * b * b + b) for a, b in pairs)
    lstm = 4 * 64 * (240 + 64) + 4 * 64 * (64 + 64) + 2 * 2 * 4 * 64
    reader = 64 * 64 * 32 + 32 + 2 * 32
    head = 256 * 32 + 2 * 32 + 64 + 2
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + lstm + reader + head
    assert round((encoder + lstm + reader + head) / 1e6, 2) == 2.21


def test_hilbert_curve_of_order_2_by_hand():
    expected = torch.tensor([[0, 3, 4, 5], [1, 2, 7, 6], [14, 13, 8, 9], [15, 12, 11, 10]])
    assert torch.equal(hilbert_order(4).view(4, 4), expected)


@pytest.mark.parametrize("side", [1, 2, 8, 16])
def test_hilbert_curve_visits_all_patches_in_steps_of_one(side):
    visited = hilbert_order(side).argsort()
    assert sorted(visited.tolist()) == list(range(side * side))
    row, column = visited // side, visited % side
    assert (row.diff().abs() + column.diff().abs() == 1).all()
    assert visited[0] == 0 and visited[-1] == side * (side - 1)


def test_a_curve_needs_a_power_of_2():
    with pytest.raises(ValueError, match="power of 2, not 6"):
        hilbert_order(6)


def test_patches_are_read_along_the_curve_and_put_back():
    """An LSTM sees only what came before: a patch changes the outputs of later places on the curve alone."""
    torch.manual_seed(0)
    reader = PatchReader(features=3, hidden=4, outputs=2, grid=4, dropout=0.0).eval()
    features = torch.rand(1, 16, 3)
    changed = features.clone()
    changed[0, 9] += 1  # row 2, column 1: place 13 of the curve
    with torch.no_grad():
        read = [reader.lstm(sequence[:, reader.along_curve])[0][:, reader.place] for sequence in (features, changed)]
        moved = (read[0] != read[1]).any(2)[0]
        assert torch.equal(moved, hilbert_order(4) >= 13)
        # each place has its own weights: by hand for one of them
        placed = read[0][0, 6] @ reader.weight[6] + reader.bias
        by_hand = F.relu(placed / (1 + 1e-5) ** 0.5)
        torch.testing.assert_close(reader(features)[0, :, 1, 2], by_hand)


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_is_the_transposed_convolution_with_a_bilinear_kernel(factor):
    x, side = torch.rand(1, 1, 3, 5), 2 * factor
    taps = 1 - (torch.arange(side) - (factor - 0.5)).abs() / factor
    expected = F.conv_transpose2d(x, torch.outer(taps, taps)[None, None], stride=factor, padding=factor // 2)
    torch.testing.assert_close(upsample(x, factor), expected)


@pytest.mark.parametrize("head, parts", [("logit", {"bce", "ssim", "iou"}), ("released", {"cross_entropy"})])
def test_both_heads_train_everything(head, parts):
    model, batch = vector.build("hlstm", TINY | {"head": head}), vector.batch("localization", 64)
    assert set(model.loss("network", batch)[1]) == parts
    training.assert_gradients(model, batch)


def test_released_head_by_hand():
    model, batch = tiny(head="released").eval(), pasted_squares(2, 64)
    with torch.no_grad():
        logits = model.logits(batch)
        assert logits.shape == (2, 2, 64, 64) and (logits >= 0).all()
        torch.testing.assert_close(model(batch), logits.softmax(1)[:, 1:])
        loss, _ = model.loss("network", batch)
    sign = torch.cat([batch["mask"] * 2 - 1, 1 - batch["mask"] * 2], dim=1)  # 1 where the class is wrong
    torch.testing.assert_close(loss, F.softplus(sign * logits).mean())


def test_refusals():
    with pytest.raises(ValueError, match="reads pictures of 64x64 pixels, got 64x96"):
        tiny()({"composite": torch.rand(1, 3, 64, 96)})
    with pytest.raises(ValueError, match="patch = 24, expected a multiple of 16"):
        tiny(patch=24)
    with pytest.raises(ValueError, match="image_size / patch = 96 / 16, expected a power of 2"):
        tiny(image_size=96)
    with pytest.raises(ValueError, match="no player 'generator'"):
        tiny().loss("generator", pasted_squares(1, 64))
