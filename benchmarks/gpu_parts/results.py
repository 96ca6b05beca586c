"""What was measured, kept as files and shown as tables.

    <folder>/results.json    all of it: machine, options, rows, notes, what was left out
    <folder>/results.csv     the rows, a column for each quantity
    <folder>/gpus.csv        on a GPU: a row in the columns of pipeline/planning/gpus.csv
    <folder>/worker.log      what libraries said

Files are replaced as a whole after each network, so that whatever ends the run leaves what was measured before.
"""

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import models
from pipeline import atomic

Row = dict[str, Any]
"""network, phase, task, variant, batch, size; and of the quantities below those that were measured."""

QUANTITIES = {
    "train_images_per_s": "higher",
    "predict_images_per_s": "higher",
    "peak_allocated_gib": "lower",
    "peak_reserved_gib": "lower",
    "difference_from_fp32": "lower",
    "train_gflop_per_image": "lower",
    "train_difference": "lower",
    "predict_difference": "lower",
    "train_compile_seconds": "lower",
    "predict_compile_seconds": "lower",
    "won_back_steps": "lower",
    "waiting_share": "lower",
}
"""Numbers of a row, and which is the better side. *_difference: of a CUDA graph or compiled code from eager torch, of the
largest pixel of a prediction, or relative of a loss."""

ABOUT = ("network", "phase", "task", "variant", "batch", "size")
WORDS = ("train_rounds", "predict_rounds", "loader", "train_reason", "predict_reason")
COLUMNS = (*ABOUT, *QUANTITIES, *WORDS)

GPUS_COLUMNS = ("kind", "memory_gib", "fp32_tflops", "bf16_tflops", "origin")
"""Of pipeline/planning/gpus.csv."""

PLAIN = ("fp32", "bf16", "bf16, channels_last")
GRAPH, COMPILED, LOADER = ", CUDA graph", ", compiled", ", from a loader"
WORTH = 1.02
"""A set-up must be so many times as fast as a simpler one to be called the best; rounds differ by about as much."""


class Results:
    """The rows of a run, and its files."""

    def __init__(self, folder: Path, options: dict):
        self.folder, self.options = folder, options
        self.machine: dict = {}
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.notes: list[str] = []
        self.left_out: dict[str, list[str]] = {}
        self.trouble: str | None = None
        """why the files couldn't be written the last time"""

    def add(self, row: Row) -> None:
        """Add a row, in place of an earlier one of the same network, phase and variant."""
        self.rows[row["network"], row["phase"], row["variant"]] = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }

    def of(self, network: str, phase: str | None = None) -> list[Row]:
        return [row for row in self.rows.values() if row["network"] == network and phase in (None, row["phase"])]

    def networks(self) -> list[str]:
        """Names of those that have rows, as models.names() orders them: by task."""
        measured = {network for network, _, _ in self.rows}
        return [name for name in models.names() if name in measured]

    def gpus_row(self) -> Row | None:
        """The row for pipeline/planning/gpus.csv, where a GPU was measured."""
        if not self.rows or "bf16_tflops" not in self.machine:
            return None
        return gpus_row(self.machine, self.options, list(self.rows.values()))

    def write(self) -> None:
        """Replace the files. What hinders it stands in `trouble` and doesn't end the measuring."""
        content = {
            "machine": self.machine,
            "options": self.options,
            "rows": list(self.rows.values()),
            "notes": self.notes,
            "left_out": self.left_out,
        }
        texts = {
            "results.json": json.dumps(content, indent=1) + "\n",
            "results.csv": csv_text(COLUMNS, self.rows.values()),
        }
        if (row := self.gpus_row()) is not None:
            texts["gpus.csv"] = csv_text(GPUS_COLUMNS, [row])
        self.trouble = None
        for name, text in texts.items():
            try:
                with atomic.file(self.folder / name) as path:
                    path.write_text(text)
            except OSError as error:
                self.trouble = f"{self.folder / name} can't be written: {error.strerror or error}"
                return


def csv_text(columns: tuple[str, ...], rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class _NothingMeasured(ValueError):
    pass


def taken_up(file: Path) -> tuple[list[tuple[str, str, str, float, str]], dict[str, str]]:
    """The numbers of a results.json as `records` gives them, and the facts about its machine in the words of
    pipeline/report/provenance.py. Raises ValueError, in one line, where the file is another."""
    try:
        content = json.loads(file.read_text())
        machine, rows = content["machine"], content["rows"]
        if not rows:
            raise _NothingMeasured(f"{file}: that run of benchmarks.gpu ended before anything was measured")
        facts = {
            "Processor": machine["processor"],
            "Cores": str(machine["cores"]),
            "Memory": machine["memory"],
            "GPU": machine["gpu"] or "none",
            "System": machine["system"],
            "when": machine["when"].replace(":", "-"),
            "load": machine["load"],
            "torch": machine["torch"],
        }
        return records(rows), facts
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except _NothingMeasured:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file}: not the results.json of a run of benchmarks.gpu") from error


def records(rows: list[Row]) -> list[tuple[str, str, str, float, str]]:
    """The numbers as benchmarks.record takes them: benchmark, row, quantity, value, better."""
    return [
        (
            "gpu",
            f"{row['network']}:{row['phase']}, {row['variant']}, {row['batch']} x {row['size']} px",
            quantity,
            row[quantity],
            better,
        )
        for row in rows
        for quantity, better in QUANTITIES.items()
        if row.get(quantity) is not None
    ]


# -- what helps


def seconds_per_step(row: Row) -> float:
    return row["batch"] / row["train_images_per_s"]


def base(rows: list[Row]) -> Row | None:
    """Of one network and phase, the plain row that trains fastest, to build on; a simpler one where that's as fast."""
    return _fastest([row for variant in PLAIN for row in rows if row["variant"] == variant])


def _fastest(rows: list[Row]) -> Row | None:
    best = None
    for row in rows:  # from simple to intricate
        if row.get("train_images_per_s") and (
            best is None or row["train_images_per_s"] > WORTH * best["train_images_per_s"]
        ):
            best = row
    return best


def reached(rows: list[Row]) -> float | None:
    """10^12 operations per second in training steps of a network, of its plain row that trains fastest."""
    row = base(rows)
    if row is None or not row.get("train_gflop_per_image"):
        return None
    return row["train_gflop_per_image"] * row["train_images_per_s"] / 1000


def helps(rows: list[Row]) -> str:
    """Which set-up of one network and phase trains fastest, and what each step towards it gives."""
    rate = {row["variant"]: row["train_images_per_s"] for row in rows if row.get("train_images_per_s")}
    intricate = [row for row in rows if row["variant"].endswith((GRAPH, COMPILED))]
    best = _fastest([*(row for variant in PLAIN for row in rows if row["variant"] == variant), *intricate])
    if best is None:
        return "no training step was measured"
    steps = [
        ("bf16", "bf16", "fp32"),
        ("channels_last", "bf16, channels_last", "bf16"),
        *(
            (words, variant, variant.removesuffix(ending))
            for ending, words in ((GRAPH, "CUDA graph"), (COMPILED, "compiled"))
            for variant in rate
            if variant.endswith(ending)
        ),
    ]
    gains = [f"{words} {rate[new] / rate[old]:.2f}x" for words, new, old in steps if new in rate and old in rate]
    over = f": {best['train_images_per_s'] / rate['fp32']:.2f}x of fp32" if "fp32" in rate else ""
    return f"best: {best['variant']}{over}" + (f" ({', '.join(gains)})" if gains else "")


# -- tables


def line(rows: list[Row]) -> str:
    """One network's rows of one part, as progress shows them."""
    parts = []
    for row in rows:
        words = [f"{_rate(row, 'train')} / {_rate(row, 'predict')} images/s"]
        if row.get("peak_allocated_gib") is not None:
            words.append(f"{row['peak_allocated_gib']:.1f} GiB")
        if row.get("waiting_share") is not None:
            words.append(f"{row['waiting_share']:.0%} of the time waiting")
        if row.get("train_compile_seconds") is not None:
            words.append(f"compiled in {row['train_compile_seconds']:.0f} s, {won_back(row)}")
        parts.append(f"{row['phase']}, {row['variant']}: {', '.join(words)}")
    return "; ".join(parts)


def won_back(row: Row) -> str:
    steps = row.get("won_back_steps")
    return "never won back" if steps is None else f"won back after {steps} steps"


def _rate(row: Row | None, what: str) -> str:
    value = row.get(f"{what}_images_per_s") if row else None
    return "-" if value is None else f"{value:.1f}"


def table(results: Results) -> str:
    """Networks by task: images/s in training and prediction, peak memory, bfloat16's difference, waiting, and what compiling
    costs. A dash: not measured. Wants one row at least."""
    head = [
        "network:phase",
        *("fp32", "bf16", "b+cl", "graph", "compiled"),
        *("fp32", "bf16", "b+cl", "graph", "compiled"),
    ]
    head += ["fp32", "bf16", "reserved", "bf16-fp32", "waiting", "compile s", "won back"]
    body: list[list[str]] = []
    task = None
    for network in results.networks():
        for phase in dict.fromkeys(row["phase"] for row in results.of(network)):
            rows = {row["variant"]: row for row in results.of(network, phase)}
            if rows and (now := next(iter(rows.values()))["task"]) != task:
                task = now
                body.append([task])
            plain = [rows.get(variant) for variant in PLAIN]
            special = [next((row for key, row in rows.items() if key.endswith(end)), None) for end in (GRAPH, COMPILED)]
            waiting = next((row for key, row in rows.items() if key.endswith(LOADER)), None)
            cells = [f"  {network}:{phase}"]
            for what in ("train", "predict"):
                cells += [_rate(row, what) for row in (*plain, *special)]
            cells += [_cell(plain[0], "peak_allocated_gib", ".2f"), _cell(plain[1], "peak_allocated_gib", ".2f")]
            cells += [_cell(plain[0], "peak_reserved_gib", ".2f"), _cell(plain[1], "difference_from_fp32", ".4f")]
            cells += [_cell(waiting, "waiting_share", ".0%"), _cell(special[1], "train_compile_seconds", ".0f")]
            steps = None if special[1] is None else special[1].get("won_back_steps")
            cells.append("-" if special[1] is None else "never" if steps is None else str(steps))
            body.append(cells)
    full = [cells for cells in body if len(cells) == len(head)]
    widths = [max(len(cells[column]) for cells in [head, *full]) for column in range(len(head))]
    groups = [
        (1, ""),
        (5, "training, images/s"),
        (5, "prediction, images/s"),
        (3, "peak GiB"),
        (1, ""),
        (1, ""),
        (2, ""),
    ]
    above, first = [], 0
    for count, words in groups:
        above.append(words.center(sum(widths[first : first + count]) + 2 * (count - 1)))
        first += count
    lines = ["  ".join(above).rstrip()]
    lines += ["  ".join([head[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(head[1:], widths[1:]))])]
    for cells in body:
        lines.append(
            "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))]).rstrip()
        )
    return "\n".join(lines)


def _cell(row: Row | None, key: str, how: str) -> str:
    return "-" if row is None or row.get(key) is None else format(row[key], how)


def summary(results: Results) -> str:
    """What helps each network, a line for each of its phases."""
    lines = []
    for network in results.networks():
        for phase in dict.fromkeys(row["phase"] for row in results.of(network)):
            lines.append(f"{network}:{phase}  {helps(results.of(network, phase))}")
    return "\n".join(lines)


# -- pipeline/planning/gpus.csv


def gpus_row(machine: dict, options: dict, rows: list[Row]) -> Row:
    """A row for pipeline/planning/gpus.csv from what was measured here.

    Its rates are those of large matrix products, as a data sheet's are peaks; what networks reach of them is the planner's
    --share-of-peak. The origin says so, and gives each network's images/s in training.
    """
    name = "-".join(machine["gpu"].lower().replace("nvidia", "").split())
    shares = []
    rates = []
    for network in [known for known in models.names() if known in {row["network"] for row in rows}]:
        own = [row for row in rows if row["network"] == network]
        for phase in dict.fromkeys(row["phase"] for row in own):
            of_phase = [row for row in own if row["phase"] == phase]
            half = [row for row in of_phase if row["variant"] in PLAIN[1:]]
            if (best := base(half)) is not None:
                rates.append(f"{network}:{phase} {best['train_images_per_s']:.0f}")
                if (rate := reached(half)) is not None:
                    shares.append(rate / machine["bf16_tflops"])
    share = (
        f"; training steps reach {statistics.median(shares):.3f} of it in bf16 (median of {len(shares)})"
        if shares
        else ""
    )
    speeds = (
        f"; images/s of training in bf16 at {options['batch']} x {options['size']} px: {', '.join(rates)}"
        if rates
        else ""
    )
    return {
        "kind": f"{name}-measured",
        "memory_gib": round(machine["memory_gib"]),
        "fp32_tflops": round(machine["fp32_tflops"]),
        "bf16_tflops": round(machine["bf16_tflops"]),
        "origin": f"measured on {machine['gpu']} by benchmarks.gpu, torch {machine['torch']}, {machine['when']}: products of matrices "
        f"in TF32 and BF16{share}{speeds}",
    }
