"""Padding that mirrors the border pixels themselves, as TensorFlow's "SYMMETRIC": a b c -> b a | a b c | c b."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def symmetric_pad(features: Tensor, amount: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2 amount, W + 2 amount); amount at least 1.

    Raises ValueError if the height or the width is below `amount`. Padding by 1 repeats the border pixel. Only the
    sizes are kept for the gradient: torch's own padding keeps its input alive, which doubles what a stack of
    convolutions at full resolution stores.
    """
    height, width = features.shape[2:]
    if min(height, width) < amount:
        raise ValueError(f"input of {height}x{width} pixels is too small: its border of {amount} can't be mirrored")
    return _SymmetricPad.apply(features, amount)


class _SymmetricPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, amount: int) -> Tensor:
        ctx.amount = amount
        if amount == 1:
            return F.pad(features, (1, 1, 1, 1), mode="replicate")  # the same values in one pass
        for dim in (2, 3):
            first, last = features.narrow(dim, 0, amount), features.narrow(dim, features.shape[dim] - amount, amount)
            features = torch.cat([first.flip(dim), features, last.flip(dim)], dim)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        amount = ctx.amount
        for dim in (2, 3):  # each mirrored pixel gives its gradient back to the pixel that it shows
            size = gradient.shape[dim] - 2 * amount
            inner = gradient.narrow(dim, amount, size).clone()
            inner.narrow(dim, 0, amount).add_(gradient.narrow(dim, 0, amount).flip(dim))
            inner.narrow(dim, size - amount, amount).add_(gradient.narrow(dim, amount + size, amount).flip(dim))
            gradient = inner
        return gradient, None
