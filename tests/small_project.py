"""A small project in a folder of its own, whose stages run in the test's process and without a cluster."""

import copy
import functools
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import images, tables
from pipeline.networks import predictor
from pipeline.running import parallel
from tests.pipeline.tiny import random_picture, subset

ROOT = Path(__file__).resolve().parents[1]
YAML_SAFE = YAML(typ="safe", pure=True)
TRAINING = {
    "epochs": 1,
    "batch_size": 2,
    "max_steps_per_epoch": 1,
    "optimization": {"optimizer": "adam", "learning_rate": 1e-3, "schedule": {"name": "constant"}},
    "augmentation": {"flip": True, "crop": None},
}


@pytest.fixture(scope="session")
def embedded() -> dict:
    return YAML_SAFE.load((ROOT / "presets" / "embedded.yaml").read_text())


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Project:
    """Three methods of each kind of work: one that is trained, two that are not."""

    def __init__(self, folder: Path, content: dict, capsys, monkeypatch):
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        self.content = copy.deepcopy(content)
        subsets = self.content["composites"]["subsets"]
        self.content["composites"]["subsets"] = {"HCOCO": subsets["HCOCO"]}
        self.content |= {"image_size": 32, "inference": {"batch_size": 2, "resolutions": []}}
        self.content["evaluation"]["bootstrap"] = 20
        self.content["training"]["threads"] = 1
        self.content["irregular_masks"] |= {"kinds": ["strokes"], "per_bucket": {"train": 1, "test": 1}}
        self.content["models"] = {
            "constant_map": {"hyperparameters": {}},
            "unet": {"hyperparameters": {"width": 4, "backbone_weights": "none"}, "training": TRAINING},
            "composite": {"hyperparameters": {}},
            "mean_fill": {"hyperparameters": {}},
        }
        self.write()

    def write(self) -> None:
        with open(self.folder / "params.yaml", "w") as file:
            YAML_SAFE.dump(self.content, file)

    def run(self, stage: str, *arguments: str) -> Done:
        """python -m stages.<stage> <arguments> in the project's folder; a command of commands/ likewise."""
        self.monkeypatch.setattr(sys, "argv", [str(ROOT / "stages" / f"{stage}.py"), *map(str, arguments)])
        module = f"stages.{stage}" if (ROOT / "stages" / f"{stage}.py").exists() else f"commands.{stage}"
        self.monkeypatch.delitem(sys.modules, module, raising=False)  # python -m runs it afresh
        self.capsys.readouterr()
        code = 0
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        return Done(code, *self.capsys.readouterr())

    def refused(self, stage: str, *arguments: str) -> tuple[int, str]:
        """Exit code and the one line that a stage must say no with."""
        done = self.run(stage, *arguments)
        assert done.code != 0 and done.err.count("\n") == 1 and done.err.startswith(f"{stage}: "), done
        return done.code, done.err.removeprefix(f"{stage}: ").rstrip("\n")

    def make_composites(self) -> list[str]:
        rows = [
            {"pair_id": f"c{number}_1_1", "split": split, "foreground_ratio": 0.25}
            for number, split in enumerate(["train"] * 3 + ["val"] + ["test"] * 3)
        ]
        subset(self.folder / "data/composites/HCOCO", rows)
        return ["data/composites/HCOCO"]

    def make_photographs(self) -> list[str]:
        source = self.folder / "data/sources/bundled"
        rows = []
        for number, split in enumerate(("train", "val", "test", "test")):
            images.write_png(source / f"images/p{number}.png", random_picture(number))
            rows.append(
                {"image_id": f"p{number}", "split": split, "image": f"images/p{number}.png", "sha256": str(number)}
            )
        tables.write(source / "photographs.parquet", pd.DataFrame(rows))
        return ["data/sources/bundled", "data/irregular_masks"]


def _serial_map(function, items, *, describe, unit="images", chunk=4, first=0):
    return map(function, items[first:])


@pytest.fixture
def project(tmp_path, embedded, capsys, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "ordered_map", _serial_map)

    def predict(build_model, build_data, out, *, batch_size, device, describe, **how):
        return predictor.predict_plain(build_model, build_data, out, batch_size=batch_size, device=device, **how)

    monkeypatch.setattr(predictor, "predict_all", functools.wraps(predictor.predict_all)(predict))
    return Project(tmp_path, embedded, capsys, monkeypatch)


@pytest.fixture
def dark_hole() -> np.ndarray:
    hole = np.zeros((32, 32), bool)
    hole[:8] = True
    return hole
