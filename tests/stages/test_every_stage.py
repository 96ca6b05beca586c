"""What holds of every stage: its help, its answer to a wrong params.yaml, and that nothing is written then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = sorted(file.stem for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__")
SENSIBLE = {
    "apply": ["--model", "composite", "picture.png", "mask.png", "-o", "out.png"],
    "check": ["data/params_are_valid.txt"],
    "detect": ["unet", "--weights", "w.safetensors", "--data", "data/composites/HCOCO", "--harmonized", "composite"],
    "detectability": ["artifacts/detectability/unet.parquet"],
    "evaluate": ["localization"],
    "iharmony4": ["HCOCO", "data/composites/HCOCO"],
    "infer": ["composite", "--data", "data/composites/HCOCO"],
    "ingest": ["bundled", "data/sources/bundled"],
    "irregular_masks": ["data/sources/bundled", "data/irregular_masks"],
    "real": ["rhm", "data/real/rhm"],
    "report": [],
    "synthesize": ["HCOCO", "data/sources/bundled", "data/sources/bundled", "data/composites/HCOCO"],
    "take_in": ["theirs", "--data", "data/composites/HCOCO"],
    "train": ["unet", "--data", "data/composites/HCOCO"],
}
"""Arguments of the stages that read parameters."""


def test_every_stage_is_here():
    assert (set(SENSIBLE) - {"apply"}) | {"lists", "published"} == set(STAGES)


@pytest.mark.parametrize("stage", [*STAGES, "apply", "study"])
def test_help_says_what_the_stage_makes_of_what(project, stage):
    done = project.run(stage, "--help")
    assert done.code == 0 and done.err == "" and f"usage: {stage}.py" in done.out and "--debug" in done.out
    assert "->" in done.out, "from what to what, as the first line of the module says"


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"report"}))
def test_wrong_usage_exits_with_2(project, stage):
    done = project.run(stage)
    assert done.code == 2 and "the following arguments are required" in done.err


@pytest.mark.parametrize("stage", sorted(SENSIBLE))
def test_a_slip_anywhere_in_the_parameters_stops_every_stage_before_it_touches_anything(project, stage):
    project.content["composites"]["rendering"]["filters"]["colour_difference"] = {"low": 40, "high": 3}
    project.write()
    before = sorted(os.listdir(project.folder))
    code, said = project.refused(stage, *SENSIBLE[stage])
    assert code == 2
    assert said == "params.yaml: composites.rendering.filters.colour_difference: low = 40.0 is not below high = 3.0"
    assert sorted(os.listdir(project.folder)) == before == ["params.yaml"]


@pytest.mark.parametrize("stage", sorted(SENSIBLE))
def test_without_parameters_a_stage_says_how_to_get_some(project, stage):
    (project.folder / "params.yaml").unlink()
    assert project.refused(stage, *SENSIBLE[stage]) == (
        2,
        "params.yaml: missing; `make preset NAME=embedded` writes the default",
    )
    assert os.listdir(project.folder) == []


@pytest.mark.parametrize(
    "stage, arguments, said",
    [
        ("ingest", ["bundle", "out"], "sources has no 'bundle'; did you mean 'bundled'?"),
        ("synthesize", ["HCOC", "a", "a", "out"], "composites.subsets has no 'HCOC'; did you mean 'HCOCO'?"),
        (
            "iharmony4",
            ["HCOCO", "out"],
            "composites.subsets.HCOCO is of recipe transfer; `python -m stages.synthesize` makes it",
        ),
        ("train", ["unte", "--data", "a"], "no model 'unte'; did you mean 'unet'? (known: "),
        ("infer", ["unte", "--data", "a"], "no model 'unte'; did you mean 'unet'? (known: "),
        ("train", ["rfr", "--data", "a", "b"], "models has no 'rfr'; it has "),
        (
            "train",
            ["composite", "--data", "a"],
            "models.composite.training is missing; a method without training has only `python -m stages.infer composite`",
        ),
    ],
)
def test_names_that_are_not_there(project, stage, arguments, said):
    code, line = project.refused(stage, *arguments)
    assert code == 2 and line.startswith(said)


@pytest.mark.parametrize("stage", ["train", "infer"])
def test_hyperparameters_that_the_network_does_not_take(project, stage):
    project.content["models"]["unet"]["hyperparameters"]["widht"] = 8
    project.write()
    code, said = project.refused(stage, "unet", "--data", *project.make_composites())
    assert code == 2
    assert said.startswith(
        "params.yaml: models.unet.hyperparameters: unet has no hyperparameter 'widht'; did you mean 'width'?"
    )


@pytest.mark.parametrize(
    "stage, said",
    [
        ("apply", "picture.png: no such file or folder"),
        ("detectability", "artifacts/detectability/unet.parquet: no such table"),
        ("infer", "data/composites/HCOCO/pairs.parquet: no such table"),
        ("irregular_masks", "data/sources/bundled/photographs.parquet: no such table"),
        ("synthesize", "data/sources/bundled/photographs.parquet: no such file"),
        ("train", "data/composites/HCOCO/pairs.parquet: no such table"),
    ],
)
def test_data_that_is_not_there_is_named_and_nothing_half_written_remains(project, stage, said):
    code, line = project.refused(stage, *SENSIBLE[stage])
    assert code == 1 and line.removeprefix(f"{project.folder}/") == said
    made = [path for path in project.folder.rglob("*") if path.is_file() and path.name != "params.yaml"]
    assert not made


def test_debug_shows_where_it_went_wrong(project):
    done = project.run("ingest", "bundle", "out", "--debug")
    assert done.code == 2 and "Traceback" in done.err and done.err.rstrip().endswith("did you mean 'bundled'?")


@pytest.mark.slow
def test_a_stage_is_a_module_that_python_runs():
    done = subprocess.run([sys.executable, "-m", "stages.lists", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "data/composites/IHD_*.txt" in done.stdout
