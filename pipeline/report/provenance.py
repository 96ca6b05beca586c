"""Where the numbers come from: revision of the code, parameters against their preset, machine, libraries."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from pipeline import params
from pipeline.errors import UserError

LIBRARIES = (
    "torch", "torchvision", "timm", "segmentation-models-pytorch", "transformers", "numpy", "pandas", "pyarrow", "scipy",
    "scikit-image", "scikit-learn", "opencv-python-headless", "pillow", "pycocotools", "ray", "dvc",
)  # fmt: skip
"""What results may depend on."""

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA's driver, AMD's, and either within Windows' Linux; torch reaches a GPU through one of them."""

WRITTEN_BY_DVC = ("dvc.lock", "models/dvc.lock")
"""Files that a run of the pipeline itself changes; they don't make a tree dirty."""


def revision(root: Path) -> str:
    """The git revision of the working tree in words, and whether files differ from it."""
    try:
        commit = _git(root, "rev-parse", "--verify", "--short=12", "HEAD")
        if commit is None:
            inside = _git(root, "rev-parse", "--is-inside-work-tree") is not None
            return "a git repository without a commit" if inside else "not a git repository"
        changed = (
            _git(root, "status", "--porcelain", "--", ".", *(f":(exclude){file}" for file in WRITTEN_BY_DVC)) or ""
        )
    except FileNotFoundError:
        return "not known (git is not installed)"
    lines = len(changed.splitlines())
    return f"{commit}, {f'with {lines} changed file' + 's' * (lines > 1) if lines else 'unchanged'}"


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def preset(file: Path, folder: Path) -> dict:
    """The preset that a parameter file is nearest to, and in which parameters it differs.

    {"name", "differences": [{"key", "preset", "here"}]}. Defaults count as if they were written. Raises UserError when
    the folder has no presets, ParameterError when a file isn't valid.
    """
    presets = sorted(folder.glob("*.yaml"))
    if not presets:
        raise UserError(f"{folder}: no preset there; the report compares {file} with them")
    here = params.load(file).model_dump(mode="json")
    differing = {path.stem: _differences(params.load(path).model_dump(mode="json"), here) for path in presets}
    name = min(differing, key=lambda candidate: (len(differing[candidate]), candidate))
    return {"name": name, "differences": differing[name]}


def _differences(preset_value, value, key: str = "") -> list[dict]:
    if isinstance(preset_value, dict) and isinstance(value, dict):
        inside = [*preset_value, *(name for name in value if name not in preset_value)]
        absent = "not there"
        parts = [
            _differences(preset_value.get(name, absent), value.get(name, absent), f"{key}.{name}" if key else name)
            for name in inside
        ]
        return [difference for part in parts for difference in part]
    return [] if preset_value == value else [{"key": key, "preset": _stated(preset_value), "here": _stated(value)}]


def _stated(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_stated(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_stated, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, str]:
    """The hardware that this process sees."""
    return {
        "Processor": _processor(),
        "Cores": str(os.cpu_count()),
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": ", ".join(_gpus()) or "none",
        "System": f"{platform.system()} {platform.machine()}",
    }


def _gpus() -> list[str]:
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return []  # loading torch to learn that takes longer than the whole report
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def libraries() -> list[tuple[str, str]]:
    """Versions of Python and of what results may depend on, as far as they are installed."""
    versions = [("python", platform.python_version())]
    for name in LIBRARIES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return versions
