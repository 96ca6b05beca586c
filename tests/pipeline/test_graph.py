"""The graph's promises: deps are import closures, params are what is read, an edit marks exactly what it can affect."""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import models
from pipeline import graph, params

ROOT = graph.ROOT
HAND_WRITTEN = {"ingest": "stages.ingest", "synthesize": "stages.synthesize", "real": "stages.real", "irregular_masks": "stages.irregular_masks",
                "evaluate": "stages.evaluate", "report": "stages.report"}  # fmt: skip
CODE = ("stages", "pipeline", "models")


def yaml(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text())


def definition(stage: dict) -> dict:
    return stage.get("do", stage)


@pytest.fixture(scope="module")
def root_stages() -> dict:
    return yaml(ROOT / "dvc.yaml")["stages"]


def test_the_generated_file_is_fresh():
    assert (ROOT / graph.FILE).read_text() == graph.written(params.load(ROOT / "params.yaml"))


def test_every_stage_module_has_a_stage(root_stages):
    modules = {f"stages.{file.stem}" for file in (ROOT / "stages").glob("[a-z]*.py")}
    generated = {"stages.train", "stages.infer", "stages.lists"}
    assert {HAND_WRITTEN[name] for name in root_stages} | generated == modules


def test_hand_written_stages_depend_on_their_import_closure(root_stages):
    for name, stage in root_stages.items():
        listed = [one for one in definition(stage)["deps"] if one.endswith(".py")]
        assert sorted(listed) == graph.closure(HAND_WRITTEN[name]), name


def test_hand_written_stages_list_the_parameters_that_their_module_declares(root_stages):
    for name, stage in root_stages.items():
        declared = graph.read_parameters(HAND_WRITTEN[name], source="${key}", subset="${key}", real_set="${key}", name="${key}")
        assert definition(stage).get("params", []) == declared, name


@pytest.mark.parametrize("module", sorted({*HAND_WRITTEN.values(), "stages.train", "stages.infer", "stages.lists"}))
def test_what_a_stage_loads_when_it_is_imported_lies_in_its_closure(module):
    code = f"import {module}, sys, json; print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    ours = {str(Path(file).relative_to(ROOT)) for file in loaded if any((ROOT / package) in Path(file).parents for package in CODE)}
    assert {file for file in ours if (ROOT / file).stat().st_size} <= set(graph.closure(module))


def test_closure_by_hand():
    assert graph.closure("pipeline.tables") == ["pipeline/atomic.py", "pipeline/errors.py", "pipeline/tables.py"]
    unet = graph.closure("models.localization.unet")
    assert "models/layers/resnet_unet.py" in unet and "models/base.py" in unet
    assert "models/layers/partial_conv.py" not in unet and not any(file.startswith("pipeline") for file in unet)


def _read_names(module: str) -> set[str]:
    """Every attribute and subscript name in the files of a stage's closure."""
    names = set()
    for file in graph.closure(module):
        if file == "pipeline/params.py":
            continue  # the schema names them all
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


@pytest.mark.parametrize("module", sorted({*HAND_WRITTEN.values(), "stages.train", "stages.infer"}))
def test_declared_parameters_are_read(module):
    names = _read_names(module)
    for declared in graph.read_parameters(module, "localization", source="*", subset="*", model="*", real_set="*", name="*"):
        for part in declared.split("."):
            assert part == "*" or part in names, f"{module} declares {declared} and reads no {part}"


def _imported_by(file: Path) -> set[str]:
    return graph._imports(file)


def test_imports_run_one_way():
    for file in (ROOT / "pipeline").rglob("*.py"):
        assert not any(name.split(".")[0] == "stages" for name in _imported_by(file)), file
        assert not any(name.startswith("models.") and name.split(".")[1] in models.TASKS for name in _imported_by(file)), file
    for file in (ROOT / "models").rglob("*.py"):
        assert not any(name.split(".")[0] in ("stages", "pipeline") for name in _imported_by(file)), file
    for task in models.TASKS:
        for file in (ROOT / "models" / task).glob("*.py"):
            for name in _imported_by(file):
                assert name.split(".")[1:2] in ([], ["base"], ["layers"], ["losses"]) or name == "models.base", f"{file} imports {name}"


def test_ray_stays_in_its_modules():
    allowed = {"cluster.py", "trainer.py", "predictor.py", "parallel.py"}
    for package in CODE:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "ray" for name in found):
                    assert file.parent.name == "pipeline" and file.name in allowed, file


def test_the_pipeline_names_no_network():
    trained = set(models.names()) - {"composite"}  # also the word for a picture
    for file in (ROOT / "pipeline").rglob("*.py"):
        strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        if "published" not in file.name and "protocols" not in file.name:
            assert not trained & strings, f"{file} names {trained & strings}"


# -- with DVC itself: the real graph, each command replaced by one that only writes the outputs


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The project with every stage "run"."""
    folder = tmp_path_factory.mktemp("graph")
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    shutil.copytree(ROOT / "presets", folder / "presets")
    shutil.copy(ROOT / "presets" / "embedded.yaml", folder / "params.yaml")
    shutil.copy(ROOT / ".dvcignore", folder / ".dvcignore")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    call = lambda *command: subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    call(sys.executable, "-m", "pipeline.graph")
    (folder / "fake.py").write_text(
        "import sys, pathlib\n"
        "for name in sys.argv[1:]:\n"
        "    path = pathlib.Path(name)\n"
        "    path.parent.mkdir(parents=True, exist_ok=True)\n"
        "    path.write_text(name)\n"
    )
    inside = ["photographs.parquet", "instances.parquet", "pairs.parquet", "weights.safetensors", "history.csv", "metrics.json"]
    for source, target in ((ROOT / "dvc.yaml", folder / "dvc.yaml"), (folder / "models" / "dvc.yaml",) * 2):
        content = yaml(source)
        for stage in content["stages"].values():
            made = definition(stage)
            files = [out if Path(out).suffix else f"{out}/{name}" for out in made["outs"] for name in ([""] if Path(out).suffix else inside)]
            files += [f"{out}/{Path(out).name}_{split}.txt" for out in made["outs"] if not Path(out).suffix for split in ("train", "test")]
            files += [f"{out}/{{key}}_{split}.txt".replace("{key}", "${key}") for out in made["outs"] if "${key}" in out for split in ("train", "test")]
            made["cmd"] = "python fake.py " + " ".join(sorted(set(files)))
        with open(target, "w") as file:
            YAML().dump(content, file)
    call("git", "init", "-q")
    call("dvc", "init", "-q")
    call("dvc", "repro")
    return folder


def marked(folder: Path, repo=None) -> set[str]:
    """The stages whose own deps or params changed, as DVC's status of each dependency says."""
    from dvc.repo import Repo

    with contextlib.nullcontext(repo) if repo else Repo(str(folder)) as repo:
        found = set()
        for stage in repo.index.stages:
            with repo.lock:
                if any(dep.status() for dep in stage.deps) or stage.changed_stage():
                    found.add(stage.addressing.split(":")[-1])
        return found


def leaves(block, place=()):
    for key, value in block.items():
        if isinstance(value, dict) and value and "hyperparameters" not in place:
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key), value


def edited(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, dict):
        return value | {"width": 24}
    return 640 if value is None else f"{value}x"


@pytest.mark.slow
def test_nothing_is_marked_when_nothing_changed(finished):
    assert marked(finished) == set()


@pytest.mark.slow
def test_editing_a_leaf_marks_the_stages_that_read_it_and_no_other(finished):
    original = (finished / "params.yaml").read_text()
    readers = {}
    for name, stage in yaml(finished / "dvc.yaml")["stages"].items():
        module = HAND_WRITTEN[name]
        content = yaml(finished / "params.yaml")
        keys = {"ingest": content["sources"], "synthesize": content["composites"]["subsets"], "real": content.get("real_sets", {})}.get(name)
        items = ["localization", "harmonization", "inpainting"] if name == "evaluate" else keys if keys is not None else [""]
        for item in items:
            label = f"{name}@{item}" if item else name
            readers[label] = graph.read_parameters(module, source=item, subset=item, real_set=item, name=item)
    for name in content["models"]:
        task = models.task_of(name)
        readers[f"infer-{name}"] = graph.read_parameters("stages.infer", task, model=name)
        if "training" in content["models"][name]:
            readers[f"train-{name}"] = graph.read_parameters("stages.train", task, model=name)
    try:
        for place, value in leaves(content):
            key = ".".join(place)
            if key in ("inpainting.source", "real_sets") or place[0] == "sources" and place[-1] in ("path", "kind") or place[-1] in ("source", "references"):
                continue  # these name other stages: they change the graph itself
            changed = yaml(finished / "params.yaml")
            block = changed
            for part in place[:-1]:
                block = block[part]
            block[place[-1]] = edited(value)
            with open(finished / "params.yaml", "w") as file:
                YAML().dump(changed, file)
            expected = {name for name, read in readers.items() if any(key == one or key.startswith(f"{one}.") for one in read)}
            assert marked(finished) == expected | {"report"}, key  # the report shows all parameters
            (finished / "params.yaml").write_text(original)
    finally:
        (finished / "params.yaml").write_text(original)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, stages",
    [
        (("models", "rainnet", "training", "epochs"), {"train-rainnet"}),
        (("models", "rainnet", "hyperparameters"), {"train-rainnet", "infer-rainnet"}),
        (("evaluation", "bootstrap"), {"evaluate@localization", "evaluate@harmonization", "evaluate@inpainting"}),
        (("composites", "subsets", "HCOCO", "max_per_object"), {"synthesize@HCOCO"}),
        (("localization", "max_foreground"), {"train-unet", "infer-unet", "infer-constant_map", "infer-gaussian_map", "infer-spectral_residual"}),
    ],
)
def test_leaves_by_hand(finished, place, stages):
    original = (finished / "params.yaml").read_text()
    content = yaml(finished / "params.yaml")
    block = content
    for part in place[:-1]:
        block = block[part]
    block[place[-1]] = edited(block[place[-1]])
    try:
        with open(finished / "params.yaml", "w") as file:
            YAML().dump(content, file)
        assert marked(finished) == stages | {"report"}
    finally:
        (finished / "params.yaml").write_text(original)


@pytest.mark.slow
def test_editing_a_file_marks_the_stages_that_import_it_and_no_other(finished):
    from dvc.repo import Repo

    content = yaml(finished / "params.yaml")
    closures = {"lists": graph.closure("stages.lists")}
    for name in yaml(finished / "dvc.yaml")["stages"]:
        closures[name] = graph.closure(HAND_WRITTEN[name])
    for name in content["models"]:
        network = f"models.{models.task_of(name)}.{name}"
        closures[f"infer-{name}"] = graph.closure("stages.infer", network)
        if "training" in content["models"][name]:
            closures[f"train-{name}"] = graph.closure("stages.train", network)
    with Repo(str(finished)) as repo:
        existing = {stage.addressing.split(":")[-1].split("@")[0] for stage in repo.index.stages}
        for file in sorted({one for files in closures.values() for one in files}):
            before = (finished / file).read_text()
            (finished / file).write_text(before + "\n# edited\n")
            try:
                found = {one.split("@")[0] for one in marked(finished, repo)}
                assert found == {name for name, files in closures.items() if file in files} & existing, file
            finally:
                (finished / file).write_text(before)
