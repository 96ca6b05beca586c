"""PTL of Regional References against a plain reading that unfolds its patches, and the network's memory, in one run.

    python -m benchmarks.regional_references [--size 256 --batch 1 --width 32 --repeats 3 --threads 1]

The plain reading lays out every patch with all its pixels, normalizes each, projects it,
and attends from all locations of the features, with the whole map of weights; ours runs the same weights. Times are
medians of interleaved repeats, in CPU seconds. Memory is the peak of the resident set above what stood before, each in a
process of its own (Linux only): of PTL forward and backward, and of the whole network's prediction and training
gradient for the rows of the paper's tables, beside the MB printed there, whose measure the paper does not tell.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rainnet import medians
from models.harmonization.regional_references import (
    PatchTransfer,
    RegionalReferences,
    SelfAttention,
)

BARE = {"ltl": (), "ptl": ()}
ROWS = {  # settings, MB in the paper
    "Base": ({**BARE, "residual": False}, None),
    "RBase": (BARE, None),
    "+Self-Attention": ({**BARE, "self_attention": (32,)}, None),
    "+AdaIN": ({**BARE, "adain": (128,)}, None),
    "LTL at 16": ({"ltl": (16,), "ptl": ()}, 97),
    "LTL at 32": ({"ltl": (32,), "ptl": ()}, 120),
    "LTL at 64": ({"ltl": (64,), "ptl": ()}, 379),
    "LTL at all three": ({"ltl": (16, 32, 64), "ptl": ()}, 410),
    "PTL h/4, h/4": ({"ltl": (), "patch": 4, "stride": 4}, 175),
    "PTL h/4, h/8": ({"ltl": (), "patch": 4, "stride": 8}, 214),
    "PTL h/4, h/16": ({"ltl": (), "patch": 4, "stride": 16}, 348),
    "PTL h/8, h/8": ({"ltl": (), "patch": 8, "stride": 8}, 169),
    "PTL h/8, h/16": ({"ltl": (), "patch": 8, "stride": 16}, 230),
    "PTL h/8, h/32": ({"ltl": (), "patch": 8, "stride": 32}, 463),
    "+LTL+PTL": ({}, None),
}
LAYERS = ((4, 4), (4, 8), (4, 16), (8, 8), (8, 16), (8, 32))


def plain_ptl(layer: PatchTransfer, features: Tensor, mask: Tensor) -> Tensor:
    """What `layer` computes, every patch unfolded; for images with foreground and background."""
    count, channels = features.shape[:2]
    mask = F.interpolate(mask, features.shape[2:])
    background = 1 - mask
    blocks = F.unfold(features, layer.patch, stride=layer.stride).view(count, channels, layer.patch**2, -1)
    kept = F.unfold(background, layer.patch, stride=layer.stride).view(count, 1, layer.patch**2, -1)
    area = kept.sum(2)
    mean = (blocks * kept).sum(2) / area.clamp(min=1)
    centred = (blocks - mean[:, :, None]) * kept
    deviation = (centred.square().sum(2) / area.clamp(min=1) + 1e-5).sqrt()
    normalized = centred / deviation[:, :, None]
    tokens = layer.project(normalized.flatten(1, 2).transpose(1, 2))
    inside = mask.sum((2, 3), keepdim=True) + 1e-5
    own_mean = (features * mask).sum((2, 3), keepdim=True) / inside
    own_deviation = (((features - own_mean) ** 2 * mask).sum((2, 3), keepdim=True) / inside + 1e-5).sqrt()
    content = ((features - own_mean) / own_deviation).flatten(2)
    logits = layer.scale * content.transpose(1, 2) @ tokens.transpose(1, 2)
    weights = logits.masked_fill(area < layer.patch**2 / 16, -torch.inf).softmax(2)
    appearance, spread = (weights @ statistic.transpose(1, 2) for statistic in (mean, deviation))
    restyled = content * spread.transpose(1, 2) + appearance.transpose(1, 2)
    return torch.where(mask > 0, restyled.view_as(features), features)


def example(batch: int, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Features and a mask of an eighth of their area."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, 1, size, size)
    mask[..., size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
    return torch.randn(batch, channels, size, size, generator=generator), mask


def layer_of(patch: int, stride: int, options: argparse.Namespace) -> tuple[PatchTransfer, Tensor, Tensor]:
    torch.manual_seed(0)
    side = options.size // 2
    features, mask = example(options.batch, 2 * options.width, side)
    return PatchTransfer(2 * options.width, side // patch, side // stride), features.requires_grad_(), mask


def gradients(run: Callable[..., Tensor], layer: torch.nn.Module, features: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(features, mask).square().mean(), [features, *layer.parameters()])


def layer_peak(kind: str, patch: int, stride: int, options: argparse.Namespace) -> float:
    layer, features, mask = layer_of(patch, stride, options)
    run = layer if kind == "ours" else partial(plain_ptl, layer)
    return _peak(lambda: gradients(run, layer, features, mask))


def self_attention_peak(options: argparse.Namespace) -> float:
    """One layer of self-attention with its whole map, at the features of PTL, forward and backward."""
    layer = SelfAttention(2 * options.width)
    features, mask = example(options.batch, 2 * options.width, options.size // 2)

    def plain(features: Tensor, mask: Tensor) -> Tensor:
        queries, keys, values = layer.read(features.flatten(2).transpose(1, 2)).chunk(3, dim=2)
        weights = (queries @ keys.transpose(1, 2) * features.shape[1] ** -0.5).softmax(2)
        return features + layer.project(weights @ values).transpose(1, 2).reshape(features.shape)

    return _peak(lambda: gradients(plain, layer, features.requires_grad_(), mask))


def network_peak(settings: dict, training: bool, options: argparse.Namespace) -> float:
    network = RegionalReferences(options.width, image_size=options.size, **settings).train(training)
    image, mask = example(options.batch, 3, options.size)
    batch = {"composite": image.sigmoid(), "real": image.sigmoid(), "mask": mask}

    def predict() -> None:
        with torch.no_grad():
            network(batch)

    return _peak((lambda: network.loss("network", batch)[0].backward()) if training else predict)


def _peak(run: Callable[[], object]) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def apart(measure: Callable[..., float], *given) -> float:
    """In a child process, so that nothing that an earlier measurement left in the allocator is counted or reused."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"size": 256, "batch": 1, "width": 32, "repeats": 3, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    print(
        f"PTL on {options.batch} x {2 * options.width} x {options.size // 2} x {options.size // 2}, forward and backward"
    )
    print(
        f"{'patch, stride':16}{'plain MB':>10}{'ours':>8}{'ratio':>7}{'plain s':>10}{'ours s':>9}{'ratio':>7}{'difference':>12}{'gradients':>11}"
    )
    # memory first: children start with the parent's memory, which timing would have filled
    memory = {shape: {kind: apart(layer_peak, kind, *shape, options) for kind in ("plain", "ours")} for shape in LAYERS}
    attention = apart(self_attention_peak, options)
    networks = {
        name: [apart(network_peak, settings, training, options) for training in (False, True)]
        for name, (settings, _) in ROWS.items()
    }
    for shape in LAYERS:
        layer, features, mask = layer_of(*shape, options)
        runs = {"plain": partial(plain_ptl, layer), "ours": layer}
        with torch.no_grad():
            difference = (runs["plain"](features, mask) - runs["ours"](features, mask)).abs().max().item()
        pairs = zip(*(gradients(run, layer, features, mask) for run in runs.values()))
        gradient = max(((plain - ours).abs().max() / plain.abs().max()).item() for plain, ours in pairs)
        works = {name: partial(gradients, run, layer, features, mask) for name, run in runs.items()}
        seconds, peak = medians(works, options.repeats), memory[shape]
        print(
            f"h/{shape[0]}, h/{shape[1]:<10}{peak['plain']:10.0f}{peak['ours']:8.0f}{peak['plain'] / peak['ours']:7.2f}"
            f"{seconds['plain']:10.3f}{seconds['ours']:9.3f}{seconds['plain'] / seconds['ours']:7.2f}{difference:12.1e}{gradient:11.1e}"
        )
    print(f"self-attention with its whole map at the same features: {attention:.0f} MB")
    print(f"\nwhole network, {options.batch} x {options.size} x {options.size}, width {options.width}")
    print(f"{'':20}{'predict MB':>12}{'train MB':>10}{'paper MB':>10}")
    for name, (predict, train) in networks.items():
        paper = ROWS[name][1]
        print(f"{name:20}{predict:12.0f}{train:10.0f}{'-' if paper is None else paper:>10}")


if __name__ == "__main__":
    main()
