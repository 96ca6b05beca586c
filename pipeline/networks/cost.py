"""What a method costs: learned numbers, arithmetic, time and peak memory at three sizes of picture.

Each measurement runs in a process of its own, so that the peak is that of one network at one size, and one that needs
more memory or time than there is ends alone.
"""

import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from models.base import Model
from pipeline import tables
from pipeline.errors import UserError

SIZES = {"256": (256, 256), "1080p": (1080, 1920), "12mp": (3000, 4000)}
"""Label: height and width in pixels."""
COLUMNS = {
    "task": str, "model": str, "hyperparameters": str, "device": str, "processor": str, "size": str, "height": int,
    "width": int, "parameters": int, "gmacs": float, "ms": float, "peak_mib": float, "why_not": str,
    "code_licence": str, "weights_licence": str, "data_licence": str,
}  # fmt: skip
ROUNDS = 3


def measure(name: str, hyperparameters: dict, size: str, device: str, seconds: float, gib: float) -> dict:
    """One row of cost.parquet without its licences; what could not be measured is missing there and told in `why_not`.

    device: cpu or gpu. seconds: time that the measurement may take. gib: memory that its process may hold on a CPU.
    """
    height, width = SIZES[size]
    row = {"model": name, "hyperparameters": written(hyperparameters), "size": size, "height": height, "width": width}
    row |= {"parameters": 0, "gmacs": math.nan, "ms": math.nan, "peak_mib": math.nan}
    row |= {"device": device, "processor": processor(device)}
    task = json.dumps(
        {"name": name, "hyperparameters": hyperparameters, "size": [height, width], "device": device, "gib": gib}
    )
    command = [sys.executable, "-m", "pipeline.networks.cost_of_one", task]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=Path(__file__).parents[2])
    except subprocess.TimeoutExpired:
        return row | {"why_not": f"took longer than {seconds:g} s"}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode == 0 and lines:
        return row | json.loads(lines[-1])
    said = (ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1]
    if ended.returncode < 0 or "allocate memory" in said or "MemoryError" in said or "OutOfMemory" in said:
        said = f"needs more than {gib:g} GiB" if device == "cpu" else "needs more memory than the GPU has"
    return row | {"why_not": said[:200]}


def parameters_of(model: Model) -> int:
    """Learned numbers of what predicts, as tables count them."""
    return sum(value.numel() for value in model.predictor_parameters())


def table(rows: list[dict]) -> pd.DataFrame:
    """results/cost.parquet."""
    return tables.frame(rows, COLUMNS)


def licences(page: str, known: dict[str, str]) -> dict[str, dict[str, str]]:
    """Method: code_licence, weights_licence and data_licence, out of the table "Methods" of docs/licences.md.

    page: the text of the file. known: the methods to look up and their tasks. Raises UserError naming the methods that
    the table lacks.
    """
    section = page.partition("## Methods\n")[2].partition("\n## ")[0]
    by_method = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0] not in ("method", "---"):
            for name in cells[0].split(","):
                by_method[name.strip().strip("`")] = dict(
                    zip(("code_licence", "weights_licence", "data_licence"), cells[1:])
                )
    if missing := sorted(set(known) - set(by_method)):
        raise UserError(f"docs/licences.md: its table of methods lacks {', '.join(missing)}")
    return {name: by_method[name] for name in known}


def written(hyperparameters: dict) -> str:
    """Hyperparameters as the table has them: JSON with sorted keys."""
    return json.dumps(hyperparameters, sort_keys=True)


def processor(device: str) -> str:
    """What a time on "cpu" or "gpu" was measured on: the model as the system calls it, and the threads of a CPU."""
    if device == "gpu":
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, threads: {torch.get_num_threads()}"


def kept(table: pd.DataFrame, hyperparameters: dict[str, dict], here: dict[str, str]) -> pd.DataFrame:
    """Rows of an earlier table that still hold: of methods with the same hyperparameters, and measured on a processor of
    this machine, or on a kind of device that it lacks.

    hyperparameters: of each method that there is. here: processor by device. Raises UserError for a table with other
    columns than COLUMNS.
    """
    if list(table) != list(COLUMNS):
        raise UserError("the table of costs is there already, with other columns; remove it to measure anew")
    stated = {name: written(values) for name, values in hyperparameters.items()}
    same = table["model"].map(stated) == table["hyperparameters"]
    measured_on = table["device"].map(here)
    return table[same & (measured_on.isna() | (measured_on == table["processor"]))]
