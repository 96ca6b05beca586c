"""The trained networks of params.yaml side by side on one GPU: data, training, tests, tables and the report.

    python -m benchmarks.one_gpu data
    python -m benchmarks.one_gpu train --seconds 400 [--trial 30]
    python -m benchmarks.one_gpu test
    python -m benchmarks.one_gpu alone --only rainnet rsrnet rfr [--size 256] [--trial 20]

Made for a GPU that is lent for minutes. A short trial of all networks together measures how many steps each does in a
second while the others run beside it; epochs (of every phase alike) are then scaled so that each trains for the same
number of seconds, and params.yaml is rewritten to say so: it is then the recipe of what was trained (other hardware
rounds differently). With the driver's multi-process service (nvidia-cuda-mps-control in PATH) the networks' kernels may run
at the same time; without it processes take turns on the GPU.

`alone` trains each network that it is given by itself, at the size and recipe of presets/paper.yaml but in bfloat16 and
without pretrained weights, and prints images per second and the share of time spent waiting for data.

Logs stand in artifacts/one_gpu/, one per process; the account of budgets, speeds and shares of time spent waiting for
data is artifacts/one_gpu/account.csv.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

import models
from benchmarks.subject import unpretrained
from pipeline import params

LOGS = Path("artifacts/one_gpu")
RATE = re.compile(r"([\d.]+) images/s")
LATEST, START_SECONDS = 1.2, 20
"""A training that takes longer than LATEST times what was planned, and the seconds it may take to begin, is ended."""
USES_THE_GPU = "import torch; torch.ones(1, device='cuda').sum().item()"
TRIAL_STEPS = 20
"""Steps of a trial's epoch: each ends with a line that says how fast it was."""
TRIAL = {"epochs": 10**4, "max_steps_per_epoch": TRIAL_STEPS, "validate_every": 10**4}


def stage(
    *arguments: str, cpus: int, log: str, folder: Path | None = None, more: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start a stage without Ray, its output in artifacts/one_gpu/<log>.txt."""
    environment = (
        os.environ
        | (more or {})
        | {
            "SEAMBENCH_CPUS": str(cpus),
            "SEAMBENCH_RAY": "off",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        }
    )
    with open(LOGS / f"{log}.txt", "w") as file:
        command = [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]]
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )


@contextlib.contextmanager
def multi_process_service() -> Iterator[dict[str, str]]:
    """What processes need in their environment to share the GPU at the same time; nothing where the driver can't."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        print("no nvidia-cuda-mps-control in PATH: the networks take turns on the GPU", flush=True)
        yield {}
        return
    with tempfile.TemporaryDirectory() as pipes:
        more = {"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": pipes}
        trouble = _said_in_failing([control, "-d"], more) or _said_in_failing(
            [sys.executable, "-c", USES_THE_GPU], more
        )
        if trouble:
            print(f"the multi-process service fails ({trouble}): the networks take turns on the GPU", flush=True)
        try:
            yield {} if trouble else more
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [control], input="quit -t 5\n", env=os.environ | more, text=True, capture_output=True, timeout=15
                )


def _said_in_failing(command: list[str], more: dict[str, str]) -> str:
    """The last line of what a command says when it fails; empty when it does not."""
    try:
        done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return f"{command[0]} doesn't end"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return (lines[-1] if lines else f"{command[0]} ends with {done.returncode}") if done.returncode else ""


def finish(processes: dict[str, subprocess.Popen], seconds: float | None = None) -> list[str]:
    """Wait for all, or end what isn't done after `seconds`; returns the names of those that did what they should, and
    prints the last line of others."""
    done, deadline = [], None if seconds is None else time.monotonic() + seconds
    for name, process in processes.items():
        try:
            process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            print(f"{name} was ended after {seconds:.0f} s, unfinished", flush=True)
        if process.wait() == 0:
            done.append(name)
        else:
            print(f"{name} failed: {(LOGS / f'{name}.txt').read_text().strip().splitlines()[-1:]}", flush=True)
    return done


def data_of(parameters: params.Params, name: str) -> list[str]:
    if params.task_of(name) == "inpainting":
        return [f"data/sources/{parameters.inpainting.source}", "data/irregular_masks"]
    return [f"data/composites/{subset}" for subset in parameters.composites.subsets]


def make_data(parameters: params.Params) -> None:
    cores = len(os.sched_getaffinity(0))
    for name in parameters.sources:
        finish({f"ingest-{name}": stage("ingest", name, f"data/sources/{name}", cpus=cores, log=f"ingest-{name}")})
    share = max(1, cores // (len(parameters.composites.subsets) + 1))
    running = {
        name: stage(
            "synthesize",
            name,
            f"data/sources/{subset.source}",
            f"data/sources/{subset.references}",
            f"data/composites/{name}",
            cpus=share,
            log=name,
        )
        for name, subset in parameters.composites.subsets.items()
    }
    running["masks"] = stage(
        "irregular_masks",
        f"data/sources/{parameters.inpainting.source}",
        "data/irregular_masks",
        cpus=share,
        log="masks",
    )
    finish(running)


def train(parameters: params.Params, seconds: float, trial: float, only: list[str]) -> None:
    names = [name for name, block in parameters.models.items() if block.training and (not only or name in only)]
    text = YAML()
    text.width = 1000
    content = text.load(Path("params.yaml").read_text())
    rates = _rates(parameters, names, trial)
    for name, rate in rates.items():
        block = content["models"][name]["training"]
        parts = [block, *block.get("phases", {}).values()]
        factor = rate * seconds / (sum(part["epochs"] for part in parts) * _epoch(parameters, name))
        for part in parts:
            part["epochs"] = max(1, round(part["epochs"] * factor))
        block["validate_every"] = max(1, block["epochs"] // 12)
        print(f"{name}: {rate:.0f} images/s beside the others, epochs {[part['epochs'] for part in parts]}", flush=True)
    text.dump(content, Path("params.yaml"))
    started = time.monotonic()
    with multi_process_service() as more:
        running = {
            name: stage("train", name, "--data", *data_of(parameters, name), cpus=2, log=name, more=more)
            for name in rates
        }
        done = finish(running, LATEST * seconds + START_SECONDS)
    rows = [{"model": name} | json.loads(Path(f"artifacts/models/{name}/training.json").read_text()) for name in done]
    table = pd.DataFrame(rows)
    table.to_csv(LOGS / "account.csv", index=False)
    print(table.to_string(), f"\n{time.monotonic() - started:.0f} s in all", flush=True)


def _epoch(parameters: params.Params, name: str) -> int:
    """Images that a training sees in an epoch."""
    from pipeline.data import datasets

    block, task = parameters.models[name].training, params.task_of(name)
    data = [Path(folder) for folder in data_of(parameters, name)]
    if task == "inpainting":
        count = len(datasets.photographs(data[0], "train"))
    else:
        count = len(
            datasets.pairs(data, "train", parameters.localization.max_foreground if task == "localization" else 1.0)
        )
    steps = count * block.draws // block.batch_size
    return min(steps, block.max_steps_per_epoch or steps) * block.batch_size


def _rates(parameters: params.Params, names: list[str], seconds: float) -> dict[str, float]:
    """Images per second of each network while all train, after `seconds`."""
    content = YAML().load(Path("params.yaml").read_text())
    for name in names:
        content["models"][name]["training"] |= TRIAL
    folder = _apart("trial", content)
    # a service of its own: what a client that is stopped leaves behind in it is gone with it
    with multi_process_service() as more:
        running = {
            name: stage(
                "train",
                name,
                "--data",
                *data_of(parameters, name),
                cpus=2,
                log=f"trial-{name}",
                folder=folder,
                more=more,
            )
            for name in names
        }
        time.sleep(seconds)
        stop(running.values())
    rates = {}
    for name in running:
        lines = RATE.findall((LOGS / f"trial-{name}.txt").read_text())
        if lines:
            rates[name] = float(lines[-1])
        else:
            print(
                f"{name} did no {TRIAL_STEPS} steps in {seconds:.0f} s: {(LOGS / f'trial-{name}.txt').read_text().strip().splitlines()[-1:]}",
                flush=True,
            )
    return rates


def alone(parameters: params.Params, names: list[str], size: int, seconds: float) -> None:
    """Train each network by itself at its published size for `seconds` and print what it said last of its speed."""
    paper, content = (YAML().load(Path(file).read_text()) for file in ("presets/paper.yaml", "params.yaml"))
    content["image_size"], content["training"]["precision"] = size, "bf16"
    cores = len(os.sched_getaffinity(0))
    for name in names:
        block = paper["models"][name]
        block["hyperparameters"] |= unpretrained(name)
        block["training"] |= TRIAL
        folder = _apart(f"alone-{name}", content | {"models": {name: block}})
        process = stage(
            "train", name, "--data", *data_of(parameters, name), cpus=cores, log=f"alone-{name}", folder=folder
        )
        time.sleep(seconds)
        stop([process])
        said = (LOGS / f"alone-{name}.txt").read_text().strip().splitlines()
        print([line for line in said if RATE.search(line)][-1:] or said[-1:], flush=True)


def _apart(name: str, content: dict) -> Path:
    """A new folder for trials: the data, and a params.yaml of its own."""
    folder = LOGS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "data").symlink_to(Path("data").absolute())
    YAML().dump(content, folder / "params.yaml")
    return folder


def stop(processes) -> None:
    """Stop trainings as Ctrl-C does, which leaves the GPU in order; what doesn't heed it is killed."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test(parameters: params.Params) -> None:
    cores = len(os.sched_getaffinity(0))
    ready = [
        name
        for name, block in parameters.models.items()
        if not block.training or Path(f"artifacts/models/{name}/weights.safetensors").exists()
    ]
    waiting, running = list(ready), {}
    while waiting or running:
        while waiting and len(running) < cores:
            name = waiting.pop(0)
            weights = (
                ["--weights", f"artifacts/models/{name}/weights.safetensors"]
                if parameters.models[name].training
                else []
            )
            running[name] = stage(
                "infer", name, "--data", *data_of(parameters, name), *weights, cpus=2, log=f"infer-{name}"
            )
        for name in [name for name, process in running.items() if process.poll() is not None]:
            if running.pop(name).returncode:
                print(
                    f"infer {name} failed: {(LOGS / f'infer-{name}.txt').read_text().strip().splitlines()[-1:]}",
                    flush=True,
                )
        time.sleep(0.2)
    tasks = sorted({params.task_of(name) for name in ready})
    finish(
        {
            f"evaluate-{task}": stage("evaluate", task, cpus=max(1, cores // len(tasks)), log=f"evaluate-{task}")
            for task in tasks
        }
    )
    finish(
        {"published": stage("published", *(f"results/{task}" for task in models.TASKS), cpus=cores, log="published")}
    )
    finish({"report": stage("report", cpus=cores, log="report")})
    for task in tasks:
        print(pd.read_parquet(f"results/{task}/summary.parquet").to_string(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["data", "train", "test", "alone"])
    parser.add_argument("--seconds", type=float, default=400, help="wall-clock seconds of every training")
    parser.add_argument("--trial", type=float, default=30, help="seconds of a trial that measures speeds")
    parser.add_argument(
        "--only", nargs="+", default=[], help="networks to train; all if not given, but `alone` needs some"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the pictures of `alone`")
    options = parser.parse_args()
    if options.part == "alone" and not options.only:
        parser.error("alone: --only says which networks")
    LOGS.mkdir(parents=True, exist_ok=True)
    parameters = params.load()
    if options.part == "data":
        make_data(parameters)
    elif options.part == "train":
        train(parameters, options.seconds, options.trial, options.only)
    elif options.part == "alone":
        alone(parameters, options.only, options.size, options.trial)
    else:
        test(parameters)


if __name__ == "__main__":
    main()
