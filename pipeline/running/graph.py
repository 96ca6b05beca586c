"""The stages of each network, worked out from the code: what it imports is what its stages depend on.

DVC's matrix can't give each item its own dependencies, and here each network's `deps` are exactly its import
closure, so that an edit of one layer reruns the networks that use it and no other. The hand-written stages of
dvc.yaml are held to the same rule by a test.
"""

import ast
import functools
import hashlib
import re
import shlex
import textwrap
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

import models
from pipeline import params, repeats, tables
from pipeline.data.sources.kinds import KINDS
from pipeline.errors import UserError
from pipeline.running import outside
from pipeline.tasks import TASKS

WIDTH = 120
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("stages", "commands", "pipeline", "models")
TABLE_OF_CONTENTS = Path("dvc.yaml")
FILE = Path("models/dvc.yaml")
CODE_MARK = "# code, written by `python -m commands.graph`"
LOADED_BY_NAME = {"stages.ingest": tuple(f"pipeline.data.sources.{kind}" for kind in KINDS)}
"""Modules that a stage imports by a name it works out, so that reading its code doesn't find them."""
DATA_MARK = "# data, written by `python -m commands.graph`"
NAMES_MARK = "# names, written by `python -m commands.graph`"
PARAMETERS_ARE_VALID = "data/params_are_valid.txt"
"""What the stage `check` writes. Stages whose command holds a name of params.yaml depend on it, so that `dvc repro` runs none
of them before the names were found to be names."""


HEAD = """\
# Written by `python -m commands.graph` from params.yaml and the code; edits here are lost.
# Two stages for each method, a third for a localizer with weights: its deps are its import closure, its params the leaves it reads.

"""


def closure(*modules: str) -> list[str]:
    """Files of this repository that importing these modules imports, themselves included, sorted.

    Modules are dotted names ("stages.train"). Imports inside functions count; names that are imported by string do
    not, but those of LOADED_BY_NAME: others (a network) are given as modules of their own. Empty `__init__.py` files are left out.
    """
    modules += tuple(other for module in modules for other in LOADED_BY_NAME.get(module, ()))
    for module in modules:
        if _file_of(module) is None:
            raise UserError(f"no module {module!r} in this repository")
    visited, to_read = set(), [file for module in modules for file in _files_of(module)]
    while to_read:
        file = to_read.pop()
        if file in visited:
            continue
        visited.add(file)
        to_read += [imported for name in _imports(file) for imported in _files_of(name)]
    return sorted(str(file.relative_to(ROOT)) for file in visited if file.stat().st_size)


def table_of_contents(text: str, parameters: params.Params) -> str:
    """The text of dvc.yaml with all lines written anew that depend on the code or on params.yaml.

    These are what stands below a line with NAMES_MARK, deeper than it, and in the `deps` of a stage what stands below
    DATA_MARK and below CODE_MARK. All other lines are written by hand and stay.
    """
    return with_code(_with_data(_with_names(text, parameters), parameters))


def _with_names(text: str, parameters: params.Params) -> str:
    written, stage, below = [], None, None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if below is not None and (indent > below or not line.strip()):
            continue
        below = None
        if named := re.fullmatch(r"  (\w+):.*", line):
            stage = named[1]
        if line.endswith(NAMES_MARK):
            key, names, below = (
                line.removesuffix(NAMES_MARK).rstrip().removesuffix("{}").rstrip(),
                names_of(str(stage), parameters),
                indent,
            )
            written += [
                f"{key}{'' if names else ' {}'}  {NAMES_MARK}",
                *(f"{' ' * (indent + 2)}{name}: {value}" for name, value in names.items()),
            ]
        else:
            written.append(line)
    return "\n".join(written) + "\n"


def names_of(stage: str, parameters: params.Params) -> dict[str, str]:
    """What a stage of dvc.yaml is repeated for: its names, each with the block of params.yaml that it stands for there."""
    if stage == "evaluate":
        return {"task": f"[{', '.join(parameters.tasks)}]"}
    listed = [name for name, subset in parameters.subsets.items() if subset.recipe == "iharmony4"]
    places = {
        "ingest": ("sources", parameters.sources),
        "synthesize": ("composites.subsets", [name for name in parameters.subsets if name not in listed]),
        "iharmony4": ("composites.subsets", listed),
        "real": ("real_sets", parameters.real_sets),
        "irregular_masks": (
            "sources",
            [parameters.inpainting.source] if parameters.inpainting and parameters.irregular_masks else [],
        ),
    }
    place, names = places[stage]
    return {name: f"${{{place}.{name}}}" for name in names}


def _with_data(text: str, parameters: params.Params) -> str:
    written, stage, skipped = [], None, False
    for line in text.splitlines():
        skipped = skipped and line.strip() not in (CODE_MARK, "]")
        if skipped:
            continue
        if named := re.fullmatch(r"  (\w+):.*", line):
            stage = named[1]
        written.append(line)
        if line.strip() == DATA_MARK:
            indent, skipped = line[: len(line) - len(line.lstrip())], True
            written += [
                f'{indent}"{path}",' if "$" in path else f"{indent}{path}," for path in data_of(str(stage), parameters)
            ]
    return "\n".join(written) + "\n"


def data_of(stage: str, parameters: params.Params) -> list[str]:
    """Those data dependencies of a stage of dvc.yaml that not every params.yaml has."""
    if stage == "irregular_masks":
        masks = parameters.irregular_masks
        return ["${irregular_masks.folder}"] if masks is not None and masks.folder is not None else []
    assert stage == "report", stage
    there = {
        "artifacts/models": any(block.training is not None for block in parameters.models.values()),
        "data/sources": parameters.sources,
        "data/composites": parameters.subsets,
        "data/irregular_masks": names_of("irregular_masks", parameters),
    }
    return [path for path, needed in there.items() if needed]


def with_code(text: str) -> str:
    """The text of dvc.yaml with the code files of every stage written anew.

    A stage's `deps` is a list in square brackets, one data dependency a line. Below the line CODE_MARK stand the code
    files, several to a line, up to the closing bracket. Only those lines change. An entry there that is not a code file of
    this repository was added by hand, so it is kept and moves above the mark.
    """
    written: list[str] = []
    module, lines = "", iter(text.splitlines())
    for line in lines:
        if named := re.search(r"python -m (stages\.\w+)", line):
            module = named[1]
        if line.strip() != CODE_MARK:
            written.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        below = []
        for line in lines:
            if line.strip() == "]":
                break
            below.append(line)
        else:
            raise UserError(f"{TABLE_OF_CONTENTS}: the list of {module} has no closing ] on a line of its own")
        data = len(written)
        while data and not written[data - 1].rstrip().endswith("["):
            data -= 1
        marks = [place for place in range(data, len(written)) if written[place].strip() == DATA_MARK]
        place = marks[0] if marks else len(written)
        written[place:place] = [kept for kept in below if not _is_code(kept)]
        written += [f"{indent}{CODE_MARK}", *_several_to_a_line(closure(module), indent), line]
    return "\n".join(written) + "\n"


def _is_code(line: str) -> bool:
    entries = [entry.strip() for entry in line.split(",") if entry.strip()]
    return all(entry.endswith(".py") and entry.split("/")[0] in PACKAGES for entry in entries)


def _several_to_a_line(files: list[str], indent: str) -> list[str]:
    return textwrap.wrap(
        ", ".join(files) + ",",
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def read_parameters(module: str, task: str | None = None, **names: str) -> list[str]:
    """The leaves or blocks of params.yaml that a stage's module says it reads: its PARAMS, and its PARAMS_OF_TASK for
    a task, with names filled in."""
    declared = {}
    file = _file_of(module)
    if file is None:
        raise UserError(f"no module {module!r} in this repository")
    for node in ast.parse(file.read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.startswith("PARAMS")
        ):
            declared[node.targets[0].id] = ast.literal_eval(node.value)
    keys = [*declared["PARAMS"], *declared.get("PARAMS_OF_TASK", {}).get(task, ())]
    return [key.format(**names) for key in keys]


def folders_of(task: str, parameters: params.Params) -> tuple[list[str], list[str]]:
    """Folders that a task's networks are trained on, and folders that its methods are tested on."""
    if TASKS[task].trains_on == "photographs":
        assert parameters.inpainting is not None, "loading refuses inpainters without it"
        data = [f"data/sources/{parameters.inpainting.source}", "data/irregular_masks"]
        return data, data
    data = [f"data/composites/{subset}" for subset in parameters.subsets]
    return data, data + [f"data/real/{name}" for name in parameters.real_sets]


def weights_of(name: str, parameters: params.Params) -> str | None:
    """The file that a method's weights come from: of its training, or brought along; None for one that has none."""
    block = parameters.models[name]
    return f"artifacts/models/{name}/weights.safetensors" if block.training is not None else block.weights


def repeats_of(name: str, parameters: params.Params) -> range:
    """The numbers of a method's trainings, each a stage of its own: raising training.repeats adds stages and changes none.
    A method that isn't trained here has number 1 alone."""
    return range(1, 1 + (parameters.training.repeats if parameters.models[name].training is not None else 1))


def stages_of(name: str, parameters: params.Params) -> dict[str, dict]:
    """The stages of one method, as models/dvc.yaml holds them: training, inference, and for a localizer with weights what it
    finds once composites were harmonized. Without training there is no first, and of pictures made elsewhere only the
    second, which takes them in."""
    task, block = parameters.task_of(name), parameters.models[name]
    network = f"models.{task}.{name}"
    data, tested = folders_of(task, parameters)

    def places(stage: str, of_task: str | None) -> list[str]:
        keys = read_parameters(stage, of_task, model="{model}")
        return list(
            dict.fromkeys(
                place for key in keys for place in (parameters.read_of(name, key) if "{model}" in key else [key])
            )
        )

    outs = [f"artifacts/predictions/{name}", f"artifacts/index/{task}/{name}.json"]
    if block.outputs is not None:
        taken_in = {
            "wdir": "..",
            "cmd": f"python -m stages.take_in {name} --data {' '.join(tested)}",
            "params": places("stages.take_in", task),
            "deps": closure("stages.take_in") + tested + [block.outputs],
            "outs": outs,
        }
        return {f"infer-{name}": taken_in}
    made = {}
    files = outside.weight_files(block.hyperparameters)
    # of a network with weights the backbone's are read no more: its own hold them
    weights, imported = weights_of(name, parameters), block.weights is not None
    predicting = outside.weight_files(
        {key: value for key, value in block.hyperparameters.items() if not weights or key != "backbone_weights"}
    )
    for repeat in repeats_of(name, parameters):
        called, suffix = repeats.folder_name(name, repeat), "" if repeat == 1 else f"-repeat{repeat}"
        which = "" if repeat == 1 else f"--repeat {repeat} "
        if block.training is not None:
            begins = [block.training.start_from] if block.training.start_from else []
            made[f"train-{name}{suffix}"] = {
                "wdir": "..",
                "cmd": f"python -m stages.train {name} {which}--data {' '.join(data)}",
                "params": places("stages.train", task),
                "deps": closure("stages.train", network) + data + files + begins,
                "outs": [f"artifacts/models/{called}"],
            }
            weights = f"artifacts/models/{called}/weights.safetensors"
        options = f"--weights {shlex.quote(weights)} {'--imported ' if imported else ''}" if weights else ""
        made[f"infer-{name}{suffix}"] = {
            "wdir": "..",
            "cmd": f"python -m stages.infer {name} {which}{options}--data {' '.join(tested)}",
            "params": places("stages.infer", task),
            "deps": closure("stages.infer", network) + tested + ([weights] if weights else []) + predicting,
            "outs": [f"artifacts/predictions/{called}", f"artifacts/index/{task}/{called}.json"],
        }
    weights = weights_of(name, parameters)  # of the first repeat, by which a localizer looks at what was harmonized
    if name in detecting(parameters):
        harmonizers = parameters.models_of("harmonization")
        made[f"detect-{name}"] = {
            "wdir": "..",
            "cmd": f"python -m stages.detect {name} --weights {shlex.quote(str(weights))} --data {' '.join(tested)} --harmonized {' '.join(harmonizers)}",
            "params": places("stages.detect", None),
            "deps": closure("stages.detect", network)
            + tested
            + [str(weights)]
            + [f"artifacts/predictions/{harmonizer}" for harmonizer in harmonizers]
            + predicting,
            "outs": [f"artifacts/detectability/{name}.parquet"],
        }
    return made


def detecting(parameters: params.Params) -> list[str]:
    """The localizers that look at harmonized composites: those that have weights, where there are harmonizers."""
    trained = [name for name in parameters.models_of("localization") if weights_of(name, parameters)]
    return trained if parameters.models_of("harmonization") else []


def detectability_stage(parameters: params.Params) -> dict[str, dict]:
    """What all of them found, in one table; here because it depends on a list of them, and is no stage without one."""
    score_tables = [f"artifacts/detectability/{name}.parquet" for name in detecting(parameters)]
    if not score_tables:
        return {}
    return {
        "detectability": {
            "wdir": "..",
            "cmd": f"python -m stages.detectability {' '.join(score_tables)}",
            "params": read_parameters("stages.detectability"),
            "deps": closure("stages.detectability") + score_tables,
            "outs": ["results/detectability"],
        }
    }


def published_stage(parameters: params.Params) -> dict[str, dict]:
    """What the papers print, and ours beside it, of the tasks that there are."""
    results = [f"results/{task}" for task in parameters.tasks]
    tables = [f"results/{task}/{name}.parquet" for task in parameters.tasks for name in TASKS[task].compared_tables]
    return {
        "published": {
            "wdir": "..",
            "cmd": f"python -m stages.published {' '.join(results)}",
            "deps": closure("stages.published") + ["pipeline/scoring/published.csv", *tables],
            "outs": ["results/published"],
        }
    }


def lists_stage(parameters: params.Params) -> dict[str, dict]:
    """iHarmony4's lists over all sub-datasets; here because it depends on a list of folders too."""
    folders = [f"data/composites/{subset}" for subset in parameters.subsets]
    if not folders:
        return {}
    return {
        "lists": {
            "wdir": "..",
            "cmd": f"python -m stages.lists {' '.join(folders)}",
            "deps": closure("stages.lists") + [f"{folder}/pairs.parquet" for folder in folders],
            "outs": [f"data/composites/{name}_{split}.txt" for name in ("IHD", "le50") for split in ("train", "test")],
        }
    }


def written(parameters: params.Params) -> str:
    """The text of models/dvc.yaml."""
    from io import StringIO

    stages = lists_stage(parameters)
    for name in parameters.models:
        stages |= stages_of(name, parameters)
    stages |= detectability_stage(parameters) | published_stage(parameters)
    curves = [
        {
            f"training loss, {task}": {
                "x": "step",
                "y": {f"../artifacts/models/{name}/history.csv": "loss" for name in trained},
            }
        }
        for task in models.TASKS
        if (trained := [name for name in parameters.models_of(task) if parameters.models[name].training is not None])
    ]
    for stage in stages.values():
        stage["deps"] = CommentedSeq(stage["deps"])
        stage["deps"].fa.set_flow_style()
    yaml = YAML()
    yaml.width = WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = StringIO()
    yaml.dump(
        {
            "stages": stages,
            "metrics": [f"../results/{task}/metrics.json" for task in parameters.tasks],
            "plots": curves,
        },
        text,
    )
    return HEAD + re.sub(r" +$", "", text.getvalue(), flags=re.MULTILINE)


def stale_outputs(parameters: params.Params) -> tuple[list[Path], list[Path]]:
    """What lies in artifacts/ of methods that params.yaml no longer names, and evaluation would go on counting: outputs of
    stages, which may be removed, and folders with something in them that no stage wrote, which may not."""
    kinds = ("models", "predictions", *(f"index/{task}" for task in models.TASKS), "detectability")
    folders = [ROOT / "artifacts" / kind for kind in kinds]
    unnamed = [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if not _named(path, parameters)
    ]
    stale = [path for path in unnamed if _made_by_a_stage(path)]
    table = ROOT / "results/detectability"
    made = stale + ([table] if table.is_dir() and not detecting(parameters) else [])
    return made, [path for path in unnamed if path not in stale]


def _named(path: Path, parameters: params.Params) -> bool:
    model, repeat = repeats.parse(_method(path))
    return model in parameters.models and repeat in repeats_of(model, parameters)


def _method(path: Path) -> str:
    """The method that an output in artifacts/ is named after: by its folder, or by its file without the suffix."""
    return path.name if path.is_dir() else path.stem


def _made_by_a_stage(path: Path) -> bool:
    """Whether an output of a method can be told to hold only what a stage wrote, byte for byte where a table states it."""
    if path.is_symlink():
        return False
    if path.name.startswith("."):  # what a stage that was killed had begun
        return path.name.endswith(".part")
    kind = path.parent.name
    if kind == "predictions":
        return path.is_dir() and all(_written_by_inference(entry) for entry in path.iterdir())
    if kind == "models":
        return path.is_dir() and {entry.name for entry in path.iterdir()} <= set(TRAINING_LEAVES)
    if kind == "detectability":
        return path.suffix == ".parquet" and path.is_file()
    return path.suffix == ".json" and path.is_file() and '"predictions"' in path.read_text(errors="replace")


TRAINING_LEAVES = (
    "weights.safetensors",
    "last.safetensors",
    "history.parquet",
    "history.csv",
    "training.json",
    "training.log",
)
"""Files of artifacts/models/<model>."""


def _written_by_inference(split: Path) -> bool:
    """Whether a folder of predictions holds exactly the files, and the bytes, that its table states."""
    table = split / "predictions.parquet"
    if not table.is_file():
        return False
    try:
        stated = tables.read(table, ["prediction", "sha256"])
    except UserError:
        return False
    sha256 = dict(zip(stated["prediction"], stated["sha256"]))
    there = {file.name for file in split.iterdir()} - {table.name}
    return there == set(sha256) and all(
        hashlib.sha256((split / name).read_bytes()).hexdigest() == sha256[name] for name in there
    )


@functools.cache
def _imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # "from a import b": b may be a module or a name inside a
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _files_of(name: str) -> list[Path]:
    """The files that importing a dotted name runs: the packages on the way and the module."""
    parts = name.split(".")
    files = [_file_of(".".join(parts[: count + 1])) for count in range(len(parts))]
    return [file for file in files if file is not None]


def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
