import csv
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as suite
from benchmarks import gpu, subject
from benchmarks.gpu_parts import loader, measures, results, schedule, worker
from benchmarks.gpu_parts.schedule import Turn
from models.base import Model
from pipeline.networks import loop

ROOT = Path(__file__).resolve().parents[2]


# ---- the budget


def test_parts_share_the_seconds_in_their_order():
    # shares 0.55, 0.15, 0.1 and 0.2 of 400 s
    ends = schedule.ends(400, schedule.PARTS)
    assert [ends[part] for part in schedule.PARTS] == pytest.approx([220, 280, 320, 400])
    # without graphs and compiling what is left is divided as 0.55 to 0.1
    assert schedule.ends(130, ["plain", "loader"]) == pytest.approx({"plain": 110, "loader": 130})


@pytest.mark.parametrize(
    "part, now, turns, expected",
    [
        ("plain", 20, 40, Turn(5, 40)),  # 200 s for 40 networks; ended after its patience of 40 s
        ("plain", 20, 4, Turn(12, 48)),  # 50 s each would be more than it can use; 4 times what it aims at
        ("plain", 390, 10, Turn(0, 10)),  # late: every network has its turn still, until 400 s
        ("plain", 400, 1, None),
        ("graphs", 220, 30, Turn(2, 30)),
        ("graphs", 270, 30, Turn(1, 30)),  # at least one second
        ("graphs", 279.5, 30, None),  # less than one second until its end at 280
        ("loader", 300, 2, Turn(4, 30)),
        ("compile", 320, 30, Turn(3, 80)),  # compiling isn't divided: one after the other, with all that is left
        ("compile", 200, 30, Turn(3, 120)),
        ("compile", 386, 30, None),  # fewer than 15 s left
    ],
)
def test_a_turn_gets_its_share_of_what_is_left(part, now, turns, expected):
    got = schedule.turn(part, now, schedule.ends(400, schedule.PARTS)[part], 400, turns)
    if expected is None:
        assert got is None
    else:
        assert (got.aim, got.limit) == pytest.approx((expected.aim, expected.limit))


def test_those_that_reach_least_come_first_and_the_unknown_last():
    assert schedule.likeliest(["a", "b", "c"], {"b": 5.0, "c": 2.0}) == ["c", "b", "a"]


# ---- a run, whose measuring is played


def row(network: str, variant: str, rate: float, phase: str = "train", **more) -> dict:
    task = "localization" if network == "unet" else "harmonization"
    about = {"network": network, "phase": phase, "task": task, "variant": variant, "batch": 8, "size": 256}
    return about | {"train_images_per_s": rate, "predict_images_per_s": 4 * rate} | more


class Played:
    """Answers requests after `seconds` each, by a clock of its own."""

    def __init__(self, seconds: float, answers=None):
        self.now, self.seconds, self.asked, self.answers = 0.0, seconds, [], answers or {}

    def __call__(self, request: dict, limit: float):
        self.now += self.seconds
        if request["part"] == "machine":
            yield {"machine": {"gpu": None, "torch": "9", "threads": 2}}
            return
        self.asked.append((request["part"], request["network"]))
        answer = self.answers.get((request["part"], request["network"]))
        if isinstance(answer, BaseException):
            raise answer
        if request["part"] == "plain":
            yield from answer or [{"row": row(request["network"], "fp32", 10.0, train_gflop_per_image=1.0)}]


def run_of(played: Played, folder: Path, names: list[str], seconds: float, compiled=None) -> gpu.Run:
    options = {"batch": 8, "size": 256}
    kept = results.Results(folder, options)
    return gpu.Run(played, kept, names, compiled, "cuda", 256, 8, seconds, "", lambda: played.now)


def test_every_network_has_its_first_turn_before_any_has_a_second(tmp_path):
    slow = {("plain", "dih"): [{"row": row("dih", "fp32", 10.0, train_gflop_per_image=0.1)}]}
    played = Played(10.0, slow)
    run = run_of(played, tmp_path, ["unet", "dih", "pct"], 100)
    run.machine()
    run.all()
    assert played.asked[:3] == [("plain", "unet"), ("plain", "dih"), ("plain", "pct")]
    # dih reaches the least arithmetic; graphs are over after 70 of 100 s, the loader after 80, and 10 s are too few to compile
    assert played.asked[3:] == [
        ("graphs", "dih"), ("graphs", "unet"), ("graphs", "pct"), ("loader", "unet"), ("compile", "dih"),
    ]  # fmt: skip
    assert run.results.left_out == {"loader": ["pct", "dih"], "compile": ["unet", "pct"]} or run.results.left_out == {
        "loader": ["dih", "pct"],
        "compile": ["unet", "pct"],
    }


def test_the_networks_to_compile_are_compiled_in_the_order_given(tmp_path):
    played = Played(1.0)
    run = run_of(played, tmp_path, ["unet", "dih", "pct"], 1000, ["pct", "unet"])
    run.all()
    assert [name for part, name in played.asked if part == "compile"] == ["pct", "unet"]
    assert "compile" not in run_of(played, tmp_path, ["unet"], 1000, []).parts


def test_results_are_on_the_disk_after_each_network_and_a_failure_is_a_line(tmp_path, capsys):
    seen = []

    class Looking(Played):
        def __call__(self, request, limit):
            if request["part"] == "plain":
                file = tmp_path / "results.json"
                seen.append([r["network"] for r in json.loads(file.read_text())["rows"]] if file.exists() else None)
            yield from super().__call__(request, limit)

    answers = {("plain", "dih"): worker.Ended("ended after 40 s"), ("plain", "xue"): [{"note": "xue: needs cv2"}]}
    answers["plain", "mean_fill"] = [{"untrained": True}]
    run = run_of(Looking(1.0, answers), tmp_path, ["unet", "dih", "xue", "mean_fill", "pct"], 100, [])
    run.machine()
    run.all()
    assert seen == [None, ["unet"], ["unet"], ["unet"], ["unet"]]
    assert run.results.notes == ["dih, plain: ended after 40 s", "xue: needs cv2"]
    content = json.loads((tmp_path / "results.json").read_text())
    assert [r["network"] for r in content["rows"]] == ["unet", "pct"] and content["notes"] == run.results.notes
    gpu.show(run)
    said = capsys.readouterr().out
    assert "learn nothing, so there is nothing to time: mean_fill" in said and "xue: needs cv2" in said


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "file").touch()  # no folder: nothing can be written below it
    run = run_of(Played(1.0), tmp_path / "file/results", ["unet", "pct"], 100, [])
    run.all()
    assert capsys.readouterr().out.count("can't be written: Not a directory") == 1 and len(run.results.rows) == 2


# ---- the command


def test_wrong_words_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "results.json").touch()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/worker.log").touch()
    for arguments, words in [
        (["--only", "rainet"], "--only: no model 'rainet'; did you mean 'rainnet'?"),
        (["--only", "unet", "--compile", "dih"], "--compile dih: --only leaves it out"),
        (["--seconds", "0"], "expected a number of seconds, at least 1"),
        (["--seconds", "nan"], "expected a number of seconds"),
        (["--batch", "x"], "expected a number of images"),
        (["--size", "1" + 400 * "0", "--only", "none"], "--only: no model 'none'"),
        (["--device", "cpu", "--out", str(tmp_path)], "has the results of another run"),
        (["--device", "cpu", "--out", str(tmp_path / "begun")], "another run has begun in it"),
        (["--device", "cpu", "--out", str(tmp_path / "results.json")], "results.json: File exists"),
        (["--device", "cpu", "--out", "/proc/nothing"], "--out /proc/nothing: "),
        ([], "no GPU is seen by torch; --device cpu"),
    ]:
        with pytest.raises(SystemExit) as ended:
            gpu.main(arguments)
        assert ended.value.code == 2 and words in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_an_interrupted_run_has_measured_is_kept_and_shown(tmp_path, capsys, monkeypatch):
    played = Played(0.0, {("plain", "pct"): KeyboardInterrupt()})
    monkeypatch.setattr(worker.Worker, "ask", lambda self, request, seconds: played(request, seconds))
    out = tmp_path / "out"
    assert gpu.main(["--device", "cpu", "--only", "unet", "pct", "--out", str(out)]) == 130
    assert "unet:train" in capsys.readouterr().out
    content = json.loads((out / "results.json").read_text())
    assert [r["network"] for r in content["rows"]] == ["unet"] and content["notes"] == [
        "interrupted; what was measured follows"
    ]


REFUSED = ["pydantic", "pandas", "pyarrow", "ray", "cv2", "dvc", "scipy", "skimage", "ruamel", "psutil"]


@pytest.mark.slow
def test_it_runs_where_there_is_torch_and_little_else(tmp_path):
    # in every process: these packages are as if they were not installed, and a process that has one of them all the same ends badly
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import atexit, os, sys
            from importlib.machinery import PathFinder
            find = PathFinder.find_spec
            def found(name, path=None, target=None):
                return None if name.split(".")[0] in {REFUSED} else find(name, path, target)
            PathFinder.find_spec = found
            loaded = lambda: sorted({{name.split(".")[0] for name in sys.modules}} & set({REFUSED}))
            atexit.register(lambda: loaded() and os._exit(99))
        """)
    )
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--size", "32", "--batch", "2", "--compile"]
    names = ["--only", "pct", "regional_references", "xue", "mfcn", "mean_fill"]
    done = subprocess.run(
        [*command, *names, "--seconds", "300", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert sorted(content["notes"]) == ["mfcn: needs scipy", "xue: needs cv2"]
    assert "CUDA graphs need a GPU and are left out" in done.stdout
    assert "learn nothing, so there is nothing to time: mean_fill" in done.stdout
    for name in ("pct", "regional_references"):
        rows = {r["variant"]: r for r in content["rows"] if r["network"] == name}
        assert set(results.PLAIN) <= set(rows) and len(rows) == 4
        assert all(r["train_images_per_s"] > 0 for r in rows.values())
        assert 0 < rows["bf16"]["difference_from_fp32"] < 0.1 and rows["fp32"]["train_gflop_per_image"] > 0
        (fed,) = [r for variant, r in rows.items() if variant.endswith(results.LOADER)]
        assert 0 <= fed["waiting_share"] <= 1 and "(no " in fed["loader"]
    table = list(csv.DictReader((tmp_path / "out/results.csv").open(newline="")))
    assert len(table) == 8 and not (tmp_path / "out/gpus.csv").exists()


# ---- the process that measures


@pytest.fixture
def played_worker(tmp_path, monkeypatch):
    """A worker whose process sleeps, crashes or answers, as the request's part says."""
    script = tmp_path / "played.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if request['part'] == 'sleep': time.sleep(60)\n"
        "    if request['part'] == 'crash': sys.exit('no luck')\n"
        "    if request['part'] == 'half': print('{\"row\": {', end='', flush=True); os.kill(os.getpid(), 9)\n"
        "    print(json.dumps({'row': request | {'by': os.getpid()}}), flush=True)\n"
        "    print(json.dumps({'done': request['part']}), flush=True)\n"
    )
    monkeypatch.setattr(worker, "COMMAND", [sys.executable, str(script)])
    made = worker.Worker(tmp_path / "worker.log", tmp_path)
    yield made
    made.end()


def test_after_a_process_that_was_ended_the_next_turn_has_a_new_one(played_worker):
    (first,), (second,) = (list(played_worker.ask({"part": "well"}, 30)) for _ in range(2))
    assert first["row"]["by"] == second["row"]["by"]
    with pytest.raises(worker.Ended, match="ended after 1 s"):
        list(played_worker.ask({"part": "sleep"}, 1))
    (third,) = played_worker.ask({"part": "well"}, 30)
    assert third["row"]["part"] == "well" and third["row"]["by"] != first["row"]["by"]
    with pytest.raises(worker.Ended, match=re.escape("its process was ended with 1 (no luck)")):
        list(played_worker.ask({"part": "crash"}, 30))
    with pytest.raises(worker.Ended, match="killed by SIGKILL"):  # in the midst of a message
        list(played_worker.ask({"part": "half"}, 30))
    (fourth,) = played_worker.ask({"part": "unfit for more"}, 30)
    (fifth,) = played_worker.ask({"part": "well"}, 30)
    assert fourth["row"]["by"] != fifth["row"]["by"]


# ---- measuring


def test_compiling_is_asked_for_as_a_training_does():
    assert subject.COMPILED == loop.COMPILED


def request(part: str = "plain", **more) -> dict:
    given = {"network": "pct", "part": part, "device": "cpu", "size": 16, "batch": 1, "seconds": 0.1}
    return given | {"bases": {"train": "fp32"}, "eager": {"train": 1.0}} | more


class Tiny(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(self, fails: str = ""):
        super().__init__()
        self.fails, self.layer = fails, torch.nn.Conv2d(3, 3, 1)

    def forward(self, batch):
        return self.layer(batch["composite"]).sigmoid()

    def loss(self, player, batch):
        half = torch.is_autocast_enabled("cpu")
        if self.fails == "memory" and half:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        if self.fails == "size":
            raise ValueError("height 16 is not divisible by 256\npad to 256")
        loss = (self(batch) - batch["real"]).abs().mean()
        return loss, {"l1": loss.detach()}


def test_what_a_network_lacks_is_one_note_and_the_rest_is_measured(monkeypatch):
    said = []
    monkeypatch.setattr(measures, "build", lambda name: Tiny("memory"))
    assert measures.measure(request(), lambda message: said.append(json.loads(json.dumps(message))))
    assert [m["row"]["variant"] for m in said if "row" in m] == ["fp32", "fp32"]  # after training, and with predictions
    assert [m["note"] for m in said if "note" in m] == [
        "pct:train, bf16: out of memory",
        "pct:train, bf16, channels_last: out of memory",
    ]
    said.clear()
    monkeypatch.setattr(measures, "build", lambda name: Tiny("size"))
    measures.measure(request(), said.append)
    assert said == [{"note": "pct, plain: height 16 is not divisible by 256"}]


def test_a_step_of_a_subject_is_a_step_of_adam():
    torch.manual_seed(0)
    model = Tiny()
    before = model.layer.weight.detach().clone()
    timed = subject.Subject(model)
    (loss,) = timed.step(subject.pictures(1, 16, "cpu"))
    assert not loss.requires_grad
    # Adam's first step moves each weight by its learning rate
    moved = (model.layer.weight - before).abs().detach()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-4), rtol=1e-2, atol=0)


class PlayedGraph:
    """Stands in for a CUDA graph where there is no GPU: calls again what it was made of, and writes where the capture did."""

    def __init__(self, run, slots):
        self.run, self.slots = run, slots

    def replay(self):
        made = self.run()
        for slot, value in zip(self.slots, made if isinstance(made, list) else [made]):
            slot.copy_(value)


def test_a_graph_is_held_against_as_many_eager_steps_and_against_other_pictures(monkeypatch):
    def captured(run, warm_up):
        for _ in range(warm_up):
            made = run()
        slots = [
            torch.full_like(slot, -1) for slot in (made if isinstance(made, list) else [made])
        ]  # a capture computes nothing
        return PlayedGraph(run, slots), slots if isinstance(made, list) else slots[0]

    monkeypatch.setattr(measures, "_captured", captured)
    # Adam is capturable on a GPU alone
    monkeypatch.setattr(
        measures, "Subject", lambda model, phase, capturable=False, **how: subject.Subject(model, phase, **how)
    )
    torch.manual_seed(0)
    made = {"batch": 2, "size": 16}
    measures._graph_of_prediction(made, Tiny(), "train", {}, 0.0)
    measures._graph_of_step(made, Tiny(), "train", {"half": True}, 0.0)
    assert made["predict_difference"] == 0 and made["train_difference"] == 0
    assert made["predict_images_per_s"] > 0 and made["train_images_per_s"] > 0
    # a graph that reads what it was captured with, and not the new pictures, is told apart
    monkeypatch.setattr(PlayedGraph, "replay", lambda self: None)
    measures._graph_of_prediction(made, Tiny(), "train", {}, 0.0)
    assert made["predict_difference"] > 1


def test_a_loss_that_is_nan_in_a_graph_is_a_difference_whichever_player_has_it(monkeypatch):
    class TwoLosses(subject.Subject):
        def __init__(self, model, phase, capturable=False, **how):
            super().__init__(model, phase, **how)

        def step(self, batch, read=True):
            return 2 * super().step(batch, read)

    class Broken(PlayedGraph):
        def replay(self):
            super().replay()
            self.slots[1].fill_(math.nan)

    def captured(run, warm_up):
        slots = [loss.clone() for _ in range(warm_up) for loss in run()][-2:]
        return Broken(run, slots), slots

    monkeypatch.setattr(measures, "_captured", captured)
    monkeypatch.setattr(measures, "Subject", TwoLosses)
    made = {"batch": 2, "size": 16}
    measures._graph_of_step(made, Tiny(), "train", {}, 0.0)
    assert math.isnan(made["train_difference"])


def test_steps_win_back_what_compiling_took():
    # 30 s and a step of 0.5 s, against steps of 0.75 s: 0.25 s a step
    assert subject.won_back(30.5, 0.75, 0.5) == 120
    assert subject.won_back(30.5, 0.5, 0.5) is None


def test_the_time_of_a_turn_is_divided_over_what_is_left():
    times = iter([0.0, 0.0, 4.0, 20.0])
    pace = measures.Pace(10.0, 4, lambda: next(times))
    assert [pace.next() for _ in range(3)] == [2.5, 2.0, measures.LEAST_SECONDS]


def test_waiting_is_the_share_of_time_until_a_batch_arrives():
    now = [0.0]

    def batches():
        while True:
            now[0] += 3.0
            yield {}

    def step(_):
        now[0] += 1.0

    account = loader.account(batches(), step, 20.0, 2, clock=lambda: now[0])
    # two batches of 4 s each don't count; three more pass the 20 s
    assert (account.steps, account.seconds, account.waited) == (3, 12.0, 9.0)


def test_pictures_without_pillow_are_as_a_batch_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    fed = loader.fed("inpainting", 16, 2, "cpu", str(tmp_path))
    batch = next(iter(fed.batches))
    assert "no Pillow" in fed.kind and batch["image"].shape == (2, 3, 16, 16)
    assert batch["image"].dtype == torch.float32 and batch["image"].max() <= 1
    assert batch["hole"].shape == (2, 1, 16, 16) and set(batch["hole"].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "task, keys", [("harmonization", {"composite", "real", "mask"}), ("inpainting", {"image", "hole"})]
)
def test_pictures_come_from_the_projects_own_loader_where_it_can_be(tmp_path, task, keys):
    fed = loader.fed(task, 32, 2, "cpu", str(tmp_path))
    batch = next(iter(fed.batches))
    assert "pipeline/data" in fed.kind and set(batch) == keys
    assert all(value.shape[-2:] == (32, 32) for value in batch.values())


# ---- what is made of it


MACHINE = {
    "gpu": "NVIDIA H200", "torch": "2.15", "when": "2026-11-29T10:00:00", "processor": "x", "cores": 16, "memory": "128 GiB",
    "system": "Linux", "load": "0.1", "memory_gib": 139.8, "fp32_tflops": 391.6, "bf16_tflops": 700.4,
}  # fmt: skip


def test_the_row_for_gpus_csv_has_its_columns_and_says_where_it_comes_from(tmp_path):
    rows = [
        row("dih", "fp32", 100.0, train_gflop_per_image=7.004),
        row("dih", "bf16", 1000.0, train_gflop_per_image=7.004),
    ]
    made = results.gpus_row(MACHINE, {"batch": 8, "size": 256}, rows)
    with (ROOT / "pipeline/planning/gpus.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert list(made) == header == list(results.GPUS_COLUMNS)
    assert (made["kind"], made["memory_gib"], made["fp32_tflops"], made["bf16_tflops"]) == (
        "h200-measured",
        140,
        392,
        700,
    )
    # 1000 images of 7.004 GFLOP are 7.004 TFLOP/s, a hundredth of 700.4
    assert "reach 0.010 of it in bf16 (median of 1)" in made["origin"] and "dih:train 1000" in made["origin"]
    (back,) = csv.DictReader(results.csv_text(results.GPUS_COLUMNS, [made]).splitlines())
    assert float(back["bf16_tflops"]) == 700 and back["origin"] == made["origin"]


def test_what_helps_is_a_ratio_to_what_it_builds_on():
    rows = [
        row("dih", "fp32", 10.0),
        row("dih", "bf16", 15.0),
        row("dih", "bf16, channels_last", 19.0),
        row("dih", "bf16, channels_last, CUDA graph", 19.1),
        row("dih", "bf16, channels_last, compiled", 9.5),
    ]
    # the graph is faster by less than rounds differ, so the simpler set-up is the best
    assert results.helps(rows) == (
        "best: bf16, channels_last: 1.90x of fp32 (bf16 1.50x, channels_last 1.27x, CUDA graph 1.01x, compiled 0.50x)"
    )
    assert results.helps([row("dih", "fp32", 10.0)]) == "best: fp32: 1.00x of fp32"
    assert results.helps([]) == "no training step was measured"


def test_the_table_is_sorted_by_task_and_aligned(tmp_path):
    kept = results.Results(tmp_path, {})
    for made in (
        row("dih", "fp32", 10.0),
        row("unet", "fp32", 12345.6, peak_allocated_gib=1.5),
        row("unet", "bf16", math.nan),
    ):
        kept.add(made)
    lines = results.table(kept).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["localization", "unet:train", "harmonization", "dih:train"]
    assert {len(line) for line in lines if ":train" in line} == {len(lines[1])}
    assert "12345.6" in lines[3] and "1.50" in lines[3]
    assert kept.rows["unet", "train", "bf16"]["train_images_per_s"] is None  # NaN is no JSON


def test_the_suite_keeps_what_was_measured_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for when, rate in (("2026-11-29T10:00:00", 20.0), ("2026-11-30T10:00:00", 10.0)):
        kept = results.Results(tmp_path, {"batch": 8, "size": 256})
        kept.machine = MACHINE | {"when": when}
        kept.add(row("dih", "bf16", rate))
        kept.write()
        assert kept.trouble is None and (tmp_path / "gpus.csv").exists()
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--take", "results.json"])
        code = suite.main()
    assert code == 1  # half as fast as the day before
    assert sorted(file.name for file in Path(".cache/bench").glob("*.parquet")) == [
        "2026-11-29T10-00-00.parquet",
        "2026-11-30T10-00-00.parquet",
    ]
    assert "dih:train, bf16, 8 x 256 px" in capsys.readouterr().out
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(SystemExit):
        suite.main()
    assert "not the results.json of a run of benchmarks.gpu" in capsys.readouterr().err
    results.Results(tmp_path, {}).write()
    with pytest.raises(SystemExit):
        suite.main()
    assert "ended before anything was measured" in capsys.readouterr().err
