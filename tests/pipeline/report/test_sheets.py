import base64
import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import images
from pipeline.data import renditions
from pipeline.errors import UserError
from pipeline.report import numbers, sheets
from pipeline.scoring import image_scores
from tests.pipeline.report import project
from tests.pipeline.report.test_numbers import read


def decoded(source: str) -> np.ndarray:
    head, content = source.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@contextlib.contextmanager
def shown(finished, task):
    with contextlib.chdir(finished):
        yield sheets.Shown(read(finished, task), finished / "artifacts/predictions", project.SIZE)


def with_scores(scores: dict[str, float], photographs=None, metric="psnr") -> numbers.Results:
    """Inpainting results of one method from {image_id: score}."""
    rows = [
        {
            "model": "a",
            "split": "test",
            "image_id": image_id,
            "photograph": (photographs or {}).get(image_id, image_id),
            metric: value,
        }
        for image_id, value in scores.items()
    ]
    summary = pd.DataFrame([{"model": "a", "subset": "All", "split": "test", metric: 1.0}])
    nothing = pd.DataFrame()
    return numbers.Results(
        "inpainting", {"a": {"trained": True}}, pd.DataFrame(rows), summary, nothing, nothing, nothing, nothing
    )


def test_rows_are_chosen_by_rule():
    scores = {"i1": 10.0, "i2": 50.0, "i3": 20.0, "i4": 40.0, "i5": 30.0, "out": np.nan}
    chosen = sheets.picks(with_scores(scores), 4)
    assert chosen[:3] == [("median", "i5"), ("worst", "i1"), ("best", "i2")]
    assert chosen[3][0] == "random" and chosen[3][1] in {"i3", "i4"}
    assert sheets.picks(with_scores(scores), 2) == chosen[:2]
    assert len(sheets.picks(with_scores(scores), 99)) == 5
    assert sheets.picks(with_scores({"only": 1.0}), 6) == [("median", "only")]
    assert sheets.picks(with_scores({"out": np.nan}), 6) == []


def test_where_less_is_better_the_worst_is_the_largest():
    results = with_scores({"i1": 10.0, "i2": 50.0, "i3": 20.0}, metric="fmse")
    harmonization = numbers.Results(
        "harmonization", results.methods, results.per_image, results.summary, *[pd.DataFrame()] * 4
    )
    assert sheets.picks(harmonization, 3) == [("median", "i3"), ("worst", "i2"), ("best", "i1")]


def test_random_rows_prefer_other_photographs():
    scores = {f"same{n}": float(n) for n in range(20)} | {"other": 3.5}
    photographs = dict.fromkeys(scores, "p") | {"other": "q"}
    assert ("random", "other") in sheets.picks(with_scores(scores, photographs), 4)


@pytest.mark.parametrize("task", ["localization", "harmonization", "inpainting"])
def test_contact_sheet(finished, task):
    with shown(finished, task) as view:
        sheet = sheets.contact_sheet(view, 4)
        scores = view.results.tested.set_index(["model", "image_id"])[view.results.leading]
        assert [row.rule for row in sheet] == ["median", "worst", "best", "random"]
        for row in sheet:
            kinds = ["input", "mask", "truth"] if task == "harmonization" else ["input", "truth"]
            assert [tile.kind for tile in row.tiles] == [*kinds, "method", "method"]
            methods = [tile for tile in row.tiles if tile.kind == "method"]
            assert [tile.name for tile in methods] == view.results.order
            for tile in methods:
                assert tile.note == numbers.number(scores[tile.name, row.image_id], view.results.leading)
                assert decoded(tile.second).shape == (project.SIZE, project.SIZE, 3)


def test_masks_survive_as_they_are(finished):
    with shown(finished, "harmonization") as view:
        row = sheets.contact_sheet(view, 1)[0]
        tile = next(tile for tile in row.tiles if tile.kind == "mask")
        np.testing.assert_array_equal(decoded(tile.source), view.item(row.image_id)["mask"])


def test_outputs_are_composed(finished):
    """What is shown differs from the input inside the mask or hole alone, and is what was scored."""
    for task, key, start in (("harmonization", "mask", "composite"), ("inpainting", "hole", "image")):
        with shown(finished, task) as view:
            scored = view.results.tested.set_index(["model", "image_id"])
            for model in view.results.order:
                for image_id in view.dataset.ids:
                    item, output = view.item(image_id), view.output(model, image_id)
                    np.testing.assert_array_equal(output[~item[key]], item[start][~item[key]])
                    again = image_scores.score(task, output, item)[view.results.leading]
                    assert again == pytest.approx(scored.loc[(model, image_id), view.results.leading])


def test_worst_images_come_worst_first(finished):
    with shown(finished, "harmonization") as view:
        strips = sheets.worst(view, "composite", 3)
        part = view.results.tested[view.results.tested["model"] == "composite"].sort_values("fmse", ascending=False)
        assert [strip.image_id for strip in strips] == list(part["image_id"])[:3]
        assert strips[0].note.startswith(f"fMSE {part['fmse'].iloc[0]:.1f} · ")
        assert decoded(strips[0].source).shape == (project.SIZE, 3 * project.SIZE + 8, 3)


def test_missing_prediction_is_named(finished, tmp_path):
    with shown(finished, "inpainting") as view:
        view.predictions = tmp_path
        with pytest.raises(UserError, match="pconv/test/.*: no such file"):
            sheets.contact_sheet(view, 1)


def test_error_map_is_black_where_nothing_differs_and_full_at_its_ceiling():
    truth = np.full((2, 2, 3), 100, np.uint8)
    output = truth.copy()
    output[0, 0] += sheets.ERROR_CEILING
    output[0, 1] += 2 * sheets.ERROR_CEILING
    output[1, 0, 0] += 3  # a mean of 1
    drawn = sheets.error_map(output, truth).astype(int)
    assert (drawn[0, 0] == drawn[0, 1]).all() and drawn[0, 0].sum() > 500
    assert drawn[1, 1].sum() < 10 and drawn[1, 1].sum() <= drawn[1, 0].sum() < 60


def test_hits_and_misses_have_their_colours():
    composite = np.zeros((2, 2, 3), np.uint8)
    detected, mask = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])
    drawn = sheets.hits_and_misses(composite, detected, mask)
    for place, colour in (
        ((0, 0), sheets.FOUND),
        ((0, 1), sheets.FALSE_ALARM),
        ((1, 0), sheets.MISSED),
        ((1, 1), (0, 0, 0)),
    ):
        np.testing.assert_allclose(drawn[place], 0.7 * np.array(colour), atol=1)


def test_outline_keeps_what_is_far_from_the_edge_and_draws_none_along_the_frame():
    picture = np.full((40, 40, 3), 77, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[:20] = True
    drawn = sheets.outlined(picture, mask)
    changed = (drawn != 77).any(axis=2)
    assert sorted(set(np.nonzero(changed)[0])) == [19, 20] and changed[19:21].all()
    assert (drawn[19] == 255).all() and (drawn[20] == 0).all()
    np.testing.assert_array_equal(sheets.outlined(picture, np.ones((40, 40), bool)), picture)


@pytest.mark.parametrize(
    "shape, side, expected", [((100, 200, 3), 50, (25, 50, 3)), ((40, 40), 50, (40, 40)), ((300, 2), 50, (50, 1))]
)
def test_fitted(shape, side, expected):
    assert sheets.fitted(np.zeros(shape, np.uint8), side).shape == expected


def test_encode_keeps_pictures_close_and_masks_exact():
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([y * 3, x * 3, y + x], axis=2).astype(np.uint8)
    assert np.abs(decoded(sheets.encode(picture)).astype(int) - picture).mean() < 3
    mask = (y - 30) ** 2 + (x - 30) ** 2 < 400
    np.testing.assert_array_equal(decoded(sheets.encode(mask)), mask)
    assert decoded(sheets.encode(mask, 32)).shape == (32, 32)
    assert sheets.encode(picture) == sheets.encode(picture.copy())


def test_samples_of_the_data(finished):
    folder, references = finished / "data/composites/HCOCO", finished / "data/sources/photos"
    pairs = pd.read_parquet(folder / "pairs.parquet")
    sheet = sheets.transfer_sheet(folder, pairs, references, 3)
    assert list(sheet) == ["reinhard", "xiao"]
    for transfer, samples in sheet.items():
        assert len({sample["pair_id"] for sample in samples}) == 3
        assert set(sample["pair_id"] for sample in samples) <= set(pairs.loc[pairs["transfer"] == transfer, "pair_id"])
        assert all(
            [tile["name"] for tile in sample["tiles"]] == ["real", "mask", "composite", "reference"]
            for sample in samples
        )
        row = pairs.set_index("pair_id").loc[samples[0]["pair_id"]]
        np.testing.assert_array_equal(decoded(samples[0]["tiles"][1]["source"]), images.read_mask(folder / row["mask"]))


def test_samples_of_simulated_renditions_show_the_rendition_made_again(finished):
    folder = finished / "data/composites/HAdobe5k"
    pairs = pd.read_parquet(folder / "pairs.parquet")
    (sample,) = sheets.transfer_sheet(folder, pairs, finished / "data/sources/photos", 1)["retouch"]
    assert [tile["name"] for tile in sample["tiles"]] == ["real", "mask", "composite", "simulated rendition"]
    row = pairs.set_index("pair_id").loc[sample["pair_id"]]
    expected = renditions.retouch(images.read_rgb(folder / row["real"]), row["seed"])
    assert np.abs(decoded(sample["tiles"][3]["source"]).astype(int) - expected).mean() < 3


def test_samples_need_the_source_that_a_row_names(finished, tmp_path):
    folder = finished / "data/composites/HCOCO"
    with pytest.raises(UserError, match=r"photographs\.parquet: no such table"):
        sheets.transfer_sheet(folder, pd.read_parquet(folder / "pairs.parquet"), tmp_path, 1)


def test_samples_of_real_sets_without_reference_transfer_or_category(finished, tmp_path):
    folder = finished / "data/composites/HCOCO"
    pairs = pd.read_parquet(folder / "pairs.parquet").assign(reference_image=None, transfer=None, category=None)
    sheet = sheets.transfer_sheet(folder, pairs.drop(columns="reference_object"), tmp_path, 2)
    assert list(sheet) == ["not known"]
    assert [tile["name"] for tile in sheet["not known"][0]["tiles"]] == ["real", "mask", "composite"]


def test_masks_by_kind_and_bucket(finished):
    root = finished / "data/irregular_masks"
    sheet = sheets.mask_sheet(root, pd.read_parquet(root / "masks.parquet"))
    assert sheet["buckets"] == ["0-10", "10-20", "20-30"] and [row["kind"] for row in sheet["rows"]] == [
        "brush",
        "strokes",
    ]
    assert [[cell["n"] for cell in row["cells"]] for row in sheet["rows"]] == [[0, 0, 2], [2, 2, 0]]
    assert sheet["rows"][0]["cells"][0]["source"] is None
    written = images.read_mask(root / "test/20-30/00000.png")
    np.testing.assert_array_equal(decoded(sheet["rows"][0]["cells"][2]["source"]), written)
