"""What `commands.plan` says of a run before it starts, beside what the run takes.

    python -m benchmarks.plan FOLDER [--jobs 1 2]                      # the embedded default
    python -m benchmarks.plan FOLDER --photos ../photos [--jobs 1 2]   # a reduced `labelled` preset

Makes a project in FOLDER, runs the stages that make its data, plans the rest, and runs the rest in a copy for each of --jobs. What
counts is measured / planned, from 0.7 to 1.3. The reduced preset has `labelled`'s sizes, parameters and recipes, all of the photographs, and of its
methods those of REDUCED, trained for an epoch of 30 steps. Nothing else should run on the machine. Takes a quarter of an hour on two cores.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.quality import make
from pipeline.planning.rates import PRETRAINED

ROOT = Path(__file__).resolve().parent.parent
REDUCED = (
    "constant_map",
    "spectral_residual",
    "unet_lite0",
    "composite",
    "poisson",
    "rainnet",
    "pct",
    "telea",
    "pconv",
)
STEPS = 30
LEAST, MOST = 0.7, 1.3
MAKES_DATA = ("check", "ingest", "synthesize", "irregular_masks", "lists")


def reduced(photos: Path) -> dict:
    """The labelled preset on these photographs with the methods of REDUCED, trained for STEPS steps."""
    content = YAML(typ="safe").load((ROOT / "presets/labelled.yaml").read_text())
    content["sources"]["photos"]["path"] = str(photos.resolve())
    content["training"]["device"] = "cpu"
    content["models"] = {name: content["models"][name] for name in REDUCED}
    trained = [block["training"] for block in content["models"].values() if "training" in block]
    for training in trained:
        for part in (training, *training.get("phases", {}).values()):
            part["epochs"] = 1
        training |= {"max_steps_per_epoch": STEPS, "validate_every": 1}
    used = {training["recipe"] for training in trained}
    content["recipes"] = {name: recipe for name, recipe in content["recipes"].items() if name in used}
    for block in content["models"].values():
        for key in block.get("hyperparameters", {}).keys() & PRETRAINED:
            block["hyperparameters"][key] = "none"
    return content


def planned(said: str) -> dict[int, float]:
    """JOBS -> seconds of wall time, by the last table of commands.plan."""
    rows = re.findall(r"^\s*\d+\s+\d+\s+(\d+)\s+([\d.]+) (s|min|h)\b", said, re.MULTILINE)
    return {int(jobs): float(time) * {"s": 1, "min": 60, "h": 3600}[unit] for jobs, time, unit in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that doesn't exist yet")
    parser.add_argument("--photos", type=Path, help="images/ and instances.json; the embedded default without")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    preset = "labelled, reduced" if options.photos else "embedded"
    content = (
        reduced(options.photos)
        if options.photos
        else YAML(typ="safe").load((ROOT / "presets/embedded.yaml").read_text())
    )
    data = options.folder / "data_alone"
    make(data, content)
    listed = subprocess.run(["dvc", "stage", "list", "--all", "--name-only"], cwd=data, capture_output=True, text=True)
    made = [name for name in listed.stdout.split() if name.rpartition(":")[2].partition("@")[0] in MAKES_DATA]
    subprocess.run(["dvc", "repro", "-q", *made], cwd=data, check=True)
    plan = subprocess.run(
        [sys.executable, "-m", "commands.plan", "--jobs", *map(str, options.jobs)],
        cwd=data,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(plan.stdout)
    print(f"{preset}\n{'JOBS':>4} {'planned s':>10} {'measured s':>11} {'measured / planned':>19}")
    missed = False
    for jobs, seconds in planned(plan.stdout).items():
        folder = options.folder / f"jobs_{jobs}"
        shutil.copytree(data, folder, symlinks=True)
        began = time.monotonic()
        with open(options.folder / f"jobs_{jobs}.log", "w") as log:
            command = [sys.executable, "-m", "commands.repro", "--jobs", str(jobs)]
            subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)
        took = time.monotonic() - began
        ratio = took / seconds
        missed |= not LEAST <= ratio <= MOST
        print(f"{jobs:>4} {seconds:>10.0f} {took:>11.0f} {ratio:>19.2f}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
