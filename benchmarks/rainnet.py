"""RAIN and RainNet's training step against a plain reading of the paper, in one run.

    python -m benchmarks.rainnet [--size 256 --batch 2 --width 64 --repeats 5 --threads 1]

The plain reading is written as the paper and its released code read: RAIN region by region, torch's instance
normalization, partial convolutions with a full mask in the global discriminator, and torch's Adam as it comes. Ours is
the step that the trainer takes, whose Adam is fused; further rows give the plain reading that optimizer as well. Both
draw once a step.

In bfloat16 only ours runs. What a CPU gains by it is its own: the last line says how a matrix product compares.
Times are medians of interleaved repeats; memory is what the forward pass keeps for the gradient.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.harmonization.rainnet import RainNet
from models.layers.normalization import RAIN
from pipeline.networks.devices import bfloat16_cost

EPS = 1e-5


class PlainRAIN(nn.Module):
    """RAIN as eqs 4-9 of the paper read."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("foreground_gamma", "foreground_beta", "background_gamma", "background_beta"):
            self.register_parameter(name, nn.Parameter(torch.zeros(channels)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mask = F.interpolate(mask, size=x.shape[2:], mode="nearest")
        mean_b, sigma_b = self._statistics(x, 1 - mask)
        mean_f, sigma_f = self._statistics(x, mask)
        background = (x - mean_b) / sigma_b
        background = background * (1 + self.background_gamma.view(-1, 1, 1)) + self.background_beta.view(-1, 1, 1)
        foreground = (x - mean_f) / sigma_f * sigma_b + mean_b
        foreground = foreground * (1 + self.foreground_gamma.view(-1, 1, 1)) + self.foreground_beta.view(-1, 1, 1)
        return foreground * mask + background * (1 - mask)

    def _statistics(self, x: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        area = region.sum((2, 3), keepdim=True) + EPS
        mean = (x * region).sum((2, 3), keepdim=True) / area
        variance = (region * (x - mean) ** 2).sum((2, 3), keepdim=True) / area
        return mean, torch.sqrt(variance + EPS)


class PlainGenerator(nn.Module):
    """RainNet's generator, layer after layer, its parameters in the order of ours."""

    def __init__(self, levels: int, width: int, dropout: float):
        super().__init__()
        channels = [width * min(2**level, 8) for level in range(levels)]
        self.first = nn.Conv2d(3, width, 4, 2, 1, bias=False)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip(channels, channels[1:]))
        self.up, self.rain, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in range(levels - 1, 0, -1):
            inner = channels[level] * (1 if level == levels - 1 else 2)
            self.up.append(nn.ConvTranspose2d(inner, channels[level - 1], 4, 2, 1, bias=False))
            self.rain.append(PlainRAIN(channels[level - 1]))
            if level <= 3:
                self.gates.append(nn.Conv2d(2 * channels[level - 1], 2 * channels[level - 1], 1))
        self.last = nn.ConvTranspose2d(2 * width, 3, 4, 2, 1)
        self.levels, self.dropout = levels, dropout

    def in_order(self) -> list[nn.Parameter]:
        gates = [None] * (self.levels - 4) + list(self.gates)
        layers = [self.first, *self.down]
        for up, rain, gate in zip(self.up, self.rain, gates):
            layers += [up, rain] + ([gate] if gate is not None else [])
        return [parameter for layer in [*layers, self.last] for parameter in layer.parameters()]

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        skips, x = [], self.first(image)
        for number, conv in enumerate(self.down):
            x = F.leaky_relu(x, 0.2)
            skips.append(x)
            x = conv(x)
            if number < len(self.down) - 1:
                x = F.instance_norm(x)
        for number, (up, rain) in enumerate(zip(self.up, self.rain)):
            x = rain(up(F.relu(x)), mask)
            if 0 < number < self.levels - 4:
                x = F.dropout(x, self.dropout, self.training)
            x = torch.cat([skips.pop(), x], dim=1)
            if number >= self.levels - 4:
                x = torch.sigmoid(self.gates[number - self.levels + 4](x)) * x
        return torch.tanh(self.last(F.relu(x)))


class PlainPartialConv2d(nn.Conv2d):
    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        ones = torch.ones(1, 1, 3, 3)
        with torch.no_grad():
            valid = F.conv2d(mask, ones, stride=self.stride)
            new_mask = valid.clamp(0, 1)
            ratio = 9 / (valid + 1e-8) * new_mask
        bias = self.bias.view(-1, 1, 1)
        out = super().forward(x * mask)
        return ((out - bias) * ratio + bias) * new_mask, new_mask


class PlainDiscriminator(nn.Module):
    """Both discriminators, as the released code reads; parameters in the order of ours."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        channels = [3] + [width * min(2**level, 8) for level in range(depth)]
        self.trunk, self.local = nn.ModuleList(), nn.ModuleList()
        for level in range(depth):
            shape = channels[level], channels[level + 1], 3, 1 if level == depth - 1 else 2
            self.trunk.append(spectral_norm(PlainPartialConv2d(*shape)))
            self.local.append(spectral_norm(PlainPartialConv2d(*shape)))
        last = channels[-1]
        self.verify = nn.ModuleList([spectral_norm(nn.Conv2d(last, last, 1)), spectral_norm(nn.Conv2d(last, last, 1))])
        self.verify.append(nn.Conv2d(last, 1, 1))
        self.judge = nn.Conv2d(last, 1, 1)

    def in_order(self) -> list[Tensor]:
        layers = [layer for pair in zip(self.trunk, self.local) for layer in pair] + [*self.verify, self.judge]
        return [value for layer in layers for value in layer.state_dict().values()]

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        whole = self._run(self.trunk, image, torch.ones_like(mask))
        x = self._run(self.local, image, mask) * self._run(self.local, image, 1 - mask)
        for layer in self.verify[:2]:
            x = F.leaky_relu(layer(x), 0.2)
        return self.judge(whole), self.verify[2](x)

    def _run(self, trunk: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
        for number, layer in enumerate(trunk):
            x, mask = layer(x, mask)
            if 0 < number < len(trunk) - 1:
                x = F.instance_norm(x)
            if number < len(trunk) - 1:
                x = F.leaky_relu(x, 0.2)
        return x


class PlainRainNet:
    """The training step of the released code, from our network's weights."""

    def __init__(self, ours: RainNet, levels: int, width: int, dropout: float, fused: bool = False):
        self.generator = PlainGenerator(levels, width, dropout)
        _copy(self.generator.in_order(), ours.generator.state_dict().values())
        self.optimizers = [torch.optim.Adam(self.generator.parameters(), 2e-4, (0.5, 0.999), fused=fused)]
        self.discriminator = None
        if "discriminator" in ours.players:
            self.discriminator = PlainDiscriminator(levels - 1, width)
            _copy(self.discriminator.in_order(), ours.discriminator.state_dict().values())
            self.optimizers.append(torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.5, 0.999), fused=fused))

    def step(self, batch: dict[str, Tensor]) -> None:
        composite, real, mask = batch["composite"] * 2 - 1, batch["real"] * 2 - 1, batch["mask"]
        pasted = self.generator(composite, mask) * mask + composite * (1 - mask)
        adversarial = 0
        if self.discriminator is not None:
            self._discriminator_step(real, pasted.detach(), mask)
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(False)
            whole, verified = self.discriminator(pasted, mask)
            adversarial = -whole.mean() - verified.mean()
        loss = 100 * (pasted - real).abs().mean() + adversarial
        _descend(self.optimizers[0], loss)
        if self.discriminator is not None:
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(True)

    def _discriminator_step(self, real: Tensor, fake: Tensor, mask: Tensor) -> None:
        loss = 0
        for image, sign in ((fake, 1), (real, -1)):
            loss = loss + sum(F.relu(1 + sign * score).mean() for score in self.discriminator(image, mask))
        share = torch.rand(len(real), 1, 1, 1)
        mixed = (share * real + (1 - share) * fake).requires_grad_()
        score = sum(self.discriminator(mixed, mask)) / 2
        (gradient,) = torch.autograd.grad(score.sum(), mixed, create_graph=True)
        loss = loss + 10 * (((gradient.flatten(1) + 1e-16).norm(dim=1) - 1) ** 2).mean()
        _descend(self.optimizers[1], loss)


class OurRainNet:
    def __init__(self, model: RainNet):
        self.model = model
        self.optimizers = {
            player: torch.optim.Adam(model.parameters_of(player), 2e-4, (0.5, 0.999), fused=True)
            for player in model.players
        }

    def step(self, batch: dict[str, Tensor]) -> None:
        for player in self.model.players:
            loss, _ = self.model.loss(player, batch)
            _descend(self.optimizers[player], loss)


def _copy(to: list[Tensor], values) -> None:
    with torch.no_grad():
        for target, value in zip(to, values, strict=True):
            target.copy_(value)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each run, interleaved, after one warm-up: other programs on the machine count little."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def kept(run: Callable[[], object], given: list[Tensor]) -> float:
    """MiB of distinct storage that the forward pass keeps for the gradient, beside `given`."""
    known, sizes = {tensor.untyped_storage().data_ptr() for tensor in given}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(sizes.values()) / 2**20


def rain_rows(size: int, batch: int, width: int, repeats: int) -> list[tuple]:
    """RAIN at the sizes of the decoder, forward and backward."""
    rows = []
    for halvings in range(1, 6):
        channels, side = width * min(2 ** (halvings - 1), 8), size >> halvings
        x = torch.randn(batch, channels, side, side, requires_grad=True)
        mask = torch.zeros(batch, 1, side, side)
        mask[..., side // 4 : side // 2, side // 4 :] = 1
        gradient = torch.randn_like(x)
        layers = {"plain": PlainRAIN(channels), "ours": RAIN(channels)}

        def run(layer: nn.Module):
            return torch.autograd.grad(layer(x, mask), [x, *layer.parameters()], gradient)

        difference = (layers["plain"](x, mask) - layers["ours"](x, mask)).abs().max().item()
        seconds = medians({name: lambda layer=layer: run(layer) for name, layer in layers.items()}, repeats)
        memory = {name: kept(lambda layer=layer: layer(x, mask), [x, mask]) for name, layer in layers.items()}
        rows.append((f"RAIN {channels} x {side} x {side}", seconds, memory, difference))
    total = {name: sum(row[1][name] for row in rows) for name in ("plain", "ours")}
    memory = {name: sum(row[2][name] for row in rows) for name in ("plain", "ours")}
    return [*rows, ("RAIN, all of these", total, memory, max(row[3] for row in rows))]


def step_row(size: int, batch: int, width: int, repeats: int, adversarial: bool, bfloat16: bool, fused: bool) -> tuple:
    """One training step of all players."""
    levels, dropout = size.bit_length() - 1, 0.5
    torch.manual_seed(0)
    model = RainNet(levels=levels, width=width, dropout=dropout, adversarial=adversarial, discriminator_width=width)
    plain = PlainRainNet(model, levels, width, dropout, fused)
    mask = torch.zeros(batch, 1, size, size)
    mask[..., size // 4 : size // 2, size // 4 : size // 2] = 1
    given = {"composite": torch.rand(batch, 3, size, size), "mask": mask, "real": torch.rand(batch, 3, size, size)}
    plain.generator.eval(), model.eval()
    with torch.no_grad():
        difference = (model(given) - (plain.generator(given["composite"] * 2 - 1, mask) + 1) / 2).abs().max().item()
    plain.generator.train(), model.train()
    image = given["composite"] * 2 - 1
    memory = {
        "plain": kept(lambda: plain.generator(image, mask), [*plain.generator.parameters(), image, mask]),
        "ours": kept(lambda: model.generator(image, mask), [*model.parameters(), image, mask]),
    }
    ours = OurRainNet(model)

    def reduced() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            ours.step(given)

    runs = {"plain": lambda: plain.step(given), "ours": reduced if bfloat16 else lambda: ours.step(given)}
    name = f"step{'' if adversarial else ', generator alone'}{', ours in bfloat16' if bfloat16 else ''}"
    name += ", plain fused too" if fused else ""
    return name, medians(runs, repeats), memory, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"size": 256, "batch": 2, "width": 64, "repeats": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    shape = given.size, given.batch, given.width, given.repeats
    rows = rain_rows(*shape)
    for bfloat16 in (False, True):
        for adversarial in (True, False):
            rows += [step_row(*shape, adversarial, bfloat16, fused) for fused in (False, True)]
    print(f"{'':48}{'plain s':>9}{'ours s':>9}{'ratio':>7}{'kept MiB':>10}{'ours':>8}{'difference':>12}")
    for name, seconds, memory, difference in rows:
        ratio = seconds["plain"] / seconds["ours"]
        print(
            f"{name:48}{seconds['plain']:9.4f}{seconds['ours']:9.4f}{ratio:7.2f}"
            f"{memory['plain']:10.1f}{memory['ours']:8.1f}{difference:12.1e}"
        )

    print(f"a matrix product in bfloat16 takes {bfloat16_cost():.2f} times what it takes in float32")


if __name__ == "__main__":
    main()
