"""Where a network runs, and what its processor can't do.

torch is imported by the functions that need it: a stage that asks for no device does without.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.running import cluster

if TYPE_CHECKING:
    from torch import nn


def resolve_device(wanted: str, workers: int) -> str:
    """cpu or gpu. `auto` takes GPUs where this process or the Ray cluster has enough of them for the workers."""
    if wanted != "auto":
        return wanted
    import torch

    if os.environ.get("RAY_ADDRESS") and not cluster.plain():
        with cluster.session():
            return "gpu" if cluster.gpus() >= workers else "cpu"
    return "gpu" if torch.cuda.device_count() >= workers else "cpu"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch's on the CPU while the block lasts. Their number decides in which order sums are taken."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bfloat16_cost() -> float:
    """How many times as long as in float32 a matrix product in bfloat16 takes this CPU, the best of five turns.

    Measured, because a CPU's flags don't tell: without instructions of its own it is some ten times, and an Emerald Rapids
    whose AMX is hidden issues those of AVX-512 (`avx512_bf16`) at half of float32's rate.
    """
    import torch

    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        factor = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            factor @ factor
            times.append(time.perf_counter() - start)
        best[dtype] = min(times)
    return best[torch.bfloat16] / best[torch.float32]


def no_compiler(on_cpu: bool) -> str | None:
    """Why torch.compile can't work here, or None."""
    if on_cpu:
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            return "torch.compile needs a C++ compiler on a CPU (g++, or what CXX names), and there is none"
        return None
    return None if importlib.util.find_spec("triton") else "torch.compile needs the package triton on a GPU"


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """What torch.compile fails at in the block, by the training of this network, becomes a UserError in one line."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError

    try:
        yield
    except (TorchDynamoException, CppCompileError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"training {name}: torch.compile fails ({' '.join(lines[:2])}); set models.{name}.training.compile: false"
        ) from error


def writes_outside_its_memory(model: "nn.Module") -> str | None:
    """Name of a convolution whose backward pass in channels_last writes outside its memory on a CPU, or None.

    This is a defect of oneDNN 3.13 (its issue 6035), which torch 2.15 has. It may end the process with a segmentation fault.
    """
    from torch import nn

    for name, layer in model.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels < 16
        ):
            return name
    return None
