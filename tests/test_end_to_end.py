"""The whole way, from photographs to tables, by `dvc repro` on tiny parameters: undisturbed, and killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

# one trained network and one method without training per task
KEPT = ("constant_map", "unet", "composite", "rainnet", "mean_fill", "pconv")
CONTRACT = {
    "localization": {"ap", "f1", "iou"},
    "harmonization": {"mse", "fmse", "psnr", "ssim", "fssim"},
    "inpainting": {"ssim", "psnr", "l1"},
}


def tiny() -> dict:
    parameters = YAML(typ="safe").load((ROOT / "presets" / "embedded.yaml").read_text())
    parameters["irregular_masks"]["per_bucket"] = {"train": 2, "test": 2}
    parameters["composites"]["subsets"]["HCOCO"] |= {"composites_per_object": 1, "max_per_object": 1}
    parameters["composites"]["rendering"]["filters"]["attempts"] = 2
    parameters["sources"]["bundled"]["longest_side"] = 128
    parameters["composites"]["rendering"]["filters"]["min_pixels"] = 60
    parameters["training"] |= {"validation_images": 4, "threads": 1}
    parameters["evaluation"]["bootstrap"] = 50
    parameters["models"] = {name: parameters["models"][name] for name in KEPT}
    for name in ("unet", "rainnet", "pconv"):
        parameters["models"][name]["training"] |= {"epochs": 2, "batch_size": 4, "max_steps_per_epoch": 4}
    parameters["models"]["pconv"]["training"]["phases"]["finetune"]["epochs"] = 1
    return parameters


def project(folder: Path, parameters: dict | None = None) -> Path:
    """A copy of the code with these parameters (the tiny ones if None), as a git and DVC repository of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "dvc.lock")
    for name in ("stages", "commands", "pipeline", "models", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(parameters or tiny(), file)
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, sys.executable, "-m", "commands.graph")
    return folder


def environment(**more: str) -> dict:
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return (
        kept
        | {"PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "SEAMBENCH_CHECKPOINT_SECONDS": "0"}
        | more
    )


def run(folder: Path, *command: str, **more: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def killed_while_training(folder: Path, name: str, **more: str) -> None:
    """Start `dvc repro`, wait until the network has a checkpoint, and kill the whole session with SIGKILL."""
    command = [sys.executable, "-m", "commands.cluster", "dvc", "repro"]
    with open(folder / "killed.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**more), stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 600
        while not list((folder / ".runs").glob(f"{name}-*/checkpoint.pt")):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "artifacts" / "models" / name).exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = project(tmp_path_factory.mktemp("undisturbed"))
    run(folder, sys.executable, "-m", "commands.cluster", "dvc", "repro", SEAMBENCH_CPUS="2")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("task", CONTRACT)
def test_tables_keep_their_contract(undisturbed, task):
    scores = pd.read_parquet(undisturbed / "results" / task / "per_image.parquet")
    assert {"task", "model", "subset", "split", "image_id"} | CONTRACT[task] <= set(scores)
    summary = pd.read_parquet(undisturbed / "results" / task / "summary.parquet")
    assert {"task", "model", "subset", "n_images", "n_parameters"} | CONTRACT[task] <= set(summary)
    pooled = summary[summary["subset"] == "All"].set_index("model")
    assert (
        set(pooled.index)
        == {
            "localization": {"constant_map", "unet"},
            "harmonization": {"composite", "rainnet"},
            "inpainting": {"mean_fill", "pconv"},
        }[task]
    )
    for model, part in scores.groupby("model"):
        assert pooled.loc[model, "n_images"] == len(part)
        for metric in CONTRACT[task]:
            assert pooled.loc[model, metric] == pytest.approx(part[metric].mean())
    if task == "inpainting":
        assert set(scores["hole_ratio_bucket"]) == {"0-10", "10-20", "20-30", "30-40", "40-50", "50-60"}


def test_what_stands_beside_the_scores(undisturbed):
    printed = pd.read_parquet(undisturbed / "results/published/compared.parquet")
    assert set(printed["model"]) == {"unet", "composite", "rainnet", "pconv"}
    summary = pd.read_parquet(undisturbed / "results/localization/summary.parquet").set_index(["model", "subset"])
    ours = printed[(printed["model"] == "unet") & (printed["subset"] == "All") & (printed["metric"] == "iou")]["ours"]
    assert ours.item() == summary.loc[("unet", "All"), "iou_minmax"]
    credits = pd.read_parquet(undisturbed / "results/detectability/per_image.parquet")
    assert set(credits["localizer"]) == {"unet"} and set(credits["model"]) == {"composite", "rainnet"}
    # before harmonization it sees what it was evaluated on, and the composite as a method changes nothing
    scores = pd.read_parquet(undisturbed / "results/localization/per_image.parquet")
    scores = scores[scores["model"] == "unet"].set_index("image_id")["ap"]
    for model, part in credits.groupby("model"):
        assert part.set_index("image_id")["ap_before"].to_dict() == pytest.approx(scores.to_dict())
    assert (credits[credits["model"] == "composite"]["ap_credit"] == 0).all()


@pytest.mark.parametrize(
    "subset, prefix, simulated", [("HCOCO", "c", False), ("HAdobe5k", "a", True), ("Hday2night", "d", True)]
)
def test_composites_keep_their_contract(undisturbed, subset, prefix, simulated):
    folder = undisturbed / "data" / "composites"
    pairs = pd.read_parquet(folder / subset / "pairs.parquet")
    columns = (
        "pair_id subset split composite mask real category foreground_ratio source_image reference_image transfer seed"
    )
    assert set(columns.split()) <= set(pairs)
    assert (pairs["simulated"] == simulated).all()
    reals = {split: set(part["real"]) for split, part in pairs.groupby("split")}
    assert not reals["train"] & reals["test"]
    listed = [name for name in (folder / "IHD_test.txt").read_text().split() if name.startswith(f"{subset}/")]
    tested = pairs[pairs["split"] == "test"]["composite"]
    assert sorted(listed) == sorted(f"{subset}/{name}" for name in tested)
    assert all(name.startswith(f"{subset}/composite_images/{prefix}") for name in listed)


def test_the_report_is_one_page(undisturbed):
    page = (undisturbed / "report" / "index.html").read_text()
    assert "rainnet" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_second_run_does_nothing(undisturbed):
    said = run(undisturbed, "dvc", "repro")
    assert "up to date" in said and "Running stage" not in said


def test_a_killed_run_on_one_worker_ends_like_an_undisturbed_one_on_two(undisturbed, tmp_path):
    folder = project(tmp_path)
    killed_while_training(folder, "rainnet", SEAMBENCH_CPUS="1")
    said = run(folder, sys.executable, "-m", "commands.cluster", "dvc", "repro", SEAMBENCH_CPUS="1")
    assert "rainnet: going on from" in said
    assert contents(folder / "data") == contents(undisturbed / "data")
    for task in CONTRACT:
        for table in ("per_image", "summary"):
            path = Path("results") / task / f"{table}.parquet"
            pd.testing.assert_frame_equal(pd.read_parquet(folder / path), pd.read_parquet(undisturbed / path))
