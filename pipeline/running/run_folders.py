"""Run folders: where unfinished work waits to be taken up again.

DVC empties a stage's outs before it runs, so what a killed stage had finished must stand elsewhere. The folder's name
holds a hash of all that the result depends on: the same work goes on, an edited one starts anew.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from pipeline.errors import UserError

RUNS = ".runs"
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("stages", "commands", "pipeline", "models")


def run_folder(name: str, *parts) -> Path:
    """The run folder of a piece of work whose result depends on these parts (strings, numbers, dicts, files given as
    Path, which count by content) and on the code that is loaded now. The folder need not exist yet.

    Raises UserError naming a file that doesn't exist.
    """
    digest = hashlib.sha256(json.dumps([_stated(part) for part in parts], sort_keys=True).encode())
    for file in _loaded_code():
        digest.update(f"{file.relative_to(ROOT)}:".encode() + file.read_bytes())
    return _runs() / f"{name}-{digest.hexdigest()[:16]}"


def holding(file: str) -> list[Path]:
    """The run folders of the project that hold a file of this name."""
    return sorted(path.parent for path in _runs().glob(f"*/{file}"))


def name_of(folder: Path) -> str:
    """The name that `run_folder` was given, of a folder that it returned."""
    return folder.name.rpartition("-")[0]


def kept(kind: str, name: str) -> Path:
    """A file beside the run folders for what is worth knowing in later runs, whatever was edited meanwhile; `clean` removes it."""
    return _runs() / kind / name


def _runs() -> Path:
    # a queued experiment runs in a copy that DVC removes, killed or done; DVC_ROOT is the project that it was queued from
    return (Path(os.environ.get("DVC_ROOT", ".")) / RUNS).absolute()


def _stated(part):
    if isinstance(part, Path):
        if not part.is_file():
            raise UserError(f"{part}: no such file")
        return hashlib.sha256(part.read_bytes()).hexdigest()
    if isinstance(part, dict):
        return {key: _stated(value) for key, value in part.items()}
    return part.model_dump(mode="json") if hasattr(part, "model_dump") else part


def _loaded_code() -> list[Path]:
    """Files of this repository's packages that this process has imported."""
    ours = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in (*PACKAGES, "__main__")]
    files = {Path(file).resolve() for module in ours if (file := getattr(module, "__file__", None))}
    return sorted(file for file in files if any(ROOT / package in file.parents for package in PACKAGES))
