import contextlib
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from pipeline import params, tables
from pipeline.errors import UserError
from pipeline.report import page
from tests.pipeline.report import project

VOID = {"meta", "img", "input", "br", "hr", "link"}


def render(root: Path) -> str:
    with contextlib.chdir(root):
        return page.render(
            params.load(),
            results=Path("results"), artifacts=Path("artifacts"), data=Path("data"), file=Path("params.yaml"), presets=Path("presets"),
        )  # fmt: skip


class Read(HTMLParser):
    """What a page refers to, its text, and the tags that were left open."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open, self.sources, self.links, self.ids, self.words = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.sources += [given[key] for key in ("src", "data-second", "poster") if key in given]
        self.links += [given["href"]] if "href" in given else []
        self.ids += [given["id"]] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def undrawn(monkeypatch):
    """Without the time that charts take, where they aren't what is asked."""
    monkeypatch.setattr(page.plots, "_svg", lambda figure, name: "<svg></svg>")


@pytest.fixture(scope="module")
def html(finished):
    return render(finished)


@pytest.fixture(scope="module")
def read(html):
    return Read(html)


def test_needs_nothing_beside_it(html, read):
    assert read.open == []
    assert len(read.sources) > 50 and all(source.startswith("data:image/") for source in read.sources)
    # the only addresses are the names of markup languages
    assert not re.search(
        r"(?i)(https?:)?//(?!www\.w3\.org/)[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    )
    assert "@import" not in html and "url(http" not in html


def test_links_lead_to_tables_that_exist(finished, read):
    outside = [link for link in read.links if not link.startswith(("#", "data:"))]
    assert len(outside) > 20 and all((finished / "report" / link).resolve().is_file() for link in outside)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)


def test_tables_travel_inside_the_page(finished, read):
    carried = [link for link in read.links if link.startswith("data:text/csv;charset=utf-8,")]
    assert len(carried) == 3 * len(page.TABLES)
    for number, task in enumerate(project.METHODS):
        table = tables.read(finished / "results" / task / "intervals.parquet")
        address = carried[number * len(page.TABLES) + page.TABLES.index("intervals")]
        own = pd.read_csv(io.StringIO(unquote(address.partition(",")[2])))
        assert list(own) == list(table) and list(own["model"]) == list(table["model"])
        assert own["mean"].to_numpy() == pytest.approx(table["mean"].to_numpy(), rel=1e-6, nan_ok=True)


@pytest.mark.slow
def test_a_table_too_long_for_the_page_is_named(finished, monkeypatch, undrawn):
    monkeypatch.setattr(page.numbers, "EMBEDDED_BYTES", 100)
    text = Read(render(finished)).text
    assert "Too large to be embedded: per_image, summary" in text


@pytest.mark.slow
def test_costs_are_shown_once_they_are_measured(finished, tmp_path, undrawn):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    assert "What a method costs" not in Read(render(root)).text
    row = {"task": "harmonization", "device": "cpu", "processor": "Some CPU, threads: 2", "size": "256", "height": 256, "width": 256, "parameters": 1, "gmacs": 0.5,
           "peak_mib": 300.0, "code_licence": "MIT", "weights_licence": "not looked up", "data_licence": "research"}  # fmt: skip
    rows = [
        row | {"model": "composite", "ms": 1.25, "why_not": ""},
        row | {"model": "rainnet", "ms": float("nan"), "why_not": "needs more than 5 GiB"},
    ]
    tables.write(root / "results/cost.parquet", pd.DataFrame(rows))
    text = Read(render(root)).text
    assert text.count("What a method costs") == 1 and "One picture on Some CPU, threads: 2, measured by" in text
    assert "composite † cpu 256 0 0.50 1.2 300 MIT" in text and "needs more than 5 GiB" in text


def test_says_what_matters(finished, read):
    for words in (
        "Few photographs.", "Simulated data. HAdobe5k: all 8 composites", "preset small", "4 images of 2 photographs",
        "without training", "at 48 in place of 256 pixels", "2 + 1", "candidates were rejected", "pairs.parquet", "$x^2$ <b>", "What is a protocol?", "No printed column shares three methods",
    ):  # fmt: skip
        assert words in read.text, words
    for task, methods in project.METHODS.items():
        for name in methods:
            assert name in read.text
        digest = re.search(rf"results/{task}/per_image\.parquet \d+ ([0-9a-f]{{16}})", read.text)
        content = (finished / "results" / task / "per_image.parquet").read_bytes()
        assert digest and digest.group(1) == hashlib.sha256(content).hexdigest()[:16]


def test_headline_means_stand_in_the_page(finished, read):
    for task, metric, decimals in (("localization", "ap", 3), ("harmonization", "fmse", 1), ("inpainting", "l1", 4)):
        summary = tables.read(finished / "results" / task / "summary.parquet")
        for mean in summary[metric]:
            assert f"{mean:.{decimals}f}" in read.text


@pytest.mark.slow
def test_same_inputs_same_bytes(finished, html):
    assert render(finished) == html


@pytest.mark.slow
@pytest.mark.parametrize("subsets", [("HCOCO",), ("HCOCO", "HAdobe5k", "HFlickr", "Hday2night")])
def test_one_to_four_subsets_with_and_without_trained_networks(tmp_path, subsets):
    root = project.build(tmp_path, subsets, trained=len(subsets) == 4)
    text = Read(render(root)).text
    if len(subsets) == 1:
        assert (
            "No method of this task was trained." in text
            and "By sub-dataset" not in text
            and "Simulated data" not in text
        )
        assert "There is one set of test images, HCOCO" in text
    else:
        assert "By sub-dataset" in text and "No method of this task was trained." not in text
        assert "Simulated data. HAdobe5k: all 8 composites; Hday2night: all 8 composites" in text
        # 4 of 8 test images in "All test images", and two of the four tables of sub-datasets, of two tasks
        assert (
            text.count("All test images 50% simulated") == 2
            and text.count("Hday2night simulated 4 images") == 2
            and "HCOCO simulated" not in text
        )


def test_what_stands_beside_the_scores(finished, read):
    assert (
        "Published numbers" in read.text and "poster 9 numbers" in read.text
    )  # unet: AP, F1, IoU on two sub-datasets and on All
    assert "68.11" not in read.text and "0.6811" in read.text  # AP is a share here
    assert "no rank correlation is given" in read.text
    assert "unet 8 images" in read.text and "rainnet 0.800 0.550 +0.250 0.250 to 0.250" in read.text
    assert "composite † 0.800 0.800 +0.000" in read.text
    assert "Preference study" not in read.text


@pytest.mark.slow
@pytest.mark.parametrize("scored", [True, False])
def test_a_preference_study_is_shown_with_the_task_whose_methods_it_compares(finished, tmp_path, undrawn, scored):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    shares = [{"model": "rainnet", "share": 0.75, "n_votes": 6}, {"model": "composite", "share": 0.25, "n_votes": 2}]
    tables.write(
        root / "results/study/shares.parquet", pd.DataFrame(shares).assign(low=0.125, high=0.875, n_shown=8, n_raters=3)
    )
    if scored:
        scores = pd.DataFrame(
            {"model": ["rainnet", "composite"], "score": [0.549, -0.549], "low": [0.1, -1.0], "high": [1.0, -0.1]}
        )
        tables.write(root / "results/study/scores.parquet", scores)
    text = Read(render(root)).text
    assert text.count("Preference study") == 1 and "8 blinded votes of 3 raters" in text
    assert ("rainnet +0.55 0.10 to 1.00 75.0% 12.5% to 87.5% 6 of 8" in text) == scored
    assert ("rainnet 75.0% 12.5% to 87.5% 6 of 8" in text) != scored


NEEDED = [
    "results/published/compared.parquet", "results/detectability/summary.parquet",
    "results/localization/summary.parquet", "results/harmonization/ranks.parquet", "results/inpainting/breakdowns.parquet",
    "artifacts/models/unet/history.parquet", "artifacts/models/pconv/training.json", "data/composites/HCOCO/pairs.parquet",
    "data/composites/HAdobe5k/rejected.parquet", "data/irregular_masks/masks.parquet", "data/irregular_masks/assigned.parquet",
]  # fmt: skip


@pytest.mark.parametrize("missing", NEEDED)
def test_what_is_missing_is_named(finished, tmp_path, missing, undrawn):
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / missing).unlink()
    with pytest.raises(UserError, match=re.escape(missing)) as refusal:
        render(tmp_path / "copy")
    assert "\n" not in str(refusal.value)


def test_too_heavy_a_page_is_refused(finished, monkeypatch, undrawn):
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"MB, the limit is 0 MB; lower report\.sheet_rows = 4 in params\.yaml"):
        render(finished)


@pytest.mark.slow
def test_real_sets_without_what_only_synthesis_knows(finished, tmp_path):
    """A sub-dataset of somebody else's has the contract's columns alone."""
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    file = root / "data/composites/HAdobe5k/pairs.parquet"
    pairs = tables.read(file)
    kept = [
        "pair_id",
        "subset",
        "split",
        "composite",
        "mask",
        "real",
        "category",
        "foreground_ratio",
        "source_image",
        "reference_image",
        "transfer",
        "seed",
    ]
    tables.write(file, pairs[kept].assign(category=None, transfer=None, reference_image=None))
    text = Read(render(root)).text
    assert text.count("mean hue rotation inside") == 1  # of the other sub-dataset
    assert "not known" in text and "Simulated data" not in text
