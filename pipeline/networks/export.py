"""A method as one ONNX file: a picture (and its mask) in, the pasted picture or the probability map out.

The file holds all that the project does between the two: the network's normalization, at two sizes the resizing between
them, and the pasting. It appears only after onnxruntime has computed from it what torch computes.
"""

import contextlib
import importlib
import io
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.array_model import ArrayModel
from models.base import Batch, Model
from models.layers.input_size import NotDivisible
from pipeline import atomic
from pipeline.errors import UserError
from pipeline.tasks import TASKS

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""How far onnxruntime's output may lie from torch's, in values of 0 to 1."""
STEP = 32
"""Pixels, at least, by which the sizes of a check differ."""


@dataclass(frozen=True)
class Exported:
    """What a file can do and how well it does it."""

    multiple: int
    """Height and width must be multiples of this."""
    fixed: str
    """Why the sizes are fixed; "" where height and width are free."""
    checks: list[tuple[int, int, float]]
    """Height, width and largest difference between onnxruntime and torch of each check."""


class Pasted(nn.Module):
    """A method from what it is given to what counts: (1, 3, H, W) picture and (1, 1, H, W) mask -> (1, 3, H, W), or
    picture -> (1, 1, H, W) in localization.

    Outside the mask, where it is 0.5 or less, the output is the picture. A network that works at two sizes predicts its
    parameters from a shrunk picture, as `harmonize_at` has it.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.model, self.task = model, TASKS[model.task]

    def forward(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.task.region is None:
            return self.model({self.task.picture: picture})
        assert mask is not None  # a task with a region gives one
        given = {self.task.picture: picture, self.task.region: mask}
        drawn = self._at_two_sizes(given) if self.model.full_resolution else self.model(given)
        return torch.where(mask > 0.5, drawn, picture)

    def _at_two_sizes(self, given: Batch) -> Tensor:
        side = (self.model.parameter_size, self.model.parameter_size)
        small = {
            "composite": F.interpolate(given["composite"], side, mode="bilinear", antialias=True),
            "mask": F.interpolate(given["mask"], side, mode="nearest-exact"),
        }
        parameters = self.model.predict_parameters(small)
        size = given["composite"].shape[2:]
        return self.model.apply_parameters(F.interpolate(parameters, size, mode="bicubic", align_corners=False), given)


def require_packages() -> None:
    """Raises UserError, naming the first package that is missing and how to install all of them."""
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(
                f"the package {package} is not installed, and export needs {', '.join(PACKAGES)}; "
                "pip install -e '.[export]' brings them"
            ) from None


def export(name: str, model: Model, out: Path, side: int = 256) -> Exported:
    """Write `model`, a method called `name` with its weights loaded, to the ONNX file `out`.

    side: pixels of the pictures that the network is traced and checked with, rounded up to the multiple that it asks
    for. Height and width of the file's inputs are free where the network's trace holds for every size, which a check at
    a second size proves. They are fixed to squares of `side` otherwise, and two pictures are checked. The batch is 1.

    Raises UserError for a method that works on arrays, where packages are missing, where the network can't be exported, with
    the operator or the line of code that stands in the way, and where onnxruntime's output is not that of torch within TOLERANCE. Then no file is
    written.
    """
    if isinstance(model, ArrayModel):
        raise UserError(f"{name} can't be exported: it computes by array libraries, of which ONNX has no operators")
    require_packages()
    model = model.cpu().float().eval()
    method = Pasted(model).eval()
    multiple, reason = _sizes(model, side)
    # a trace at the least side holds for that one alone: features of one pixel are a case of their own
    side = max(-(-side // multiple), 2 if multiple > 1 else 1) * multiple
    step = -(-STEP // multiple) * multiple
    free = [(side, side + step), (side + 2 * step, side)]
    with atomic.file(out) as file:
        checks = None
        if not reason:
            try:
                checks = _written(method, file, free, multiple, dynamic=True)
            except _CantExport as refusal:
                reason = str(refusal)
        if checks is None:
            try:
                checks = _written(method, file, [(side, side)] * 2, multiple, dynamic=False)
            except _CantExport as refusal:
                raise UserError(f"{name} can't be exported: {refusal}") from refusal
    return Exported(multiple, reason, checks)


class _CantExport(Exception):
    """Why one attempt failed, in one line."""


def _written(
    method: Pasted, file: Path, sizes: list[tuple[int, int]], multiple: int, dynamic: bool
) -> list[tuple[int, int, float]]:
    """Trace at the first of the sizes, write the file, and check it at all of them."""
    given = inputs(method, *sizes[0], seed=0)
    names = ["picture", "mask"][: len(given)]
    shapes = None
    if dynamic:
        height, width = (_dimension(name, multiple) for name in ("height", "width"))
        shapes = tuple({2: height, 3: width} for _ in given)
    result = "map" if method.task.region is None else "pasted"
    try:
        with _quiet(), torch.no_grad():
            # Not optimized: onnxscript takes a constant of up to 1e-8 for 0 and leaves the sum out, so that the guard in
            # x / (n + 1e-8) is gone. onnxruntime optimizes a file when it loads it.
            program = torch.onnx.export(
                method, given, input_names=names, output_names=[result], dynamic_shapes=shapes, dynamo=True, verbose=False,
                optimize=False,
            )  # fmt: skip
            assert program is not None  # with dynamo a program is returned
            known = {"model": type(method.model).__name__, "task": method.task.name, "multiple": str(multiple)}
            program.model.metadata_props.update({f"seambench.{key}": value for key, value in known.items()})
            program.save(str(file), external_data=False)
    except Exception as error:  # whatever a trace of foreign code raises: the reason is told, not the kind
        raise _CantExport(reason_of(error)) from error
    return _checked(method, file, sizes)


def _dimension(name: str, multiple: int) -> Any:
    free = torch.export.Dim(name if multiple == 1 else f"{name}_by_{multiple}", min=1 if multiple > 1 else 2)
    return free if multiple == 1 else multiple * free


def _checked(method: Pasted, file: Path, sizes: list[tuple[int, int]]) -> list[tuple[int, int, float]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base for its errors
        raise _CantExport(f"onnxruntime refuses the file: {_line(error)}") from error
    checks = []
    for number, (height, width) in enumerate(sizes):
        given = inputs(method, height, width, seed=number + 1)
        with torch.no_grad():
            expected = method(*given).numpy()
        fed = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), given)}
        try:
            (output,) = session.run(None, fed)
        except Exception as error:
            raise _CantExport(f"onnxruntime fails at {width}x{height}: {_line(error)}") from error
        if output.shape != expected.shape:
            raise _CantExport(f"onnxruntime's output at {width}x{height} is {output.shape}, torch's {expected.shape}")
        difference = float(np.abs(output - expected).max())
        if not difference <= TOLERANCE:  # also where it isn't a number
            raise _CantExport(
                f"onnxruntime's output at {width}x{height} differs from torch's by {difference:.2g}, at most {TOLERANCE} is accepted"
            )
        checks.append((height, width, difference))
    return checks


def inputs(method: Pasted, height: int, width: int, seed: int) -> tuple[Tensor, ...]:
    """A picture (1, 3, H, W) in [0, 1], smooth with some noise, and a mask (1, 1, H, W) of two rectangles where the task
    has one."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    picture = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    picture = (0.85 * picture + 0.15 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)
    if method.task.region is None:
        return (picture,)
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 8 : width // 2] = 1
    mask[..., height // 2 : 3 * height // 4, width // 2 : 7 * width // 8] = 1
    return picture, mask


def _sizes(model: Model, side: int) -> tuple[int, str]:
    """What height and width must be multiples of, and why the size is fixed where the network reads squares of `side`
    alone, else "". A network at two sizes takes any: it sees its small one.

    Raises UserError, with the network's own words, where it refuses squares of `side` too."""
    if model.full_resolution:
        return 1, ""
    method = Pasted(model)
    try:
        with torch.no_grad():
            method(*inputs(method, side + 1, side - 1, seed=0))
        return 1, ""
    except NotDivisible as asked:
        assert asked.by is not None  # require_divisible says it
        return asked.by, ""
    except ValueError as refusal:
        reason = str(refusal)
    try:
        with torch.no_grad():
            method(*inputs(method, side, side, seed=0))
    except ValueError as refusal:
        raise UserError(f"--size {side}: {refusal}") from None
    return 1, reason


_OPERATORS = (
    r"(?:target='|OpOverload\(op='|No decompositions registered for )['\"]?((?:aten|torchvision|prims)(?:\.|::)[\w.]+)",
    r"\b((?:aten|torchvision)(?:\.|::)[a-z_]\w*(?:\.\w+)?)",
)


_KNOWN = {
    ".numpy() is not supported": "operator Tensor.numpy: an array library computes on the picture",
    "data-dependent": "operator aten._local_scalar_dense: a value of the picture decides what is computed",
}
"""What torch says of two operators without naming them."""


def reason_of(error: BaseException) -> str:
    """In one line, why torch couldn't export: the operator's name where the exporter says one, and what it said."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    place = _place(chain)
    for sign, meaning in _KNOWN.items():
        if any(sign in str(link) for link in chain):
            return meaning + place
    said = _line(chain[-1]) + place
    for pattern in _OPERATORS:
        for text in map(str, reversed(chain)):
            if match := re.search(pattern, text):
                return f"operator {match.group(1)}: {said}"
    return said


def _place(chain: list[BaseException]) -> str:
    """Where in a network's code an error came from, as far as its traceback tells."""
    for link in reversed(chain):
        frames = [
            frame for frame in traceback.extract_tb(link.__traceback__) if f"{os.sep}models{os.sep}" in frame.filename
        ]
        if frames and "site-packages" not in frames[-1].filename:
            parts = Path(frames[-1].filename).parts
            return f" ({'/'.join(parts[len(parts) - parts[::-1].index('models') - 1 :])}:{frames[-1].lineno})"
    return ""


def _line(error: BaseException) -> str:
    """The first sentence-like line of an error's text, without colours and long tails."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 240 else text[:240] + "..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its advice to its own developers are not for the person at the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
