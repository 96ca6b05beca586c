"""PRVS's training step against RFR-Net's: `python -m benchmarks.prvs [--size 256] [--width 64] [--batch 2]`.

A step is every player's loss, its gradient and an Adam step on that player's parameters, on the same images and holes:
Canny's edges and the discriminator are in PRVS's. Both do without VGG-16, whose cost would be the same in both. Times
are medians of interleaved runs in this process.
"""

import argparse
from functools import partial

import torch

import models
from benchmarks.rfr import example, interleaved


def step(model: models.Model, optimizers: dict[str, torch.optim.Optimizer], batch: dict[str, torch.Tensor]) -> None:
    for player, optimizer in optimizers.items():
        optimizer.zero_grad(set_to_none=True)
        model.loss(player, batch)[0].backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels, a power of 2")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    levels = min(8, options.size.bit_length() - 1)
    discriminator = {"discriminator_width": options.width}
    networks = {
        "prvs": models.create("prvs", width=options.width, levels=levels, perceptual_weights="none", **discriminator),
        "rfr": models.create("rfr", width=options.width, perceptual_weights="none"),
    }
    image, hole = example(options.size, options.batch, options.device)
    works = {}
    for name, model in networks.items():
        model.to(options.device).train()
        optimizers = {player: torch.optim.Adam(model.parameters_of(player), 1e-4) for player in model.players}
        works[name] = partial(step, model, optimizers, {"image": image, "hole": hole})
    times = interleaved(works, options.repeats, options.device)
    shape = f"{options.batch} x {options.size} x {options.size}"
    print(f"training step, width {options.width}, {shape}, {options.device}, {options.threads} threads")
    print(f"PRVS {times['prvs']:.3f} s, RFR-Net {times['rfr']:.3f} s, ratio {times['prvs'] / times['rfr']:.2f}")


if __name__ == "__main__":
    main()
