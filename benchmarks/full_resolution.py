"""Harmonizers on one picture of 12 megapixels: time and peak memory, each in a process of its own.

    python -m benchmarks.full_resolution [--only pct pct_convolutional] [--width 4000] [--height 3000] [--threads 2]

A case is what `python -m commands.apply` does with a picture that is read already: the network draws it, and the result is
written as PNG at full size. There are three kinds of cases:

- Networks that work at two sizes (`full_resolution` in models/base.py) and methods without training see every pixel.
- The other networks are at their published size. They can't see every pixel, and the end of the line says why: memory for their
  features, or attention. So they see the picture shrunk (column "seen at"), as `--longest-side` of the command does.
- Two of them are there once more as small networks that see every pixel ("_small").

Weights are random: they change no time, except that a search (realism_cnn) may end sooner or later. The seconds of all cores
together say how much work it is where other programs share the cores. Memory is the most that the whole process held, Python and
torch included; what the process held before it drew stands beside it. The target is PCT-Net's: 10 seconds on two cores and 2 GiB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import models
from pipeline import images
from pipeline.networks import apply
from pipeline.running import memory


@dataclass(frozen=True)
class Case:
    model: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    longest_side: int | None = None
    """Pixels that the picture is shrunk to for the network; None: it sees every pixel."""
    why: str = ""
    """Why it can't see every pixel."""


FEATURES = "its features of every pixel don't fit: 64 channels of 12 megapixels are 2.9 GiB a layer"
TOKENS = "attention between all tokens grows with the square of the pixels"

CASES = {
    "pct": Case("pct"),
    "pct_convolutional": Case("pct", {"backbone": "convolutional"}),
    "realism_cnn": Case("realism_cnn"),
    "composite": Case("composite"),
    "reinhard_lab": Case("reinhard_lab"),
    "histogram": Case("histogram"),
    "poisson": Case("poisson"),
    "xue": Case("xue"),
    "rainnet_small": Case("rainnet", {"width": 8, "levels": 5, "adversarial": False}),
    "dih_small": Case("dih", {"width": 8, "levels": 5}),
    "dih": Case("dih", longest_side=1024, why=FEATURES),
    "dovenet": Case("dovenet", longest_side=1024, why=FEATURES),
    "s2am": Case("s2am", longest_side=1024, why=FEATURES),
    "bargainnet": Case("bargainnet", longest_side=1024, why=FEATURES),
    "rainnet": Case("rainnet", longest_side=1024, why=FEATURES),
    "iih": Case("iih", longest_side=512, why=FEATURES),
    "region_contrastive": Case("region_contrastive", longest_side=1024, why=FEATURES),
    "regional_references": Case("regional_references", longest_side=512, why=TOKENS),
    "dht": Case("dht", longest_side=512, why=TOKENS),
    "dht_ht": Case("dht", {"form": "ht"}, longest_side=512, why=TOKENS),
}
assert {case.model for case in CASES.values()} == set(models.names("harmonization"))
SECONDS, GIB = 10.0, 2.0


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with some grain, uint8 RGB (height, width, 3), and an ellipse of a sixth of it, bool (height, width)."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(40, 216, (24, 32, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(0, 12, (height, width, 1), np.uint8)
    rows, columns = np.ogrid[:height, :width]
    inside = ((rows - height / 2) / (height / 4)) ** 2 + ((columns - width / 2) / (width / 4.7)) ** 2 < 1
    return smooth + grain, inside


def held() -> float:
    """GiB that this process has held at most."""
    return memory.peak() / 2**30


def measure(case: str, height: int, width: int, threads: int) -> dict[str, float]:
    """Seconds to draw, of all cores together to draw, and to draw and write; GiB before and at most; of this process, which does nothing else."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    chosen = CASES[case]
    torch.manual_seed(0)
    model = models.create(chosen.model, **chosen.hyperparameters).eval()
    image, mask = picture(height, width)
    before, start, worked = held(), time.perf_counter(), time.process_time()
    drawn, seen = apply.predict("harmonization", model, image, mask, longest_side=chosen.longest_side)
    middle, worked = time.perf_counter(), time.process_time() - worked
    with tempfile.TemporaryDirectory() as folder:
        images.write_png(Path(folder) / "out.png", np.where(mask[..., None], drawn, image), effort=1)
    end = time.perf_counter()
    return {
        "draw": middle - start,
        "cpu": worked,
        "all": end - start,
        "before": before,
        "peak": held(),
        "seen": f"{seen[1]}x{seen[0]}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="these cases")
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.height, given.width, given.threads)))
        return
    print(
        f"{given.width}x{given.height}, {given.threads} threads; target {SECONDS:g} s and {GIB:g} GiB for networks that work at two sizes"
    )
    print(
        f"{'case':<20} {'seen at':>10} {'draw s':>8} {'core s':>8} {'and write':>10} {'GiB before':>11} {'peak GiB':>9}"
    )
    for case in given.only:
        command = [sys.executable, "-m", "benchmarks.full_resolution", "--measure", case]
        command += ["--width", str(given.width), "--height", str(given.height), "--threads", str(given.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{case:<20} {(done.stderr.strip().splitlines() or ['killed'])[-1]}", flush=True)
            continue
        row = json.loads(done.stdout)
        verdict = f"  {CASES[case].why}" if CASES[case].why else ""
        if case.startswith("pct"):
            verdict = "  met" if row["all"] <= SECONDS and row["peak"] <= GIB else "  missed"
        print(
            f"{case:<20} {row['seen']:>10} {row['draw']:>8.1f} {row['cpu']:>8.1f} {row['all']:>10.1f} {row['before']:>11.2f} {row['peak']:>9.2f}{verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
