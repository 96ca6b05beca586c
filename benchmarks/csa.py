"""CSA's attention against a plain double loop: `python -m benchmarks.csa [--size 32] [--channels 512] [--batch 1 4]`.

The double loop goes over the rows and columns of each image, as the paper writes the recurrence: a hole's position
looks for its best known feature, compares itself with the feature that was generated before it, and mixes the two. Both
forms read the same features and holes, and both pass the released code's gradient back. Times are medians of
interleaved runs in this process; differences are given beside the largest value.
"""

import argparse
from functools import partial

import torch
from torch import Tensor

from benchmarks.rfr import interleaved
from models.inpainting.csa import coherent_attention


class PlainAttention(torch.autograd.Function):
    """Coherent attention of features (N, C, h, w) over holes (N, 1, h, w; 1 = hole), position by position."""

    @staticmethod
    def forward(ctx, features: Tensor, hole: Tensor) -> Tensor:
        count, _, height, width = features.shape
        out = features.clone()
        weights = features.new_zeros(count, height * width, height * width)
        for item in range(count):
            flat, inside = features[item].flatten(1).t(), hole[item].flatten() > 0.5
            known = (~inside).nonzero()[:, 0]
            units = flat[known] / (flat[known].norm(dim=1, keepdim=True) + 1e-8)
            before = None
            for row in range(height):
                for column in range(width):
                    place = row * width + column
                    if not inside[place]:
                        weights[item, place, place] = 1
                        continue
                    likeness, index = (units @ flat[place]).max(0)
                    if before is None:
                        out[item, :, row, column] = flat[known[index]]
                        weights[item, place, known[index]] = 1
                    else:
                        last = out[item, :, before // width, before % width]
                        coherence = (last @ flat[place] / (flat[place].norm() + 1e-8)).clamp(min=0)
                        share = coherence / (coherence + likeness.clamp(min=1e-8))
                        out[item, :, row, column] = share * last + (1 - share) * flat[known[index]]
                        weights[item, place] = share * weights[item, before]
                        weights[item, place, known[index]] += 1 - share
                    before = place
        ctx.save_for_backward(weights)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        handed_on = gradient.flatten(2) @ weights
        return gradient + handed_on.view(gradient.shape), None


def example(size: int, channels: int, count: int) -> tuple[Tensor, Tensor]:
    """Features that are alike, as a network's are, and a square hole of a quarter of the area in each image."""
    generator = torch.Generator().manual_seed(0)
    features = 1 + torch.randn(count, channels, size, size, generator=generator)
    hole = torch.zeros(count, 1, size, size)
    for index in range(count):
        top, left = torch.randint(0, size // 2 + 1, (2,), generator=generator).tolist()
        hole[index, :, top : top + size // 2, left : left + size // 2] = 1
    return features, hole


def forward_only(attention, features: Tensor, hole: Tensor) -> Tensor:
    with torch.no_grad():
        return attention(features, hole)


def forward_backward(attention, features: Tensor, hole: Tensor) -> Tensor:
    features = features.clone().requires_grad_()
    attention(features, hole).square().sum().backward()
    return features.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="height and width of the attention's map")
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    attentions = {"ours": coherent_attention, "plain": PlainAttention.apply}
    shape = f"{options.channels} x {options.size} x {options.size}"
    print(f"CSA's attention, {shape}, {options.device}, {options.threads} threads")
    print(f"{'':34}{'ours':>10}{'plain':>10}{'ratio':>8}{'difference':>20}")
    for count in options.batch:
        given = [tensor.to(options.device) for tensor in example(options.size, options.channels, count)]
        for name, work in (("forward", forward_only), ("forward + backward", forward_backward)):
            first, second = (work(attention, *given) for attention in attentions.values())
            difference = ((first - second).abs().max() / second.abs().max()).item()
            works = {kind: partial(work, attention, *given) for kind, attention in attentions.items()}
            times = interleaved(works, options.repeats, options.device)
            label = f"batch of {count}, {name}, s"
            ratio = times["plain"] / times["ours"]
            print(f"{label:34}{times['ours']:10.4f}{times['plain']:10.4f}{ratio:8.1f}{difference:20.1e}")


if __name__ == "__main__":
    main()
