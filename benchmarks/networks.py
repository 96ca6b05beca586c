"""Size, arithmetic, speed and memory of the networks at published size, on one CPU in one run. For a GPU: benchmarks.gpu.

    python -m benchmarks.networks [--task localization] [--only rsrnet dirl] [--size 256] [--batch 2] [--rounds 3]
                                  [--compile rainnet]

    python -m benchmarks.networks --only dovenet s2am bargainnet edgeconnect pconv --compile dovenet s2am bargainnet edgeconnect pconv

Parameters and multiply-adds of one forward pass stand beside the published ones. A training step (every player's forward, backward and Adam, in the
network's first phase; EdgeConnect's inpainting phase has a row of its own) and inference are timed in rounds, every
network once per round, so that whatever else the machine does falls on all alike. Medians are taken over rounds.
Peak memory is what one process holds at most that trains a step and predicts, Python and torch (some 0.5 GiB) included.
There are rows for float32 and for float32 with channels_last (`channels_last` in a network's training block). With torch.compile
(`training.compile`) the networks that are asked for have rows too, and a line each that says how long the first step took, which
compiles, and after how many steps that is won back. Backbones and perceptual losses are without pretrained
weights, the perceptual terms therefore left out. The number that counts is a ratio: RSRNet's step against DIRL's, at
most 1.3.
"""

import argparse
import statistics
import subprocess
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.record import record
from benchmarks.subject import PHASES, Subject, build, elapsed, pictures, won_back
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
FIRST = (None,)


class Timed(Subject):
    """A network with what was measured of it."""

    def __init__(self, name: str, phase: str | None, **how: bool):
        super().__init__(build(name), phase, **how)
        self.name = name
        self.steps: list[float] = []
        self.inferences: list[float] = []
        self.peak = self.first = 0.0

    def run(self, batch: dict, counts: bool) -> None:
        """Time a training step and an inference; a first turn, which compiles, doesn't count."""
        batch = self.placed(batch)
        self.training()
        step = elapsed(self.device, lambda: self.step(batch))
        self.model.eval()
        inference = elapsed(self.device, lambda: self.predict(batch))
        if counts:
            self.steps.append(step)
            self.inferences.append(inference)
        else:
            self.first = step

    def row(self, size: int) -> str:
        step, inference = statistics.median(self.steps), statistics.median(self.inferences)
        peak = f"{self.peak:>9.2f}" if self.peak else f"{'-':>9}"
        return f"{self.name + ':' + self.phase:<27} {step:>8.4f} {size / step:>12.2f} {size / inference:>12.2f} {peak}"

    def won_back(self, plain: list[float]) -> str:
        """After how many steps the first one, which compiled, is won back over plain steps of these seconds."""
        after = won_back(self.first, statistics.median(plain), statistics.median(self.steps))
        return f"compiled in {self.first:.0f} s, " + (
            "never won back" if after is None else f"won back after {after} steps"
        )


def size_of(name: str, batch: dict) -> tuple[float, float]:
    """Millions of parameters and 10^9 multiply-adds of a forward pass for one image."""
    model = build(name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model({key: value[:1] for key, value in batch.items()})
    return sum(p.numel() for p in model.predictor_parameters()) / 1e6, counter.get_total_flops() / 2e9


def peak_of_a_process(name: str, phase: str | None, options: argparse.Namespace) -> float:
    """GiB that a process of its own holds at most in a training step and a prediction."""
    command = [sys.executable, "-m", "benchmarks.networks", "--size", str(options.size), "--batch", str(options.batch)]
    done = subprocess.run([*command, "--peak", name, *([phase] if phase else [])], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def print_peak(name: str, phase: str | None, batch: dict) -> None:
    Timed(name, phase).run(batch, counts=False)
    print(memory.peak() / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=models.TASKS, help="the networks of this task; all if not given")
    parser.add_argument("--only", nargs="+", choices=SPEC, help="these networks")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=SPEC,
        default=[],
        help="networks to time with torch.compile too (minutes; it needs a C++ compiler)",
    )
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, phase = [*options.peak, None][:2]
        print_peak(name, phase, pictures(options.batch, options.size, "cpu"))
        return
    names = list(options.only or []) or [name for name in SPEC if options.task in (None, models.task_of(name))]

    torch.manual_seed(0)
    batch = pictures(options.batch, options.size, "cpu")
    print(f"{'network':<20} {'params M':>9} {'spec':>7} {'GMACs':>7} {'spec':>5}")
    for name in list(names):
        try:
            parameters, gmacs = size_of(name, batch)
        except ValueError as error:
            print(f"{name}: {error}; left out", flush=True)
            names.remove(name)
            continue
        published, published_gmacs = SPEC[name]
        beside = f"{published_gmacs:>5}" if options.size == 256 and published_gmacs else f"{'-':>5}"
        print(f"{name:<20} {parameters:>9.2f} {published or '-':>7} {gmacs:>7.1f} {beside}", flush=True)

    variants = {"float32": {}, "float32, channels_last": {"channels_last": True}}
    if options.compile:
        variants["float32, compiled"] = {"compiled": True}
        variants["float32, channels_last, compiled"] = {"channels_last": True, "compiled": True}
    steps: dict[tuple[str, str, str], list[float]] = {}
    for title, how in variants.items():
        threads = f"{torch.get_num_threads()} CPU threads"
        print(f"\n{threads}, {title}, {options.batch} x {options.size} px, {options.rounds} rounds")
        print(f"{'network:phase':<27} {'step s':>8} {'train img/s':>12} {'infer img/s':>12} {'peak GiB':>9}")
        compiled = how.get("compiled", False)
        chosen = [name for name in options.compile if name in names] if compiled else names
        subjects = [Timed(name, phase, **how) for name in chosen for phase in PHASES.get(name, FIRST)]
        # in turns, so that whatever else the machine does falls on all alike
        for turn in range(-1 if compiled else 0, options.rounds):
            for subject in list(subjects):
                try:
                    subject.run(batch, counts=turn >= 0)
                except RuntimeError as error:  # an operation that this processor lacks: the others can be timed
                    print(f"{subject.name}: {str(error).splitlines()[0]}", flush=True)
                    subjects.remove(subject)
                    continue
                # minutes pass; what was measured shouldn't be lost to an impatient Ctrl-C
                if turn >= 0:
                    print(f"  round {turn + 1}: {subject.name} {subject.steps[-1]:.2f} s", file=sys.stderr, flush=True)
        for subject in subjects:
            if title == "float32":
                phase = subject.phase if subject.name in PHASES else None
                subject.peak = peak_of_a_process(subject.name, phase, options)
            print(subject.row(options.batch), flush=True)
            row = f"{subject.name}:{subject.phase}, {title}, {options.batch} x {options.size} px"
            record("networks", row, "s/step", statistics.median(subject.steps), "lower")
            record("networks", row, "s/prediction", statistics.median(subject.inferences), "lower")
            steps[title, subject.name, subject.phase] = subject.steps
            if compiled:
                print(f"  {subject.won_back(steps['float32', subject.name, subject.phase])}", flush=True)
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
