"""H-LSTM's resampling features against a plain loop over patches: `python -m benchmarks.hlstm [--size 256]`.

The plain loop does for one patch after the other what the authors' released script does, with the same libraries:
scipy's convolution, scikit-image's `radon`, NumPy's FFT. Times are medians of interleaved runs in this process. Two
numbers count: the ratio, at least 20, and the largest difference of the features, at most 1e-4. Exits with 1 where one
of them is missed.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.signal import convolve2d
from skimage.transform import radon

from models.layers.resampling import ResamplingFeatures
from models.localization.hlstm import HLSTM

RATIO, DIFFERENCE = 20, 1e-4
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


def plain_features(image: np.ndarray, patch: int, angles: int) -> np.ndarray:
    """Features (patches, angles * frequencies) of an 8-bit image (H, W, 3), one patch after the other."""
    rows = []
    for top in range(0, image.shape[0], patch):
        for left in range(0, image.shape[1], patch):
            part = image[top : top + patch, left : left + patch].astype(np.float64)
            filtered = [convolve2d(part[..., channel], LAPLACIAN, mode="same", boundary="symm") for channel in range(3)]
            detail = np.mean([np.sqrt(np.abs(channel)) for channel in filtered], axis=0)
            projections = radon(detail, theta=np.arange(angles) * (180 / angles), circle=False).T
            magnitude = np.abs(np.fft.rfft(projections, axis=1))
            rows.append((magnitude / (magnitude.mean(0) + 1e-16) - 1).ravel())
    return np.stack(rows)


def pictures(folder: Path | None, count: int, size: int) -> np.ndarray:
    """uint8 (N, size, size, 3): the first photographs of a folder, or, without a folder, noise with a flat and a
    stretched part, where the features are hardest to compute."""
    if folder is None:
        image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        image[..., : size // 4, :] = 0.3
        narrow = image[..., size // 2 :, : size // 4]
        image[..., size // 2 :, : size // 2] = F.interpolate(narrow, scale_factor=(1, 2), mode="bilinear")
        return (image * 255).round().byte().permute(0, 2, 3, 1).numpy()
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if len(files) < count:
        sys.exit(f"{folder}: {len(files)} photographs, --batch asks for {count}")
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--patch", type=int, default=32, help="side of a patch in pixels")
    parser.add_argument("--angles", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8, help="pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="photographs to take; noise and flat parts if not given")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the plain loop has one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arrays = pictures(options.folder, options.batch, options.size)
    image = (torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255).to(options.device)
    features = ResamplingFeatures(options.patch, options.angles).to(options.device)

    def ours() -> np.ndarray:
        return features(image).cpu().numpy()

    def plain() -> np.ndarray:
        return np.stack([plain_features(array, options.patch, options.angles) for array in arrays])

    difference = np.abs(ours() - plain()).max()  # also the first, uncounted run of both
    times = {"ours": [], "plain": []}
    for _ in range(options.repeats):
        for name, work in (("ours", ours), ("plain", plain)):
            start = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - start) / options.batch)
    fast, slow = statistics.median(times["ours"]), statistics.median(times["plain"])
    shape = f"{options.batch} x {options.size} x {options.size}, patches of {options.patch}, {options.angles} angles"
    print(f"resampling features, {shape}, {options.device}, {options.threads} threads")
    print(f"{'':22}{'ours':>10}{'plain':>10}{'ratio':>8}")
    print(f"{'features, ms a picture':22}{fast * 1e3:10.2f}{slow * 1e3:10.2f}{slow / fast:8.1f}")
    print(f"largest difference: {difference:.1e}")

    model = HLSTM(options.size, options.patch, options.angles).to(options.device).eval()
    start = time.perf_counter()
    with torch.no_grad():
        model({"composite": image}).cpu()
    print(f"whole network, inference: {(time.perf_counter() - start) / options.batch * 1e3:.1f} ms a picture")
    met = slow / fast >= RATIO and difference <= DIFFERENCE
    print(f"at least {RATIO} times as fast and equal within {DIFFERENCE:g}: {'met' if met else 'missed'}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
