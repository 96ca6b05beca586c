"""Networks beside each other on one small budget: trained on real photographs, tested on photographs that none has seen.

    python -m benchmarks.quality harmonization ../quality --photos ../photos
    python -m benchmarks.quality inpainting ../quality --photos ../photos --seconds 480

Makes a project in the folder (the code as it stands here, presets/labelled.yaml reduced to one task) and runs it. Every network
trains on 128 x 128 pictures for about --seconds of one core, a last phase included: its steps are counted from a trial of its
own steps when the project is made, and stand in the project's params.yaml. An ended command goes on where it was. Prints the
task's table, the differences to the methods without training with their intervals over photographs, and how the order agrees
with each published table.

--photos: a folder in COCO's form, as presets/labelled.yaml describes it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

import models
from pipeline import params
from pipeline.networks import requirements
from pipeline.planning import rates
from pipeline.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
BATCH = 8
TRIAL = 16.0
"""Seconds in which a network's steps are timed."""
NEW = {
    "localization": ["mfcn", "mantranet", "magritte", "hlstm", "span", "f3net", "gatenet", "minet", "unet_lite0"],
    "harmonization": ["xue", "realism_cnn", "iih", "dht", "pct"],
    "inpainting": ["prvs", "pic", "csa"],
}
BESIDE = {
    "localization": ["rsrnet", "dirl", "unet"],
    "harmonization": ["rainnet", "dovenet", "dih"],
    "inpainting": ["rfr", "pconv"],
}
REFERENCES = {
    "localization": ["spectral_residual", "gaussian_map", "constant_map"],
    "harmonization": ["composite", "poisson"],
    "inpainting": ["telea", "mean_fill"],
}


def parameters(task: str, photos: Path, epochs: int) -> dict:
    """The labelled preset with this task's networks alone, each for so many epochs."""
    content = YAML(typ="safe").load((ROOT / "presets/labelled.yaml").read_text())
    content["sources"]["photos"]["path"] = str(photos.resolve())
    for key in {"localization", "inpainting"} - {task}:
        del content[key]
    if task == "inpainting":
        del content["composites"]
    else:
        del content["irregular_masks"]
    content["training"] |= {"device": "cpu", "validation_images": 48, "threads": 1}
    chosen = [*REFERENCES[task], *BESIDE[task], *NEW[task]]
    content["models"] = {name: content["models"][name] for name in chosen}
    for block in content["models"].values():
        if "training" not in block:
            continue
        training = block["training"]
        phases = training.get("phases", {})
        last = max(1, epochs // 4) if phases else 0
        for phase in phases.values():
            phase["epochs"] = last
        training |= {"epochs": epochs - last, "batch_size": BATCH}
        training["validate_every"] = (
            max(training.get("validate_every", 1), epochs) if training.get("keep") == "last" else 2
        )
    used = {block["training"]["recipe"] for block in content["models"].values() if "training" in block}
    content["recipes"] = {name: recipe for name, recipe in content["recipes"].items() if name in used}
    return content


def limit_steps(content: dict, task: str, seconds: float) -> None:
    """Give each network as many steps an epoch as `seconds` of one core hold, at the speed that a trial of its steps shows."""
    with tempfile.TemporaryDirectory() as folder:
        YAML().dump(content, Path(folder) / "params.yaml")
        blocks = params.load(Path(folder) / "params.yaml").models
    for name, block in blocks.items():
        if block.training is None:
            continue
        side, clock = content["image_size"], time.process_time
        rate = rates.method(name, block, task, side, BATCH, threads=1, seconds=TRIAL, items=None, clock=clock)
        planned = requirements.phases(name, block.training, tuple(rate.train_seconds))
        of_one_step = BATCH * sum(epochs * rate.train_seconds[phase] for phase, epochs, _ in planned)
        steps = max(1, round(seconds / of_one_step))
        content["models"][name]["training"]["max_steps_per_epoch"] = steps
        print(f"{name}: {sum(epochs for _, epochs, _ in planned)} epochs of {steps} steps of {BATCH}", flush=True)


def make(folder: Path, content: dict) -> None:
    """A project in a new folder: the code as it stands here, these parameters, git and DVC."""
    folder.mkdir(parents=True)
    for name in ("stages", "commands", "pipeline", "models", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(content, file)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], [sys.executable, "-m", "commands.graph"]):
        subprocess.run(command, cwd=folder, check=True)


def show(folder: Path, task: str) -> None:
    results = folder / "results" / task
    command = [sys.executable, "-m", "commands.table", task, "--format", "markdown"]
    subprocess.run([*command, "--by", "bucket"] if task == "inpainting" else command, cwd=folder, check=True)
    metric = TASKS[task].leading
    differences = pd.read_parquet(results / "differences.parquet").query("metric == @metric and subset == 'All'")
    if task == "inpainting":
        by_bucket = pd.read_parquet(results / "differences_by_size.parquet").query("metric == @metric")
        differences = pd.concat([differences.assign(value="All"), by_bucket])
    else:
        differences = differences.assign(value="All")
    print(f"\n{metric}: first less second, mean [95% interval over photographs], p")
    trained = {*NEW[task], *BESIDE[task]}
    shown = set()
    for row in differences.itertuples():
        # the table may have a pair in both orders
        for name, other, sign in ((row.first, row.second, 1), (row.second, row.first, -1)):
            if name in trained and other in REFERENCES[task] and (name, other, row.value) not in shown:
                shown.add((name, other, row.value))
                low, high = sorted((sign * row.low, sign * row.high))
                print(f"{name:20}{other:20}{row.value:8}{sign * row.mean:10.4g} [{low:.4g}, {high:.4g}]  p={row.p:.3f}")
    agreement = pd.read_parquet(folder / "results/published/correlations.parquet").query("n_models > 2")
    print("\nrank correlation with published tables (pooled sub-datasets)")
    if task != "inpainting":  # which papers print by data set and bucket
        agreement = agreement[agreement["subset"] == "All"]
    for row in agreement.itertuples():
        print(
            f"{row.paper[:60]:62}{row.table:10}{row.metric:8}{row.condition:10}{row.n_models:3} methods  Spearman {row.spearman:+.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=models.TASKS)
    parser.add_argument("folder", type=Path, help="of the project, which is made if it isn't there")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480, help="of one core that each network trains (default 480)")
    parser.add_argument("--epochs", type=int, default=8, help="into which they are divided (default 8)")
    parser.add_argument("--jobs", type=int, default=1, help="stages at once, of one core each")
    given = parser.parse_args()
    folder = given.folder / given.task
    if not folder.exists():
        content = parameters(given.task, given.photos, given.epochs)
        limit_steps(content, given.task, given.seconds)
        make(folder, content)
    command = [sys.executable, "-m", "commands.repro", "--keep-going", "--jobs", str(given.jobs)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )
    if done.returncode:
        sys.exit(done.returncode)
    show(folder, given.task)


if __name__ == "__main__":
    main()
