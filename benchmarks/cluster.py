"""A run on a cluster of several machines, one of which dies on the way, against the same run on this machine alone.

    python -m benchmarks.cluster [--nodes 3] [--workers 2] [--jobs 1] [--kill unet]

Linux namespaces make the machines out of one: each node has an address, a host name, a process table, temporary files and
a view of the disk of its own. It sees neither this repository's code nor the project's: of the project folder it sees data,
artifacts, results and .runs, as it would on a shared mount. The head, which has no CPU to give, is where `make repro`'s
command is started; all work goes to the nodes (SEAMBENCH_RAY=always). Each node has one CPU, so the two workers of a
training (DDP) are on two nodes. Once the network --kill has written a checkpoint, the node that has done most of the work
so far loses its power: all its processes and its network end at the same moment.

The run must end by itself, and its tables must have the bytes of those of the same project run on this machine by a Ray
head of its own. The network of namespaces has no way out, so nobody else can reach the cluster. Needs Linux, `unshare`
(util-linux) and `ip` (iproute2), and either root or user namespaces.

Prints what each node did and a verdict; exits with 1 when the tables differ.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.running.cluster import SEEN, SHIPPED
from tests.test_end_to_end import ROOT, environment, project, tiny

INSIDE = "SEAMBENCH_BENCH_NAMESPACE"
HEAD = "10.77.0.1"
PORT = 6379
OBJECT_STORE = 80_000_000
"""Bytes of each node's object store."""
LONGEST = 1500
"""Seconds after which a run that doesn't end counts as one that waits for ever."""
METHODS = ("unet", "composite", "mean_fill")

# a node: its own view of the disk, then its end of the network, which its parent moves here, then Ray
NODE = """
set -e
mount --bind {hosts} /etc/hosts
mount -t tmpfs tmpfs /mnt
mkdir /mnt/own && mount --bind {own} /mnt/own
for shared in {seen}; do mkdir /mnt/$shared && mount --bind {project}/$shared /mnt/$shared; done
for hidden in {hidden} {root}; do mount -t tmpfs tmpfs $hidden; done
mkdir -p {ray} && mount --bind /mnt/own {ray}
for shared in {seen}; do mkdir -p {project}/$shared && mount --bind /mnt/$shared {project}/$shared; done
hostname {name}
ip link set lo up
for attempt in $(seq 100); do ip link show e{number} > /dev/null 2>&1 && break; sleep 0.1; done
ip addr add {address}/24 dev e{number}
ip link set e{number} up
cd /
# Ray gives a node 30 seconds to start, which is little where several share two cores
for attempt in 1 2 3; do
  ray start --address={head}:{port} --node-ip-address={address} --num-cpus=1 --object-store-memory={store} \
    --disable-usage-stats --block || true
done
"""


def parameters(workers: int) -> dict:
    """Those of the end-to-end test, with fewer data, a method of each task, and a training that takes long enough to be
    interrupted."""
    content = tiny()
    content["training"]["workers"] = workers
    content["composites"]["subsets"] = {"HCOCO": content["composites"]["subsets"]["HCOCO"]}
    content["models"] = {name: content["models"][name] for name in METHODS}
    content["models"]["unet"]["training"]["epochs"] = 6
    content["inference"]["resolutions"] = []
    return content


def tables(folder: Path) -> dict[str, str]:
    """SHA-256 of every result table, by its path within the project."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "results").rglob("*.parquet"))
    }


def surroundings(**more: str) -> dict[str, str]:
    """What programs here have in their environment: nothing that this process' own Ray would be started with."""
    return {name: value for name, value in environment().items() if not name.startswith("RAY_")} | more


class Clock:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {line}", flush=True)


class Node:
    """One machine made of namespaces, with a Ray node of one CPU."""

    def __init__(self, number: int, root: Path, folder: Path, token: dict[str, str]):
        self.name, self.address = f"node{number}", f"10.77.0.{10 + number}"
        self.worked: collections.Counter[str] = collections.Counter()
        self.seen: set[tuple[int, str]] = set()
        own = root / self.name
        own.mkdir()
        script = NODE.format(
            number=number, name=self.name, address=self.address, head=HEAD, port=PORT, store=OBJECT_STORE,
            hidden=" ".join(str(ROOT / package) for package in (*SHIPPED, "tests", "benchmarks")),
            seen=" ".join(SEEN), project=folder, own=own, root=root, ray=root / "ray", hosts=root / "hosts",
        )  # fmt: skip
        self.log = root / f"{self.name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
                env=surroundings(**token), cwd="/", stdout=log, stderr=log,
            )  # fmt: skip
        here = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == here:  # until `unshare` has done so
            time.sleep(0.05)
        ip(f"link add v{number} type veth peer name e{number}")
        ip(f"link set e{number} netns {self.process.pid}")
        ip(f"link set v{number} master bridge0 up")

    def look(self) -> None:
        """Note what Ray's workers on this node call themselves: the work that they do."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    if (
                        title.startswith("ray::")
                        and not any(idle in title for idle in ("IDLE", "Agent"))
                        and (process.pid, title) not in self.seen
                    ):
                        self.seen.add((process.pid, title))
                        self.worked[title.removeprefix("ray::").split("(")[0].split(".")[0]] += 1

    def power_off(self) -> None:
        # the first process of the node's own table takes all others with it, and its network
        self.process.kill()
        self.process.wait()


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@contextlib.contextmanager
def cluster(count: int, root: Path, folder: Path, token: dict[str, str]) -> Iterator[list[Node]]:
    (root / "ray").mkdir()
    names = "".join(f"10.77.0.{10 + number} node{number}\n" for number in range(1, count + 1))
    (root / "hosts").write_text(f"127.0.0.1 localhost\n{HEAD} head\n{names}")
    subprocess.run(["mount", "--bind", root / "hosts", "/etc/hosts"], check=True)
    subprocess.run(["hostname", "head"], check=True)
    ip("link set lo up")
    ip("link add bridge0 type bridge")
    ip(f"addr add {HEAD}/24 dev bridge0")
    ip("link set bridge0 up")
    nodes: list[Node] = []
    with open(root / "head.log", "w") as log:
        head = subprocess.Popen(
            [
                "ray", "start", "--head", f"--port={PORT}", f"--node-ip-address={HEAD}", "--num-cpus=0", "--block",
                f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats", "--include-dashboard=false",
                f"--temp-dir={root / 'ray'}",
            ],
            env=surroundings(**token), cwd="/", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(head, "the head", root / "head.log")
        for number in range(1, count + 1):
            nodes.append(node := Node(number, root, folder, token))
            wait_for(node.process, node.name, node.log)
        yield nodes
    finally:
        for node in nodes:
            node.power_off()
        head.kill()
        head.wait()


def wait_for(process: subprocess.Popen, what: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{what} didn't start: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def run(folder: Path, jobs: int, log: Path, **more: str) -> subprocess.Popen:
    with open(log, "a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "commands.repro", "--jobs", str(jobs)],
            cwd=folder, env=surroundings(**more), stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=3, help="machines with a CPU each, the dying one among them")
    parser.add_argument("--workers", type=int, default=2, help="workers of each training, every one on another node")
    parser.add_argument("--jobs", type=int, default=1, help="stages at once")
    parser.add_argument(
        "--kill", default="unet", metavar="NETWORK", help="a node dies while it trains; none: no node does"
    )
    given = parser.parse_args()
    if INSIDE not in os.environ:
        inside = [
            "unshare",
            "--map-root-user",
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        command = [*inside, sys.executable, "-m", "benchmarks.cluster", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | {INSIDE: "1"}).returncode)
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        sys.exit(compare(given, Path(name), clock))


def compare(given: argparse.Namespace, root: Path, clock: Clock) -> int:
    alone, spread = (
        project(root / "alone", parameters(given.workers)),
        project(root / "spread", parameters(given.workers)),
    )
    for shared in SEEN:
        (spread / shared).mkdir(exist_ok=True)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ip("link set lo up")
    cpus = str(max(2, given.workers))
    clock.say(f"two copies of a project: {', '.join(METHODS)}")
    if code := run(alone, given.jobs, root / "alone.log", SEAMBENCH_CPUS=cpus).wait(LONGEST):
        return failed("the run on this machine alone", code, root / "alone.log")
    expected = tables(alone)
    clock.say(f"this machine alone: {len(expected)} tables")
    with cluster(given.nodes, root, spread, token) as nodes:
        clock.say(f"head at {HEAD} without a CPU, {given.nodes} nodes of one CPU each without the project's code")
        # the other project's files are on no mount that the nodes have
        asked = subprocess.run(
            [sys.executable, "-m", "stages.train", "unet", "--data", "data/composites/HCOCO"],
            cwd=alone, env=surroundings(RAY_ADDRESS=f"{HEAD}:{PORT}", **token), capture_output=True, text=True,
        )  # fmt: skip
        refusal = asked.stderr.strip()
        clock.say(f"a project that the nodes don't see is refused with: {refusal[-300:]}")
        if asked.returncode != 1 or "doesn't see" not in refusal or "\n" in refusal:
            return 1
        process = run(
            spread, given.jobs, root / "spread.log", RAY_ADDRESS=f"{HEAD}:{PORT}", SEAMBENCH_RAY="always", **token
        )
        killed = None
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < deadline:
            for node in nodes:
                node.look()
            if not killed and any((spread / ".runs").glob(f"{given.kill}-*/checkpoint.pt")):
                killed = max(
                    (node for node in nodes if training(node)), key=lambda node: sum(node.worked.values()), default=None
                )
                if killed:
                    killed.power_off()
                    clock.say(f"{killed.name} lost its power while {given.kill} trained on it")
            time.sleep(0.1)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        clock.say(f"the run on the cluster ended with {process.wait()}")
        for node in nodes:
            did = ", ".join(f"{title} {count}" for title, count in node.worked.most_common())
            clock.say(f"{node.name}{' (killed)' if node is killed else ''} ran: {did or 'nothing'}")
        if process.returncode:
            return failed("the run on the cluster", process.returncode, root / "spread.log")
    for log in sorted((spread / "artifacts/models").glob("*/training.log")):
        for line in log.read_text().splitlines():
            if "going on from" in line:
                clock.say(f"training.log: {line}")
    if given.kill != "none" and not killed:
        print(f"no node died: {given.kill} never trained on one with a checkpoint there")
        return 1
    got = tables(spread)
    odd = sorted(name for name in expected | got if expected.get(name) != got.get(name))
    print(
        f"{len(got)} tables, {len(odd)} of which differ from those of the run on this machine alone", *odd, sep="\n  "
    )
    return bool(odd)


def training(node: Node) -> bool:
    """Whether a worker of Ray Train is on this node now."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(node.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith("ray::") and "Train" in process.cmdline()[0]:
                    return True
    return False


def failed(what: str, code: int, log: Path) -> int:
    kept = Path(tempfile.mkdtemp(prefix="seambench-cluster-"))
    for file in log.parent.glob("*.log"):
        shutil.copy(file, kept)
    for name in ("alone", "spread"):
        if (logs := log.parent / name / ".runs/logs").is_dir():
            shutil.copytree(logs, kept / name)
    print(f"{what} ended with {code}; logs in {kept}\n{log.read_text(errors='replace')[-3000:]}")
    return 1


if __name__ == "__main__":
    main()
