"""What README.md and docs/ tell a person to type: each command exists, and takes the options that stand there."""

import argparse
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params, tables
from tests.pipeline.report import project as report_project

ROOT = Path(__file__).resolve().parent.parent
YAML_SAFE = YAML(typ="safe", pure=True)
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
TOYS = ("tint", "red_map")
"""The methods that docs/adding_a_network.md adds."""
PROGRAMS = ("python", "make", "dvc")
OF_OTHER_PROGRAMS = {
    "--node-ip-address": "ray start",
    "--kill": "dvc queue stop",
    "--local": "dvc remote modify",
    "--default": "dvc remote add",
    "--nodes=4": "sbatch",
    "--logdir": "tensorboard",
}
"""Options that a page names without their command, and whose they are."""


def blocks(text: str) -> list[list[str]]:
    """Lines of the code blocks, fenced or indented by four spaces; an indented one follows an empty line."""
    fenced = [
        part.splitlines() for part in re.findall(r"^ *```\w*\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE)
    ]
    rest = re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"(?:\A|\n)\n((?: {4}[^\n]*(?:\n|\Z))+)", rest)
    return fenced + [[line[4:] for line in part.splitlines()] for part in indented]


def inline(text: str) -> list[str]:
    """What stands between backquotes, on one line or two."""
    rest = re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(part.split()) for part in re.findall(r"`([^`]+)`", rest)]


def command_lines(text: str) -> list[list[str]]:
    """The command lines of a page, as words: those of code blocks, prompts and comments cut off, and inline ones."""
    written = [line.strip().removeprefix("$ ") for block in blocks(text) for line in block] + inline(text)
    lines = []
    for line in written:
        if not re.match(rf"(\S*/)?({'|'.join(PROGRAMS)}) ", line):
            continue
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            lines.append([words[0].rsplit("/", 1)[-1], *words[1:]])
    return lines


LINES = [(page, words) for page, text in TEXT.items() for words in command_lines(text)]


def lines_of(program: str) -> list:
    """Each line of the program once, with the first page that has it."""
    unique = {shlex.join(words): page for page, words in reversed(LINES) if words[0] == program}
    return [pytest.param(shlex.split(line)[1:], id=f"{page}: {line}") for line, page in reversed(unique.items())]


class Parsed(Exception):
    """The command line was taken; nothing was done yet."""


@pytest.fixture
def parse(monkeypatch):
    """Reads `MODULE ARGUMENTS` as `python -m` does, up to its parser -> the parser. Refused arguments fail the test."""

    def parse(module: str, *arguments: str) -> argparse.ArgumentParser:
        read = argparse.ArgumentParser.parse_args

        def stop(parser, *given, **named):
            try:
                read(parser, *given, **named)
            except SystemExit as ended:
                assert ended.code == 0, f"python -m {shlex.join([module, *arguments])}: refused by its parser"
            raise Parsed(parser)

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            patch.setattr(sys, "argv", [module, *arguments])
            patch.delitem(sys.modules, module, raising=False)
            with pytest.raises(Parsed) as parsed:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        return parsed.value.args[0]

    return parse


def test_command_lines_are_read_from_blocks_and_from_text():
    text = (
        "Run `make quick`,\nor `python -m\na.b --c`:\n\n    make x A=1   # why\n    .venv/bin/python -m p 'q r'\n\n"
        "1. so:\n\n   ```sh\n   dvc repro x && make y\n   ```\n\n    - not `a` command\n"
    )
    assert sorted(command_lines(text)) == [
        ["dvc", "repro", "x"],
        ["make", "quick"],
        ["make", "x", "A=1"],
        ["make", "y"],
        ["python", "-m", "a.b", "--c"],
        ["python", "-m", "p", "q r"],
    ]
    assert {words[0] for page, words in LINES if page == "README.md"} >= set(PROGRAMS)


@pytest.mark.parametrize("words", lines_of("python"))
def test_a_command_takes_what_the_page_gives_it(parse, words):
    assert words[0] == "-m", words
    module = words[1]
    assert importlib.util.find_spec(module), f"there is no module {module}"
    if module.split(".")[0] in ("commands", "stages", "benchmarks", "tests") and module != "commands.cluster":
        parse(module, *("unet" if word in TOYS else word for word in words[2:]))  # any other stands in for them


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["commands", "stages"])
def test_what_a_page_leaves_unsaid_is_said_by_help(parse, folder):
    for file in sorted((ROOT / folder).glob("[a-z]*.py")):
        if file.stem != "cluster":  # it hands its arguments to the command that it is given
            assert parse(f"{folder}.{file.stem}", "--help").description, file


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {*parser._option_string_actions}.union(
        *(option_strings(child) for action in subparsers for child in action.choices.values())
    )


@pytest.mark.slow
def test_options_that_stand_alone_are_options_of_a_command(parse):
    named = {word for text in TEXT.values() for words in inline(text) for word in words.split() if word[:2] == "--"}
    modules = {words[2] for _, words in LINES if words[:2] == ["python", "-m"] and words[2] != "pytest"}
    modules |= {f"commands.{file.stem}" for file in (ROOT / "commands").glob("[a-z]*.py")}
    known = set().union(*(option_strings(parse(module, "--help")) for module in modules - {"commands.cluster", "pip"}))
    assert named - known - OF_OTHER_PROGRAMS.keys() == set() and named & known


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", lines_of("make"))
def test_make_has_the_target_its_variables_and_what_they_name(words):
    target, *settings = words
    assert re.search(rf"^{target}:", makefile(), re.MULTILINE)
    for setting in settings:
        name, _, value = setting.partition("=")
        assert f"$({name})" in makefile() or f"$(filter 1,$({name}))" in makefile(), name
        if (target, name) == ("preset", "NAME"):
            # "embedded|labelled|paper" and "..." stand for a choice
            assert all((ROOT / "presets" / f"{preset}.yaml").is_file() for preset in value.split("|")), value
        if (target, name) == ("ablation", "TABLE") and value != "...":
            assert value in YAML_SAFE.load((ROOT / "ablations.yaml").read_text())


def embedded() -> dict:
    return YAML_SAFE.load((ROOT / "presets" / "embedded.yaml").read_text())


@pytest.mark.parametrize("words", lines_of("dvc"))
def test_dvc_takes_the_line_and_what_it_names_is_there(words):
    from dvc.cli import parse_args

    try:
        arguments = parse_args(words)
    except BaseException as error:  # DVC's parser has an exception of its own
        raise AssertionError(f"dvc {shlex.join(words)}: {error}") from error
    for target in getattr(arguments, "targets", None) or []:
        file, _, stage = str(target).partition(":")
        if stage and stage.partition("-")[2] not in TOYS:
            assert file == "models/dvc.yaml" and stage.partition("-")[2] in embedded()["models"]
    for setting in getattr(arguments, "set_param", None) or []:
        with_setting(*setting.split("=", 1))


def with_setting(key: str, value) -> dict:
    """The embedded preset with one key changed, all of whose blocks are there."""
    content = embedded()
    *way, last = key.split(".")
    block = content
    for name in way:
        assert name in block, f"{key}: the embedded preset has no {name}"
        block = block[name]
    block[last] = YAML_SAFE.load(value) if isinstance(value, str) else value
    return content


SETTINGS = sorted(
    {
        tuple(words.split(": ", 1))
        for text in TEXT.values()
        for words in inline(text)
        if re.fullmatch(r"[a-z_]+(\.\w+)+: [^.\s][^<>]*", words) and not words.startswith("models.mine")
    }
)


@pytest.mark.parametrize("key, value", SETTINGS)
def test_a_parameter_that_a_page_sets_can_be_set_so(tmp_path, key, value):
    with open(tmp_path / "params.yaml", "w") as file:
        YAML_SAFE.dump(with_setting(key, value), file)
    params.load(tmp_path / "params.yaml")


def test_the_block_of_real_sets_can_be_put_into_params_yaml(tmp_path):
    (lines,) = [lines for lines in blocks(TEXT["README.md"]) if lines[0] == "real_sets:"]
    content = embedded() | YAML_SAFE.load("\n".join(lines))
    with open(tmp_path / "params.yaml", "w") as file:
        YAML_SAFE.dump(content, file)
    assert set(params.load(tmp_path / "params.yaml").real_sets) == {"iHarmony4", "DIH99"}


HERE = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - {
    "data",
    "artifacts",
    "results",
    "report",
}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    """Those of the repository. What a run makes (results/, data/, lock files) is not."""
    linked = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXT[page]) if "://" not in target]
    for target in linked:
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
    for name in set(re.findall(r"(?<![\w./<-])[\w.-]+/[\w./-]*\w(?![\w<*{/])", TEXT[page])):
        if name.split("/")[0] in HERE and not name.endswith(".lock") and Path(name).stem not in TOYS:
            assert (ROOT / name).exists(), f"{page}: {name}"


VARIABLES = (
    "SEAMBENCH_CPUS",
    "SEAMBENCH_RAY",
    "SEAMBENCH_GPU_SHARE",
    "SEAMBENCH_GPU_WORKERS",
    "SEAMBENCH_CHECKPOINTS",
    "SEAMBENCH_CHECKPOINT_SECONDS",
)


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_of_the_environment_are_read(name):
    assert any(name in text for text in TEXT.values())
    assert any(f'"{name}"' in file.read_text(encoding="utf-8") for file in (ROOT / "pipeline").rglob("*.py"))


def test_every_variable_of_ours_that_a_page_names_is_tested_above():
    named = set(re.findall(r"SEAMBENCH_\w+", "".join(TEXT.values())))
    assert named == set(VARIABLES)


# ---- lines of the README that take no time, run


@pytest.fixture(scope="module")
def harmonized(tmp_path_factory) -> Path:
    """A finished project of four photographs with the harmonizers that the README compares."""
    harmonizers = {"composite": False, "rainnet": True, "poisson": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_project, "METHODS", report_project.METHODS | {"harmonization": harmonizers})
        return report_project.build(tmp_path_factory.mktemp("harmonized"), subsets=("HCOCO",))


@pytest.fixture
def typed(harmonized, monkeypatch, capsys):
    """Runs the one line of the README that begins so, in the finished project -> what it prints."""
    monkeypatch.chdir(harmonized)

    def type_in(start: str, **instead: str) -> str:
        (words,) = {tuple(words) for page, words in LINES if page == "README.md" and " ".join(words).startswith(start)}
        monkeypatch.setattr(sys, "argv", [instead.get(word, word) for word in words[2:]])
        monkeypatch.delitem(sys.modules, words[2], raising=False)
        capsys.readouterr()
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        return capsys.readouterr().out

    return type_in


@pytest.mark.slow
def test_numbers_are_printed_asked_for_and_shown_to_people(typed, harmonized):
    table = typed("python -m commands.table harmonization")
    assert "\\begin{tabular}" in table and all(name in table for name in ("rainnet", "poisson", "composite"))
    assert "% @" in table  # BibTeX below it

    claim = typed("python -m commands.claim rainnet < poisson")
    assert re.match(r"rainnet < poisson in fMSE: (supported|contradicted|not decidable)\n", claim)
    scores = tables.read(harmonized / "results/harmonization/per_image.parquet").rename(columns={"model": "method"})
    scores.replace({"method": {"rainnet": "a", "poisson": "b"}}).to_csv(harmonized / "scores.csv", index=False)
    assert typed("python -m commands.claim a > b").startswith("a > b in PSNR: ")

    assert "width" in typed("python -m commands.graph --explain rainnet")

    typed("python -m commands.study make --models", **{"20": "2"})
    assert json.loads((harmonized / "study.key.json").read_text())["comparisons"]
    assert "<html" in (harmonized / "study.html").read_text()


@pytest.mark.slow
def test_a_method_that_runs_elsewhere_gets_its_inputs_and_its_scores(typed, harmonized):
    typed("python -m commands.hand_out harmonization inputs/")
    given = sorted((harmonized / "inputs").rglob("*.png"))
    assert given
    (harmonized / "outputs").mkdir()
    predicted = harmonized / "artifacts/predictions/rainnet/test"
    for file in predicted.glob("*.png"):
        shutil.copy(file, harmonized / "outputs")
    assert "mine" in typed("python -m commands.score harmonization outputs/")
