"""Time to score one image on one core, against scikit-learn and scikit-image doing the same in the same run.

    python -m benchmarks.metrics [--size 256] [--images 15]

Both sides compute every metric of the task, by turns, on the same images: `peer` is `average_precision_score` and
`roc_auc_score` with plain F1 and IoU for localization, and scikit-image's SSIM, PSNR and MSE for the other two. Times are the medians over
the images, each the fastest of three tries. "differ" is the largest difference of any metric between the two, PSNR
and MSE relative. scikit-image's SSIM maps are made zero-padded, as ours, by padding the images first.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from skimage.color import rgb2gray
from skimage.metrics import (
    mean_squared_error,
    peak_signal_noise_ratio,
    structural_similarity,
)
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from benchmarks.record import record
from pipeline import seeds
from pipeline.metrics import harmonization, inpainting, localization

OWN_THRESHOLD = 0.45
WINDOW = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
    noise = (rng.uniform(-1 / n, 1 / n, (n, n, 3)) for n in (2, 8, 64))
    image = sum(cv2.resize(scale, (size, size), interpolation=cv2.INTER_CUBIC) for scale in noise)
    return np.clip(128 + 150 * image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def region(rng: np.random.Generator, size: int) -> np.ndarray:
    """An ellipse of about a sixth of the image."""
    mask = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.3, 0.7, 2) * size
    axes = (int(rng.uniform(0.2, 0.25) * size), int(rng.uniform(0.2, 0.25) * size))
    return cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, 0, 0, 360, 1, -1).astype(bool)


def plain_localization(probability: np.ndarray, mask: np.ndarray, threshold: float) -> dict[str, float]:
    scores = {
        "ap": average_precision_score(mask.ravel(), probability.ravel()),
        "ap_inverted": average_precision_score(mask.ravel(), -probability.ravel()),
        "auc": roc_auc_score(mask.ravel(), probability.ravel()),
    }
    stretched = (probability - probability.min()) / (probability.max() - probability.min())
    for end, shown, least in (("", probability, 0.5), ("_minmax", stretched, 0.5), ("_val", probability, threshold)):
        detected = shown > least
        both = (detected & mask).sum()
        precision, recall = both / detected.sum(), both / mask.sum()
        scores |= {f"precision{end}": precision, f"recall{end}": recall}
        scores |= {
            f"f1{end}": 2 * precision * recall / (precision + recall),
            f"iou{end}": both / (detected | mask).sum(),
        }
    return scores


def plain_harmonization(prediction: np.ndarray, real: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    around = ((5, 5), (5, 5), (0, 0))
    x, y = np.pad(real.astype(np.float64), around), np.pad(prediction.astype(np.float64), around)
    inside = np.s_[5:-5, 5:-5]
    similarity = structural_similarity(x, y, data_range=255, full=True, **WINDOW)[1][inside]
    similarity_iih = structural_similarity(x, y, data_range=1, full=True, **WINDOW)[1][inside]
    return {
        "mse": mean_squared_error(real, prediction),
        "fmse": mean_squared_error(real[mask], prediction[mask]),
        "psnr": peak_signal_noise_ratio(real, prediction, data_range=255),
        "ssim": similarity.mean(),
        "fssim": similarity[mask].mean(),
        "fssim_iih": similarity_iih[mask].mean(),
    }


def plain_inpainting(prediction: np.ndarray, real: np.ndarray) -> dict[str, float]:
    x, y = real / 255, prediction / 255
    return {
        "ssim": structural_similarity(x, y, data_range=1, **WINDOW),
        "psnr": peak_signal_noise_ratio(x, y, data_range=1),
        "l1": np.abs(x - y).mean(),
        "ssim_ec": structural_similarity(rgb2gray(x), rgb2gray(y), data_range=1, win_size=51),
    }


def cases(size: int, images: int) -> dict[str, tuple]:
    """name: our score, the peer's, and the arguments of each image."""
    maps, rounded, pasted, drawn, filled = [], [], [], [], []
    for index in range(images):
        rng = seeds.rng("benchmark", index)
        real, mask = picture(rng, size), region(rng, size)
        probability = np.clip(rng.normal(0.35, 0.15, mask.shape) + 0.3 * mask, 0, 1).astype(np.float32)
        maps.append((probability, mask, OWN_THRESHOLD))
        rounded.append((np.rint(probability * 255) / 255.0, mask, OWN_THRESHOLD))
        output = np.clip(real.astype(float) + rng.normal(8, 6, real.shape), 0, 255).astype(np.uint8)
        drawn.append((output, real, mask))
        pasted.append((np.where(mask[..., None], output, real), real, mask))
        filled.append(pasted[-1][:2])
    return {
        "localization, 8-bit map": (localization.score, plain_localization, rounded),
        "localization, float map": (localization.score, plain_localization, maps),
        "harmonization, pasted": (harmonization.score, plain_harmonization, pasted),
        "harmonization, unpasted": (harmonization.score, plain_harmonization, drawn),
        "inpainting": (inpainting.score, plain_inpainting, filled),
    }


def seconds(function, arguments) -> tuple[float, dict[str, float]]:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        scores = function(*arguments)
        best = min(best, time.process_time() - start)
    return best, scores


def difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    relative = ("mse", "fmse", "psnr")
    return max(abs(ours[key] - theirs[key]) / (abs(theirs[key]) if key in relative else 1) for key in ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=15)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    title = f"one {arguments.size}x{arguments.size} image"
    table = Table("", "ours ms", "peer ms", "times faster", "differ", title=title)
    with threadpool_limits(1):
        for name, (ours, peer, items) in cases(arguments.size, arguments.images).items():
            times, worst = [], 0.0
            for item in items:
                (own_time, scores), (peer_time, expected) = seconds(ours, item), seconds(peer, item)
                times.append((own_time, peer_time))
                worst = max(worst, difference(scores, expected))
            mine, theirs = (statistics.median(column) * 1000 for column in zip(*times))
            ratio = statistics.median(peer_time / own_time for own_time, peer_time in times)
            record("metrics", name, "peer's time / ours", ratio, "higher")
            record("metrics", name, "ms", mine, "lower")
            table.add_row(name, f"{mine:.2f}", f"{theirs:.2f}", f"{ratio:.1f}", f"{worst:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
