"""Results shared by an S3 bucket: pushed from one folder, pulled into a fresh clone, and nothing computed again there.

    pip install dvc-s3==3.3.0 'moto[server]==5.2.5'
    python -m benchmarks.remote

runs a small project, puts its lock files into git and its data, weights, predictions and tables into a bucket (`dvc push`),
clones the git repository into another folder, fetches what the lock files name (`dvc pull`), and runs the project there.
The clone must have the same bytes, DVC must find it up to date, and no stage may run. Then the clone changes one parameter
of the tables, and only the stages that read it may run.

The bucket is moto's, an S3 server for tests, which listens on loopback and keeps all in memory. Prints the time and size of
each step; exits with 1 when something differs or was computed.
"""

import argparse
import hashlib
import importlib.util
import logging
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.cluster import parameters, surroundings
from tests.test_end_to_end import project

BUCKET = "seambench"
MADE = ("data", "artifacts", "results", "report")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of all that stages have made, by its path within the project."""
    files = (file for name in MADE for file in sorted((folder / name).rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != ".gitignore"
    }


def ran(said: str) -> list[str]:
    """The stages that DVC ran, by what it said."""
    return re.findall(r"Running stage '([^']+)'", said)


class Steps:
    """Commands in a folder, each with a line about its time; the first that fails ends this program."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment

    def __call__(self, folder: Path, *command: str, show: bool = True) -> str:
        began = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        if show:
            last = (done.stdout.strip().splitlines() or [""])[-1]
            words = " ".join(Path(word).name if "/" in word and ":" not in word else word for word in command)
            print(f"{time.monotonic() - began:6.1f} s  {folder.name}: {words}: {last[:80]}", flush=True)
        return done.stdout + done.stderr


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    for module, package in (("moto", "'moto[server]==5.2.5'"), ("dvc_s3", "dvc-s3==3.3.0")):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"benchmarks.remote needs {module}, which the project itself doesn't: pip install {package}")
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        url, keys = f"http://127.0.0.1:{port}", {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
        keys["AWS_DEFAULT_REGION"] = "us-east-1"
        bucket = boto3.resource(
            "s3",
            endpoint_url=url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_DEFAULT_REGION"],
        ).create_bucket(Bucket=BUCKET)
        with tempfile.TemporaryDirectory(prefix="seambench-remote-") as root:
            wrong = share(Path(root), url, Steps(surroundings(**keys)), bucket)
    finally:
        server.stop()
    print(*(wrong or ["the clone has the same bytes, and computed nothing that was there"]), sep="\n")
    sys.exit(bool(wrong))


def share(root: Path, url: str, step: Steps, bucket) -> list[str]:
    """Push from one folder, pull into another; what went wrong, a line each."""
    repro = (sys.executable, "-m", "commands.repro")
    here, there = project(root / "here", parameters(1)), root / "there"
    step(here, *repro)
    expected = contents(here)
    step(here, "dvc", "remote", "add", "--default", "shared", f"s3://{BUCKET}/{here.name}", show=False)
    step(here, "dvc", "remote", "modify", "shared", "endpointurl", url, show=False)
    step(here, "git", "add", "--all", show=False)
    step(here, "git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "run", show=False)
    step(here, "dvc", "push")
    objects = list(bucket.objects.all())
    print(f"          {len(objects)} objects, {sum(one.size for one in objects) / 1e6:.1f} MB in the bucket")
    step(root, "git", "clone", "-q", str(here), str(there))
    wrong = []
    if before := contents(there):
        wrong.append(f"the clone had {len(before)} files before it pulled, {next(iter(before))} among them")
    step(there, "dvc", "pull")
    got = contents(there)
    if got != expected:
        odd = sorted(name for name in expected | got if expected.get(name) != got.get(name))
        wrong.append(f"{len(odd)} of {len(expected)} files differ after the pull: {', '.join(odd[:5])}")
    print(f"          {len(got)} files, {len(expected)} of which were made")
    if "up to date" not in (said := step(there, "dvc", "status")):
        wrong.append(f"dvc status in the clone: {said.strip()[-500:]}")
    if stages := ran(step(there, *repro) + step(there, "dvc", "repro")):
        wrong.append(f"the clone ran {', '.join(stages)}")
    file, yaml = there / "params.yaml", YAML()
    content = yaml.load(file.read_text())
    content["evaluation"]["bootstrap"] += 1
    with open(file, "w") as handle:
        yaml.dump(content, handle)
    stages = ran(step(there, *repro))
    print(f"          after evaluation.bootstrap changed, the clone ran {', '.join(stages)}")
    if not stages or any("train" in name or "infer" in name or "synthesize" in name for name in stages):
        wrong.append(f"after a change that only tables depend on, the clone ran {', '.join(stages) or 'nothing'}")
    return wrong


if __name__ == "__main__":
    main()
