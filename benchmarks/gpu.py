"""What a GPU gives each network, in one command of less than 8 minutes that needs torch, numpy and this repository.

    python -m benchmarks.gpu [--seconds 450] [--only rainnet dovenet] [--size 256] [--batch 8] [--out FOLDER]
                             [--compile rainnet] [--device cpu]

    python -m benchmarks --take FOLDER/results.json     # afterwards, where all packages are: into .cache/bench/*.parquet

Networks have their published size and no pretrained weights. In this order, as far as --seconds go:

- of every network, images/s of a training step (its first phase; EdgeConnect has two) and of a prediction, in fp32 (TF32 in
  convolutions, as torch has it), in bfloat16, and in bfloat16 with channels_last; the peak of memory that a training took
  and that torch held for it; and the largest difference between predictions in bfloat16 and in fp32;
- CUDA graphs of both, held against eager torch; a step that can't be captured is named with the reason;
- the share of a training's time that it waits for pictures from files: decoded and augmented by pipeline/data where its
  packages are, else by what there is, which the results name. Its pictures are drawn, of 640x480 pixels;
- torch.compile: seconds, images/s, and after how many steps these are won back.

The last three build on the fastest set-up of the first. They begin with the networks that they are likeliest to help, those whose
steps reach the least arithmetic per second (waiting for data: those that are fastest). What time didn't suffice for is named
at the end. A network whose packages are missing, that needs more memory than there is or that fails otherwise has one line.

Results stand in --out (.cache/bench/gpu-<time> if not given) and are replaced after each network: results.json, results.csv,
gpus.csv (a row for pipeline/planning/gpus.csv) and worker.log. Ctrl-C and SIGTERM end the run and show what was measured.
"""

import argparse
import dataclasses
import datetime
import math
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import models
from benchmarks.gpu_parts import results as tables
from benchmarks.gpu_parts import schedule
from benchmarks.gpu_parts.results import Results
from benchmarks.gpu_parts.worker import Ended, Worker
from benchmarks.record import record

Ask = Callable[[dict, float], Iterator[dict]]


@dataclasses.dataclass
class Run:
    """Everybody's turns. ask: hands a request to what measures, with a limit in seconds. clock: seconds since the beginning."""

    ask: Ask
    results: Results
    names: list[str]
    compiled: list[str] | None
    """networks to compile, in this order; None for all, the likeliest first"""
    device: str
    size: int
    batch: int
    seconds: float
    scratch: str
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.parts = [part for part in schedule.PARTS if part != "graphs" or self.device == "cuda"]
        if self.compiled == []:
            self.parts.remove("compile")
        self.untrained: list[str] = []

    def machine(self) -> None:
        """Learn what the machine is."""
        facts = {
            "when": datetime.datetime.now().isoformat(timespec="seconds"),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
            "system": f"{platform.system()} {platform.machine()}",
            "load": f"{os.getloadavg()[0]:.1f}",
        }
        for message in self.ask({"part": "machine", "device": self.device}, self.seconds - self.clock()):
            facts |= message["machine"]
        self.results.machine = facts

    def all(self) -> None:
        ends = schedule.ends(self.seconds, self.parts)
        for part in self.parts:
            waiting = self.order(part)
            while waiting:
                turn = schedule.turn(part, self.clock(), ends[part], self.seconds, len(waiting))
                if turn is None:
                    self.results.left_out[part] = waiting
                    break
                self.turn(waiting.pop(0), part, turn)
            self.write()

    def order(self, part: str) -> list[str]:
        """The networks that a part has turns for, and in which order."""
        if part == "plain":
            return list(self.names)
        able = [name for name in self.results.networks() if self.bases(name)]
        if part == "compile" and self.compiled is not None:
            return [name for name in self.compiled if name in able]
        if part == "loader":
            return sorted(able, key=lambda name: -max(row["train_images_per_s"] for row in self.bases(name).values()))
        rates = {name: rate for name in able if (rate := tables.reached(self.results.of(name))) is not None}
        return schedule.likeliest(able, rates)

    def bases(self, name: str) -> dict[str, tables.Row]:
        """Phase -> the plain row that other parts build on."""
        phases = dict.fromkeys(row["phase"] for row in self.results.of(name))
        found = {phase: tables.base(self.results.of(name, phase)) for phase in phases}
        return {phase: row for phase, row in found.items() if row is not None}

    def turn(self, name: str, part: str, turn: schedule.Turn) -> None:
        bases = self.bases(name) if part != "plain" else {}
        request = {
            "network": name,
            "part": part,
            "device": self.device,
            "size": self.size,
            "batch": self.batch,
            "seconds": turn.aim,
            "scratch": self.scratch,
            "bases": {phase: row["variant"] for phase, row in bases.items()},
            "eager": {phase: tables.seconds_per_step(row) for phase, row in bases.items()},
        }
        rows: dict[tuple[str, str], tables.Row] = {}
        try:
            for message in self.ask(request, turn.limit):
                if "row" in message:
                    self.results.add(message["row"])
                    rows[message["row"]["phase"], message["row"]["variant"]] = message["row"]
                elif "note" in message:
                    self.note(message["note"])
                elif "untrained" in message:
                    self.untrained.append(name)
        except Ended as error:
            self.note(f"{name}, {part}: {error}")
        finally:
            if rows:
                self.say(f"{name}: {tables.line(list(rows.values()))}")
            self.write()

    def note(self, text: str) -> None:
        self.results.notes.append(text)
        self.say(text)

    def say(self, text: str) -> None:
        print(f"[{self.clock():4.0f} s] {text}", flush=True)

    def write(self) -> None:
        before = self.results.trouble
        self.results.write()
        if self.results.trouble and self.results.trouble != before:
            self.say(f"{self.results.trouble}; the tables below will have what was measured")


def show(run: Run) -> None:
    results = run.results
    if results.rows:
        machine = results.machine["gpu"] or f"{results.machine['threads']} CPU threads"
        print(f"\n{machine}, torch {results.machine['torch']}, {run.batch} x {run.size} px\n{tables.table(results)}\n")
        print(tables.summary(results))
    if run.untrained:
        print(f"\nlearn nothing, so there is nothing to time: {', '.join(run.untrained)}")
    for part, names in results.left_out.items():
        print(f"left out for want of time, {part}: {', '.join(names)}")
    if (row := results.gpus_row()) is not None:
        print(f"\nfor pipeline/planning/gpus.csv:\n{tables.csv_text(tables.GPUS_COLUMNS, [row])}", end="")


def number(kind: type, least: float, words: str) -> Callable[[str], float]:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:  # NaN and infinity aren't, and an integer may be larger than any float
            raise argparse.ArgumentTypeError(f"{text!r}: expected {words}")
        return value

    return read


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=number(float, 1, "a number of seconds, at least 1"), default=450.0, help="of everything (450)"
    )
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="these networks")
    parser.add_argument("--size", type=number(int, 1, "a number of pixels"), default=256, help="side of the pictures")
    parser.add_argument("--batch", type=number(int, 1, "a number of images"), default=8, help="images per step")
    parser.add_argument("--out", type=Path, help="a folder without results yet")
    parser.add_argument(
        "--compile", nargs="*", metavar="NETWORK", help="networks to compile, in this order; without names none"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this command, not for numbers"
    )
    options = parser.parse_args(arguments)
    for option, names in (("--only", options.only), ("--compile", options.compile)):
        for name in names or []:
            try:
                models.task_of(name)
            except ValueError as error:
                parser.error(f"{option}: {error}")
            if option == "--compile" and options.only and name not in options.only:
                parser.error(f"--compile {name}: --only leaves it out")
    began = time.monotonic()
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.exit(2, "no GPU is seen by torch; --device cpu tries the command without one\n")
    when = datetime.datetime.now().isoformat(timespec="seconds").replace(":", "-")
    out = options.out or Path(".cache/bench") / f"gpu-{when}"
    if (out / "results.json").exists():
        parser.error(f"--out {out}: has the results of another run; give a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "worker.log").touch(exist_ok=False)  # two runs that begin together would replace each other's files
    except FileExistsError as error:
        if not out.is_dir():
            parser.error(f"--out {out}: {error.strerror}")
        parser.error(f"--out {out}: another run has begun in it; give a new folder")
    except OSError as error:
        parser.error(f"--out {out}: {error.strerror}")

    names = list(dict.fromkeys(options.only or models.names()))
    settings = {key: getattr(options, key) for key in ("seconds", "size", "batch", "device")}
    results = Results(out, settings | {"only": names, "compile": options.compile})
    signal.signal(signal.SIGTERM, _ended)
    code = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        worker = Worker(out / "worker.log", Path(scratch))
        run = Run(
            worker.ask,
            results,
            names,
            None if options.compile is None else list(dict.fromkeys(options.compile)),
            options.device,
            options.size,
            options.batch,
            options.seconds,
            scratch,
            lambda: time.monotonic() - began,
        )
        try:
            if options.device == "cpu":
                run.say("CUDA graphs need a GPU and are left out")
            run.machine()
            run.all()
        except Ended as error:
            run.note(f"nothing was measured, torch wasn't ready: {error}")
            code = 1
        except KeyboardInterrupt as error:
            run.note("interrupted; what was measured follows")
            code = 128 + (error.args[0] if error.args else signal.SIGINT)
        finally:
            worker.end()
            run.write()
    show(run)
    for row in tables.records(list(results.rows.values())):
        record(*row)
    if results.trouble:
        print(results.trouble, file=sys.stderr)
        return code or 1
    print(f"\n{out}: {len(results.rows)} rows after {run.clock():.0f} s")
    return code if results.rows or code else 1


def _ended(signum: int, frame: object) -> None:
    raise KeyboardInterrupt(signum)


if __name__ == "__main__":
    sys.exit(main())
