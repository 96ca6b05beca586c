"""Size, arithmetic and speed of the localization networks at published size, on one machine in one run.

    python -m benchmarks.localization [--size 256] [--batch 2] [--rounds 3] [--device cuda]

Parameters and multiply-adds of one forward pass stand beside those of specs/localization.md, section 10. Training
steps (forward, backward, Adam) and inference are timed in rounds, every network once per round, and medians are taken
over rounds, so that whatever else the machine does falls on all alike. The number that counts is a ratio: RSRNet's step
against DIRL's, at most 1.3. On a GPU there are rows for float32 and bfloat16, with peak memory. All six networks with
their optimizers are held at once: 8 GiB, and minutes on a CPU.
"""

import argparse
import contextlib
import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import models

# millions of parameters, 10^9 multiply-adds at 256x256 (RSRNet's: the spec's design, not the authors' count)
SPEC = {
    "unet": (48.75, 124),
    "dirl": (53.47, 136),
    "rsrnet": (50.48, 126),
    "deeplabv3": (39.63, 41),
    "hrnet_ocr": (70.35, 39),
    "segformer": (27.35, 14),
}
TARGET = 1.3


def size_of(name: str, side: int) -> tuple[float, float]:
    """Millions of parameters and 10^9 multiply-adds for one image, counted without computing anything."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = models.create(name).eval()
        model({"composite": torch.empty(1, 3, side, side)})
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


class Subject:
    """One network with its optimizer, timed in one precision."""

    def __init__(self, name: str, device: str, half: bool):
        self.name, self.device, self.half = name, torch.device(device), half
        self.model = models.create(name).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.steps, self.inferences, self.peak = [], [], 0.0

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self, batch: dict) -> None:
        """Time one training step and one inference."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model.train()
        start = self._now()
        with self._precision():
            loss, _ = self.model.loss("network", batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps.append(self._now() - start)
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated() / 2**30

        self.model.eval()
        start = self._now()
        with torch.no_grad(), self._precision():
            self.model({"composite": batch["composite"]})
        self.inferences.append(self._now() - start)


def pictures(count: int, side: int, device: str) -> dict:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    return {
        "composite": torch.rand(count, 3, side, side, generator=generator).to(device),
        "mask": mask.to(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", nargs="+", choices=SPEC, default=list(SPEC))
    options = parser.parse_args()

    torch.manual_seed(0)
    print(f"{'network':<12} {'params M':>9} {'spec':>7} {'GMACs':>7} {'spec':>5}")
    for name in options.only:
        parameters, gmacs = size_of(name, options.size)
        published, published_gmacs = SPEC[name]
        beside = f"{published_gmacs:>5}" if options.size == 256 else f"{'-':>5}"
        print(f"{name:<12} {parameters:>9.2f} {published:>7.2f} {gmacs:>7.1f} {beside}")

    batch = pictures(options.batch, options.size, options.device)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    for half in (False, True) if options.device == "cuda" else (False,):
        subjects = {name: Subject(name, options.device, half) for name in options.only}
        for turn in range(options.rounds):
            for name, subject in subjects.items():
                subject.run(batch)
                # minutes pass on a CPU; what was measured so far shouldn't be lost to an impatient Ctrl-C
                print(f"  round {turn + 1}: {name} {subject.steps[-1]:.2f} s", file=sys.stderr, flush=True)
        precision = "bfloat16" if half else "float32"
        print(f"\n{where}, {precision}, {options.batch} x {options.size} px, {options.rounds} rounds")
        print(f"{'network':<12} {'step s':>8} {'train img/s':>12} {'infer img/s':>12} {'peak GiB':>9}")
        for name, subject in subjects.items():
            step, inference = statistics.median(subject.steps), statistics.median(subject.inferences)
            peak = f"{subject.peak:>9.2f}" if subject.peak else f"{'-':>9}"
            print(f"{name:<12} {step:>8.3f} {options.batch / step:>12.2f} {options.batch / inference:>12.2f} {peak}")
        if {"rsrnet", "dirl"} <= subjects.keys():
            ratios = [a / b for a, b in zip(subjects["rsrnet"].steps, subjects["dirl"].steps)]
            ratio = statistics.median(ratios)
            verdict = "met" if ratio <= TARGET else "missed"
            spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
            print(f"rsrnet's step / dirl's: {ratio:.2f} ({spread}); at most {TARGET}: {verdict}")


if __name__ == "__main__":
    main()
