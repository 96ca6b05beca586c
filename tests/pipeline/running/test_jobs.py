"""The driver that runs stages side by side, on a small DVC project of shell commands; the states that it must leave are those of
`dvc repro`, run on a copy."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params
from pipeline.errors import UserError
from pipeline.running import jobs, supervisor
from pipeline.running.jobs import Machine, Share, Stage

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def parameters() -> params.Params:
    return params.load(ROOT / "presets" / "embedded.yaml")


def stage(name: str, command: str = "true", *upstream: str, stale: bool = True) -> Stage:
    return Stage(name, command, frozenset(upstream), stale)


# -- what is run


def test_what_reads_a_stale_output_at_second_hand_is_chosen_and_nothing_else():
    graph = [
        stage("a", stale=False),
        stage("b", "true", "a"),
        stage("c", "true", "a", stale=False),
        stage("d", "true", "b", stale=False),
        stage("e", "true", "d", "c", stale=False),
    ]
    assert [stage.name for stage in jobs.to_run(graph)] == ["b", "d", "e"]


@pytest.mark.parametrize(
    "command, training, gpus, share",
    [
        ("python -m stages.train unet x", {"threads": 3}, 0, Share(3)),
        ("python -m stages.train unet x", {"threads": 3, "workers": 4}, 0, Share(4)),
        ("python -m stages.train unet x", {"device": "auto", "workers": 2}, 1, Share(2)),
        ("python -m stages.train unet x", {"device": "auto", "workers": 2}, 2, Share(2, 2, 0.5)),
        ("python -m stages.infer unet --weights w", {"device": "gpu"}, 1, Share(1, 1, 0.5)),
        ("python -m stages.infer composite", {"device": "gpu"}, 1, Share(1)),
        ("python -m stages.evaluate inpainting", {"device": "gpu"}, 1, Share(1)),
    ],
)
def test_each_kind_of_stage_asks_for_what_it_uses(parameters, monkeypatch, command, training, gpus, share):
    monkeypatch.setenv("SEAMBENCH_GPU_SHARE", "0.5")
    asked = parameters.model_copy(update={"training": parameters.training.model_copy(update=training)})
    assert jobs.demand(stage("x", command), asked, gpus) == share


def test_shares_fit_the_machine():
    machine = Machine(4, 0)
    first = machine.take(Share(2), spreads=False, others=1)
    assert first.environment() == {"SEAMBENCH_CPUS": "2", "OMP_NUM_THREADS": "2"}
    # what spreads leaves as much to the one that may be started beside it
    second = machine.take(Share(1), spreads=True, others=1)
    assert (second.cpus, machine.free_cpus) == (1, 1)
    assert machine.take(Share(2), spreads=False, others=0) is None
    machine.give_back(first)
    assert machine.take(Share(1), spreads=True, others=0).cpus == 3
    # more than there is: all of it
    assert Machine(2, 0).take(Share(8), spreads=False, others=0).cpus == 2


def test_two_networks_share_a_gpu_before_a_second_is_begun():
    machine = Machine(8, 2)
    half = Share(1, 1, 0.5)
    assert [machine.take(half, False, 0).devices for _ in range(3)] == [[0], [0], [1]]
    assert machine.take(Share(1, 1, 1.0), False, 0) is None  # half a GPU is left
    assert machine.take(half, False, 0).environment()["SEAMBENCH_GPU_WORKERS"] == "1"


def test_gpus_that_are_not_there_are_refused_before_anything_runs(parameters):
    asked = parameters.model_copy(
        update={"training": parameters.training.model_copy(update={"device": "gpu", "workers": 2})}
    )
    with pytest.raises(UserError, match="train: training.workers = 2 on GPUs, of which 1 are here"):
        jobs.Run([stage("train", "python -m stages.train unet")], Machine(4, 1), asked, 2, False, {})


def test_the_reason_of_a_failure_is_the_line_in_which_the_stage_says_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = stage("models/dvc.yaml:train@unet", "python -m stages.train unet")
    failed.log.parent.mkdir(parents=True)
    failed.log.write_text("Running stage 'x':\ntrain: no such file: a.png\nERROR: failed to reproduce 'x'\n")
    assert failed.log.name == "train@unet.log" and jobs.reason(failed) == "train: no such file: a.png"
    failed.log.write_text("Traceback\n  File x\nValueError: 3\nERROR: failed to reproduce 'x'\n")
    assert jobs.reason(failed) == "ValueError: 3"


# -- whole runs


def write(folder: Path, **commands: str) -> None:
    """Stages of which `right`, `left` and the one of a second file may run side by side."""
    after = {
        "first": [],
        "right": ["first"],
        "left": ["first"],
        "models/other": ["first"],
        "last": ["left", "right", "models/other"],
    }
    files: dict[str, dict] = {"dvc.yaml": {}, "models/dvc.yaml": {}}
    for name, upstream in after.items():
        file, up = ("models/dvc.yaml", "../") if "/" in name else ("dvc.yaml", "")
        name = name.rpartition("/")[2]
        command = f"cat {up}in.txt {' '.join(f'{up}{stage}.txt' for stage in upstream)} > {name}.txt"
        files[file][name] = {
            "cmd": commands.get(name, command),
            "deps": [f"{up}in.txt", *(f"{up}{stage}.txt" for stage in upstream)],
            "outs": [f"{name}.txt"],
        }
    (folder / "models").mkdir(exist_ok=True)
    for file, stages in files.items():
        with open(folder / file, "w") as handle:
            YAML().dump({"stages": stages}, handle)


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["dvc", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    folder = tmp_path / "project"
    folder.mkdir()
    dvc(folder, "init", "-q", "--no-scm")
    (folder / "in.txt").write_text("a\n")
    write(folder)
    monkeypatch.chdir(folder)
    return folder


def side_by_side(parameters: params.Params, keep_going: bool = False) -> int:
    stages, recorded = jobs.read_graph()
    try:
        with supervisor.Signals() as signals:
            return jobs.run(jobs.to_run(stages), parameters, 2, keep_going, dict(os.environ), signals)
    finally:
        jobs.order_locks(stages, recorded)


def state(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.txt"), *folder.glob("models/*.txt"), *folder.rglob("dvc.lock")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files)}


@pytest.mark.slow
def test_the_end_state_is_that_of_dvc_repro(project, parameters, tmp_path):
    # each of the two waits for the other: one after the other they would never end
    meet = "touch {0}.here; for i in $(seq 200); do test -e {1}.here && cp in.txt {0}.txt && exit; sleep 0.05; done; exit 1"
    write(project, left=meet.format("left", "right"), right=meet.format("right", "left"))
    assert side_by_side(parameters) == 0
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."
    for marker in project.glob("*.here"):
        marker.unlink()
    twin = tmp_path / "twin"
    shutil.copytree(project, twin)
    for file in [*twin.glob("*.txt"), *twin.rglob("dvc.lock")]:
        if file.name != "in.txt":
            file.unlink()
    shutil.rmtree(twin / ".dvc/cache")
    for marker in ("left", "right"):
        (twin / f"{marker}.here").touch()
    dvc(twin, "repro")
    assert state(project) == state(twin)
    # an edit, upon which entries are written anew
    for folder in (project, twin):
        (folder / "in.txt").write_text("b\n")
    assert side_by_side(parameters) == 0
    dvc(twin, "repro")
    assert state(project) == state(twin)
    assert not jobs.to_run(jobs.read_graph()[0])


@pytest.mark.slow
@pytest.mark.parametrize("keep_going", [False, True])
def test_a_failure_is_told_at_the_end_and_what_does_not_depend_on_it_goes_on(project, parameters, capfd, keep_going):
    write(project, left="echo ValueError: no luck; false")
    assert side_by_side(parameters, keep_going) == 1
    said = capfd.readouterr().err.splitlines()
    hint = "" if keep_going else "; KEEP_GOING=1 goes on with what doesn't depend on a failure"
    assert "left failed: ValueError: no luck (all of it: .runs/logs/left.log)" in said
    if keep_going:
        assert (
            said[-1] == "not run: last" and (project / "right.txt").exists() and (project / "models/other.txt").exists()
        )
    else:
        assert said[-1].startswith("not run: last") and said[-1].endswith(hint)
    assert not (project / "last.txt").exists()
    # mended, it takes up from there
    write(project)
    assert side_by_side(parameters) == 0
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."


DRIVER = """
import sys
from pathlib import Path
from tests.pipeline.running.test_jobs import ROOT, side_by_side
from pipeline import params
sys.exit(side_by_side(params.load(ROOT / "presets" / "embedded.yaml")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_ended_leaves_nothing_that_needs_a_hand(project, parameters, number):
    write(project, left="touch begun; sleep 60; cp in.txt left.txt")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (project / "begun").exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(number)
    assert driver.wait(timeout=30) == (-9 if number == signal.SIGKILL else 128 + number)
    jobs.end_leftovers()
    supervisor.mend_dvc_locks(project)
    write(project)
    assert side_by_side(parameters) == 0
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."
