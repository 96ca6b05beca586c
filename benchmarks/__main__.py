"""Run the benchmarks of minutes, keep their numbers, and compare them with those of an earlier run.

    python -m benchmarks [--only metrics color_transfer] [--against .cache/bench/2026-11-28T12-00-00.parquet] [--worse 1.3]
    python -m benchmarks --take FOLDER/results.json [--against ...] [--worse 1.3]

Each prints its table; what it recorded goes into .cache/bench/<time>.parquet with the machine's description. The comparison, with the
latest earlier file of the same machine unless --against names one, lists every number, and the exit code is 1 when one is
--worse times as bad as it was. Times between different machines say nothing, ratios to a peer do.

--take runs nothing: it keeps what benchmarks.gpu measured, perhaps on a machine that has torch alone, in the same form.

Peers that the project doesn't need itself are installed into .cache/bench/peers, outside the environment; where that fails,
for want of a network, one line says so and their rows are left out. The other files of this folder take longer, need a
GPU or data of one's own: each says so itself.
"""

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.gpu_parts.results import taken_up
from benchmarks.record import KEPT_IN
from pipeline import tables
from pipeline.report import provenance

SUITE = {
    "color_transfer": [],
    "metrics": [],
    "irregular_masks": [],
    "networks": ["--only", "rsrnet", "dirl", "region_contrastive", "rfr", "--size", "128", "--rounds", "2"],
}
"""Benchmarks of minutes, with arguments that keep them so."""

PEERS = {"color_matcher": ["color-matcher==0.6.0"]}
"""Module -> what is installed for it, without dependencies: what it imports beside is here already."""

OUT = Path(".cache/bench")
COLUMNS = ["benchmark", "row", "quantity", "value", "better"]


def install_peers(folder: Path) -> None:
    """Install what is missing of PEERS, and say of each that can't be had."""
    sys.path.append(str(folder))
    for module, packages in PEERS.items():
        importlib.invalidate_caches()
        if importlib.util.find_spec(module):
            continue
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        done = subprocess.run([*command, "--target", str(folder), *packages], capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            print(f"{packages[0]} can't be installed ({why}): its rows are left out", file=sys.stderr)


def run(name: str, arguments: list[str], environment: dict[str, str]) -> bool:
    print(f"\n{name}", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], env=environment).returncode
    print(f"({name}: {time.monotonic() - start:.0f} s)", flush=True)
    return code == 0


def described(lines: list[str], when: str) -> pd.DataFrame:
    """The records as a table, with this machine beside each."""
    facts = provenance.machine() | {"when": when, "load": f"{os.getloadavg()[0]:.1f}"}
    return with_facts([json.loads(line) for line in lines], facts)


def with_facts(records: list, facts: dict[str, str]) -> pd.DataFrame:
    """The records as a table, with the facts about their machine beside each."""
    return pd.DataFrame(records, columns=COLUMNS).assign(**{key.lower(): value for key, value in facts.items()})


def earlier(folder: Path, now: pd.DataFrame) -> Path | None:
    """The latest file of the same processor, number of cores and GPU that has a number of `now`."""
    machine = ["processor", "cores", "gpu"]
    for file in sorted(folder.glob("*.parquet"), reverse=True):
        before = pd.read_parquet(file)
        if len(compared(now, before)) and (before[machine].iloc[0] == now[machine].iloc[0]).all():
            return file
    return None


def compared(now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """benchmark, row, quantity, before, now, worse: how many times as bad as before; below 1 is better."""
    key = ["benchmark", "row", "quantity"]
    both = now[[*key, "value", "better"]].merge(before[[*key, "value"]], on=key, suffixes=("", "_before"))
    worse = (both["value"] / both["value_before"]).where(
        both["better"] == "lower", both["value_before"] / both["value"]
    )
    return both[key].assign(before=both["value_before"], now=both["value"], worse=worse)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SUITE, default=list(SUITE))
    parser.add_argument("--against", type=Path, help="an earlier file")
    parser.add_argument("--worse", type=float, default=1.3, help="how many times as bad as before is a failure (1.3)")
    parser.add_argument("--take", type=Path, help="results.json of benchmarks.gpu, to be kept; nothing is run")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.take:
        try:
            records, facts = taken_up(arguments.take)
        except ValueError as error:
            parser.error(f"--take {error}")
        return keep(with_facts(records, facts), facts["when"], arguments, [])
    peers = (OUT / "peers").absolute()
    install_peers(peers)
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        records.touch()
        search_path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(peers)]))
        environment = os.environ | {KEPT_IN: str(records), "PYTHONPATH": search_path}
        failed = [name for name in arguments.only if not run(name, SUITE[name], environment)]
        when = datetime.datetime.now().isoformat(timespec="seconds").replace(":", "-")
        now = described(records.read_text().splitlines(), when)
    return keep(now, when, arguments, failed)


def keep(now: pd.DataFrame, when: str, arguments: argparse.Namespace, failed: list[str]) -> int:
    """Write the table, print it beside an earlier one, and return the exit code."""
    before = arguments.against or earlier(OUT, now)
    file = OUT / f"{when}.parquet"
    tables.write(file, now)
    load, cores = now[["load", "cores"]].iloc[0] if len(now) else ("?", "?")
    print(f"\n{file}: {len(now)} numbers, load {load} on {cores} cores")
    bad = 0
    if before:
        table = compared(now, pd.read_parquet(before))
        bad = int((table["worse"] > arguments.worse).sum())
        print(f"against {before}\n{table.to_string(index=False, float_format='{:.3g}'.format)}")
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed or bad else 0


if __name__ == "__main__":
    sys.exit(main())
