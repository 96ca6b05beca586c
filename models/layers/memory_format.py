"""A change of memory format that its gradient takes back."""

import torch
from torch import Tensor


def in_memory_format(features: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The same values, (N, C, H, W), in `memory_format`; the gradient arrives in the format that `features` has.

    `Tensor.contiguous` hands the gradient on as it comes, so that the layers before it would run their backward pass in
    the format of those after it.
    """
    if features.is_contiguous(memory_format=memory_format):
        return features
    if features.requires_grad:
        (own,) = [f for f in (torch.contiguous_format, torch.channels_last) if f is not memory_format]
        features = features.view_as(features)
        features.register_hook(lambda gradient: gradient.contiguous(memory_format=own))
    return features.contiguous(memory_format=memory_format)
