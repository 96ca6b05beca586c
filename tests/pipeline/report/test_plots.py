import re
import xml.etree.ElementTree as xml
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.report import numbers, plots
from tests.pipeline.report.test_numbers import read

COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b")
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def parsed(svg: str) -> xml.Element:
    return xml.fromstring(svg.replace("<svg", HEAD, 1))


def texts(svg: str) -> list[str]:
    return [element.text for element in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


def all_charts(finished) -> list[str]:
    charts = []
    for task in ("localization", "harmonization", "inpainting"):
        results = read(finished, task)
        trainings = [numbers.read_training(finished / "artifacts/models" / name) for name in results.trained]
        by = "hole_ratio_bucket" if task == "inpainting" else "foreground_share"
        charts += [plots.by_steps(results, by, results.leading), plots.size_against_quality(results)]
        charts += plots.training_curves(results, trainings) + [
            plots.key(style) for style in plots.styles(results).values()
        ]
        charts += [
            plots.by_kind(results, by, results.leading) for by in ("transfer", "category") if task != "inpainting"
        ]
    return [*charts, plots.histogram(pd.Series([0.1, 0.2, 0.7]), "share", (0.01, 0.8), percent=True)]


@pytest.fixture(scope="module")
def charts(finished):
    return all_charts(finished)


def test_colours_are_the_page_s(charts):
    for chart in charts:
        assert set(re.findall(r"var\((--\w+)\)", chart)) <= {
            "--ink",
            "--faint",
            "--grid",
            "--paper",
            *(f"--c{n}" for n in range(1, 7)),
        }
        without_references = re.sub(r'(xlink:href="#\w+"|url\(#\w+\))', "", chart)
        assert not COLOUR.search(without_references), COLOUR.search(without_references).group()
        assert "font-family" not in chart and "<metadata" not in chart


def test_charts_are_whole_and_refer_to_themselves(charts):
    for chart in charts:
        tree = parsed(chart)
        ids = {element.get("id") for element in tree.iter()} - {None}
        used = set(re.findall(r'xlink:href="#(\w+)"|url\(#(\w+)\)', chart))
        assert {first or second for first, second in used} <= ids
        assert tree.get("viewBox") and tree.get("role") == "img"


def test_no_id_stands_for_two_things_on_a_page(charts):
    shapes = {}
    for chart in charts:
        for element in parsed(chart).iter():
            if element.get("id"):
                assert shapes.setdefault(element.get("id"), xml.tostring(element)) == xml.tostring(element)
    assert len(shapes) > len(charts)


def test_same_data_same_bytes(finished, charts):
    assert all_charts(finished) == charts


def test_methods_are_named_where_their_lines_end(finished):
    results = read(finished, "inpainting")
    written = texts(plots.by_steps(results, "hole_ratio_bucket", "psnr"))
    assert {"mean_fill", "pconv", "0–10", "10–20", "20–30", "PSNR ↑", "hole ratio, % (n = 2 each)"} <= set(written)


def test_text_is_no_formula_and_no_markup(finished):
    """A category of the fixture is called `$x^2$ <b>`."""
    chart = plots.by_kind(read(finished), "category", "fmse")
    assert "$x^2$ <b> (4)" in texts(chart) and "<b>" not in chart


def test_a_breakdown_with_one_value_is_no_chart(finished):
    results = read(finished)
    breakdowns = results.breakdowns[results.breakdowns["value"].isin(["thing", "0%-5%"])]
    single = numbers.Results(
        *(
            getattr(results, name)
            for name in ("task", "methods", "per_image", "summary", "intervals", "differences", "ranks")
        ),
        breakdowns,
    )
    assert plots.by_kind(single, "category", "fmse") is None
    assert plots.by_steps(single, "foreground_share", "fmse") is None


def test_sizes_need_a_network(finished):
    results = read(finished)
    methods = {name: method | {"n_parameters": 0, "trained": False} for name, method in results.methods.items()}
    without = numbers.Results(results.task, methods, *(getattr(results, name) for name in numbers.RESULT_TABLES))
    assert plots.size_against_quality(without) is None
    assert "rainnet" in texts(plots.size_against_quality(results))


def test_players_have_a_line_each(finished):
    results = read(finished)
    loss, validation = plots.training_curves(results, [numbers.read_training(finished / "artifacts/models/rainnet")])
    assert {"rainnet generator", "rainnet discriminator", "training loss"} <= set(texts(loss))
    assert {"rainnet", "validation fMSE ↓"} <= set(texts(validation))


def test_no_epoch_no_curve(finished):
    empty = numbers.Training("rainnet", pd.DataFrame(), {})
    assert plots.training_curves(read(finished), [empty]) == []


def test_styles_tell_methods_apart():
    names = [f"network{n:02d}" for n in range(14)]
    methods = {name: {} for name in [*names, "a", "b", "c"]}
    look = plots.styles(SimpleNamespace(trained=names, methods=methods))
    assert len({(style.colour, style.dashes, style.marker) for style in look.values()}) == 17
    assert all(look[name].variable == "--faint" for name in "abc")


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0, 1), min_size=1, max_size=10))
@settings(deadline=None, max_examples=60)
def test_labels_do_not_overlap(values):
    figure = Figure(figsize=(3.6, 2.6))
    axes = figure.add_subplot()
    axes.set_ylim(0, 1)
    places = plots._apart(axes, values)
    order = sorted(values, key=lambda name: (values[name], name))
    heights = np.array([places[name] for name in order])
    least = 0.118 / 1.8
    assert (np.diff(heights) >= least - 1e-9).all()
    wanted = np.array([values[name] for name in order])
    if len(order) == 1 or (np.diff(wanted) >= least).all():
        np.testing.assert_allclose(heights, wanted, atol=1e-9)  # labels with room stay where their lines end
    np.testing.assert_allclose(heights.mean(), wanted.mean(), atol=1e-9)


def test_histogram_counts_every_value():
    chart = plots.histogram(pd.Series(np.linspace(0, 24, 241)), "values")
    assert "median 12" in texts(chart)
    constant = plots.histogram(pd.Series([0.0, 0.0, np.nan]), "values")
    assert "median 0" in texts(constant)


def test_the_pareto_front_holds_what_nothing_beats():
    points = {
        "slow_good": (100.0, 9.0),
        "fast_bad": (1.0, 2.0),
        "beaten": (50.0, 1.5),
        "middle": (10.0, 5.0),
        "equal": (10.0, 4.0),
    }
    assert plots.pareto(points, higher_is_better=True) == ["fast_bad", "middle", "slow_good"]
    assert plots.pareto(points, higher_is_better=False) == ["fast_bad", "beaten"]
