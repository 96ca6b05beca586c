"""LPIPS and FID with networks of random weights, whose files say so in their names; never with published ones."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import tables
from pipeline.errors import ParameterError
from pipeline.scoring import perceptual
from pipeline.scoring.statistics import Resampling

pytest.importorskip("torch_fidelity")
RESAMPLING = Resampling(3, 50, 0.9)


def _write(file: Path, state: dict) -> Path:
    torch.save(state, file)
    return file


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """Files laid out as the published ones, with random numbers."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        alex = torchvision.models.alexnet(weights=None).features.state_dict()
        file = _write(
            folder / "RANDOM-NUMBERS-not-alexnet.pth", {f"features.{name}": value for name, value in alex.items()}
        )
        load = FeatureExtractorInceptionV3.load_state_dict
        FeatureExtractorInceptionV3.load_state_dict = lambda self, state: (
            None
        )  # its constructor wants a file of weights
        try:
            empty = _write(folder / "empty.pth", {})
            inception = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty)
            )
        finally:
            FeatureExtractorInceptionV3.load_state_dict = load
        return {"lpips": file, "fid": _write(folder / "RANDOM-NUMBERS-not-inception.pth", inception.state_dict())}


@pytest.fixture
def accepted(files, monkeypatch) -> dict[str, Path]:
    """The random files, taken for published ones in this test alone."""
    known = {
        hashlib.sha256(file.read_bytes()).hexdigest(): perceptual.Published(metric, network, "a random file")
        for (metric, file), network in zip(files.items(), ("alex", "inception"))
    }
    monkeypatch.setattr(perceptual, "PUBLISHED", known)
    return files


def pictures(n: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8))


# ---- which weights


def test_without_weights_there_is_nothing():
    chosen = perceptual.choose(None, None)
    assert chosen == (None, None) and chosen.metadata == {}


@pytest.mark.parametrize("metric", ["lpips", "fid"])
def test_other_weights_are_refused(files, metric):
    with pytest.raises(ParameterError) as refused:
        perceptual.choose(**{"lpips": None, "fid": None} | {metric: str(files[metric])})
    digest = hashlib.sha256(files[metric].read_bytes()).hexdigest()
    assert f"evaluation.perceptual.{metric} = '{files[metric]}': sha256 {digest} is not that of" in str(refused.value)


def test_weights_of_the_other_metric_and_missing_files_are_refused(accepted, tmp_path):
    with pytest.raises(ParameterError, match="is not that of"):
        perceptual.choose(str(accepted["fid"]), None)
    with pytest.raises(
        ParameterError,
        match=r"evaluation.perceptual.fid = 'no.pth': no such file; expected a random file, or null to do without FID",
    ):
        perceptual.choose(None, "no.pth")


def test_other_linear_layers_are_refused(accepted, monkeypatch):
    monkeypatch.setattr(perceptual, "HEADS", {"alex": "0" * 64})
    with pytest.raises(ParameterError, match="torchmetrics brings other linear layers"):
        perceptual.choose(str(accepted["lpips"]), None)


def test_the_linear_layers_here_are_those_of_version_0_1():
    for network, sha256 in perceptual.HEADS.items():
        assert hashlib.sha256(perceptual._heads_file(network).read_bytes()).hexdigest() == sha256


# ---- LPIPS


def test_lpips_is_the_librarys(accepted, monkeypatch):
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    state = torch.load(accepted["lpips"])
    backbone = torchvision.models.alexnet(weights=None).features
    backbone.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", lambda net, pretrained: backbone)
    library = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    weights = perceptual.choose(str(accepted["lpips"]), None).lpips
    first, second = pictures(2)
    expected = library(*(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 for picture in (first, second)))
    assert perceptual.lpips(weights, first, second) == pytest.approx(float(expected), rel=1e-5) and expected > 0
    assert perceptual.lpips(weights, first, first) == 0


# ---- FID


def by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """With covariances and scipy's root of their product."""
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    return float(
        np.square(first.mean(0) - second.mean(0)).sum()
        + sum(np.trace(covariance) for covariance in covariances)
        - 2 * np.trace(root).real
    )


@pytest.mark.parametrize("n", [5, 60], ids=["fewer items than features", "more"])
def test_the_distance_is_that_of_the_definition(n):
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(n, 12)), rng.normal(1, 2, size=(n, 12)) @ rng.normal(size=(12, 12))
    # sqrtm of a singular product is good to the square root of the precision alone
    assert perceptual.frechet_distance(first, second) == pytest.approx(
        by_definition(first, second), rel=1e-9 if n > 12 else 1e-4
    )


def test_a_distance_worked_out_by_hand():
    """One feature: 0, 2 against 3, 7 have means 1 and 5, variances 2 and 8: 16 + (sqrt 8 - sqrt 2)^2 = 18."""
    assert perceptual.frechet_distance(np.array([[0.0], [2]]), np.array([[3.0], [7]])) == pytest.approx(18)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=9, max_size=9).filter(lambda counts: sum(counts) > 1))
def test_counting_an_item_twice_is_having_it_twice(counts):
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(9, 6)), rng.normal(size=(9, 6))
    repeated = np.repeat(np.arange(9), counts)
    distance = perceptual.frechet_distance(first, second, np.array(counts, float))
    assert distance == pytest.approx(perceptual.frechet_distance(first[repeated], second[repeated]), abs=1e-8)


def test_features_and_distance_are_those_of_torch_fidelity(accepted):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    weights = perceptual.choose(None, str(accepted["fid"])).fid
    library = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(accepted["fid"])
    )
    first, second = pictures(2), pictures(2, 1)
    seen = [np.array([perceptual.features(weights, picture) for picture in part]) for part in (first, second)]
    expected = [library(torch.from_numpy(np.array(part)).permute(0, 3, 1, 2))[0] for part in (first, second)]
    for mine, theirs in zip(seen, expected):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-6)
    # of 60 of the features, since theirs takes the root of a 2048 x 2048 matrix
    part = [features[:, :60].double() for features in expected]
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(features) for features in part), False)[
        "frechet_inception_distance"
    ]
    assert perceptual.frechet_distance(*(features.numpy() for features in part)) == pytest.approx(
        theirs, rel=1e-3, abs=1e-9
    )


def test_the_interval_lies_about_the_estimate_and_narrows_with_n():
    rng = np.random.default_rng(0)

    def interval(n: int, copies: int = 1):
        first, second = rng.normal(size=(n, 4)), rng.normal(0.5, 1, size=(n, 4))
        groups = np.array([f"p{number}" for number in range(n)])
        work = (np.repeat(first, copies, 0), np.repeat(second, copies, 0), np.repeat(groups, copies), RESAMPLING)
        return perceptual.fid_interval(perceptual._Fid(*work))

    few, many = interval(30), interval(3000)
    for estimate in (few, many):
        assert estimate.low < estimate.score < estimate.high and estimate.n_resamples == perceptual.FID_RESAMPLES
        assert estimate.high - estimate.score == pytest.approx(estimate.score - estimate.low)
    assert many.high - many.low < (few.high - few.low) / 4
    rng = np.random.default_rng(0)
    copied = interval(30, copies=4)  # copies of a photograph are no further evidence
    assert copied.high - copied.low == pytest.approx(few.high - few.low, rel=0.25)


def test_one_photograph_has_no_interval():
    rng = np.random.default_rng(0)
    estimate = perceptual.fid_interval(
        perceptual._Fid(rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array(["p"] * 4), RESAMPLING)
    )
    assert estimate.score > 0 and np.isnan([estimate.low, estimate.high]).all()


# ---- the table


def scores(n: int = 6) -> pd.DataFrame:
    rows = [
        {"task": "inpainting", "model": model, "subset": "photos", "split": split, "image_id": f"{number}_{bucket}", "photograph": f"p{number}",
         "repeat": 1, "hole_ratio_bucket": bucket, "lpips": number / 10 + (model == "b")}
        for model in "ab" for split in ("test", "test@512") for number in range(n) for bucket in ("0-10", "10-20")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def features_of(frame: pd.DataFrame):
    def see(weights):
        about = frame[frame["split"] == "test"][perceptual.IMAGE].sample(frac=1, random_state=1)  # whatever the order
        rng = np.random.default_rng(0)
        of_image = {key: rng.normal(size=(2, 3)) for key in sorted(about.itertuples(index=False, name=None))}
        pairs = np.array([of_image[key] for key in about.itertuples(index=False, name=None)])
        return perceptual.Seen(about, pairs[:, 0], pairs[:, 1])

    return see


def chosen(*metrics: str) -> perceptual.Chosen:
    made = {
        metric: perceptual.Weights(metric, {"lpips": "alex", "fid": "inception"}[metric], Path("none"), "0" * 64)
        for metric in metrics
    }
    return perceptual.Chosen(made.get("lpips"), made.get("fid"))


def test_the_table_says_why_a_metric_is_absent():
    table = perceptual.table("inpainting", scores().drop(columns="lpips"), chosen(), 2, RESAMPLING, see=None)
    assert list(table["metric"]) == ["lpips", "fid"] and table["score"].isna().all()
    assert list(table["why_not"]) == [
        "evaluation.perceptual.lpips is null: no weights, no LPIPS", "evaluation.perceptual.fid is null: no weights, no FID"
    ]  # fmt: skip


def test_fid_is_refused_below_its_minimum_and_nothing_is_computed_for_it():
    table = perceptual.table("inpainting", scores(), chosen("lpips", "fid"), 7, RESAMPLING, see=None)
    fid = table[table["metric"] == "fid"]
    assert fid["score"].isna().all() and set(fid["why_not"]) == {
        "n = 6 photographs; FID is refused below 7 (evaluation.perceptual.fid_minimum)"
    }


def test_rows_of_both_metrics():
    frame = scores()
    table = perceptual.table("inpainting", frame, chosen("lpips", "fid"), 6, RESAMPLING, features_of(frame))
    assert (table["why_not"] == "").all() and table["score"].notna().all()
    cells = table.set_index(["metric", "model", "by", "value", "split"])
    lpips = cells.loc[("lpips", "b", "subset", "All", "test")]
    assert (
        lpips["score"] == pytest.approx(1.25)
        and (lpips["n_images"], lpips["n_photographs"]) == (12, 6)
        and lpips["low"] < 1.25 < lpips["high"]
    )
    assert set(cells.loc["fid"].index.get_level_values("split")) == {"test"}, "FID at the other side isn't taken"
    seen = features_of(frame)(None)
    at = [(key[0] == "a" and key[2].endswith("_0-10")) for key in seen.about.itertuples(index=False, name=None)]
    bucket = cells.loc[("fid", "a", "hole_ratio_bucket", "0-10", "test")]
    assert (
        bucket["score"] == pytest.approx(by_definition(seen.predicted[at], seen.real[at])) and bucket["n_images"] == 6
    )


def test_lpips_is_over_trainings_and_fid_of_the_first():
    first = scores().query("model == 'a'")
    both = pd.concat([first.assign(lpips=0.25), first.assign(repeat=2, lpips=0.75)])
    table = perceptual.table("inpainting", both, chosen("lpips", "fid"), 6, RESAMPLING, features_of(first))
    cells = table[table["value"] == "All"].set_index(["metric", "split"])
    lpips = cells.loc[("lpips", "test")]
    # on all photographs the same, so that the interval is that of the trainings
    assert (lpips["score"], lpips["low"], lpips["high"], lpips["n_images"]) == (0.5, 0.25, 0.75, 12)
    alone = perceptual.table("inpainting", first, chosen("lpips", "fid"), 6, RESAMPLING, features_of(first))
    fid = alone[alone["value"] == "All"].set_index(["metric", "split"]).loc[("fid", "test")]
    assert cells.loc[("fid", "test"), "score"] == fid["score"] and cells.loc[("fid", "test"), "n_images"] == 12


def test_what_a_table_says_of_its_weights_is_read_back(tmp_path):
    frame = pd.DataFrame({"lpips": [0.5]})
    tables.write(tmp_path / "with.parquet", frame, chosen("lpips").metadata)
    tables.write(tmp_path / "without.parquet", frame)
    said = tables.metadata_of(tmp_path / "with.parquet")["lpips"]
    assert said == f"alex, weights of sha256 {'0' * 64}; linear layers 0.1 of sha256 {perceptual.HEADS['alex']}"
    assert tables.metadata_of(tmp_path / "without.parquet") == {}
    pd.testing.assert_frame_equal(tables.read(tmp_path / "with.parquet"), frame)
