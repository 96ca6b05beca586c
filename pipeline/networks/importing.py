"""Weights that others released, brought into the form that `load_weights` reads.

A released file holds the same tensors as a network here, under other names. Entries are paired by their names where these
are equal; else by position, because a network's parameters are registered in the order of the published code: the shapes
of the file, one after the other, are then a run of the shapes of the network's state dict. Nothing is guessed: a file that
pairs in no way, or in more than one, is refused with the entry at fault.

Three departures of released files are known, and recognized by what the file holds:

    kernels in Keras' order    (height, width, in, out), and (in, out) of a dense layer: turned to (out, in, height, width)
    input_conv and mask_conv   the layers of a port of partial convolutions, which divides by the sum over the window alone,
                               where NVIDIA's layer (models/layers/partial_conv.py) also multiplies by its size: its weights
                               are divided by in * height * width, and its constant mask_conv is left out
    entries stored twice       tensors that share their memory, as one module under two names makes them: the last name counts
"""

import itertools
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.base import Model
from pipeline import atomic
from pipeline.errors import UserError
from pipeline.networks.weights import predictor_entries

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".bin")
SUFFIXES = (*TORCH_SUFFIXES, ".npz", ".safetensors")

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""

COUNTER = "num_batches_tracked"
"""Of batch normalization: counts training steps and is read by no prediction; old files lack it."""

KINDS = {
    "weight": "weight", "kernel": "weight", "gamma": "weight", "weight_orig": "weight", "weight_bar": "weight", "original": "weight",
    "bias": "bias", "running_mean": "mean", "moving_mean": "mean", "running_var": "variance", "moving_variance": "variance",
    COUNTER: "counter", "weight_u": "left vector", "_u": "left vector", "weight_v": "right vector", "_v": "right vector",
}  # fmt: skip
"""What an entry is by the last part of its name; two that are paired by position must not be of different kinds."""

TURNS = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}
"""By number of dimensions: the axes of a kernel in Keras' order, in torch's."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a released file, under the name that it has there."""

    file: str
    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __str__(self) -> str:
        return f"{self.file}: {self.name} {list(self.shape)}"


@dataclass(frozen=True)
class Pairing:
    """What an import makes of its files."""

    tensors: dict[str, Tensor]
    """By the names that the network has."""
    pairs: list[tuple[Entry, str]]
    """Each entry of the files that was used, and the network's name for it."""
    by: str
    """"name" or "position"."""
    remarks: list[str] = field(default_factory=list)
    """What was done to the tensors and what was left out, in words."""


# ---- reading


def read(file: Path, key: str | None = None) -> list[Entry]:
    """The tensors of a file in its order. Nothing in a file is run: what isn't tensors, numbers and text is refused.

    key: where the state dict stands in a file that holds several, parts separated by dots. Raises UserError naming the file.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file}: expected a file ending in {', '.join(SUFFIXES)}")
    if file.suffix.lower() == ".safetensors":
        content = _safetensors(file)
    else:
        content = _numpy(file) if file.suffix.lower() == ".npz" else _torch(file)
    state = _state_dict(file, content, key)
    names = list(state)
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    entries = [Entry(file.name, name, tensor.detach()) for name, tensor in zip(names, state.values())]
    for entry in entries:
        if entry.tensor.is_floating_point() and not entry.tensor.isfinite().all():
            raise UserError(f"{file}: {entry.name} has values that are not finite")
    return entries


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file: {error}") from None


def _numpy(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{file} is not a file of NumPy arrays without objects: {str(error).splitlines()[0]}") from None


def _torch(file: Path):
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = [
            word
            for word in str(error).replace("`", " ").split()
            if word.startswith(("GLOBAL", "torch.", "__main__", "models", "argparse"))
        ]
        raise UserError(
            f"{file} holds more than tensors, numbers and text{f' ({what[-1]})' if what else ''}, which could run code and is not read; "
            "save its state dict alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} is not a file that torch saved: {(str(error).splitlines() or ['it ends too early'])[0]}"
        ) from None


def _state_dict(file: Path, content, key: str | None) -> dict[str, Tensor]:
    """The state dict in what a file holds: all of it, or the only one that it wraps, or that under `key`."""
    within = _state_dicts(content)
    if key is not None:
        if key not in within:
            raise UserError(
                f"{file}: no state dict {key!r}; it has {', '.join(repr(place) for place in within) or 'none'}"
            )
        return within[key]
    if not within:
        raise UserError(f"{file} holds no state dict, a mapping of names to tensors")
    if len(within) > 1:
        raise UserError(
            f"{file} holds several state dicts, {', '.join(repr(place) for place in within)}; --key says which one is meant"
        )
    return next(iter(within.values()))


def _state_dicts(content, place: str = "", depth: int = 0) -> dict[str, dict[str, Tensor]]:
    """The mappings of names to tensors in nested mappings, by the keys that lead there. Optimizers' are passed over."""
    if not isinstance(content, Mapping) or depth > 2:
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return {place: tensors}
    state_dicts: dict = {}
    for name, value in content.items():
        if "optim" not in str(name).lower() and "sched" not in str(name).lower():
            state_dicts |= _state_dicts(value, f"{place}.{name}" if place else str(name), depth + 1)
    return state_dicts


def write(file: Path, pairing: Pairing, about: dict[str, str]) -> None:
    """Write what was paired as safetensors, which appears whole or not at all; `about` stands in the file's head."""
    with atomic.file(file) as path:
        save_file(pairing.tensors, path, {"format": "pt", **about})


# ---- pairing


def pair(model: Model, files: list[list[Entry]], in_order: list[bool], kernels: str = "detect") -> Pairing:
    """Pair the entries of one or more files with a network's state dict.

    model: the network; its tensors are not read, so it may stand on torch's meta device. in_order: of each file, whether its
    entries stand in the order in which they were registered (safetensors sorts them). kernels: "detect", "torch" or "keras",
    the order of axes that the files have.

    Every entry of the files must have its place, and every entry that a prediction reads must be filled; others, such as a
    discriminator's, may stay out. Raises UserError naming the entry at fault.
    """
    remarks: list[str] = []
    entries = _from_port([entry for file_entries in files for entry in file_entries], remarks)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    needed = predictor_entries(model)
    if not any(_counts(entry) for entry in entries):
        counters = [name for name in own if _last(name) == COUNTER]
        own = {name: shape for name, shape in own.items() if name not in counters}
        without = [name for name in needed if name in counters]
        needed = [name for name in needed if name not in counters]
        if without:
            remarks.append(f"{len(without)} counters of batch normalization, which no prediction reads, are set to 0")
    paired, by = _by_name(entries, own, needed, kernels), "name"
    if paired is None:
        by = "position"
        if not all(in_order):
            file = next(entries[0].file for entries, ordered in zip(files, in_order) if not ordered)
            raise UserError(
                f"{file}: its names are not those of the network, and safetensors keeps no order to pair by; convert the file it was made from"
            )
        paired, once = _by_position(entries, own, needed, kernels, files)
        if len(once) < len(entries):
            remarks.append(f"{len(entries) - len(once)} entries are stored under two names; the last one counts")
    pairs, turned = paired
    if turned:
        remarks.append(f"{turned} kernels were in Keras' order, and were turned")
    references = model.state_dict()
    tensors = {}
    for (_, name), tensor in zip(pairs, _as_stored(pairs, own, turned > 0)):
        tensors[name] = tensor.to(references[name].dtype).contiguous().clone()
    for name in predictor_entries(model):
        if name not in tensors:  # a counter
            tensors[name] = torch.zeros(references[name].shape, dtype=references[name].dtype)
    return Pairing(tensors, pairs, by, remarks)


def _counts(entry: Entry) -> bool:
    """Whether an entry is a counter: by its name, or, where a file has names of its own, as a whole number without a shape."""
    return _last(entry.name) == COUNTER or (not entry.shape and not entry.tensor.is_floating_point())


def _last(name: str) -> str:
    return name.rpartition(".")[2].rpartition("/")[2].split(":")[0]


def _from_port(entries: list[Entry], remarks: list[str]) -> list[Entry]:
    """Weights of the port's partial convolutions as NVIDIA's layer wants them, without the constants beside them."""
    of_masks = {entry.name: entry for entry in entries if entry.name.endswith("mask_conv.weight")}
    changed, scaled = [], 0
    for entry in entries:
        constant = of_masks.get(f"{entry.name.removesuffix('input_conv.weight')}mask_conv.weight")
        if entry.name in of_masks:
            continue
        if entry.name.endswith("input_conv.weight") and constant is not None and constant.shape == entry.shape:
            entry = Entry(entry.file, entry.name, entry.tensor / math.prod(entry.shape[1:]))
            scaled += 1
        changed.append(entry)
    if not scaled:
        return entries
    remarks.append(
        f"{scaled} weights of a port of partial convolutions were divided by the size of their window, its {len(of_masks)} mask_conv left out"
    )
    if odd := [mask_entry for mask_entry in of_masks.values() if not bool((mask_entry.tensor == 1).all())]:
        remarks.append(f"{len(odd)} of its mask_conv, such as {odd[0].name}, are not all ones, as the port's are")
    return changed


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], keras: bool) -> bool:
    return _turned(shape, wanted) == wanted if keras else shape == wanted


def _turned(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor of a file in Keras' order once it is turned, if it is a kernel; others fit as they are."""
    turned = tuple(shape[axis] for axis in TURNS[len(shape)]) if len(shape) in TURNS else shape
    return shape if shape == wanted and turned != wanted else turned


def _as_stored(pairs: list[tuple[Entry, str]], own: dict[str, tuple[int, ...]], keras: bool) -> list[Tensor]:
    stored = []
    for entry, name in pairs:
        shape, wanted = entry.shape, own[name]
        turn = keras and len(shape) in TURNS and tuple(shape[axis] for axis in TURNS[len(shape)]) == wanted
        stored.append(entry.tensor.permute(TURNS[len(shape)]) if turn else entry.tensor)
    return stored


def _layouts(kernels: str) -> tuple[bool, ...]:
    """Whether kernels are in Keras' order: what is tried, in this order."""
    return {"detect": (False, True), "torch": (False,), "keras": (True,)}[kernels]


def _count_turned(pairs: list[tuple[Entry, str]], keras: bool) -> int:
    return sum(len(entry.shape) in TURNS for entry, _ in pairs) if keras else 0


def _by_name(entries: list[Entry], own: dict[str, tuple[int, ...]], needed: list[str], kernels: str):
    """Pairs and how many kernels were turned, if the files use the network's names; None if they don't."""
    names = [entry.name for entry in entries]
    if not set(needed) <= set(names):
        return None
    if more := [entry for entry in entries if entry.name not in own]:
        raise UserError(f"too many: {more[0]} has no place in the network ({len(more)} such entries)")
    if twice := [entry for entry in entries if names.count(entry.name) > 1]:
        raise UserError(f"ambiguous: {twice[0].name} stands in {twice[0].file} and in {twice[-1].file}")
    for keras in _layouts(kernels):
        if all(_fits(entry.shape, own[entry.name], keras) for entry in entries):
            pairs = [(entry, entry.name) for entry in entries]
            return pairs, _count_turned(pairs, keras)
    odd = next(entry for entry in entries if not _fits(entry.shape, own[entry.name], _layouts(kernels)[0]))
    raise UserError(f"{odd}: the network's is {list(own[odd.name])}; do its hyperparameters differ?")


def _by_position(
    entries: list[Entry], own: dict[str, tuple[int, ...]], needed: list[str], kernels: str, files: list[list[Entry]]
):
    """((pairs, how many kernels were turned), the entries, each once)."""
    for candidates in (entries, _each_once(entries)):
        fitting = {}
        for keras in _layouts(kernels):
            if runs := _runs(candidates, own, needed, keras):
                fitting[keras] = runs
        if not fitting:
            continue
        keras = next(iter(fitting))
        if len(fitting) > 1 and entries[0].file.endswith(".npz") and (odd := _turns_change(candidates, own, fitting)):
            raise UserError(f"ambiguous: {odd} fits in torch's order of axes and in Keras'; --kernels says which it is")
        if len(fitting[keras]) > 1:
            first, second = (run[0] for run in fitting[keras][:2])
            raise UserError(f"ambiguous: {candidates[0]} fits {first} and {second}, and so do all entries after it")
        pairs = list(zip(candidates, fitting[keras][0]))
        _refuse_other_kinds(pairs)
        _refuse_crossed_names(pairs, own)
        return (pairs, _count_turned(pairs, keras)), candidates
    raise UserError(_why_not(entries, own, needed, kernels, files))


def _runs(entries: list[Entry], own: dict[str, tuple[int, ...]], needed: list[str], keras: bool) -> list[list[str]]:
    """The runs of the network's names that these entries fit in this order, and that hold all that a prediction reads."""
    fitting = []
    for names in (needed, list(own)):
        for start in range(len(names) - len(entries) + 1):
            run = names[start : start + len(entries)]
            if set(needed) <= set(run) and all(
                _fits(entry.shape, own[name], keras) for entry, name in zip(entries, run)
            ):
                fitting.append(run)
        if fitting:
            return fitting
    return []


def _each_once(entries: list[Entry]) -> list[Entry]:
    """Entries without those whose tensor, the same memory, comes again under a later name."""
    last: dict = {}
    for entry in entries:
        tensor = entry.tensor
        key = (
            (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), entry.shape, tensor.stride())
            if tensor.numel()
            else id(entry)
        )
        last.pop(key, None)
        last[key] = entry
    return list(last.values())


def _turns_change(
    entries: list[Entry], own: dict[str, tuple[int, ...]], fitting: dict[bool, list[list[str]]]
) -> Entry | None:
    """The first kernel whose values the order of axes would move about."""
    return next(
        (entry for entry in entries if len(entry.shape) in TURNS and sum(side > 1 for side in entry.shape) > 1), None
    )


def _refuse_other_kinds(pairs: list[tuple[Entry, str]]) -> None:
    for entry, name in pairs:
        kinds = KINDS.get(_last(entry.name)), KINDS.get(_last(name))
        if None not in kinds and kinds[0] != kinds[1]:
            raise UserError(
                f"{entry} would become {name}: the one is a {kinds[0]}, the other a {kinds[1]}; the file's order is not that of the network"
            )


def _refuse_crossed_names(pairs: list[tuple[Entry, str]], own: dict[str, tuple[int, ...]]) -> None:
    for entry, name in pairs:
        if entry.name in own and entry.name != name:
            raise UserError(f"ambiguous: {entry} fits {name} by position, and the network has an entry of its own name")


def _why_not(
    entries: list[Entry], own: dict[str, tuple[int, ...]], needed: list[str], kernels: str, files: list[list[Entry]]
) -> str:
    """Which entry is in the way of a pairing by position, of the attempt that went farthest."""
    if 1 < len(files) <= 4:
        for order in itertools.permutations(files):
            others = [entry for file_entries in order for entry in file_entries]
            if any(_runs(_from_port(others, []), own, needed, keras) for keras in _layouts(kernels)):
                return f"the files pair in another order: give them as {' '.join(file_entries[0].file for file_entries in order)}"
    attempts = []
    for names, keras in itertools.product((needed, list(own)), _layouts(kernels)):
        fitting = itertools.takewhile(lambda pair: _fits(pair[0].shape, own[pair[1]], keras), zip(entries, names))  # noqa: B023 - used at once
        attempts.append((sum(1 for _ in fitting), names))
    many, names = max(attempts, key=lambda attempt: attempt[0])
    if many == len(entries):
        return f"too few: after {entries[-1]} nothing is left for {names[many]} {list(own[names[many]])}"
    if many == len(names):
        return f"too many: {entries[many]} has no place in the network, after {many} entries that have"
    return f"entry {many + 1} of {len(entries)}, {entries[many]}, would become {names[many]} {list(own[names[many]])}; do the network's hyperparameters differ?"
