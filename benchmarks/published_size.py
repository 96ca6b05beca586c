"""Data of published size: iHarmony4's 65,742 + 7,404 composites checked, outside pictures scored, the loader, and DVC's share.

    python -m benchmarks.published_size FOLDER [--only check dvc score loader files] [--share 1.0] [--side 640]

Works in FOLDER and leaves it behind. iHarmony4's layout is made there, if it isn't yet, of hard links of a few drawn pictures
(--side pixels wide, 4:3; about 5 MB at 640), so that 128,006 names cost no more than their entries. Needs no data and no network.

check: `python -m stages.iharmony4` twice, the second time with nothing changed; times, and memory over time.
dvc: `dvc repro` of that stage, which hashes the folder, and again.
score: 7,404 pictures of 256 pixels made elsewhere: `python -m commands.score`, against taking in and evaluating them in the pipeline.
loader: images per second of one core that a training reads at 256 pixels, from pictures of --side and of 12 megapixels: made from
    the files, with originals in memory (trainings with a crop), and with shrunk items in memory or on disk (those without).
files: what DVC takes to hash, keep and bring back 7,404 predictions of one network, beside one Parquet file of the same bytes.

Each part takes minutes on two cores; --share 0.01 makes a hundredth of the composites, for a trial.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
from ruamel.yaml import YAML

from benchmarks.composites import show
from benchmarks.metrics import picture, region
from benchmarks.quality import make
from benchmarks.record import record
from pipeline import images, seeds, tables
from pipeline.data import datasets, kept

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("check", "dvc", "score", "loader", "files")
COMPOSITES = {"HCOCO": (38545, 4283), "HAdobe5k": (19437, 2160), "HFlickr": (7449, 828), "Hday2night": (311, 133)}
"""Training and test composites of each sub-dataset, as published (Cong et al., DoveNet, CVPR 2020)."""

OF_ONE_MASK, OF_ONE_PHOTOGRAPH = 2, 4
"""Composites that share a mask and a photograph here."""

DRAWN = 24
"""Different pictures; a file system allows a file some 65,000 names."""

SIZE = 256
LARGE = 4256
"""Width of HAdobe5k's larger photographs."""


@dataclass
class Run:
    """What a command took. Memory is of the driving process, in MB, at tenths of the time; `workers` is the largest of the
    processes that it started. `cpu`: processor seconds of all of them, to within the quarter of a second between two looks."""

    seconds: float
    cpu: float
    memory: list[float]
    workers: float
    said: str

    @property
    def peak(self) -> float:
        return max(self.memory)


def environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return mine | {"PATH": f"{Path(sys.executable).parent}:{mine['PATH']}"}


def measured(command: list[str], folder: Path) -> Run:
    """Run a command, which must end well, in a folder."""
    samples, workers, over = [0.0], [0.0], threading.Event()
    spent: dict[int, float] = {}
    log = folder / "said.log"
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=stream, stderr=subprocess.STDOUT)

        def watch() -> None:
            while not over.wait(0.25):
                try:
                    driver = psutil.Process(process.pid)
                    samples.append(driver.memory_info().rss / 1e6)
                    spent[driver.pid] = sum(driver.cpu_times()[:2])
                    for child in driver.children(recursive=True):
                        spent[child.pid] = sum(child.cpu_times()[:2])
                        if child.name().startswith(("ray::", "python")):
                            workers[0] = max(workers[0], child.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

        watching = threading.Thread(target=watch)
        watching.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        over.set()
        watching.join()
    said = log.read_text()
    if code:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    tenths = [max(part) for part in np.array_split(np.array(samples), min(10, len(samples)))]
    return Run(seconds, sum(spent.values()), [float(one) for one in tenths], workers[0], said)


def row(what: str, run: Run, count: int) -> list[str]:
    over_time = " ".join(f"{one:.0f}" for one in run.memory)
    return [what, f"{run.seconds:.1f}", f"{run.cpu:.1f}", f"{count / run.seconds:.0f}", over_time, f"{run.workers:.0f}"]


CHECK = [sys.executable, "-m", "stages.iharmony4", "iHarmony4", "data/composites/iHarmony4"]
HEAD = ["", "s", "processor s", "per s", "driver MB, by tenths", "largest child MB"]


def drawn(folder: Path, count: int, width: int) -> list[tuple[Path, Path, Path]]:
    """Composite, real image and mask of `count` drawn scenes, as files."""
    scenes = []
    for number in range(count):
        rng = seeds.rng("published size", number)
        real, mask = picture(rng, width)[: width * 3 // 4], region(rng, width)[width // 8 : width // 8 + width * 3 // 4]
        composite = np.where(mask[..., None], np.clip(real + rng.integers(-40, 40, 3), 0, 255), real).astype(np.uint8)
        files = tuple(folder / f"{number}{suffix}" for suffix in ("c.jpg", "r.jpg", "m.png"))
        images.write_jpeg(files[0], composite)
        images.write_jpeg(files[1], real)
        images.write_png(files[2], mask)
        scenes.append(files)
    return scenes


def make_iharmony4(folder: Path, share: float, width: int) -> int:
    """The folder; returns the number of composites."""
    scenes = drawn(folder / "drawn", DRAWN, width)
    total = 0
    for subset, counts in COMPOSITES.items():
        for kind in ("composite_images", "masks", "real_images"):
            (folder / subset / kind).mkdir(parents=True)
        lists: dict[str, list[str]] = {"train": [], "test": []}
        numbers = [max(OF_ONE_PHOTOGRAPH, round(count * share)) for count in counts]
        for number in range(sum(numbers)):
            place, k = divmod(number, OF_ONE_PHOTOGRAPH)
            object_number = k // OF_ONE_MASK
            composite, real, mask = scenes[place % DRAWN]
            name = f"d{place // 10}-{place % 10}" if subset == "Hday2night" else f"{subset[1].lower()}{place}"
            if k == 0:
                os.link(real, folder / subset / "real_images" / f"{name}.jpg")
            if k % OF_ONE_MASK == 0:
                os.link(mask, folder / subset / "masks" / f"{name}_{object_number}.png")
            file = f"{name}_{object_number}_{k}.jpg"
            os.link(composite, folder / subset / "composite_images" / file)
            lists["train" if number < numbers[0] else "test"].append(file)
        for split, names in lists.items():
            (folder / subset / f"{subset}_{split}.txt").write_text("".join(f"{name}\n" for name in names))
        total += sum(numbers)
    shutil.rmtree(folder / "drawn")
    return total


def make_project(folder: Path) -> None:
    """A project with the folder's sub-datasets, a network-free harmonization, and the pictures made elsewhere as a method."""
    content = YAML(typ="safe").load((ROOT / "presets/iharmony4.yaml").read_text())
    content["composites"]["subsets"] = {
        "iHarmony4": content["composites"]["subsets"]["HCOCO"] | {"path": "../iHarmony4"}
    }
    del content["localization"], content["recipes"]
    content["training"]["device"] = "cpu"
    content["models"] = {"composite": {}, "outside": {"task": "harmonization", "outputs": "../outputs"}}
    make(folder, content)


def timed(folder: Path, title: str, commands: dict[str, list[str]], count: int) -> None:
    """Run commands in the project, one after the other; print and record what they took."""
    rows = [HEAD]
    for what, command in commands.items():
        run = measured(command, folder / "project")
        rows.append(row(what, run, count))
        record("published_size", f"{what}, {count}", "s", run.seconds, "lower")
        record("published_size", f"{what}, {count}", "MB", run.peak, "lower")
        print("  ".join(rows[-1]), flush=True)
    print(f"\n{count:,} {title}; load {os.getloadavg()[0]:.1f}")
    show(rows)


def score(folder: Path) -> None:
    project, outputs = folder / "project", folder / "outputs"
    data = project / "data/composites/iHarmony4"
    if not data.exists():
        measured(CHECK, project)
    rows = datasets.pairs([data], "test")
    outputs.mkdir(exist_ok=True)
    written: dict[str, Path] = {}
    for pair_id, composite, sha256 in zip(rows["pair_id"], rows["composite"], rows["composite_sha256"]):
        file = outputs / f"{pair_id}.png"
        if file.exists():
            written.setdefault(sha256, file)
        elif sha256 in written:
            os.link(written[sha256], file)
        else:
            images.write_png(file, images.resize(images.read_rgb(composite), (SIZE, SIZE)))
            written[sha256] = file
    commands = {
        "commands.score": [sys.executable, "-m", "commands.score", "harmonization", str(outputs), "--name", "given"],
        "stages.take_in": [sys.executable, "-m", "stages.take_in", "outside", "--data", "data/composites/iHarmony4"],
        "stages.evaluate": [sys.executable, "-m", "stages.evaluate", "harmonization"],
    }
    timed(folder, f"pictures of {SIZE} pixels made elsewhere", commands, len(rows))


def loader(folder: Path, width: int, share: float) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cropped, whole = (SimpleNamespace(flip=True, crop=crop) for crop in (SimpleNamespace(low=0.9, high=1.0), None))
    rows = [["pictures", "crop", "from", "images/s of a core"]]
    for side, n_scenes, count in ((width, DRAWN, max(8, round(240 * share))), (LARGE, 1, max(4, round(16 * share)))):
        scenes = drawn(folder / f"pictures of {side}", n_scenes, side)
        files = pd.DataFrame(
            [scenes[number % n_scenes] for number in range(count)], columns=["composite", "real", "mask"]
        )
        names = [f"c{number}_1_1" for number in range(count)]
        for augmentation, source in (
            (cropped, "files"),
            (cropped, "memory"),
            (whole, "files"),
            (whole, "memory"),
            (whole, "disk"),
        ):
            dataset = datasets.Composites(files.astype(str).assign(pair_id=names), SIZE)
            dataset.decoded = kept.Decoded(4 << 30 if source == "memory" else 0)
            dataset.shrunk = kept.Shrunk(
                folder / f"shrunk from {side}" if source == "disk" else None, 4 << 30 if source == "memory" else 0
            )
            if source != "files":
                read(dataset, augmentation)
            rate = count / read(dataset, augmentation)
            rows.append([f"{side}x{side * 3 // 4}", "0.9 to 1" if augmentation.crop else "none", source, f"{rate:.0f}"])
            record("published_size", f"loader, {', '.join(rows[-1][:3])}", "images/s of a core", rate, "higher")
    print(f"\nread for training at {SIZE} pixels, in batches of 8; processor time; load {os.getloadavg()[0]:.1f}")
    show(rows)


def read(dataset: datasets.Composites, augmentation) -> float:
    """Processor seconds that an epoch of batches takes."""
    start = time.process_time()
    for first in range(0, len(dataset), 8):
        numbers = range(first, min(first + 8, len(dataset)))
        datasets.collate([dataset.augmented(number, augmentation, 1, number) for number in numbers])
    return time.process_time() - start


def files(folder: Path, count: int) -> None:
    """What DVC takes for one network's predictions as files, and for the same bytes in one Parquet table."""
    project = folder / "files"
    project.mkdir(parents=True)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=project, check=True, env=environment())
    rng = seeds.rng("predictions")
    (project / "single").mkdir()
    (project / "packed").mkdir()
    tiles = []
    for _ in range(DRAWN):
        images.write_png(project / "tile.png", picture(rng, SIZE))
        tiles.append((project / "tile.png").read_bytes())
    names = [f"c{number}_1_1.png" for number in range(count)]
    # DVC looks at bytes alone, which a number behind a picture makes different
    contents = [tiles[number % DRAWN] + number.to_bytes(4, "big") for number in range(count)]
    for name, content in zip(names, contents):
        (project / "single" / name).write_bytes(content)
    os.sync()
    tables.write(project / "packed" / "predictions.parquet", pd.DataFrame({"file": names, "png": contents}))
    size = sum(map(len, contents)) / 1e6
    rows = [["", "dvc add s", "again s", "status s", "checkout s"]]
    for form in ("single", "packed"):
        seconds = [measured(["dvc", *command, form], project).seconds for command in (["add", "-q"], ["add", "-q"])]
        seconds.append(measured(["dvc", "status", f"{form}.dvc"], project).seconds)
        shutil.rmtree(project / form)
        seconds.append(measured(["dvc", "checkout", "-q", f"{form}.dvc"], project).seconds)
        rows.append([form, *(f"{one:.1f}" for one in seconds)])
        for what, one in zip(rows[0][1:], seconds):
            record("published_size", f"{count} predictions, {form}", what, one, "lower")
    print(
        f"\n{count:,} predictions of {SIZE} pixels, {size:.0f} MB; load {os.getloadavg()[0]:.1f}; starting DVC is in each"
    )
    show(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--share", type=float, default=1.0, help="of the published number of composites")
    parser.add_argument("--side", type=int, default=640, help="width of the pictures")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if {"check", "dvc", "score"} & set(given.only) and not (folder / "project").exists():
        start = time.perf_counter()
        (folder / "iHarmony4").mkdir(parents=True)
        made = make_iharmony4(folder / "iHarmony4", given.share, given.side)
        print(f"made {made:,} composites in iHarmony4's layout in {time.perf_counter() - start:.0f} s", flush=True)
        make_project(folder / "project")
    composites = len(list((folder / "iHarmony4").glob("*/composite_images/*")))
    where = "composites, checked where they lie"
    if "check" in given.only:
        timed(folder, where, {"first check": CHECK, "second check": CHECK}, composites)
    if "dvc" in given.only:
        repro = ["dvc", "repro", "iharmony4@iHarmony4"]
        timed(folder, where, {"first dvc repro": repro, "second dvc repro": repro}, composites)
    if "score" in given.only:
        score(folder)
    if "loader" in given.only:
        loader(folder, given.side, given.share)
    if "files" in given.only:
        files(folder, max(8, round(sum(test for _, test in COMPOSITES.values()) * given.share)))


if __name__ == "__main__":
    main()
