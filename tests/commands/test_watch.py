import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from commands import watch
from pipeline import params
from pipeline.networks import watching
from pipeline.report import under_way
from tests.pipeline.report import project

YAML_SAFE = YAML(typ="safe", pure=True)


def stage_here(name: str, *arguments: str) -> str | None:
    """What `watch._stage` does, in this process."""
    asked.append((name, *arguments))
    sys.modules.pop(f"stages.{name}", None)
    argv, sys.argv = sys.argv, [name, *arguments]
    try:
        runpy.run_module(f"stages.{name}", run_name="__main__")
    except SystemExit as ended:
        return "refused" if ended.code else None
    finally:
        sys.argv = argv
    return None


asked: list[tuple[str, ...]] = []


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A finished run but for pconv, which is being trained by this process: 3 of 5 epochs."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "_stage", stage_here)
    asked.clear()
    content = YAML_SAFE.load((tmp_path / "params.yaml").read_text())
    content["evaluation"] |= {"bootstrap": 20, "protocols": {"localization": [], "harmonization": [], "inpainting": []}}
    with open(tmp_path / "params.yaml", "w") as file:
        YAML_SAFE.dump(content, file)
    shutil.rmtree(tmp_path / "artifacts/models/pconv")
    (tmp_path / "artifacts/index/inpainting/pconv.json").unlink()
    train(tmp_path / ".runs/pconv-0123456789abcdef", epochs=3)
    return tmp_path


def train(folder, epochs: int) -> None:
    """What a training of pconv leaves in its run folder after some of its 3 + 2 epochs."""
    folder.mkdir(parents=True)
    course, rows = watching.Watch(folder, "inpainting", [("train", 3, 0.1), ("finetune", 2, 0.1)], 0), []
    item = {"image": project.photograph(0), "hole": project.mask(0)}
    for epoch in range(1, epochs + 1):
        rows.append({"model": "pconv", "phase": "train", "epoch": epoch, "step": 9 * epoch, "loss": 3.0 / epoch})
        rows[-1]["validation_psnr"] = 20.0 + epoch
        course.epoch(pd.DataFrame(rows), [("1", item, np.full_like(item["image"], 40 * epoch))])


def words(page: str) -> str:
    return page[page.index('<section id="under-way">') : page.index('<section id="overview">')]


@pytest.mark.slow
def test_the_page_of_an_unfinished_run_says_what_is_missing_and_scores_the_rest(run):
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/**/*") if ".runs" not in path.parts}
    page = watch.write(None).read_text()
    said = words(page)
    assert "5 of 6 methods are scored below, 1 is being trained" in said
    row = "<td>inpainting</td><td>training, epoch 3 of 5, validation PSNR 23.00</td><td>missing</td><td>missing</td>"
    assert f'<th scope="row">pconv</th>{row}' in said
    assert "<td>harmonization</td><td>done, 3 epochs</td><td>there</td><td>below</td>" in said
    assert "input, epoch 1, 2, 3, truth" in said and said.count("<svg") == 2
    scored = page[page.index('<section id="inpainting"') : page.index('<section id="data">')]
    assert ">mean_fill" in scored and ">pconv" not in scored
    summary = pd.read_parquet(run / ".runs/live/results/inpainting/summary.parquet")
    assert set(summary["model"]) == {"mean_fill"}
    # nothing of the run itself was touched
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("*/**/*") if ".runs" not in path.parts}


@pytest.fixture
def unrendered(monkeypatch) -> list[tuple]:
    """The parameters and the section above the results that pages would be rendered of; evaluation leaves an empty folder."""
    rendered = []

    def render(parameters, *, under_way, **folders):
        rendered.append((parameters, under_way))
        return ""

    def evaluated(name, *arguments):
        asked.append((name, *arguments))
        if (name, *arguments) == ("evaluate", "localization"):
            return "evaluate: no"
        if name == "evaluate":
            Path("results", *arguments).mkdir()
        return None

    monkeypatch.setattr(watch.page, "render", render)
    monkeypatch.setattr(watch, "_stage", evaluated)
    return rendered


def test_what_was_scored_is_scored_anew_where_something_changed_and_nowhere_else(run, unrendered):
    evaluations = lambda: [task for name, task, *_ in asked if name == "evaluate"]
    watch.write(None)
    assert evaluations() == ["localization", "harmonization", "inpainting"]
    asked.clear()
    watch.write(None)
    assert evaluations() == ["localization"]  # which couldn't be scored
    asked.clear()
    (run / "artifacts/index/harmonization/rainnet.json").unlink()
    watch.write(7)
    assert evaluations() == ["localization", "harmonization"]
    parameters, under_way = unrendered[-1]
    assert list(parameters.models) == ["composite", "mean_fill"] and under_way["every"] == 7
    assert under_way["failed"] == {"localization": "evaluate: no"} and under_way["n_scored"] == 2


def test_a_run_that_has_hardly_begun_has_a_page_too(run):
    for folder in ("artifacts/index", "data/irregular_masks", "data/composites/HAdobe5k"):
        shutil.rmtree(run / folder)
    said = words(watch.write(None).read_text())
    assert "0 of 6 methods are scored below" in said and "Not made yet: HAdobe5k, irregular masks" in said
    assert asked == []


def state(run) -> under_way.Method:
    return next(method for method in under_way.methods(params.load(), run / "artifacts") if method.name == "pconv")


def test_the_state_of_a_training(run):
    folder = run / ".runs/pconv-0123456789abcdef"
    assert (state(run).ready, state(run).predictions) == (False, "missing")
    facts = json.loads((folder / "course.json").read_text())
    (folder / "course.json").write_text(json.dumps(facts | {"process_began": 0.0}))
    assert state(run).training == "stopped, epoch 3 of 5, validation PSNR 23.00"
    (folder / "course.json").write_text(json.dumps(facts | {"host": "node7"}))
    assert state(run).training.startswith("on node7, epoch 3 of 5, validation PSNR 23.00, last heard of 0 min ago")
    (folder / "course.json").write_text(json.dumps(facts | {"phases": [["train", 3]]}))
    (folder / "training.json").write_text("{}")
    assert (state(run).training, state(run).ready) == ("done, 3 epochs", False)  # not yet in artifacts/
    published = run / "artifacts/models/pconv"
    shutil.copytree(folder, published)
    assert (state(run).training, state(run).ready, state(run).course is None) == ("done, 3 epochs", True, False)
    # another training's weights were put there since, and this one's samples aren't theirs
    (published / "history.csv").write_text("model,epoch\npconv,1\n")
    assert (state(run).training, state(run).ready, state(run).course) == ("done, 1 epoch", True, None)
    shutil.rmtree(folder)
    assert state(run).training == "done, 1 epoch"
    shutil.rmtree(published)
    assert state(run).training == "not begun"


def test_predictions_of_an_earlier_training_are_left_out(run):
    index = run / "artifacts/index/inpainting"
    content = json.loads((index / "mean_fill.json").read_text())
    (index / "pconv.json").write_text(json.dumps(content | {"model": "pconv", "trained": True}))
    assert (state(run).predictions, state(run).counted) == ("of an earlier training, left out", False)
    (index / "pconv.json").write_text(json.dumps(content | {"model": "pconv", "trained": False}))
    assert state(run).predictions == "missing"
