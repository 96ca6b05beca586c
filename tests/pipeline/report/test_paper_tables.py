import io
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import models
from pipeline import tables
from pipeline.errors import ParameterError
from pipeline.report import citations, paper_tables


@pytest.fixture
def results(tmp_path):
    """Three methods on two sub-datasets; b is best in All, a second, and c can't be told from b in fMSE."""
    means = {"a": (2.0, 30.0), "b": (1.0, 31.0), "c": (3.0, 29.0)}
    summary = [
        {"model": model, "subset": subset, "split": "test", "fmse": fmse + shift, "psnr": psnr}
        for subset, shift in (("X", 0.0), ("Y", 2.0), ("All", 1.0))
        for model, (fmse, psnr) in means.items()
    ]
    summary.append({"model": "a", "subset": "All", "split": "DIH99", "fmse": 0.0, "psnr": 99.0})
    differences = [
        {"subset": subset, "metric": metric, "first": "b", "second": second, "low": low, "high": high}
        for subset in ("X", "Y", "All")
        for metric, second, low, high in (
            ("fmse", "a", -2, -0.5),
            ("fmse", "c", -4, 0.1),
            ("psnr", "a", 0.5, 2),
            ("psnr", "c", 1, 3),
        )
    ]
    images = [
        {"model": model, "split": "test", "image_id": image, "photograph": image[0]}
        for model in means
        for image in ("p1", "p2", "q1")
    ]
    for name, rows in (("summary", summary), ("differences", differences), ("per_image", images)):
        tables.write(tmp_path / f"{name}.parquet", pd.DataFrame(rows))
    return tmp_path


def test_marks_by_hand(results):
    table = paper_tables.read("harmonization", results, "subset", ["fmse", "psnr"])
    assert list(table.means.index) == ["b", "a", "c"] and [group for group, _ in table.means.columns] == [
        "X",
        "X",
        "Y",
        "Y",
        "All",
        "All",
    ]
    assert table.means.loc["a", ("Y", "fmse")] == 4.0
    assert table.best["All", "fmse"].tolist() == [True, False, False] and table.second["All", "psnr"].tolist() == [
        False,
        True,
        False,
    ]
    assert table.tied["All", "fmse"].tolist() == [False, False, True] and not table.tied["All", "psnr"].any()
    assert "3 images of 2 photographs" in table.caption and "seam-256" in table.caption


def test_the_caption_says_what_sets_the_numbers_apart(results):
    summary = tables.read(results / "summary.parquet")
    trained = summary["model"].map({"a": 3, "b": 1, "c": 1})
    tables.write(results / "summary.parquet", summary.assign(n_repeats=trained))
    caveats = [("seam-256", "test", "scored at 64 pixels in place of 256"), ("seam-256", "test@original", "other")]
    rows = [{"protocol": protocol, "split": split, "caveat": caveat} for protocol, split, caveat in caveats]
    tables.write(results / "protocols.parquet", pd.DataFrame(rows))
    caption = paper_tables.read("harmonization", results, "subset", ["fmse"]).caption
    assert "; scored at 64 pixels in place of 256; a: mean of 3 trainings. Best bold" in caption


def test_markdown(results):
    lines = paper_tables.written(
        paper_tables.read("harmonization", results, "subset", ["fmse"]), "markdown"
    ).splitlines()
    assert lines[0] == "| method | X: fMSE ↓ | Y: fMSE ↓ | All: fMSE ↓ |"
    assert lines[2:5] == [
        "| b | **1.0** | **3.0** | **2.0** |",
        "| a | <u>2.0</u> | <u>4.0</u> | <u>3.0</u> |",
        "| c | 3.0† | 5.0† | 4.0† |",
    ]


def test_csv_has_full_numbers_and_no_marks(results):
    text = paper_tables.written(paper_tables.read("harmonization", results, "subset", ["fmse", "psnr"]), "csv")
    read = pd.read_csv(io.StringIO(text), index_col="method")
    assert read.loc["c", "All fmse"] == 4.0 and read.loc["b", "X psnr"] == 31.0 and read.shape == (3, 6)


def test_latex_has_rows_of_equal_length_and_balanced_braces(results):
    text = paper_tables.written(paper_tables.read("harmonization", results, "subset", ["fmse", "psnr"]), "latex")
    assert (
        text.count("{") == text.count("}") and r"\textbf{1.0}" in text and r"4.0$^\dagger$" in text and "†" not in text
    )
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    rows = text[text.index(r"\midrule") : text.index(r"\bottomrule")].strip().splitlines()[1:]
    assert [row.count("&") for row in rows] == [6, 6, 6] and all(row.endswith(r"\\") for row in rows)
    assert re.search(r"\\begin\{tabular\}\{lr{6}\}", text)
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5} \cmidrule(lr){6-7}" in text
    assert re.search(r"\\multicolumn\{2\}\{c\}\{X\} & \\multicolumn\{2\}\{c\}\{Y\}", text)
    assert not re.search(r"(?<!\\)%", text)


@pytest.mark.parametrize(
    "by, metrics, message",
    [
        ("subset", ["fsme"], "--metrics 'fsme'"),
        ("subset", ["ap"], "has no such column"),
        ("bucket", None, "has no holes"),
    ],
)
def test_what_a_task_has_not(results, by, metrics, message):
    with pytest.raises(ParameterError, match=message):
        paper_tables.read("harmonization", results, by, metrics)


def test_bibtex_by_hand():
    assert citations.bibtex("rainnet") == (
        "@inproceedings{rainnet,\n"
        "  author = {Ling and others},\n"
        "  title = {{Region-aware Adaptive Instance Normalization for Image Harmonization}},\n"
        "  year = {2021},\n"
        "  booktitle = {CVPR},\n"
        "}"
    )
    assert (
        citations.bibtex("gatedconv").splitlines()[1] == "  author = {Yu and Lin and Yang and Shen and Lu and Huang},"
    )
    assert "year = {2004}" in citations.bibtex("telea")
    assert citations.bibtex("mean_fill") is None


def test_every_published_method_is_cited():
    ours = {"constant_map", "gaussian_map", "composite", "histogram", "mean_fill"}
    assert {name for name in models.names() if citations.bibtex(name) is None} == ours


def test_the_references_are_those_of_the_docstrings():
    file = Path(__file__).resolve().parents[3] / "docs/references.bib"
    command = 'python -c "import models; from pipeline.report.citations import bibliography; print(bibliography(models.names()), end=str())"'
    assert file.read_text() == citations.bibliography(list(models.names())), (
        f"`{command} > docs/references.bib` writes it anew"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no TeX here")
@pytest.mark.parametrize(
    "task, by",
    [
        ("localization", "subset"),
        ("harmonization", "subset"),
        ("harmonization", "protocol"),
        ("inpainting", "subset"),
        ("inpainting", "bucket"),
        ("inpainting", "size"),
    ],
)
def test_latex_compiles(task, by, finished, tmp_path):
    table = paper_tables.written(paper_tables.read(task, finished / "results" / task, by, None), "latex")
    document = "\n".join(
        [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}", table, r"\end{document}"]
    )
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Overfull" not in done.stdout  # wider than the text
    assert (tmp_path / "table.pdf").stat().st_size > 0


@pytest.mark.skipif(not shutil.which("bibtex"), reason="there is no TeX here")
def test_every_reference_is_read_by_bibtex(tmp_path):
    (tmp_path / "all.aux").write_text("\\citation{*}\n\\bibdata{references}\n\\bibstyle{plain}\n")
    shutil.copy(Path(__file__).resolve().parents[3] / "docs/references.bib", tmp_path)
    done = subprocess.run(["bibtex", "all"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "error" not in done.stdout.lower(), done.stdout
    entries = (tmp_path / "references.bib").read_text().count("\n@") + 1
    assert (tmp_path / "all.bbl").read_text().count(r"\bibitem") == entries
