"""The preference study from predictions to scores, voted through in a browser where Chromium is installed."""

import json
import os
import re
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline import images
from pipeline.study import votes
from tests.pipeline.study import chromium

MODELS = ["composite", "histogram", "poisson"]


@pytest.fixture
def harmonized(project):
    """Three harmonizers that have predicted three test composites of three photographs."""
    project.content["models"] = {name: {"hyperparameters": {}} for name in [*MODELS, "constant_map", "mean_fill"]}
    project.write()
    data = project.make_composites()
    for model in MODELS:
        assert project.run("infer", model, "--data", *data).code == 0
    return project


def make(project, *more, models=MODELS, out="study.html") -> tuple[str, dict]:
    done = project.run("study", "make", "--models", *models, "-o", out, *more)
    assert done.code == 0, done.err
    return (project.folder / out).read_text(), json.loads(
        (project.folder / out.replace(".html", ".key.json")).read_text()
    )


def said_in(html: str) -> dict:
    """The data that a page holds."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def cast(project, key, who: str, choose=lambda comparison, shown: shown[0], name=None, **changed) -> str:
    """A file of votes as the page saves it."""
    cast_votes = []
    for comparison, shown in key["comparisons"].items():
        cast_votes.append(
            {"comparison": comparison, "shown": shown, "chosen": choose(comparison, shown), "milliseconds": 1500}
        )
    content = {
        "format": "seambench-votes",
        "version": 1,
        "study": key["study"],
        "design": key["design"],
        "rater": who,
        "votes": cast_votes,
    }
    content["checksum"] = votes.checksum(key["study"], key["design"], who, cast_votes)
    file = name or f"{who}.json"
    (project.folder / file).write_text(json.dumps(content | changed))
    return file


# ---- the page


def test_every_pair_of_methods_on_every_image(harmonized):
    html, key = make(harmonized)
    page = said_in(html)
    assert len(page["comparisons"]) == 3 * 3 and len(page["pictures"]) == 3 * 3
    assert dict(page["comparisons"]) == key["comparisons"] and set(page["pictures"]) == set(key["pictures"])
    met = Counter()
    for group in key["comparisons"].values():
        about = [key["pictures"][picture] for picture in group]
        assert about[0]["image_id"] == about[1]["image_id"]
        met[tuple(sorted(picture["model"] for picture in about)), about[0]["image_id"]] += 1
    assert len(met) == 9 and set(met.values()) == {1}


def test_the_page_is_blind_and_needs_nothing_beside_it(harmonized):
    html, key = make(harmonized)
    for word in [*MODELS, "c4_1_1", "c5_1_1", "HCOCO", "harmonization"]:
        assert word not in html
    assert not re.search(r"https?://|@import|src=|<link", html)
    # the order in the page says nothing: it is that of the names that were drawn
    page = said_in(html)
    assert list(page["pictures"]) == sorted(page["pictures"]) and all(
        group == sorted(group) for _, group in page["comparisons"]
    )
    firsts = Counter(key["pictures"][group[0]]["model"] for _, group in page["comparisons"])
    assert len(firsts) > 1


def test_pictures_are_the_scored_ones_without_loss(harmonized):
    import base64

    html, key = make(harmonized)
    for name, uri in said_in(html)["pictures"].items():
        about = key["pictures"][name]
        file = harmonized.folder / "shown.png"
        file.write_bytes(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
        drawn = images.read_rgb(
            harmonized.folder / f"artifacts/predictions/{about['model']}/test/{about['image_id']}.png"
        )
        composite = images.read_rgb(harmonized.folder / f"artifacts/predictions/composite/test/{about['image_id']}.png")
        expected = composite.copy()
        expected[:, :8] = drawn[:, :8]  # the mask is the left quarter
        assert np.array_equal(images.read_rgb(file), expected)


def test_same_seed_same_bytes_another_seed_other_names(harmonized):
    first, key = make(harmonized)
    assert make(harmonized)[0] == first
    other, other_key = make(harmonized, "--seed", "1", out="other.html")
    assert other_key["study"] != key["study"] and not set(other_key["pictures"]) & set(key["pictures"])


def test_best_of_all_fewer_images_and_fewer_comparisons(harmonized):
    _, key = make(harmonized, "--design", "best", "--images", "2")
    assert len(key["comparisons"]) == 2 and all(len(group) == 3 for group in key["comparisons"].values())
    _, key = make(harmonized, "--choose", "c5_1_1", out="two.html")
    assert {picture["image_id"] for picture in key["pictures"].values()} == {"c5_1_1"}
    _, key = make(harmonized, "--comparisons", "7", out="three.html")
    met = Counter(
        tuple(sorted(key["pictures"][picture]["model"] for picture in group)) for group in key["comparisons"].values()
    )
    assert sorted(met.values()) == [2, 2, 3]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--models", "composite", "-o", "a.html"], "methods composite: a study compares two or more different ones"),
        (
            ["--models", "composite", "composite", "-o", "a.html"],
            "methods composite, composite: a study compares two or more different ones",
        ),
        (
            ["--models", "composite", "mean_fill", "-o", "a.html"],
            "methods composite, mean_fill: they are of different tasks",
        ),
        (
            ["--models", "constant_map", "unet", "-o", "a.html"],
            "localization gives maps, which nobody can prefer; a study needs methods of harmonization or inpainting",
        ),
        (["--models", *MODELS, "-o", "a.htm"], "a.htm: the page is one HTML file; end its name in .html"),
        (
            ["--models", *MODELS, "-o", "a.html", "--images", "0"],
            "a study of 0 images and None comparisons asks nothing",
        ),
        (["--models", *MODELS, "-o", "a.html", "--choose", "c9"], "test has no image 'c9'"),
    ],
)
def test_studies_that_can_not_be(harmonized, arguments, said):
    assert harmonized.refused("study", "make", *arguments) == (2, said)
    assert not list(harmonized.folder.glob("a.*"))


def test_what_is_missing_is_named(harmonized):
    arguments = ["study", "make", "--models", *MODELS, "-o", "a.html"]
    assert harmonized.refused(*arguments, "--split", "rhm") == (1, "composite has no predictions for rhm; it has test")
    file = harmonized.folder / "artifacts/predictions/poisson/test/c5_1_1.png"
    images.write_png(file, np.zeros((32, 32, 3), np.uint8))
    code, said = harmonized.refused(*arguments)
    assert code == 1 and said.endswith(
        "poisson/test/c5_1_1.png was changed after inference (sha256 differs from predictions.parquet)"
    )
    file.unlink()
    assert harmonized.refused(*arguments)[1].endswith("poisson/test/c5_1_1.png is missing")
    (harmonized.folder / "artifacts/index/harmonization/poisson.json").unlink()
    assert harmonized.refused(*arguments)[1].endswith(
        "poisson.json: no such file; `dvc repro models/dvc.yaml:infer-poisson` makes it"
    )
    assert not list(harmonized.folder.glob("a.*"))


# ---- the votes


def test_from_votes_to_tables(harmonized):
    _, key = make(harmonized)
    model = lambda picture: key["pictures"][picture]["model"]
    poisson_first = lambda _, shown: max(
        shown, key=lambda picture: (model(picture) == "poisson", model(picture) == "composite")
    )
    files = [
        cast(harmonized, key, "one", poisson_first),
        cast(harmonized, key, "two", poisson_first),
        cast(harmonized, key, "three"),
    ]
    done = harmonized.run("study", "score", *files)
    assert done.code == 0, done.err
    out = harmonized.folder / "results/study"
    assert sorted(os.listdir(out)) == [
        f"{name}.parquet" for name in ("pairs", "raters", "rejected", "scores", "shares", "votes")
    ]
    cast_votes = pd.read_parquet(out / "votes.parquet")
    assert (
        len(cast_votes) == 27
        and set(cast_votes["rater"]) == {"one", "two", "three"}
        and (cast_votes["seconds"] == 1.5).all()
    )
    assert all(row.chosen == row.shown.split(",")[row.position - 1] for row in cast_votes.itertuples())
    scores = pd.read_parquet(out / "scores.parquet")
    assert list(scores["model"])[0] == "poisson" and scores["score"].sum() == pytest.approx(0)
    assert (scores["n_comparisons"] == 18).all() and (scores["n_raters"] == 3).all() and scores["low"].notna().all()
    shares = pd.read_parquet(out / "shares.parquet")
    assert shares["n_votes"].sum() == 27 and (shares["n_shown"] == 18).all()
    raters = pd.read_parquet(out / "raters.parquet").set_index("rater")
    assert (raters["n_votes"] == 9).all() and (raters["of"] == 9).all() and raters.loc["three", "first_position"] == 1
    assert pd.read_parquet(out / "rejected.parquet").empty
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    harmonized.run("study", "score", *files)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_best_of_n_gives_shares_and_no_scores(harmonized):
    _, key = make(harmonized, "--design", "best")
    assert harmonized.run("study", "score", cast(harmonized, key, "one"), cast(harmonized, key, "two")).code == 0
    out = harmonized.folder / "results/study"
    assert sorted(os.listdir(out)) == [f"{name}.parquet" for name in ("raters", "rejected", "shares", "votes")]
    assert pd.read_parquet(out / "shares.parquet")["share"].sum() == pytest.approx(1)


def _faulty(project, key) -> dict[str, str]:
    """File name: what must be said of it."""
    good = json.loads((project.folder / "good.json").read_text())
    (project.folder / "cut.json").write_text((project.folder / "good.json").read_text()[:-40])
    (project.folder / "other.json").write_text('{"type": "FeatureCollection"}')
    (project.folder / "list.json").write_text("[1, 2]")
    (project.folder / "deep.json").write_text("[" * 100_000)
    (project.folder / "picture.json").write_bytes(b"\x89PNG\r\n")
    cast(project, key | {"study": "another"}, "r", name="study.json")
    cast(project, key, "r", name="edited.json", votes=[vote | {"chosen": vote["shown"][1]} for vote in good["votes"]])
    cast(project, key, "r", name="renamed.json", rater="somebody")
    cast(project, key, "r", name="unsigned.json", checksum=None)
    cast(project, key, "r", name="shapeless.json", votes="many")
    cast(project, key | {"comparisons": {}}, "r", name="empty.json")
    wrong = dict(zip(key["comparisons"], [*list(key["comparisons"].values())[1:], ["x", "y"]]))
    cast(project, key | {"comparisons": wrong}, "r", name="forged.json")
    (project.folder / "copy.json").write_text((project.folder / "good.json").read_text())
    cast(project, key, "good", lambda _, shown: shown[1], name="later.json")
    return {
        "cut.json": "not JSON, so no saved votes", "picture.json": "not JSON, so no saved votes", "deep.json": "not JSON, so no saved votes",
        "gone.json": "no such file", "other.json": "not a file of votes that a study page saved", "list.json": "not a file of votes that a study page saved",
        "study.json": f"votes of another study (another; the key is of {key['study']})",
        "edited.json": "edited after it was saved: its checksum doesn't fit", "renamed.json": "edited after it was saved: its checksum doesn't fit",
        "unsigned.json": "edited after it was saved: its checksum doesn't fit", "shapeless.json": "edited after it was saved: its checksum doesn't fit",
        "empty.json": "holds no vote", "forged.json": f"edited after it was saved: its vote on {next(iter(key['comparisons']))} can't have been cast",
        "copy.json": "a copy of good.json", "later.json": "by the same rater as good.json; keep the later of the two",
    }  # fmt: skip


def test_files_that_can_not_be_counted_get_a_line_each(harmonized):
    _, key = make(harmonized)
    cast(harmonized, key, "good")
    faults = _faulty(harmonized, key)
    done = harmonized.run("study", "score", "good.json", *faults)
    assert done.code == 1
    assert done.err.splitlines() == [f"{file}: {reason}" for file, reason in faults.items()] + [
        f"study: {len(faults)} of {len(faults) + 1} files can't be counted; take them away, or --leave-out counts the others"
    ]
    assert not (harmonized.folder / "results").exists()
    done = harmonized.run("study", "score", "--leave-out", "good.json", *faults)
    assert done.code == 0 and len(done.err.splitlines()) == len(faults)
    rejected = pd.read_parquet(harmonized.folder / "results/study/rejected.parquet")
    assert dict(zip(rejected["file"], rejected["reason"])) == faults
    assert set(pd.read_parquet(harmonized.folder / "results/study/votes.parquet")["rater"]) == {"good"}


def test_the_key_of_another_study_is_not_written_over(harmonized):
    _, key = make(harmonized)
    code, said = harmonized.refused("study", "make", "--models", *MODELS, "-o", "study.html", "--seed", "1")
    assert code == 1 and said.startswith("study.key.json is the key of another study")
    assert json.loads((harmonized.folder / "study.key.json").read_text()) == key


def test_keys_that_are_none(harmonized):
    make(harmonized)
    said = "gone.json: no such file; `python -m commands.study make` writes a key beside each page"
    assert harmonized.refused("study", "score", "--key", "gone.json", "a.json") == (1, said)
    for content in ('{"format": "other"}', "[]"):
        (harmonized.folder / "no.json").write_text(content)
        assert harmonized.refused("study", "score", "--key", "no.json", "a.json") == (1, "no.json is not a study's key")
    for content in ("{", "[" * 100_000):
        (harmonized.folder / "no.json").write_text(content)
        assert harmonized.refused("study", "score", "--key", "no.json", "a.json")[1].startswith("no.json: not JSON")
    os.mkfifo(harmonized.folder / "pipe.json")
    assert harmonized.refused("study", "score", "--key", "pipe.json", "a.json") == (
        1,
        "pipe.json: a pipe or device, not a file",
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"design": "triples"}, "design = 'triples': expected 'pairs' or 'best'"),
        ({"design": None}, "design = None: expected 'pairs' or 'best'"),
        ({"seed": "none"}, "seed = 'none': expected a valid integer"),
        ({"pictures": "many"}, "pictures = 'many': expected a valid dictionary"),
        ({"pictures": {"p": {"split": "test"}}}, "pictures.p.image_id is missing"),
        ({"comparisons": {"c": ["x", "y"]}}, "comparisons.c shows 'x', which isn't in pictures"),
        ({"comparisons": {"c": ["x", "y", "z"]}}, "comparisons.c shows 3 pictures, not a pair"),
        ({"comparisons": {"c": "xy"}}, "comparisons.c = 'xy': expected a valid list"),
        ({"models": ["a", "b"]}, ", which isn't in models"),
    ],
)
def test_keys_that_were_changed(harmonized, change, said):
    _, key = make(harmonized)
    (harmonized.folder / "no.json").write_text(json.dumps(key | change))
    code, line = harmonized.refused("study", "score", "--key", "no.json", "a.json")
    assert code == 1 and line.startswith("no.json is not a study's key as it was written: ") and said in line


@pytest.mark.parametrize("field", ["study", "task", "design", "question", "seed", "models", "pictures", "comparisons"])
def test_keys_that_lack_a_field(harmonized, field):
    _, key = make(harmonized)
    del key[field]
    (harmonized.folder / "no.json").write_text(json.dumps(key))
    line = f"no.json is not a study's key as it was written: {field} is missing"
    assert harmonized.refused("study", "score", "--key", "no.json", "a.json") == (1, line)
    assert harmonized.refused("study", "score", "--level", "1.5", "a.json")[0] == 2


# ---- a browser


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("design", ["pairs", "best"])
def test_voted_through_in_a_browser(harmonized, tmp_path, design):
    html, key = make(harmonized, "--design", design)
    total, downloads = len(key["comparisons"]), tmp_path / "downloads"
    downloads.mkdir()
    address = (harmonized.folder / "study.html").as_uri()
    page = chromium.Page(tmp_path / "profile")
    try:
        page.downloads_to(downloads)
        page.open(address)
        assert page.evaluate("sha256('abc')") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert (
            page.evaluate("at('forgetful').hidden && at('restart').hidden")
            and page.evaluate("at('begin').textContent") == "Begin"
        )
        page.press("ArrowLeft")  # before it began, keys do nothing
        page.evaluate("at('begin').click()")
        page.wait("!at('pictures').hidden")
        chosen = []
        for number in range(total):
            if number == 2:  # closed and opened again, it goes on where it stopped
                page.open("about:blank")
                page.open(address)
                assert (
                    page.evaluate("at('begin').textContent") == "Go on where you stopped"
                    and page.evaluate("current") == 2
                )
                page.evaluate("at('begin').click()")
            last = page.evaluate("order[current][1].length") - 1
            if number == 1:  # a vote taken back
                page.press("1")
                page.wait("current === 2")
                page.press("Backspace")
                page.wait("current === 1 && state.votes.length === 1")
            chosen.append(page.evaluate(f"order[current][1][{last}]"))
            if number == 0:
                page.evaluate(f"document.querySelectorAll('.choice')[{last}].click()")
            else:
                page.press("ArrowRight" if design == "pairs" else str(last + 1))
            page.wait(f"current === {number + 1}")
        assert (
            not page.evaluate("at('done').hidden") and page.evaluate("at('count').textContent") == f"{total} of {total}"
        )
        page.evaluate("document.querySelector('#done [data-save]').click()")
        until = time.monotonic() + 20
        while not (saved := list(downloads.glob("votes-*.json"))) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        page.close()
    done = harmonized.run("study", "score", *saved)
    assert done.code == 0, done.err
    cast_votes = pd.read_parquet(harmonized.folder / "results/study/votes.parquet")
    assert Counter(cast_votes["chosen"]) == Counter(key["pictures"][picture]["model"] for picture in chosen)
    assert (
        set(cast_votes["comparison"]) == set(key["comparisons"])
        and (cast_votes["position"] == len(MODELS if design == "best" else "ab")).all()
    )
    assert cast_votes["seconds"].between(0, 60).all()
