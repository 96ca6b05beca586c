import torch
from torch.nn import functional as F

from models.layers.attention import contextual_attention, fuse


def reference(features, hole, scale=10.0):
    """The released layer for one image, patch by patch: features (C, H, W), hole (H, W)."""
    channels, height, width = features.shape
    kept = {8: [0, 2, 5, 7], 10: [0, 2, 5, 7, 9]}  # round(7 i / 3); 9 i / 4 with its half rounded up
    row_indices, column_indices = kept[height], kept[width]
    small, small_hole = (given[..., row_indices, :][..., column_indices] for given in (features, hole))
    rows, columns = height // 2, width // 2
    positions = [(row, column) for row in range(rows) for column in range(columns)]
    padded, padded_hole, raw = F.pad(small, (1,) * 4), F.pad(small_hole, (1,) * 4), F.pad(features, (1,) * 4)
    patch = {p: padded[:, p[0] : p[0] + 3, p[1] : p[1] + 3] for p in positions}
    valid = {p: float(padded_hole[p[0] : p[0] + 3, p[1] : p[1] + 3].sum() == 0) for p in positions}
    scores = torch.stack(
        [torch.stack([(patch[t] * patch[s]).sum() / max(patch[s].norm(), 1e-4) for s in positions]) for t in positions]
    )
    kernel = torch.eye(3, dtype=scores.dtype).view(1, 1, 3, 3)
    scores = F.conv2d(scores[None, None], kernel, padding=1)[0, 0]
    by_column = [row * columns + column for column in range(columns) for row in range(rows)]
    scores = F.conv2d(scores[by_column][:, by_column][None, None], kernel, padding=1)[0, 0]
    back = torch.tensor(by_column).argsort()
    scores = scores[back][:, back]
    mask = torch.tensor([valid[p] for p in positions], dtype=scores.dtype)
    weights = (scores * mask * scale).softmax(dim=1) * mask
    out = torch.zeros_like(raw)
    for t, (row, column) in enumerate(positions):
        for s, (source_row, source_column) in enumerate(positions):
            piece = raw[:, 2 * source_row : 2 * source_row + 4, 2 * source_column : 2 * source_column + 4]
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += weights[t, s] * piece / 4
    return out[:, 1:-1, 1:-1]


def test_equals_the_layer_patch_by_patch():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8, 10)
    hole = torch.zeros(2, 1, 8, 10)
    hole[0, 0, 2:5, 4:9] = 1
    hole[1, 0, :3, :3] = 1
    out = contextual_attention(features, hole)
    for index in range(2):
        expected = reference(features[index].double(), hole[index, 0].double()).float()
        torch.testing.assert_close(out[index], expected, rtol=1e-3, atol=1e-4)


def test_fuse_favours_neighbours_of_neighbours():
    """One match at (target, source) supports the pairs one step further in each direction, along rows and columns."""
    height, width = 4, 5
    scores = torch.zeros(1, 20, 20)
    at = lambda row, column: row * width + column
    scores[0, at(1, 1), at(2, 3)] = 1
    fused = fuse(scores, height, width)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            assert fused[0, at(1 + row, 1 + column), at(2 + row, 3 + column)] == 1
    assert fused.sum() == 9


def test_what_touches_the_hole_is_never_pasted():
    torch.manual_seed(1)
    features, hole = torch.randn(1, 4, 16, 16), torch.zeros(1, 1, 16, 16)
    hole[..., 6:12, 6:12] = 1
    features = features * (1 - hole) + 1e3 * hole
    out = contextual_attention(features, hole)
    assert out.abs().max() < 100
    assert contextual_attention(features, torch.ones_like(hole)).abs().max() == 0


def test_gradient_and_batch():
    features = torch.randn(2, 4, 8, 8, requires_grad=True)
    hole = torch.zeros(2, 1, 8, 8)
    hole[1, 0, 2:5, 2:5] = 1
    out = contextual_attention(features, hole)
    torch.testing.assert_close(out[1:], contextual_attention(features[1:], hole[1:]), rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    assert torch.isfinite(features.grad).all() and features.grad.abs().sum() > 0
