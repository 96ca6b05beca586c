"""Size, arithmetic, speed and memory of the networks at published size, on one machine in one run.

    python -m benchmarks.networks [--task localization] [--only rsrnet dirl] [--size 256] [--batch 2] [--rounds 3]
                                  [--device cuda] [--compile rainnet]

    python -m benchmarks.networks --only dovenet s2am bargainnet edgeconnect pconv --compile dovenet s2am bargainnet edgeconnect pconv

Parameters and multiply-adds of one forward pass stand beside the published ones. A training step (every player's forward, backward and Adam, in the
network's first phase; EdgeConnect's inpainting phase has a row of its own) and inference are timed in rounds; on a CPU
every network once per round, so that whatever else the machine does falls on all alike. Medians are taken over rounds.
Peak memory is the GPU's, or on a CPU what one process holds at most that trains a step and predicts, Python and torch (some
0.5 GiB) included.
On a CPU there are rows for float32 and for float32 with channels_last (`channels_last` in a network's training block); on
a GPU for float32 (TF32 in convolutions, as torch has it), bfloat16, and bfloat16 with channels_last. With torch.compile
(`training.compile`) the networks that are asked for have rows too, and a line each that says how long the first step took, which
compiles, and after how many steps that is won back. Backbones and perceptual losses are without pretrained
weights, the perceptual terms therefore left out. The number that counts is a ratio: RSRNet's step against DIRL's, at
most 1.3.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.record import record
from pipeline.running import memory

# millions of parameters of what predicts, 10^9 multiply-adds at 256x256; None: not published
SPEC = {
    "unet": (48.75, 124),
    "dirl": (53.47, 136),
    "rsrnet": (50.48, 126),  # the spec's design, not the authors' count
    "deeplabv3": (39.63, 41),
    "hrnet_ocr": (70.35, 39),
    "segformer": (27.35, 14),
    "mfcn": (134.27, 28),
    "mantranet": (3.80, 272),
    "span": (4.05, 262),
    "magritte": (54.41, None),  # the released defaults; with nearest upsampling 39.16 and 11
    "hlstm": (2.21, None),
    "f3net": (25.54, 9),
    "gatenet": (128.63, 72),
    "minet": (47.56, 93),
    "unet_lite0": (5.20, None),  # ours
    "dih": (8.27, None),
    "s2am": (67.00, None),
    "dovenet": (54.76, None),
    "bargainnet": (58.70, None),
    "rainnet": (54.76, None),
    "iih": (40.86, None),  # the released form has 33.78
    "dht": (None, None),
    "regional_references": (None, None),
    "region_contrastive": (28.37, None),
    "pconv": (32.86, None),
    "rfr": (31.22, None),
    "gatedconv": (4.05, None),
    "edgeconnect": (21.53, None),
    "pic": (6.04, None),  # of which 0.06 are the vectors of spectral normalization, which are not learned
}
TARGET = 1.3
PHASES = {"edgeconnect": ("edge", "inpaint")}
FIRST = (None,)


class Subject:
    """One network with its optimizers, timed in one precision and layout."""

    def __init__(
        self,
        name: str,
        phase: str | None,
        device: str,
        half: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
    ):
        self.name, self.device, self.half = name, torch.device(device), half
        self.model = build(name).to(self.device)
        self.phase = phase or self.model.phases[0]
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model.train()
        self.model.enter(self.phase)
        thawed = {id(parameter) for parameter in self.model.parameters() if parameter.requires_grad}
        self.moved = {
            player: [p for p in self.model.parameters_of(player) if id(p) in thawed] for player in self.model.players
        }
        self.optimizers = {
            player: torch.optim.Adam(moved, lr=1e-4, fused=True) for player, moved in self.moved.items() if moved
        }
        if compiled:
            self.model.compile()
            self.model.loss = torch.compile(self.model.loss)
        self.compiled = compiled
        self.steps, self.inferences, self.peak, self.first = [], [], 0.0, 0.0

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, batch: dict) -> None:
        for player, optimizer in self.optimizers.items():
            for other, moved in self.moved.items():
                for parameter in moved:
                    parameter.requires_grad_(other == player)
            with self._precision():
                loss, _ = self.model.loss(player, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def run(self, batch: dict, repeats: int, counts: bool) -> None:
        """Time training steps and inferences; a first turn that chooses kernels or compiles doesn't count."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model.train()
        self.model.enter(self.phase)
        start = self._now()
        for _ in range(repeats):
            self.step(batch)
        self.steps += [(self._now() - start) / repeats] * counts
        if not counts:
            self.first = self._now() - start
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated() / 2**30
        self.model.eval()
        start = self._now()
        with torch.no_grad(), self._precision():
            for _ in range(repeats):
                self.model(batch)
        self.inferences += [(self._now() - start) / repeats] * counts

    def row(self, size: int) -> str:
        step, inference = statistics.median(self.steps), statistics.median(self.inferences)
        peak = f"{self.peak:>9.2f}" if self.peak else f"{'-':>9}"
        return f"{self.name + ':' + self.phase:<27} {step:>8.4f} {size / step:>12.2f} {size / inference:>12.2f} {peak}"

    def won_back(self, plain: list[float]) -> str:
        """After how many steps the first one, which compiled, is won back over plain steps of these seconds."""
        gain = statistics.median(plain) - statistics.median(self.steps)
        after = f"won back after {self.first / gain:.0f} steps" if gain > 0 else "never won back"
        return f"compiled in {self.first:.0f} s, {after}"


def unpretrained(name: str) -> dict[str, str]:
    """Hyperparameters that keep a network from asking for pretrained weights."""
    if models.task_of(name) == "localization":
        return {} if name in ("magritte", "hlstm") else {"backbone_weights": "none"}
    return {"perceptual_weights": "none"} if name in ("pconv", "rfr", "edgeconnect") else {}


def build(name: str):
    """A network at its published size, without pretrained weights."""
    return models.create(name, **unpretrained(name))


def size_of(name: str, batch: dict) -> tuple[float, float]:
    """Millions of parameters and 10^9 multiply-adds of a forward pass for one image."""
    model = build(name).eval().to(batch["mask"].device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model({key: value[:1] for key, value in batch.items()})
    return sum(p.numel() for p in model.predictor_parameters()) / 1e6, counter.get_total_flops() / 2e9


def pictures(count: int, side: int, device: str) -> dict:
    """A batch for any task: noise, and a square that is a quarter of the side."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    noise = [torch.rand(count, 3, side, side, generator=generator) for _ in range(2)]
    batch = {"composite": noise[0], "real": noise[1], "mask": mask, "image": noise[1], "hole": mask}
    return {key: value.to(device) for key, value in batch.items()}


def peak_of_a_process(name: str, phase: str | None, options: argparse.Namespace) -> float:
    """GiB that a process of its own holds at most in a training step and a prediction."""
    command = [sys.executable, "-m", "benchmarks.networks", "--size", str(options.size), "--batch", str(options.batch)]
    done = subprocess.run([*command, "--peak", name, *([phase] if phase else [])], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def print_peak(name: str, phase: str | None, batch: dict) -> None:
    Subject(name, phase, "cpu").run(batch, repeats=1, counts=False)
    print(memory.peak() / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=models.TASKS, help="the networks of this task; all if not given")
    parser.add_argument("--only", nargs="+", choices=SPEC, help="these networks")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=SPEC,
        default=[],
        help="networks to time with torch.compile too (minutes; on a CPU it needs a C++ compiler)",
    )
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, phase = [*options.peak, None][:2]
        print_peak(name, phase, pictures(options.batch, options.size, "cpu"))
        return
    names = options.only or [name for name in SPEC if options.task in (None, models.task_of(name))]

    torch.manual_seed(0)
    batch = pictures(options.batch, options.size, options.device)
    print(f"{'network':<20} {'params M':>9} {'spec':>7} {'GMACs':>7} {'spec':>5}")
    for name in names:
        parameters, gmacs = size_of(name, batch)
        published, published_gmacs = SPEC[name]
        beside = f"{published_gmacs:>5}" if options.size == 256 and published_gmacs else f"{'-':>5}"
        print(f"{name:<20} {parameters:>9.2f} {published or '-':>7} {gmacs:>7.1f} {beside}", flush=True)

    gpu = options.device == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    variants = {"float32": {}}
    if gpu:
        variants |= {"bfloat16": {"half": True}, "bfloat16, channels_last": {"half": True, "channels_last": True}}
        if options.compile:
            variants["bfloat16, compiled"] = {"half": True, "compiled": True}
    else:
        variants["float32, channels_last"] = {"channels_last": True}
        if options.compile:
            variants["float32, compiled"] = {"compiled": True}
            variants["float32, channels_last, compiled"] = {"channels_last": True, "compiled": True}
    steps: dict[tuple[str, str, str], list[float]] = {}
    plain = "bfloat16" if gpu else "float32"
    for title, how in variants.items():
        print(f"\n{where}, {title}, {options.batch} x {options.size} px, {options.rounds} rounds")
        print(f"{'network:phase':<27} {'step s':>8} {'train img/s':>12} {'infer img/s':>12} {'peak GiB':>9}")
        chosen = options.compile if how.get("compiled") else names
        pairs = [(name, phase) for name in chosen for phase in PHASES.get(name, FIRST)]
        # on a GPU one after the other, so that peak memory is one network's; on a CPU in turns
        for together in [[pair] for pair in pairs] if gpu else [pairs]:
            subjects = [Subject(*pair, options.device, **how) for pair in together]
            try:
                for turn in range(-1 if gpu or how.get("compiled") else 0, options.rounds):
                    for subject in subjects:
                        subject.run(batch, repeats=5 if gpu else 1, counts=turn >= 0)
                        # minutes pass; what was measured shouldn't be lost to an impatient Ctrl-C
                        if not gpu and turn >= 0:
                            print(
                                f"  round {turn + 1}: {subject.name} {subject.steps[-1]:.2f} s",
                                file=sys.stderr,
                                flush=True,
                            )
            except (
                RuntimeError
            ) as error:  # out of memory, or an operation that this device lacks: the others can be timed
                print(f"{subject.name}: {str(error).splitlines()[0]}", flush=True)
                continue
            for subject, (name, phase) in zip(subjects, together):
                if not gpu and title == "float32":
                    subject.peak = peak_of_a_process(name, phase, options)
                print(subject.row(options.batch), flush=True)
                row = f"{subject.name}:{subject.phase}, {title}, {options.batch} x {options.size} px"
                record("networks", row, "s/step", statistics.median(subject.steps), "lower")
                record("networks", row, "s/prediction", statistics.median(subject.inferences), "lower")
                steps[title, subject.name, subject.phase] = subject.steps
                if subject.compiled:
                    print(f"  {subject.won_back(steps[plain, subject.name, subject.phase])}", flush=True)
            del subject, subjects
            if gpu:
                torch.cuda.empty_cache()
        if {"rsrnet", "dirl"} <= set(chosen):
            rsrnet, dirl = (
                next(of for key, of in steps.items() if key[:2] == (title, name)) for name in ("rsrnet", "dirl")
            )
            ratio = statistics.median(a / b for a, b in zip(rsrnet, dirl))
            print(f"rsrnet's step / dirl's: {ratio:.2f}; at most {TARGET}: {'met' if ratio <= TARGET else 'missed'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
