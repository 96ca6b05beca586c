"""The notebooks run on a small results/ and read nothing else; committed without outputs."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipeline.report import project

ROOT = Path(__file__).resolve().parents[1]
ACROSS = ROOT / "notebooks/across_tasks.ipynb"
NOTEBOOKS = sorted(set((ROOT / "notebooks").glob("*.ipynb")) - {ACROSS})
"""One for each task."""


@pytest.fixture
def results(finished):
    return finished / "results"


def executed(file: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook, run from `folder` as its own; an error in a cell is an error here."""
    (folder / "notebooks").mkdir()
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    return notebook


def outputs(notebook) -> tuple[str, int]:
    """What was printed, and the number of plots."""
    made = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in made if output.output_type == "stream" and output.name == "stderr"]
    return "".join(output.text for output in made if output.output_type == "stream"), sum(
        "image/png" in output.get("data", {}) for output in made
    )


def test_one_for_each_task():
    assert [file.stem for file in NOTEBOOKS] == sorted(project.METHODS)


@pytest.mark.parametrize("file", [*NOTEBOOKS, ACROSS], ids=lambda file: file.stem)
def test_committed_without_outputs_and_reading_results_alone(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    text = "\n".join(cell.source for cell in code)
    folder = "results" if file == ACROSS else f"results/{file.stem}"
    assert set(re.findall(r'Path\("([^"]*)"\)', text)) == {f"../{folder}", folder}
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) == {"pathlib", "matplotlib", "pandas"}
    assert not re.search(r"open\(|read_csv|artifacts|data/", text)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_answers_in_words_and_plots(file, results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    words, plots = outputs(executed(file, tmp_path))
    assert plots == 3
    assert "2 methods" in words and all(name in words for name in project.METHODS[file.stem])


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_says_so_where_there_are_no_results(file, tmp_path):
    words, plots = outputs(executed(file, tmp_path))
    assert plots == 0 and words.startswith(f"There are no results for {file.stem} yet")


@pytest.mark.slow
def test_one_question_across_tasks(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    words, plots = outputs(executed(ACROSS, tmp_path))
    assert plots == 2 and all(f"{task}: 2 methods" in words and f"{task}: method " in words for task in project.METHODS)


@pytest.mark.slow
def test_across_tasks_without_results(tmp_path):
    words, plots = outputs(executed(ACROSS, tmp_path))
    assert plots == 0 and words.startswith("There are no results for two methods of any task yet")
