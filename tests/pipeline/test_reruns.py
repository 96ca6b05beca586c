"""What an edit makes DVC run again, asked of DVC itself.

A copy of the code gets a dvc.lock without running anything: every output is made up on the spot and committed. Then each
leaf of params.yaml and each file is edited once, and `dvc status` must name the stages that the edit can affect, no
others. What is expected of parameters is written out by hand below; of files, it is the import closure.
"""

import copy
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import models
from pipeline import params
from pipeline.running import graph

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

YAML_SAFE = YAML(typ="safe", pure=True)
YAML_SAFE.sort_base_mapping_type_on_output = False
KEPT = ("constant_map", "unet", "composite", "rainnet", "telea", "pconv")
TRAINED = ("unet", "rainnet", "pconv")


def wide_parameters() -> dict:
    """The embedded preset with two sources, two sub-datasets and a real set, so that there is something to keep apart."""
    content = YAML_SAFE.load((ROOT / "presets" / "embedded.yaml").read_text())
    content["sources"]["photos"] = content["sources"]["bundled"] | {"kind": "coco", "path": "photos"}
    subset = content["composites"]["subsets"]["HCOCO"]
    content["composites"]["subsets"] = {
        "HCOCO": subset,
        "HFlickr": subset | {"prefix": "f", "source": "photos", "references": "photos"},
    }
    content["composites"]["subsets"]["Real"] = {
        "recipe": "iharmony4",
        "path": "iHarmony4",
        "validation_share": 0.1,
        "disjoint": False,
        "max_megapixels": 50,
        "max_rejected": 0.0,
    }
    content["irregular_masks"]["folder"] = "holes"
    content["real_sets"] = {"rhm": {"kind": "pairs", "path": "pairs", "max_megapixels": 50, "max_rejected": 0.0}}
    content["models"] = {name: content["models"][name] for name in KEPT}
    content["models"]["unet"]["hyperparameters"] = {"width": 8, "backbone_weights": "backbone.pth"}
    # one network says all that can be said
    content["models"]["unet"]["training"] |= {
        "max_steps_per_epoch": 3,
        "validate_every": 1,
        "channels_last": False,
        "players": {"network": {"learning_rate": 0.1}},
    }
    content["models"]["unet"]["training"]["optimization"] = {
        "betas": [0.9, 0.99],
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "schedule": {"name": "step", "warmup": 0.1, "start": 0.5, "milestones": [0.5], "factor": 0.1},
    }
    return content


class Project:
    def __init__(self, folder: Path):
        from dvc.repo import Repo

        self.folder = folder
        for name in (*graph.PACKAGES, "presets"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, folder / name)
        self.parameters = wide_parameters()
        self.write(self.parameters, graph_too=True)
        os.chdir(folder)
        self.repo = Repo.init(str(folder), no_scm=True)
        self.stages = {stage.addressing: stage for stage in self.repo.index.stages}
        # what dvc.yaml takes from params.yaml for its commands and paths, such as composites.subsets
        self.interpolated = [
            tuple(reference.split("."))
            for reference in re.findall(r"\$\{([\w.]+)\}", (folder / "dvc.yaml").read_text())
        ]
        self._make_up_outputs()
        with self.repo.lock:
            for stage in self.stages.values():
                stage.save()
                stage.commit()
                stage.dump(update_pipeline=False)

    def _make_up_outputs(self) -> None:
        deps = [Path(dep.fs_path) for stage in self.stages.values() for dep in stage.deps]
        for out in {Path(out.fs_path) for stage in self.stages.values() for out in stage.outs}:
            if out.suffix:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(out.name)
            else:
                out.mkdir(parents=True)
                (out / "content").write_text(out.name)
        for dep in deps:
            if not dep.exists():  # a file within an output, or a folder of photographs
                file = dep if dep.suffix else dep / "content"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(dep.name)

    def write(self, content: dict, graph_too: bool = False) -> None:
        with open(self.folder / "params.yaml", "w") as file:
            YAML_SAFE.dump(content, file)
        if graph_too:
            parameters = params.load(self.folder / "params.yaml")
            (self.folder / "models/dvc.yaml").write_text(graph.written(parameters))
            contents = self.folder / "dvc.yaml"
            contents.write_text(graph.table_of_contents(contents.read_text(), parameters))

    def marked(self, read_again: bool = False) -> set[str]:
        """The stages that would run, without "models/dvc.yaml:". DVC's files are read again if that could matter."""
        if read_again:
            self.repo._reset()
        return {name.removeprefix("models/dvc.yaml:") for name in self.repo.status()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        # DVC parses its files anew for every stage and status, in pure Python; the same text gives the same content
        from dvc.utils import serialize

        parse, parsed = serialize.parse_yaml, {}

        def parse_once(text, *arguments, **options):
            key = (text, repr(arguments[1:]), repr(sorted(options.items())))
            if key not in parsed:
                parsed[key] = pickle.dumps(parse(text, *arguments, **options))
            return pickle.loads(parsed[key])

        patch.setattr(serialize, "parse_yaml", parse_once)
        patch.setattr(serialize._yaml, "parse_yaml", parse_once)
        yield Project(tmp_path_factory.mktemp("project"))
    os.chdir(before)


# ---- parameters


def leaves(content: dict, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths = []
    for key, value in content.items():
        paths += leaves(value, (*place, key)) if isinstance(value, dict) and value else [(*place, key)]
    return paths


def edited(content: dict, place: tuple[str, ...]) -> dict:
    """The parameters with another value at one place."""
    content = copy.deepcopy(content)
    block = content
    for key in place[:-1]:
        block = block[key]
    value = block[place[-1]]
    if place[-1] in ("source", "references"):
        other = {"bundled": "photos", "photos": "bundled"}[value]
    elif place[0] == "sources" and place[-1] == "kind":
        other = {"bundled": "coco", "coco": "bundled"}[value]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, (int, float)):
        other = value + 1
    elif isinstance(value, list):
        other = value[::-1] + value[:1] or [1]
    else:
        other = {"edited": 1} if value == {} else f"{value or ''}edited"
    block[place[-1]] = other
    return content


def of_task(*tasks: str, trained: bool) -> set[str]:
    names = [name for name in KEPT if models.task_of(name) in tasks]
    return {f"infer-{name}" for name in names} | (
        {f"train-{name}" for name in names if name in TRAINED} if trained else set()
    )


TRAIN = {f"train-{name}" for name in TRAINED}
INFER = {f"infer-{name}" for name in KEPT}
MASKS = "irregular_masks@bundled"
INGEST, SYNTHESIZE = {"ingest@bundled", "ingest@photos"}, {"synthesize@HCOCO", "synthesize@HFlickr"}
EVALUATE = {f"evaluate@{task}" for task in models.TASKS}
DETECT = {"detect-unet"}
ALWAYS, REPORT = {"check", "report"}, {"report"}
"""What reads params.yaml as a whole: the report says in what it differs from its preset."""


def affected(place: tuple[str, ...]) -> set[str]:
    """The stages that a leaf of params.yaml can affect."""
    match place:
        case ("seed",):
            return INGEST | SYNTHESIZE | {"iharmony4@Real", MASKS, "detectability"} | TRAIN | EVALUATE
        case ("image_size",):
            return {MASKS} | TRAIN | INFER | DETECT | EVALUATE
        case ("sources", name, *_):
            return {f"ingest@{name}"}
        case ("composites", "subsets", "Real", *_):
            return {"iharmony4@Real"}
        case ("composites", "subsets", name, *_):
            return {f"synthesize@{name}"}
        case ("composites", "rendering", *_):
            return SYNTHESIZE
        case ("real_sets", name, *_):
            return {f"real@{name}"}
        case ("irregular_masks", *_):
            return {MASKS}
        case ("localization", "max_foreground"):
            return of_task("localization", trained=True) | DETECT
        case ("inpainting", "source"):
            return {"irregular_masks@photos"} | of_task("inpainting", trained=True)
        case ("inpainting", "mask_augmentation", _):
            return {"train-pconv"}
        case ("training", "device"):
            return TRAIN | INFER | DETECT
        case ("training", "validation_images"):  # a localizer's threshold is chosen on them at inference
            return TRAIN | of_task("localization", trained=False)
        case ("training", "samples_every"):  # pictures that no stage leaves
            return set()
        case ("training", "repeats"):  # further stages; those that there are stay as they are
            return set()
        case ("training", _):
            return TRAIN
        case ("recipes", "short", *leaf):
            # pconv and rainnet have a learning rate of their own, unet a schedule
            of_few = [["optimization", "learning_rate"], ["augmentation", "crop", "low"], ["keep"]]
            own = {
                "pconv": of_few,
                "rainnet": of_few,
                "unet": [["optimization", "schedule", "name"], ["optimization", "schedule", "warmup"]],
            }
            return {f"train-{name}" for name in TRAINED if leaf not in own.get(name, [])}
        case ("models", name):  # a block that states nothing
            return {f"infer-{name}"}
        case ("models", name, "hyperparameters", *_):
            return {f"infer-{name}"} | ({f"train-{name}"} & TRAIN) | ({f"detect-{name}"} & DETECT)
        case ("models", name, "training", *_):
            return {f"train-{name}"}
        case ("inference", "batch_size"):
            return INFER | DETECT
        case ("inference", "resolutions" | "samples"):
            return INFER
        case ("evaluation", "protocols" | "perceptual", *_):
            return EVALUATE
        case ("evaluation", _):
            return EVALUATE | {"detectability"}
        case ("report", _):
            return set()
    raise AssertionError(f"{'.'.join(place)} is new; say here what it can affect")


def test_nothing_runs_where_nothing_changed(project):
    expected = (
        INGEST
        | SYNTHESIZE
        | {"iharmony4@Real", "real@rhm", "lists", MASKS, "published", "detectability"}
        | TRAIN
        | INFER
        | DETECT
        | EVALUATE
        | ALWAYS
    )
    assert {name.removeprefix("models/dvc.yaml:") for name in project.stages} == expected
    assert project.marked(True) == set()
    assert project.repo.reproduce() == []


def test_every_leaf_of_the_parameters_marks_what_it_can_affect_and_nothing_else(project):
    wrong = {}
    places = leaves(project.parameters)
    assert len(places) > 90
    for place in places:
        # a source is a path in models/dvc.yaml, which `make preset` writes anew
        project.write(edited(project.parameters, place), graph_too=place[0] == "inpainting")
        interpolated = any(place[: len(prefix)] == prefix for prefix in project.interpolated)
        if (marked := project.marked(interpolated)) != (expected := affected(place) | ALWAYS):
            wrong[".".join(place)] = {"not marked": expected - marked, "marked": marked - expected}
        project.write(project.parameters, graph_too=place[0] == "inpainting")
        if interpolated:
            project.repo._reset()
    assert not wrong
    assert project.marked(True) == set()


# ---- files


def test_every_file_marks_the_stages_that_import_it_and_nothing_else(project):
    closures = {}
    for name in project.stages:
        name = name.removeprefix("models/dvc.yaml:")
        kind, _, item = name.partition("-") if name.startswith(("train-", "infer-", "detect-")) else name.partition("@")
        modules = [f"stages.{kind}"] + (
            [f"models.{models.task_of(item)}.{item}"] if kind in ("train", "infer", "detect") else []
        )
        closures[name] = set(graph.closure(*modules))
    # test_graph.py holds the lists of deps against the closures file by file; here one file is edited for each set of
    # stages that import the same files
    alike = {}
    for package in graph.PACKAGES:
        for file in sorted((project.folder / package).rglob("*.py")):
            name = str(file.relative_to(project.folder))
            alike[frozenset(stage for stage, closure in closures.items() if name in closure)] = name
    assert len(alike) > 15
    wrong = {}
    for expected, name in alike.items():
        file = project.folder / name
        text = file.read_text()
        file.write_text(text + "# edited\n")
        if (marked := project.marked()) != expected:
            wrong[name] = {"not marked": expected - marked, "marked": marked - expected}
        file.write_text(text)
    assert not wrong


@pytest.mark.parametrize(
    "file, expected",
    [
        ("pipeline/irregular_masks/recipes.py", {MASKS}),
        ("pipeline/color_transfer/xiao.py", SYNTHESIZE),
        ("pipeline/data/composites/filters.py", SYNTHESIZE),
        ("pipeline/data/sources/coco.py", INGEST),
        ("pipeline/scoring/statistics.py", EVALUATE | {"detectability", "report"}),
        ("pipeline/networks/predictor.py", INFER | DETECT),
        ("pipeline/detectability/localizer_scores.py", DETECT),
        ("pipeline/scoring/published.csv", {"published"}),
        ("models/layers/resnet_unet.py", {"train-unet", "infer-unet", "detect-unet"}),
        ("models/harmonization/rainnet.py", {"train-rainnet", "infer-rainnet"}),
        ("models/inpainting/pconv.py", {"train-pconv", "infer-pconv"}),
        ("models/inpainting/rfr.py", set()),
        ("models/harmonization/composite.py", {"infer-composite"}),
        ("stages/train.py", TRAIN),
        ("pipeline/report/page.css", REPORT),
        ("presets/paper.yaml", REPORT),
        ("photos/content", {"ingest@photos"}),
        ("pairs/content", {"real@rhm"}),
        ("iHarmony4/content", {"iharmony4@Real"}),
        ("holes/content", {MASKS}),
        ("backbone.pth", {"train-unet"}),
        ("pipeline/data/sources/bundled.json", {"ingest@bundled"}),
    ],
)
def test_files_by_hand(project, file, expected):
    path = project.folder / file
    text = path.read_text()
    path.write_text(text + "\n")
    try:
        assert project.marked() == expected
    finally:
        path.write_text(text)


# ---- data on its way


@pytest.mark.parametrize(
    "file, owner, readers",
    [
        ("data/sources/photos/photographs.parquet", "ingest@photos", {"synthesize@HFlickr", "report"}),
        (
            "data/sources/bundled/photographs.parquet",
            "ingest@bundled",
            {"synthesize@HCOCO", MASKS, "report", "train-pconv", "infer-pconv", "infer-telea"},
        ),
        (
            "data/composites/HFlickr/pairs.parquet",
            "synthesize@HFlickr",
            {"lists", "report"} | of_task("localization", "harmonization", trained=True) | DETECT,
        ),
        ("data/real/rhm/content", "real@rhm", of_task("localization", "harmonization", trained=False) | DETECT),
        ("data/irregular_masks/content", MASKS, {"report"} | of_task("inpainting", trained=True)),
        ("artifacts/models/unet/weights.safetensors", "train-unet", {"infer-unet", "detect-unet", "report"}),
        ("artifacts/predictions/rainnet/content", "infer-rainnet", {"detect-unet", "report"}),
        ("artifacts/predictions/telea/content", "infer-telea", {"report"}),
        ("artifacts/detectability/unet.parquet", "detect-unet", {"detectability"}),
        ("artifacts/index/localization/unet.json", "infer-unet", {"evaluate@localization", "report"}),
        ("results/inpainting/content", "evaluate@inpainting", {"report"}),
        ("results/harmonization/summary.parquet", "evaluate@harmonization", {"published", "report"}),
    ],
)
def test_other_data_marks_the_stages_that_read_it(project, file, owner, readers):
    path = project.folder / file
    text = path.read_text()
    path.write_text(text + "edited")
    try:
        assert project.marked() == {owner} | readers
    finally:
        path.write_text(text)
