"""What dvc.yaml and models/dvc.yaml say of the stages, held against the code."""

import ast
import functools
import hashlib
import runpy
import subprocess
import sys
import typing
from pathlib import Path

import pandas as pd
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

import models
from pipeline import irregular_masks, params, tables
from pipeline.data.sources.kinds import KINDS
from pipeline.errors import UserError
from pipeline.params import schema, wording
from pipeline.running import graph
from pipeline.scoring import protocols

ROOT = Path(__file__).resolve().parents[3]
STAGES = sorted(file.stem for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__")
HAND_WRITTEN = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
CODE = [file for package in graph.PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def definition(stage: str) -> dict:
    """A stage of dvc.yaml, whether written out, as foreach or as matrix."""
    return HAND_WRITTEN[stage].get("do", HAND_WRITTEN[stage])


@functools.cache
def imports(file: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in the file."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import, which the closure doesn't follow"
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


# ---- closures


def test_closures_by_hand():
    assert graph.closure("pipeline.errors") == ["pipeline/__init__.py", "pipeline/errors.py"]
    assert graph.closure("pipeline.atomic") == ["pipeline/__init__.py", "pipeline/atomic.py", "pipeline/logs.py"]
    assert graph.closure("pipeline.tables") == [
        "pipeline/__init__.py",
        "pipeline/atomic.py",
        "pipeline/errors.py",
        "pipeline/logs.py",
        "pipeline/tables.py",
    ]
    assert graph.closure("models.base") == ["models/__init__.py", "models/base.py"]
    closure = graph.closure("models.harmonization.composite", "pipeline.seeds")
    assert closure == [
        "models/__init__.py",
        "models/arrays.py",
        "models/base.py",
        "models/harmonization/composite.py",
        "pipeline/__init__.py",
        "pipeline/seeds.py",
    ]


def test_imports_inside_functions_count():
    # ray_train.train uses cluster when it needs Ray
    assert "pipeline/running/cluster.py" in graph.closure("pipeline.networks.devices")


def test_a_package_with_code_of_its_own_counts_and_an_empty_one_does_not():
    closure = graph.closure("pipeline.irregular_masks.recipes")
    assert "pipeline/irregular_masks/__init__.py" in closure and "pipeline/running/__init__.py" not in graph.closure(
        "pipeline.running.cluster"
    )


def test_a_networks_closure_holds_its_own_layers_and_no_other_network():
    closure = graph.closure("models.inpainting.rfr")
    assert "models/layers/partial_conv.py" in closure and "models/inpainting/pconv.py" not in closure
    assert "models/layers/partial_conv.py" not in graph.closure("models.localization.unet")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no module 'stages.nothing' in this repository"):
        graph.closure("stages.train", "stages.nothing")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_python_loads_for_a_stage_is_in_its_closure(stage):
    # found out by importing, not by reading the code
    code = f"import sys, stages.{stage}; print(*(m.__file__ for n, m in list(sys.modules.items()) if n.split('.')[0] in {graph.PACKAGES!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(file) for file in done.stdout.split()}
    assert {str(file.relative_to(ROOT)) for file in loaded if file.stat().st_size} <= set(
        graph.closure(f"stages.{stage}")
    )


# ---- deps and params of the stages


@pytest.mark.parametrize("stage", sorted(HAND_WRITTEN))
def test_code_deps_of_a_hand_written_stage_are_its_closure(stage):
    deps = [file for file in definition(stage)["deps"] if file.endswith(".py")]
    assert len(deps) == len(set(deps)), "no file twice"
    assert set(deps) == set(graph.closure(f"stages.{stage}"))


@pytest.mark.parametrize("stage", sorted(HAND_WRITTEN))
def test_params_of_a_hand_written_stage_are_those_its_module_declares(stage):
    names = dict.fromkeys(("source", "subset", "name"), "${key}")
    assert definition(stage).get("params", []) == graph.read_parameters(f"stages.{stage}", **names)


def test_code_below_the_marks_stands_as_the_command_writes_it():
    """Names and data in dvc.yaml follow params.yaml, which is the user's; the lists of code don't."""
    text = (ROOT / graph.TABLE_OF_CONTENTS).read_text()
    assert graph.with_code(text) == text


def test_every_stage_module_stands_in_one_of_the_two_files():
    generated = {"train", "infer", "take_in", "lists", "detect", "detectability", "published"}
    assert set(STAGES) == set(HAND_WRITTEN) | generated
    assert not set(HAND_WRITTEN) & generated


def test_commands_are_those_that_a_person_can_type():
    for stage in HAND_WRITTEN:
        assert definition(stage)["cmd"].startswith(f"python -m stages.{stage}")


def test_code_deps_of_the_written_stages_are_fresh(embedded):
    """Those of the committed models/dvc.yaml; which methods it has, and their data, follow params.yaml, which is the user's."""
    committed = YAML(typ="safe").load((ROOT / graph.FILE).read_text())["stages"]
    per_method = {
        f"{kind}-{name}": (kind, f"models.{models.task_of(name)}.{name}")
        for name in models.names()
        for kind in ("train", "infer", "detect")
    }
    for stage, written in committed.items():
        kind, *network = per_method.get(stage, (stage,))
        code = [file for file in written["deps"] if file.endswith(".py")]
        assert code == graph.closure(f"stages.{kind}", *network), f"{stage}: run `python -m commands.graph`"


@pytest.fixture(scope="module")
def embedded() -> params.Params:
    return params.load(ROOT / "presets" / "embedded.yaml")


def test_stages_of_a_trained_network(embedded):
    stages = graph.stages_of("pconv", embedded)
    assert list(stages) == ["train-pconv", "infer-pconv"]
    train, infer = stages.values()
    source = f"data/sources/{embedded.inpainting.source}"
    assert train["cmd"] == f"python -m stages.train pconv --data {source} data/irregular_masks"
    weights = "artifacts/models/pconv/weights.safetensors"
    assert infer["cmd"] == f"python -m stages.infer pconv --weights {weights} --data {source} data/irregular_masks"
    assert train["deps"] == graph.closure("stages.train", "models.inpainting.pconv") + [source, "data/irregular_masks"]
    assert infer["deps"] == graph.closure("stages.infer", "models.inpainting.pconv") + [
        source,
        "data/irregular_masks",
        weights,
    ]
    assert (
        "models.pconv.training" in train["params"]
        and "seed" in train["params"]
        and "models.pconv.hyperparameters" in infer["params"]
    )
    assert "seed" not in infer["params"] and not any(
        key.startswith("models.") and "pconv" not in key for key in train["params"]
    )
    assert train["outs"] == ["artifacts/models/pconv"]
    assert infer["outs"] == ["artifacts/predictions/pconv", "artifacts/index/inpainting/pconv.json"]


def test_a_method_without_training_is_only_run(embedded):
    assert list(graph.stages_of("telea", embedded)) == ["infer-telea"]
    assert "--weights" not in graph.stages_of("telea", embedded)["infer-telea"]["cmd"]


def test_a_trained_localizer_looks_at_what_every_harmonizer_made(embedded):
    stages = graph.stages_of("unet", embedded)
    assert list(stages) == ["train-unet", "infer-unet", "detect-unet"]
    detect, harmonizers = stages["detect-unet"], embedded.models_of("harmonization")
    weights, data = (
        "artifacts/models/unet/weights.safetensors",
        [f"data/composites/{name}" for name in embedded.composites.subsets],
    )
    code = graph.closure("stages.detect", "models.localization.unet")
    assert detect["deps"] == code + data + [weights] + [f"artifacts/predictions/{name}" for name in harmonizers]
    assert (
        detect["cmd"]
        == f"python -m stages.detect unet --weights {weights} --data {' '.join(data)} --harmonized {' '.join(harmonizers)}"
    )
    assert detect["outs"] == ["artifacts/detectability/unet.parquet"]
    assert (
        "models.unet.hyperparameters" in detect["params"]
        and "localization.max_foreground" in detect["params"]
        and "seed" not in detect["params"]
    )
    assert list(graph.stages_of("gaussian_map", embedded)) == ["infer-gaussian_map"]
    (collect,) = graph.detectability_stage(embedded).values()
    assert collect["deps"] == graph.closure("stages.detectability") + detect["outs"] and collect["outs"] == [
        "results/detectability"
    ]


def test_without_trained_localizers_or_harmonizers_nothing_is_detected(embedded, tmp_path, monkeypatch):
    kinds = (
        [name for name in embedded.models if name != "unet"],
        [name for name in embedded.models if models.task_of(name) != "harmonization"],
    )
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    (tmp_path / "results/detectability").mkdir(parents=True)
    assert graph.stale_outputs(embedded) == ([], [])
    for names in kinds:
        fewer = embedded.model_copy(update={"models": {name: embedded.models[name] for name in names}})
        assert graph.detecting(fewer) == [] and graph.detectability_stage(fewer) == {}
        assert graph.stale_outputs(fewer) == ([tmp_path / "results/detectability"], [])


def test_what_is_read_for_one_task_alone_is_a_parameter_of_that_task_alone(embedded):
    for name in ("unet", "rainnet", "pconv"):
        for stage in graph.stages_of(name, embedded).values():
            assert ("localization.max_foreground" in stage["params"]) == (name == "unet")


def test_methods_that_are_no_longer_named_leave_nothing_behind(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    there = [
        "artifacts/models/unet",
        "artifacts/models/gone",
        "artifacts/predictions/gone",
        "artifacts/index/inpainting",
        "artifacts/detectability",
    ]
    for folder in there:
        (tmp_path / folder).mkdir(parents=True)
    for name in ("unet", "gone"):
        (tmp_path / f"artifacts/detectability/{name}.parquet").touch()
    for name in ("pconv", "gone"):
        (tmp_path / f"artifacts/index/inpainting/{name}.json").write_text('{"splits": {"test": {"predictions": "0"}}}')
    stale = {str(path.relative_to(tmp_path)) for path in graph.stale_outputs(embedded)[0]}
    assert stale == {
        "artifacts/models/gone",
        "artifacts/predictions/gone",
        "artifacts/index/inpainting/gone.json",
        "artifacts/detectability/gone.parquet",
    }


def test_pictures_and_weights_from_elsewhere_have_one_stage_each(embedded):
    theirs = params.schema.ModelBlock(task="inpainting", outputs="../theirs")
    pconv = params.schema.ModelBlock(weights="../pconv.safetensors")
    unet = params.schema.ModelBlock(weights="../unet.safetensors")
    both = embedded.model_copy(update={"models": embedded.models | {"theirs": theirs, "pconv": pconv, "unet": unet}})
    data = ["data/sources/bundled", "data/irregular_masks"]
    (stage,) = graph.stages_of("theirs", both).items()
    assert stage[0] == "infer-theirs" and stage[1]["cmd"] == f"python -m stages.take_in theirs --data {' '.join(data)}"
    assert stage[1]["deps"] == graph.closure("stages.take_in") + data + ["../theirs"]
    assert (
        stage[1]["outs"] == ["artifacts/predictions/theirs", "artifacts/index/inpainting/theirs.json"]
        and "models.theirs" in stage[1]["params"]
    )
    (stage,) = graph.stages_of("pconv", both).items()
    assert (
        stage[0] == "infer-pconv"
        and "stages.infer pconv --weights ../pconv.safetensors --imported --data" in stage[1]["cmd"]
        and "../pconv.safetensors" in stage[1]["deps"]
    )
    assert list(graph.stages_of("unet", both)) == ["infer-unet", "detect-unet"], "an imported localizer detects too"
    assert graph.stale_outputs(both) == graph.stale_outputs(embedded)


def test_what_inference_did_not_write_stays(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    predictions = tmp_path / "artifacts/predictions"
    for name in ("gone", "added", "changed", "brought", "dotted.v2"):
        split = predictions / name / "test"
        split.mkdir(parents=True)
        (split / "a.png").write_bytes(b"a picture")
        if name not in ("brought", "dotted.v2"):
            tables.write(
                split / "predictions.parquet",
                pd.DataFrame(
                    [{"image_id": "a", "prediction": "a.png", "sha256": hashlib.sha256(b"a picture").hexdigest()}]
                ),
            )
    (predictions / "added/test/mine.png").touch()
    (predictions / "changed/test/a.png").write_bytes(b"another picture")
    (tmp_path / "artifacts/models/noted").mkdir(parents=True)
    (tmp_path / "artifacts/models/noted/notes.txt").touch()
    removable, kept = (
        {str(path.relative_to(tmp_path / "artifacts")) for path in paths} for paths in graph.stale_outputs(embedded)
    )
    assert removable == {"predictions/gone"}
    assert kept == {
        "predictions/added",
        "predictions/changed",
        "predictions/brought",
        "predictions/dotted.v2",
        "models/noted",
    }


# ---- what a stage declares, it reads


def leaves(block) -> set[str]:
    """Names of the leaves of a block of params.yaml."""
    names = set()
    for name, field in block.model_fields.items():
        inner = wording._blocks_in(field.annotation)
        names |= set().union(*(leaves(inner_block) for inner_block in inner)) if inner else {name}
    return names


def declared_leaves(key: str, of_subset=schema.Subset) -> set[str]:
    """Names of the leaves that "training" or "models.{model}.hyperparameters" stands for; of sub-datasets, of that kind."""
    block = params.Params
    for part in key.split("."):
        if part.startswith("{"):
            continue  # the name of an entry: its block was reached by the dictionary's field
        field = block.model_fields[part]
        inner = wording._blocks_in(field.annotation)
        if not inner:
            return {part}
        block = of_subset if len(inner) > 1 else inner[0]
    return leaves(block)


@pytest.mark.parametrize("stage", STAGES)
def test_every_declared_leaf_is_read_in_the_closure(stage):
    declared = graph.read_parameters(
        f"stages.{stage}", **{name: f"{{{name}}}" for name in ("model", "source", "subset", "name")}
    )
    modules = [f"stages.{stage}"]
    if stage in ("train", "infer", "take_in"):
        declared += [
            key for task in models.TASKS for key in graph.read_parameters(f"stages.{stage}", task, model="{model}")
        ]
    read = set()
    for file in graph.closure(*modules):
        if not file.startswith("pipeline/params/"):  # which holds them all
            read |= {
                node.attr for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Attribute)
            }
    if stage == "ingest":  # readers are handed the keys that their kind names
        read |= {key for kind in KINDS.values() for key in kind.takes}
    kind = schema.ListedSubset if stage == "iharmony4" else schema.Subset
    unread = (
        {leaf for key in declared for leaf in declared_leaves(key, kind)} - read - {"recipe"}
    )  # which loading resolves
    assert not unread, f"stages/{stage}.py declares what nothing in its closure reads"


def test_the_schema_is_walked_as_it_stands():
    assert declared_leaves("seed") == {"seed"}
    shared = {"device", "precision", "workers", "threads", "validation_images", "repeats", "samples_every"}
    assert declared_leaves("training") == shared
    assert declared_leaves("models.{model}.hyperparameters") == {"hyperparameters"}
    assert {"milestones", "betas", "flip", "low", "high", "epochs", "keep"} <= declared_leaves("models.{model}")
    assert {"kind", "path", "test_share"} <= declared_leaves("sources.{source}")
    assert typing.get_type_hints(params.Params)["seed"] is not None and issubclass(params.Params, BaseModel)


# ---- imports run one way


@pytest.mark.parametrize(
    "package, may",
    [
        ("stages", ("pipeline", "models")),
        ("commands", ("pipeline", "models")),
        ("pipeline", ("pipeline", "models")),
        ("models", ("models",)),
    ],
)
def test_packages_import_one_way(package, may):
    for file in CODE:
        if file.relative_to(ROOT).parts[0] == package:
            ours = {name for name in imports(file) if name.split(".")[0] in (*graph.PACKAGES, "tests", "benchmarks")}
            assert all(name.split(".")[0] in may for name in ours), f"{file}: {sorted(ours)}"


def test_networks_stand_on_layers_and_losses_and_never_on_one_another():
    for file in CODE:
        parts = file.relative_to(ROOT).parts
        if parts[0] != "models" or len(parts) < 3:
            continue
        allowed = ("models.base", "models.arrays", "models.layers", "models.losses")
        for name in imports(file):
            assert not name.startswith("models") or name == "models" or name.startswith(allowed), (
                f"{file} imports {name}"
            )


def test_the_library_knows_no_network_by_name():
    networks = set(models.names()) - {"composite"}  # which is also what a composite is called in every batch
    for file in CODE:
        parts = file.relative_to(ROOT).parts
        if parts[0] == "models":
            continue
        assert not any(name.startswith(tuple(f"models.{task}" for task in models.TASKS)) for name in imports(file)), (
            file
        )
        constants = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if file.parent.name == "protocols" or file.parent.name == "params":
            # the evaluation code of publications, after which the networks are called too
            constants -= {record.name for records in protocols.RECORDS.values() for record in records}
        if file.name == "recipes.py" or file.parent.name == "params":
            # the mask generators of publications: PIC's code has one
            constants -= set(irregular_masks.KINDS)
        assert not constants & networks, f"{file} names {sorted(constants & networks)}"


def test_ray_appears_in_four_files():
    users = {str(file.relative_to(ROOT)) for file in CODE if any(name.split(".")[0] == "ray" for name in imports(file))}
    assert users == {
        f"pipeline/{name}.py"
        for name in ("running/cluster", "running/parallel", "networks/ray_train", "networks/predictor")
    }


def test_stages_that_have_nothing_to_do_with_ray_never_come_near_it():
    for stage in ("check", "ingest", "lists", "report", "detectability", "published"):
        assert not {"pipeline/running/cluster.py", "pipeline/running/parallel.py"} & set(
            graph.closure(f"stages.{stage}")
        ), stage


# ---- the command


def run_graph(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["graph", *arguments])
    try:
        runpy.run_module("commands.graph", run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.fixture
def checkout(monkeypatch, tmp_path) -> Path:
    """The repository's code (as links) and its dvc.yaml, with the embedded preset as params.yaml; nothing is written yet."""
    for file in [*(ROOT / package for package in graph.PACKAGES if package != "models"), *(ROOT / "models").iterdir()]:
        link = tmp_path / file.relative_to(ROOT)
        link.parent.mkdir(exist_ok=True)
        if file != ROOT / graph.FILE:
            link.symlink_to(file)
    (tmp_path / graph.TABLE_OF_CONTENTS).write_text((ROOT / graph.TABLE_OF_CONTENTS).read_text())
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "embedded.yaml").read_text())
    monkeypatch.setattr(graph, "ROOT", tmp_path)
    return tmp_path


def test_check_says_whether_the_files_are_fresh(monkeypatch, capsys, checkout):
    assert run_graph(monkeypatch) == 0 and run_graph(monkeypatch, "--check") == 0
    assert capsys.readouterr() == ("", "")
    edited = YAML(typ="safe").load((checkout / "params.yaml").read_text())
    del edited["models"]["gaussian_map"]
    YAML(typ="safe").dump(edited, checkout / "params.yaml")
    assert run_graph(monkeypatch, "--check") == 1
    assert "dvc.yaml is stale; `python -m commands.graph` writes it anew" in capsys.readouterr().err


DVC_YAML = """\
stages:  # a comment that stays
  published:
    cmd: python -m stages.published
    deps: [
      data/first,  # and this one
      # code, written by `python -m commands.graph`
      pipeline/atomic.py, pipeline/no_longer_there.py,
      data/added_by_hand,
    ]
    outs: [results/published]
"""


def test_code_files_are_written_below_the_mark_and_nothing_else_changes():
    text = graph.with_code(DVC_YAML)
    head, below = text.split("      # code, written by `python -m commands.graph`\n")
    assert head == DVC_YAML.split("      # code")[0] + "      data/added_by_hand,\n"
    lines, rest = below.split("    ]\n")
    assert [file.strip() for file in lines.split(",") if file.strip()] == graph.closure("stages.published")
    assert rest == "    outs: [results/published]\n"
    assert graph.with_code(text) == text
    deps = YAML(typ="safe").load(text)["stages"]["published"]["deps"]
    assert deps == ["data/first", "data/added_by_hand", *graph.closure("stages.published")]


def test_a_list_of_code_that_does_not_end_is_refused():
    with pytest.raises(UserError, match="the list of stages.published has no closing ]"):
        graph.with_code(DVC_YAML.replace("    ]\n", ""))


@pytest.mark.slow
def test_a_stale_file_is_named(monkeypatch, capsys, checkout, embedded):
    (checkout / graph.FILE).write_text("stages: {}\n")
    assert run_graph(monkeypatch, "--check") == 1
    assert "models/dvc.yaml is stale; `python -m commands.graph` writes it anew" in capsys.readouterr().err
    assert run_graph(monkeypatch) == 0
    assert (checkout / graph.FILE).read_text() == graph.written(embedded)


def test_raising_the_repeats_adds_stages_and_changes_none(embedded):
    def stages(repeats: int) -> dict:
        training = embedded.training.model_copy(update={"repeats": repeats})
        parameters = embedded.model_copy(update={"training": training})
        made: dict = {}
        for name in parameters.models:
            made |= graph.stages_of(name, parameters)
        return made

    once, thrice = stages(1), stages(3)
    assert {name: thrice[name] for name in once} == once
    trained = [name.removeprefix("train-") for name in once if name.startswith("train-")]
    added = {f"{kind}-{name}-repeat{k}" for kind in ("train", "infer") for name in trained for k in (2, 3)}
    assert set(thrice) - set(once) == added and trained
    name = trained[0]
    assert thrice[f"train-{name}-repeat2"]["outs"] == [f"artifacts/models/{name}@2"]
    assert f"artifacts/models/{name}@2/weights.safetensors" in thrice[f"infer-{name}-repeat2"]["deps"]
