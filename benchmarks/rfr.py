"""RFR-Net against a plain reading of the paper: `python -m benchmarks.rfr [--size 256] [--width 64] [--repeats 3]`.

The plain reading runs the same weights: masks of as many channels as the features, updated by a second convolution
with all-ones kernels; attention in a loop over the images of the batch, with the source vectors as convolution
kernels; all passes stacked before they are merged. Times are medians of interleaved runs in this process; memory is
the peak above what stood before (torch's count on a GPU; resident set, in a process of its own, on a CPU, Linux only).
"""

import argparse
import multiprocessing
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.inpainting.rfr import RFR, KnowledgeConsistentAttention
from models.layers.partial_conv import PartialConv2d


def plain_partial(layer: PartialConv2d, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Partial convolution with a mask (N, C, H, W) of as many channels as the features."""
    with torch.no_grad():
        valid = F.conv2d(mask, torch.ones_like(layer.weight), None, layer.stride, layer.padding)
        new_mask = valid.clamp(0, 1)
        scale = layer.weight[0].numel() / (valid + 1e-8) * new_mask
    out = F.conv2d(features * mask, layer.weight, None, layer.stride, layer.padding)
    return out * scale, new_mask


def plain_attention(
    layer: KnowledgeConsistentAttention, features: Tensor, mask: Tensor, previous: tuple | None
) -> tuple[Tensor, tuple]:
    """Attention with the released code's formulas, one image after the other."""
    count, channels, height, width = features.shape
    mask = F.interpolate(mask, (height, width))
    attended, kept = [], []
    for index in range(count):
        kernels = features[index].flatten(1).t()[:, :, None, None] + 1e-7
        kernels = kernels / kernels.square().sum((1, 2, 3), keepdim=True).sqrt()
        scores = F.avg_pool2d(F.conv2d(features[index : index + 1], kernels), 3, 1, 1) * 9
        scores = scores.softmax(dim=1)  # (1, sources, h, w)
        if previous is not None:
            before, valid = previous[0][index : index + 1], previous[1][index : index + 1]
            ratio = layer.ratio.abs() + 1e-7
            scores = (before * valid + scores * ratio) / (valid + ratio)
        kept.append(scores)
        attended.append(F.conv_transpose2d(scores, kernels))
    return layer.fuse(torch.cat([torch.cat(attended), features], dim=1)), (torch.cat(kept), mask)


def plain_module(module, features: Tensor, mask: Tensor, previous) -> tuple[Tensor, tuple]:
    levels = [features]
    for layer in (module.down1, module.down2, module.down3, module.middle1, module.middle2, module.middle3):
        levels.append(layer(levels[-1]))
    features, memory = levels.pop(), None
    for layer in (module.middle4, module.middle5, module.up3, module.up2, module.up1):
        features = layer(torch.cat([features, levels.pop()], dim=1))
        if layer is module.up3 and module.attention is not None:
            features, memory = plain_attention(module.attention, features, mask, previous)
    return features, memory


def plain_draw(model: RFR, image: Tensor, hole: Tensor) -> Tensor:
    """What `model.draw` computes (published settings: adaptive merging, kca_mode "code", down_samp 1)."""
    valid = (1 - hole).expand_as(image)
    image = image * valid
    features, mask = plain_partial(model.partial1, image, valid)
    features, mask = plain_partial(model.partial2, F.relu(model.norm1(features)), mask)
    features = F.relu(model.norm2(features))
    maps, masks, memory = [features], [mask], None
    for _ in range(model.iter_num):
        features, mask = plain_partial(model.area1, features, mask)
        features, mask = plain_partial(model.area2, features, mask)
        features = F.leaky_relu(model.area_norm(features), 0.01)
        features, memory = plain_module(model.reasoning, features, mask[:, :1], memory)
        features = features * mask
        maps.append(features)
        masks.append(mask)
    maps, masks = torch.stack(maps), torch.stack(masks)
    features = model.up((maps * masks).mean(0) / (masks.mean(0) + 1e-7))
    mask = torch.cat([valid, F.interpolate(masks[-1], scale_factor=2)], dim=1)
    features, _ = plain_partial(model.tail, torch.cat([image, features], dim=1), mask)
    features = F.leaky_relu(features, 0.01)
    return model.out(torch.cat([features, F.relu(features + model.bottleneck(features))], dim=1))


def example(size: int, count: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hole = torch.zeros(count, 1, size, size)
    for index in range(count):
        top, left = torch.randint(0, size // 2, (2,), generator=generator).tolist()
        hole[index, :, top : top + size // 2, left : left + size // 2] = 1
    return torch.rand(count, 3, size, size, generator=generator).to(device), hole.to(device)


def seconds(work, device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(works: dict, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, after one unmeasured round."""
    times = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            taken = seconds(work, device)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def step(draw, model: RFR, image: Tensor, hole: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    (draw(image, hole) - image).abs().mean().backward()


def forward_only(draw, image: Tensor, hole: Tensor) -> None:
    with torch.no_grad():
        draw(image, hole)


def peak_bytes(kind: str, training: bool, iter_num: int, options: argparse.Namespace) -> int:
    """Peak memory of one forward, or forward and backward, above the built model and its input."""
    if options.device == "cuda":
        return _peak(kind, training, iter_num, options)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (kind, training, iter_num, options))


def _peak(kind: str, training: bool, iter_num: int, options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    model = RFR(options.width, iter_num=iter_num, perceptual_weights="none").to(options.device).train(training)
    image, hole = example(options.size, options.batch, options.device)
    draw = model.draw if kind == "ours" else lambda *given: plain_draw(model, *given)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _resident("VmRSS")
    step(draw, model, image, hole) if training else forward_only(draw, image, hole)
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = RFR(options.width, perceptual_weights="none").to(options.device)
    image, hole = example(options.size, options.batch, options.device)
    draws = {"ours": model.draw, "plain": lambda *given: plain_draw(model, *given)}

    model.eval()
    with torch.no_grad():
        first, second = (draw(image, hole) for draw in draws.values())
    difference = (first - second).abs().max().item()
    shape = f"{options.batch} x {options.size} x {options.size}"
    print(f"RFR-Net width {options.width}, {shape}, {options.device}, {options.threads} threads")
    print(f"largest difference of outputs: {difference:.1e} (largest output {second.abs().max().item():.2f})")
    work = {name: partial(forward_only, draw, image, hole) for name, draw in draws.items()}
    forward = interleaved(work, options.repeats, options.device)
    model.train()
    work = {name: partial(step, draw, model, image, hole) for name, draw in draws.items()}
    both = interleaved(work, options.repeats, options.device)
    print(f"{'':22}{'ours':>10}{'plain':>10}{'ratio':>8}")
    for name, times in (("forward, s", forward), ("forward + backward, s", both)):
        print(f"{name:22}{times['ours']:10.3f}{times['plain']:10.3f}{times['plain'] / times['ours']:8.2f}")
    for name, training in (("forward, MB", False), ("forward + backward, MB", True)):
        ours, plain = (peak_bytes(kind, training, 6, options) / 1e6 for kind in ("ours", "plain"))
        print(f"{name:22}{ours:10.0f}{plain:10.0f}{plain / ours:8.2f}")

    model.eval()
    passes = {}
    for count in (6, 8):

        def run(count=count):
            model.iter_num = count
            forward_only(model.draw, image, hole)

        passes[str(count)] = run
    times = interleaved(passes, options.repeats, options.device)
    memory = {count: peak_bytes("ours", False, int(count), options) / 1e6 for count in passes}
    print(
        f"each extra pass, forward, per image: {(times['8'] - times['6']) / 2 / options.batch * 1e3:.1f} ms, "
        f"{(memory['8'] - memory['6']) / 2 / options.batch:.1f} MB (paper: about 8 ms and 20 MB on a GPU)"
    )


if __name__ == "__main__":
    main()
