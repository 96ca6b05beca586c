"""What a method costs: learned numbers, arithmetic, time and peak memory at three sizes of picture.

Each measurement runs in a process of its own, so that the peak is that of one network at one size, and one that needs
more memory or time than there is ends alone.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from models.base import Model
from pipeline import tables
from pipeline.errors import UserError

SIZES = {"256": (256, 256), "1080p": (1080, 1920), "12mp": (3000, 4000)}
"""Label: height and width in pixels."""
COLUMNS = {
    "task": str, "model": str, "device": str, "size": str, "height": int, "width": int, "parameters": int,
    "gmacs": float, "ms": float, "peak_mib": float, "why_not": str,
    "code_licence": str, "weights_licence": str, "data_licence": str,
}  # fmt: skip
ROUNDS = 3


def measure(name: str, hyperparameters: dict, size: str, device: str, seconds: float, gib: float) -> dict:
    """One row of cost.parquet without its licences; what could not be measured is missing there and told in `why_not`.

    device: cpu or gpu. seconds: time that the measurement may take. gib: memory that its process may hold on a CPU.
    """
    height, width = SIZES[size]
    row = {"model": name, "size": size, "height": height, "width": width}
    row |= {"parameters": 0, "gmacs": math.nan, "ms": math.nan, "peak_mib": math.nan, "device": device}
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


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
