import io
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2gray
from skimage.metrics import (
    mean_squared_error,
    peak_signal_noise_ratio,
    structural_similarity,
)
from sklearn.metrics import average_precision_score

from pipeline.metrics import harmonization as harmonization_metrics
from pipeline.metrics import inpainting as inpainting_metrics
from pipeline.metrics import localization as localization_metrics
from pipeline.scoring.protocols.harmonization import PROTOCOLS as HARMONIZATION
from pipeline.scoring.protocols.harmonization import score as harmonization
from pipeline.scoring.protocols.inpainting import PROTOCOLS as INPAINTING
from pipeline.scoring.protocols.inpainting import score as inpainting
from pipeline.scoring.protocols.localization import PROTOCOLS as LOCALIZATION
from pipeline.scoring.protocols.localization import score as localization
from pipeline.scoring.protocols.preparation import peak_signal_to_noise

SAMPLE = Path(__file__).resolve().parents[3] / "../shared/data/iharmony4_sample"


def smooth(rng, size):
    """A picture with structure at several scales, not noise: resizing filters should matter, but not rule."""
    noise = (rng.uniform(-1 / n, 1 / n, (n, n, 3)) for n in (3, 9, 40))
    image = sum(cv2.resize(scale, size[::-1], interpolation=cv2.INTER_CUBIC) for scale in noise)
    return np.clip(128 + 180 * image, 0, 255).astype(np.uint8)


def scene(seed=0, size=(90, 120), out=(60, 64), soft=False):
    """prediction at `out`, and composite, real, mask (uint8) at `size`; the background differs a little."""
    rng = np.random.default_rng(seed)
    real = smooth(rng, size)
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (50, 45), 25, 255, -1)
    if soft:
        mask = cv2.GaussianBlur(mask, (0, 0), 3)
    composite = np.clip(real.astype(int) + rng.integers(-2, 3, real.shape), 0, 255).astype(np.uint8)
    composite = np.where(mask[..., None] >= 128, np.minimum(composite, 230) + np.uint8(25), composite)
    drawn = np.asarray(Image.fromarray(composite).resize(out[::-1], Image.Resampling.BILINEAR)).astype(int)
    prediction = np.clip(drawn - 10 + rng.integers(-3, 4, drawn.shape), 0, 255).astype(np.uint8)
    return prediction, composite, real, mask


def by_protocol(rows):
    values = {}
    for protocol, metric, value in rows:
        assert metric not in values.setdefault(protocol, {})
        values[protocol][metric] = value
    return values


def pil(image, size, kind):
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling[kind]))


def test_every_protocol_has_a_name_of_its_own_and_says_where_it_is_from():
    for records in (HARMONIZATION, LOCALIZATION, INPAINTING):
        names = [record.name for record in records]
        assert len(set(names)) == len(names) and names[0] == "seam-256"
        assert all(record.source for record in records)


@pytest.mark.parametrize("soft", [False, True])
def test_seam_is_the_adopted_score(soft):
    prediction, composite, real, mask = scene(soft=soft)
    size = prediction.shape[:2]
    binary = pil(np.where(mask >= 128, 255, 0).astype(np.uint8), size, "NEAREST") > 0
    pasted = np.where(binary[..., None], prediction, pil(composite, size, "BILINEAR"))
    expected = harmonization_metrics.score(pasted, pil(real, size, "BILINEAR"), binary)
    scores = by_protocol(harmonization(prediction, composite, real, mask))
    assert scores["seam-256"] == pytest.approx(expected, abs=1e-6)


def test_iharmony4_and_dovenet():
    prediction, composite, real, mask = scene()
    size = prediction.shape[:2]
    target, source = pil(real, size, "BICUBIC").astype(float), pil(composite, size, "BICUBIC").astype(float)
    binary = pil(mask, size, "NEAREST")[..., None] / 255
    output = prediction.astype(float)
    mse = mean_squared_error(output, target)
    fmse = mean_squared_error(output * binary, target * binary) * binary.size / binary.sum()
    scores = by_protocol(harmonization(prediction, composite, real, mask))
    for name, data_range in (("iharmony4", np.ptp(source)), ("dovenet", np.ptp(output))):
        psnr = peak_signal_noise_ratio(target, output, data_range=data_range)
        assert scores[name] == pytest.approx({"mse": mse, "psnr": psnr, "fmse": fmse})
    assert scores["iharmony4"]["psnr"] != pytest.approx(scores["dovenet"]["psnr"], abs=1e-3)


def test_evaluators_with_bilinear_images():
    prediction, composite, real, mask = scene()
    size = prediction.shape[:2]
    target, source = pil(real, size, "BILINEAR").astype(float), pil(composite, size, "BILINEAR").astype(float)
    binary = pil(mask, size, "NEAREST")[..., None] / 255
    output = prediction.astype(float)
    scores = by_protocol(harmonization(prediction, composite, real, mask))

    raw = {
        "mse": mean_squared_error(output, target),
        "psnr": peak_signal_noise_ratio(target, output, data_range=np.ptp(output)),
    }
    assert scores["dovenet-test"] == pytest.approx(raw)
    masked = mean_squared_error(output * binary, target * binary) * binary.size / binary.sum()
    assert scores["bargainnet"] == pytest.approx(raw | {"fmse": masked})

    on_real = np.where(binary > 0, output, target)
    pasted = {
        "mse": mean_squared_error(on_real, target),
        "psnr": peak_signal_noise_ratio(target, on_real, data_range=255),
    }
    assert scores["rainnet"] == pytest.approx(pasted)
    assert scores["hdnet"] == pytest.approx(pasted | {"fmse": pasted["mse"] * binary.size / binary.sum()})

    soft = pil(mask, size, "BILINEAR")[..., None] / 255
    assert np.count_nonzero((soft > 0) & (soft < 1)) > 0
    mixed = np.floor(output * soft + source * (1 - soft) + 1e-9)
    s2am, s2crnet = scores["s2am"], scores["s2crnet"]
    assert s2am["mse"] == s2crnet["mse"] == pytest.approx(mean_squared_error(mixed, target))
    assert s2am["psnr"] == pytest.approx(peak_signal_noise_ratio(target, mixed, data_range=np.ptp(mixed)))
    assert s2crnet["psnr"] == pytest.approx(peak_signal_noise_ratio(target, mixed, data_range=255))
    theirs = structural_similarity(target.astype(np.uint8), mixed.astype(np.uint8), channel_axis=-1)
    assert s2crnet["ssim"] == pytest.approx(theirs, abs=1e-6)


def test_saic_and_its_descendants():
    prediction, composite, real, mask = scene()
    size = prediction.shape[:2]
    target = cv2.resize(real, size[::-1]).astype(float)
    weight = cv2.resize(mask.astype(np.float64) / 255, size[::-1])[..., None]
    squared = (prediction.astype(float) - target) ** 2
    fmse = (squared * weight).sum() / (3 * weight.sum() + 1e-6)
    psnr = 10 * math.log10(target.max() ** 2 / (squared.mean() + 1e-6))
    scores = by_protocol(harmonization(prediction, composite, real, mask))
    assert scores["saic"] == pytest.approx({"mse": squared.mean(), "psnr": psnr, "fmse": fmse})
    cdtnet = {key: scores["cdtnet"][key] for key in ("mse", "psnr", "fmse", "fpsnr")}
    assert cdtnet == pytest.approx(scores["saic"] | {"fpsnr": 10 * math.log10(target.max() ** 2 / (fmse + 1e-6))})
    pctnet, masked = scores["pctnet"], (squared * weight).mean()
    assert pctnet["mse"] == pytest.approx(masked) and pctnet["fmse"] == pytest.approx(fmse)
    assert pctnet["psnr"] == pytest.approx(10 * math.log10(255**2 / (masked + 1e-6)))
    pasted = prediction * weight + target * (1 - weight)
    ssim = structural_similarity(
        target, pasted, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert pctnet["ssim"] == pytest.approx(ssim, abs=1e-9)


def test_iih_reads_jpeg_files_back():
    prediction, composite, real, mask = scene()
    size = prediction.shape[:2]

    def stored(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=100)
        return np.asarray(Image.open(file)).astype(float)

    binary = pil(mask, size, "NEAREST")[..., None] > 0
    output = stored(np.where(binary, prediction, pil(composite, size, "BICUBIC")))
    target = stored(pil(real, size, "BICUBIC"))
    scores = by_protocol(harmonization(prediction, composite, real, mask))["iih"]
    assert scores["mse"] == pytest.approx(mean_squared_error(output, target))
    fmse = mean_squared_error(output * binary, target * binary) * binary.size / binary.sum()
    assert scores["fmse"] == pytest.approx(fmse) and scores["fpsnr"] == pytest.approx(10 * math.log10(255**2 / fmse))


def test_truncation_needs_unrounded_predictions():
    flat = np.full((60, 60, 3), 100, np.uint8)
    mask = np.ones((60, 60), bool)
    drawn = np.full((60, 60, 3), 110.9 / 255)
    scores = by_protocol(harmonization(drawn, flat, flat, mask))
    assert scores["seam-256"]["mse"] == 11**2 and scores["rainnet"]["mse"] == 10**2
    assert scores["saic"]["mse"] == pytest.approx(10.9**2)
    saved = by_protocol(harmonization(np.full((60, 60, 3), 111, np.uint8), flat, flat, mask))
    assert saved["rainnet"]["mse"] == saved["seam-256"]["mse"] == 11**2


def test_one_bit_conversion_dithers_grey_masks():
    flat = np.zeros((64, 64, 3), np.uint8)
    prediction = np.full((64, 64, 3), 10, np.uint8)
    grey = np.full((64, 64), 150, np.uint8)
    scores = by_protocol(harmonization(prediction, flat, flat, grey))
    assert scores["seam-256"]["mse"] == 100  # 150 is foreground
    assert scores["iih"]["mse"] == pytest.approx(100 * 150 / 255, rel=0.1)  # about 59% of the pixels are


def test_identical_empty_and_constant():
    rng = np.random.default_rng(0)
    real, mask = smooth(rng, (60, 60)), np.zeros((60, 60), bool)
    same = by_protocol(harmonization(real, real, real, mask))
    for name, values in same.items():
        assert values["mse"] == 0
        expected = 10 * math.log10((255 if name == "pctnet" else int(real.max())) ** 2 / 1e-6)
        assert values["psnr"] == (pytest.approx(expected) if name in ("saic", "cdtnet", "pctnet") else 100)
        excluded = {metric for metric, value in values.items() if math.isnan(value)}
        assert excluded == {"fmse", "fpsnr", "fssim", "fssim_iih"} & set(values)
    flat = np.full((60, 60, 3), 7, np.uint8)
    constant = by_protocol(harmonization(flat, flat, real, mask))
    assert math.isnan(constant["dovenet"]["psnr"]) and math.isnan(constant["cdtnet"]["ssim"])
    assert math.isfinite(constant["seam-256"]["psnr"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equal_sizes_and_backgrounds_leave_only_the_range(seed):
    """With nothing to resize, nothing to paste and a hard mask, every 8-bit protocol has the same errors."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    mask = rng.random((24, 24)) < 0.4
    mask[0, 0] = True
    prediction = np.where(mask[..., None], rng.integers(0, 256, real.shape, dtype=np.uint8), real)
    scores = by_protocol(harmonization(prediction, prediction, real, mask))
    expected = scores["seam-256"]
    for name, values in scores.items():
        if name != "iih":  # JPEG
            assert values["mse"] == pytest.approx(expected["mse"]), name
            assert values.get("fmse", expected["fmse"]) == pytest.approx(expected["fmse"]), name


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/iharmony4_sample")
def test_protocols_spread_on_a_real_composite():
    """The untouched composite of a published pair: the same picture, 2.6 dB apart by protocol alone."""
    composite, real = (
        np.asarray(Image.open(SAMPLE / "RainNetExamples" / name).convert("RGB"))
        for name in ("composite_images/e0001_1_1.jpg", "real_images/e0001.jpg")
    )
    mask = np.asarray(Image.open(SAMPLE / "RainNetExamples/masks/e0001_1.png").convert("L"))
    scores = by_protocol(harmonization(composite, composite, real, mask))
    psnr = {name: values["psnr"] for name, values in scores.items()}
    assert psnr["seam-256"] == pytest.approx(peak_signal_noise_ratio(real, composite), abs=0.05)
    assert 2 < max(psnr.values()) - min(psnr.values()) < 4


def test_localization_protocols():
    rng = np.random.default_rng(0)
    mask = np.zeros((96, 128), np.uint8)
    cv2.circle(mask, (60, 40), 21, 255, -1)
    truth = cv2.resize((mask > 127).astype(float), (32, 24), interpolation=cv2.INTER_AREA) >= 0.5
    probability = np.clip(0.3 * truth + rng.normal(0.3, 0.1, truth.shape), 0, 1)
    saved = np.rint(probability * 255).astype(np.uint8)
    scores = by_protocol(localization(saved, mask))

    ours = localization_metrics.score(saved / 255, truth)
    assert scores["seam-256"] == pytest.approx({key: ours[key] for key in ("ap", "f1", "iou", "precision", "recall")})
    keys = ("f1", "iou", "precision", "recall")
    assert scores["seam-256-minmax"] == pytest.approx({"ap": ours["ap"]} | {key: ours[f"{key}_minmax"] for key in keys})

    theirs = np.asarray(Image.fromarray(mask).resize((32, 24), Image.Resampling.BILINEAR)) / 255 > 0.5
    shown = (saved - saved.min()) / (saved.max() - saved.min())
    hits = float(((shown > 0.5) & theirs).sum())
    precision, recall = hits / ((shown > 0.5).sum() + 1e-6), hits / (theirs.sum() + 1e-6)
    assert scores["dirl"] == pytest.approx(
        {
            "ap": average_precision_score(theirs.ravel(), shown.ravel()),
            "f1": 2 * precision * recall / (precision + recall + 1e-6),
            "iou": hits / (((shown > 0.5) | theirs).sum() + 1e-6),
            "precision": precision,
            "recall": recall,
        },
        abs=1e-12,
    )


def test_localization_of_an_empty_mask():
    scores = by_protocol(localization(np.full((8, 8), 0.7), np.zeros((16, 16), bool)))
    assert scores["seam-256"] and all(math.isnan(value) for value in scores["seam-256"].values())
    assert set(scores["dirl"].values()) == {0.0}  # as the public code counts it


def test_inpainting_protocols():
    rng = np.random.default_rng(0)
    image = smooth(rng, (64, 72))
    prediction = np.clip(image.astype(int) + rng.integers(-30, 31, image.shape), 0, 255).astype(np.uint8)
    hole = np.zeros((64, 72), bool)
    hole[10:40, 20:50] = True
    composed = np.where(hole[..., None], prediction, image)
    scores = by_protocol(inpainting(prediction, image, hole))
    for name, picture in (("seam-256", composed), ("unpasted", prediction)):
        ours = inpainting_metrics.score(picture, image)
        assert scores[name] == pytest.approx({key: ours[key] for key in ("ssim", "psnr", "l1")})
    grey, truth = rgb2gray(composed / 255), rgb2gray(image / 255)
    assert scores["edgeconnect"] == pytest.approx(
        {
            "ssim": structural_similarity(truth, grey, data_range=1, win_size=51),
            "psnr": peak_signal_noise_ratio(truth, grey, data_range=1),
            "mae": np.abs(truth - grey).sum() / (truth + grey).sum(),
        }
    )
    ones = np.ones(image.shape[:2], bool)
    padded = harmonization_metrics.score(composed, image, ones)["ssim"]
    assert scores["lama"] == pytest.approx({"ssim": padded})


def test_inpainting_of_a_black_and_of_a_perfect_image():
    black = np.zeros((51, 51, 3), np.uint8)
    scores = by_protocol(inpainting(black, black, np.ones((51, 51), bool)))
    assert scores["edgeconnect"] == {"ssim": 1, "psnr": 100, "mae": 0} and scores["seam-256"]["psnr"] == 100


PREDICTION, COMPOSITE, REAL, MASK = scene()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: harmonization(PREDICTION / 200, COMPOSITE, REAL, MASK), "is not RGB with every value in"),
        (lambda: harmonization(PREDICTION * np.nan, COMPOSITE, REAL, MASK), "is not RGB with every value in"),
        (lambda: harmonization(PREDICTION[..., 0], COMPOSITE, REAL, MASK), "prediction has shape"),
        (lambda: harmonization(PREDICTION, COMPOSITE[1:], REAL, MASK), "composite is 120x89, real is 120x90"),
        (lambda: harmonization(PREDICTION, COMPOSITE, REAL, MASK[:, 1:]), "composite is 120x90, mask is 119x90"),
        (lambda: harmonization(PREDICTION, COMPOSITE, REAL, MASK / 255), "mask is not a bool or uint8 array"),
        (lambda: localization(PREDICTION, MASK), "probability has shape"),
        (lambda: localization(np.full((4, 4), np.nan), MASK), "probability has 16 NaN of 16 values"),
        (lambda: inpainting(REAL, REAL, MASK), "hole has dtype uint8, expected bool"),
        (lambda: inpainting(PREDICTION, REAL, MASK > 0), "prediction is 64x60, image is 120x90"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_record_is_all_a_new_protocol_needs():
    """seam-256 with another resizing filter: one field differs, and so does the score."""
    ours = HARMONIZATION[0]
    variant = replace(ours, name="seam-bicubic", image_filter="bicubic")
    scores = by_protocol(harmonization(*scene(), protocols=(ours, variant)))
    assert scores["seam-256"].keys() == scores["seam-bicubic"].keys()
    assert scores["seam-256"]["mse"] != scores["seam-bicubic"]["mse"]


def test_psnr_of_nothing():
    assert math.isnan(peak_signal_to_noise(math.nan, 255, 0)) and math.isnan(peak_signal_to_noise(1.0, 0, 0))
    assert peak_signal_to_noise(0.0, 255, 0) == 100 and peak_signal_to_noise(1e-12, 255, 0) == 100
