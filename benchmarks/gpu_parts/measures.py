"""What is measured of one network in one turn: speed, memory, CUDA graphs, waiting for data, torch.compile.

A turn is asked for by a request and answers with messages, so that it can be made in a process that may be ended:

    request  {"network", "part", "device", "size", "batch", "seconds", "scratch", "bases", "eager"}
             seconds: what the turn aims at; scratch: a folder for what it writes
             bases, eager: phase -> variant of the part "plain" that the other parts build on, and its seconds per step
    message  {"row": {...}} a result, which takes the place of an earlier one of the same network, phase and variant;
             {"note": "..."} what couldn't be measured and why, in one line;
             {"untrained": true} the method learns nothing, so there is no step to time

Speeds are medians of rounds; the first calls, in which kernels are chosen, aren't among them.
"""

import contextlib
import copy
import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.gpu_parts import loader
from benchmarks.subject import PHASES, Subject, build, elapsed, pictures, won_back
from models.base import Batch, Model
from pipeline.errors import lacks_memory

VARIANTS: dict[str, dict[str, bool]] = {
    "fp32": {},
    "bf16": {"half": True},
    "bf16, channels_last": {"half": True, "channels_last": True},
}
"""fp32: with TF32 where torch has it by default, in convolutions."""

ROUNDS = 5
MOST_IN_A_ROUND = 50
LEAST_SECONDS = 0.1
"""Of timing one thing: some rounds of what a GPU does."""

WARM_UP_STEPS = 3
"""Steps before a CUDA graph is captured, which make what a first step makes: gradients and Adam's moments."""

CHECKED_STEPS = 2

TOLERANCES = {"prediction": 1e-2, "loss": 5e-2}
"""How far a CUDA graph or compiled code may be from eager torch: a prediction, in [0, 1]; a loss after steps in bfloat16, relative.
Sums are taken in other orders, and dropout draws other numbers."""

PRODUCT_SIDE = 8192

Emit = Callable[[dict], None]


class CaptureError(Exception):
    """A capture failed once it had begun. The stream, torch's allocator and its random numbers are left as within a capture, so
    this process should do no more."""


def measure(request: dict, emit: Emit) -> bool:
    """Take one turn. What fails is told in one note, whatever it is, so that other networks have theirs. Returns whether this process
    may take another."""
    name, part = request["network"], request["part"]
    try:
        TURNS[part](request, emit)
    except ModuleNotFoundError as error:
        emit({"note": f"{name}: needs {(error.name or str(error)).split('.')[0]}"})
    except CaptureError:
        return False
    except Exception as error:
        emit({"note": f"{name}, {part}: {reason(error, request['device'])}"})
    _release(request["device"])
    return request["device"] != "cuda" or works()


def reason(error: BaseException, device: str) -> str:
    """Why something failed, in one line, with the line of the network's code that it failed at."""
    if lacks_memory(error):
        whole = f" ({torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB)" if device == "cuda" else ""
        return f"out of memory{whole}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]}..."
    ours = Path(models.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if ours in Path(f.filename).parents]
    return f"{text} ({Path(frames[-1].filename).relative_to(ours.parent)}:{frames[-1].lineno})" if frames else text


def _release(device: str) -> None:
    """Give back what nothing refers to any more; on a GPU that lost its context there is nothing to give.

    cuBLAS's workspaces too, one for each stream and thread: kept, they would count as memory of the first network alone, and
    every capture, which has a stream of its own, would leave one behind."""
    gc.collect()
    if device == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize()
            with contextlib.suppress(AttributeError):  # it is torch's own affair, of which only its notes on CUDA tell
                torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()


class Pace:
    """Divides the seconds of a turn over what is left to be timed in it."""

    def __init__(self, seconds: float, parts: int, clock: Callable[[], float] = time.monotonic):
        self.clock, self.until, self.parts = clock, clock() + seconds, parts

    def next(self) -> float:
        """Seconds for the next part; LEAST_SECONDS where the time is used."""
        seconds = (self.until - self.clock()) / max(1, self.parts)
        self.parts -= 1
        return max(LEAST_SECONDS, seconds)


def rounds(device: torch.device, run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of a `run`, a value for each round, in about `seconds`: ROUNDS rounds, or fewer where the time is short,
    but one. Two calls before them don't count."""
    elapsed(device, run)
    trial = elapsed(device, run)
    repeats = min(MOST_IN_A_ROUND, max(1, int(seconds / ROUNDS / max(trial, 1e-6))))
    times: list[float] = []
    began = time.monotonic()
    while not times or (len(times) < ROUNDS and time.monotonic() - began < seconds):
        times.append(elapsed(device, run, repeats))
    return times


def _phases(model: Model, name: str) -> tuple[str, ...]:
    return PHASES.get(name, model.phases[:1])


def _pristine(request: dict) -> Model:
    """The network as every variant begins: the same weights, on the device."""
    torch.manual_seed(0)
    return build(request["network"]).to(request["device"])


def _row(request: dict, phase: str, variant: str) -> dict:
    name = request["network"]
    about = {"network": name, "phase": phase, "task": models.task_of(name), "variant": variant}
    return about | {"batch": request["batch"], "size": request["size"]}


def _speed(row: dict, what: str, times: list[float]) -> None:
    row[f"{what}_images_per_s"] = row["batch"] / statistics.median(times)
    row[f"{what}_rounds"] = len(times)


def _difference(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().max().item()


# -- plain


def plain(request: dict, emit: Emit) -> None:
    """Images/s of a training step and of a prediction, memory, and how far predictions in bfloat16 are from those in float32."""
    name = request["network"]
    pristine = _pristine(request)
    if not pristine.players:
        emit({"untrained": True})
        return
    phases = _phases(pristine, name)
    pace = Pace(request["seconds"], 2 * len(phases) * len(VARIANTS))
    batch = pictures(request["batch"], request["size"], request["device"])
    for phase in phases:
        known: dict = {}
        for variant, how in VARIANTS.items():
            _release(request["device"])
            try:
                _variant(_row(request, phase, variant), pristine, how, batch, known, pace, emit)
            except RuntimeError as error:  # too little memory, or an operation that the GPU lacks in this precision
                emit({"note": f"{name}:{phase}, {variant}: {reason(error, request['device'])}"})


def _variant(
    row: dict, pristine: Model, how: dict[str, bool], batch: Batch, known: dict, pace: Pace, emit: Emit
) -> None:
    """Measure one. known: what the variants of a phase share: "gflop" of a step per image, and "weights" after fp32's
    steps with their "prediction" in fp32."""
    on_gpu = next(pristine.parameters()).is_cuda
    # the pristine network's, and that of what is known
    before = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) if on_gpu else (0, 0)
    subject = Subject(copy.deepcopy(pristine), row["phase"], **how)
    placed = subject.placed(batch)
    if known.get("gflop") is None:
        known["gflop"] = _gflop(subject, placed, row["batch"])
    row["train_gflop_per_image"] = known["gflop"]
    if on_gpu:
        _release("cuda")
        torch.cuda.reset_peak_memory_stats()
    _speed(row, "train", rounds(subject.device, lambda: subject.step(placed), pace.next()))
    if on_gpu:
        row["peak_allocated_gib"] = (torch.cuda.max_memory_allocated() - before[0]) / 2**30
        row["peak_reserved_gib"] = (torch.cuda.max_memory_reserved() - before[1]) / 2**30
    emit({"row": row})
    subject.model.eval()
    _speed(row, "predict", rounds(subject.device, lambda: subject.predict(placed), pace.next()))
    if row["variant"] == "fp32":
        # with these weights predictions are compared: before any step, normalization by running statistics can make extremes of them
        known["weights"] = copy.deepcopy(subject.model.state_dict())
        known["prediction"] = subject.predict(placed)
    elif "prediction" in known:
        subject.model.load_state_dict(known["weights"])
        row["difference_from_fp32"] = _difference(subject.predict(placed), known["prediction"])
    emit({"row": row})


def _gflop(subject: Subject, batch: dict[str, Tensor], count: int) -> float | None:
    """10^9 floating-point operations of a training step per image, a multiply-add as two; None where they can't be counted."""
    with contextlib.suppress(RuntimeError), FlopCounterMode(display=False) as counter:
        subject.step(batch)
        return counter.get_total_flops() / count / 1e9
    return None


def _bases(request: dict, pristine: Model) -> Iterator[tuple[str, str, dict[str, bool]]]:
    """Each phase that "plain" has measured, its variant to build on, and how that is made."""
    for phase in _phases(pristine, request["network"]):
        if variant := request["bases"].get(phase):
            yield phase, variant, VARIANTS[variant]


# -- CUDA graphs


def graphs(request: dict, emit: Emit) -> None:
    """Images/s of a prediction and of a training step that are replayed as CUDA graphs, and how far they are from eager ones."""
    if request["device"] != "cuda":
        raise ValueError("CUDA graphs need a GPU")
    name = request["network"]
    pristine = _pristine(request)
    bases = list(_bases(request, pristine))
    pace = Pace(request["seconds"], 2 * len(bases))
    for phase, base, how in bases:
        row = _row(request, phase, f"{base}, CUDA graph")
        for what, turn in (("predict", _graph_of_prediction), ("train", _graph_of_step)):
            _release("cuda")
            title = f"{name}:{phase}, CUDA graph of a {_WORDS[what]}"
            try:
                turn(row, pristine, phase, how, pace.next())
            except Exception as error:
                row[f"{what}_reason"] = why = reason(error, "cuda")
                emit({"row": row})
                if isinstance(error, CaptureError):
                    emit({"note": f"{title}: {why}; nothing more of it is captured"})
                    raise
                emit({"note": f"{title}: {why}"})
                continue
            # said this way round, NaN is too far as well
            if not (difference := row[f"{what}_difference"]) <= (most := TOLERANCES[_CHECKED[what]]):
                emit({"note": f"{title}: its {_CHECKED[what]} is {difference:.2g} from eager's, more than {most:g}"})
            emit({"row": row})


_WORDS = {"predict": "prediction", "train": "training step"}
_CHECKED = {"predict": "prediction", "train": "loss"}


def _captured(run: Callable[[], object], warm_up: int) -> tuple[torch.cuda.CUDAGraph, object]:
    """A CUDA graph of `run`, and what it returned, which every replay writes anew.

    The `warm_up` calls before it and the capture are made in one stream beside the current one, which is what a capture asks for. The
    last of these calls is refused if it waits for the GPU, as no captured call may: raises RuntimeError. What else hinders
    a capture shows when it has begun: raises CaptureError."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up - 1):
            run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph, stream=stream):
            result = run()
    except Exception as error:
        first = error.__context__ or error  # the end of a capture that has failed raises once more
        raise CaptureError(str(first)).with_traceback(first.__traceback__) from None
    return graph, result


def _graph_of_prediction(row: dict, pristine: Model, phase: str, how: dict[str, bool], seconds: float) -> None:
    subject = Subject(copy.deepcopy(pristine), phase, **how)
    subject.model.eval()
    # what the graph reads, and other pictures, which are put there before it is held against eager torch
    read, other = (subject.placed(pictures(row["batch"], row["size"], "cpu", seed)) for seed in (0, 1))
    graph, prediction = _captured(lambda: subject.predict(read), warm_up=2)
    assert isinstance(prediction, Tensor)
    for key, value in other.items():
        read[key].copy_(value)
    graph.replay()
    row["predict_difference"] = _difference(prediction, subject.predict(other))
    _speed(row, "predict", rounds(subject.device, graph.replay, seconds))


def _graph_of_step(row: dict, pristine: Model, phase: str, how: dict[str, bool], seconds: float) -> None:
    """The eager network takes as many steps as the graph's, from the same weights, and the last losses are compared."""
    subject = Subject(copy.deepcopy(pristine), phase, capturable=True, **how)
    batch = subject.placed(pictures(row["batch"], row["size"], "cpu"))
    graph, losses = _captured(lambda: subject.step(batch, read=False), WARM_UP_STEPS)
    assert isinstance(losses, list)

    def replay() -> list[float]:
        graph.replay()
        return torch.stack([loss.float() for loss in losses]).tolist()  # a training reads them after each step

    for _ in range(CHECKED_STEPS):
        replayed = replay()
    eager = Subject(copy.deepcopy(pristine), phase, **how)
    for _ in range(WARM_UP_STEPS + CHECKED_STEPS):
        stepped = [loss.item() for loss in eager.step(batch, read=False)]
    differences = [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(replayed, stepped)]
    row["train_difference"] = (
        math.nan if any(map(math.isnan, differences)) else max(differences)
    )  # max may pass NaN over
    del eager
    _speed(row, "train", rounds(subject.device, replay, seconds))


# -- waiting for data


def waiting(request: dict, emit: Emit) -> None:
    """The share of a training's time that it waits for its loader, once what the loader has ready at the start is used."""
    pristine = _pristine(request)
    bases = list(_bases(request, pristine))
    for phase, base, how in bases:
        subject = Subject(copy.deepcopy(pristine), phase, **how)
        fed = loader.fed(
            models.task_of(request["network"]), request["size"], request["batch"], request["device"], request["scratch"]
        )
        row = _row(request, phase, f"{base}, from a loader") | {"loader": fed.kind}
        placed = subject.placed(pictures(request["batch"], request["size"], request["device"]))
        for _ in range(2):
            subject.step(placed)
        account = loader.account(
            iter(fed.batches),
            lambda batch: subject.step(subject.placed(batch)),
            request["seconds"] / len(bases),
            fed.ahead,
        )
        row["train_images_per_s"] = request["batch"] * account.steps / account.seconds
        row["train_rounds"] = account.steps
        row["waiting_share"] = account.waited / account.seconds
        emit({"row": row})


# -- torch.compile


def compiled(request: dict, emit: Emit) -> None:
    """Seconds that torch.compile takes, images/s after it, and the number of steps that win those seconds back."""
    name = request["network"]
    pristine = _pristine(request)
    bases = list(_bases(request, pristine))
    seconds = request["seconds"] / 2 / max(1, len(bases))  # of timing; compiling takes what it takes
    for phase, base, how in bases:
        row = _row(request, phase, f"{base}, compiled")
        torch.compiler.reset()
        subject = Subject(copy.deepcopy(pristine), phase, compiled=True, **how)
        eager = Subject(copy.deepcopy(pristine), phase, **how)
        batch = subject.placed(pictures(request["batch"], request["size"], request["device"]))
        row["train_compile_seconds"] = elapsed(subject.device, lambda: subject.step(batch))
        times = rounds(subject.device, lambda: subject.step(batch), seconds)
        _speed(row, "train", times)
        row["won_back_steps"] = won_back(
            row["train_compile_seconds"], request["eager"][phase], statistics.median(times)
        )
        emit({"row": row})
        subject.model.load_state_dict(eager.model.state_dict())
        subject.model.eval()
        eager.model.eval()
        row["predict_compile_seconds"] = elapsed(subject.device, lambda: subject.predict(batch))
        row["predict_difference"] = _difference(subject.predict(batch), eager.predict(batch))
        if not row["predict_difference"] <= (most := TOLERANCES["prediction"]):  # NaN is too far as well
            emit(
                {
                    "note": f"{name}:{phase}, compiled: its prediction is {row['predict_difference']:.2g} from eager's, more than {most:g}"
                }
            )
        _speed(row, "predict", rounds(subject.device, lambda: subject.predict(batch), seconds))
        emit({"row": row})


# -- the machine


def machine(device: str) -> dict:
    """What a GPU can do: name, memory (GiB), and 10^12 operations a second in large matrix products, TF32 and bfloat16. The last
    two are left out where others have taken its memory. Of a CPU: the number of threads alone."""
    facts: dict = {"torch": torch.__version__}
    if device != "cuda":
        return facts | {"gpu": None, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    facts |= {"gpu": properties.name, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    facts["memory_gib"] = properties.total_memory / 2**30
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        rates = {}
        for name, dtype in (("fp32_tflops", torch.float32), ("bf16_tflops", torch.bfloat16)):
            factor = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=device, dtype=dtype)
            times = rounds(factor.device, lambda: factor @ factor, 0.5)
            rates[name] = 2 * PRODUCT_SIDE**3 / min(times) / 1e12
        facts |= rates
    except torch.OutOfMemoryError:
        pass
    finally:
        torch.set_float32_matmul_precision(precision)
        _release(device)
    return facts


def works() -> bool:
    """Whether the GPU still does what this process asks; some errors leave it refusing everything."""
    try:
        return bool(torch.rand(2, device="cuda").isfinite().all().item())
    except RuntimeError:
        return False


TURNS: dict[str, Callable[[dict, Emit], None]] = {
    "plain": plain,
    "graphs": graphs,
    "loader": waiting,
    "compile": compiled,
}
