"""Run folders: where unfinished work waits to be taken up again.

DVC empties a stage's outs before it runs, so what a killed stage had finished must stand elsewhere. The folder's name
holds a hash of all that the result depends on: the same work goes on, an edited one starts anew.
"""

import hashlib
import json
import sys
from pathlib import Path

RUNS = Path(".runs")
ROOT = Path(__file__).resolve().parent.parent


def run_folder(name: str, *parts) -> Path:
    """The run folder of a piece of work whose result depends on these parts (strings, numbers, dicts, files given as
    Path, which count by content) and on the code that is loaded now. The folder need not exist yet."""
    digest = hashlib.sha256(json.dumps([_stated(part) for part in parts], sort_keys=True).encode())
    for file in _loaded_code():
        digest.update(f"{file.relative_to(ROOT)}:".encode() + file.read_bytes())
    return (RUNS / f"{name}-{digest.hexdigest()[:16]}").absolute()


def _stated(part):
    if isinstance(part, Path):
        return hashlib.sha256(part.read_bytes()).hexdigest()
    return part.model_dump(mode="json") if hasattr(part, "model_dump") else part


def _loaded_code() -> list[Path]:
    """Files of this repository's packages that this process has imported."""
    files = {Path(module.__file__).resolve() for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
    packages = [ROOT / name for name in ("stages", "pipeline", "models")]
    return sorted(file for file in files if any(package in file.parents for package in packages))
