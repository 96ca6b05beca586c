"""iHarmony4's text lists: one name per line, sorted, Unix line ends.

    <subset>/<subset>_train.txt  _test.txt     composite names alone
    IHD_train.txt  IHD_test.txt                of all sub-datasets: <subset>/composite_images/<composite>.jpg
    le50_train.txt  le50_test.txt              the same without foregrounds of more than half of the image

iHarmony4 knows no validation split: photographs kept for validation stand in the training lists.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline import atomic, tables

SPLITS = {"train": ("train", "val"), "test": ("test",)}
"""Which splits of pairs.parquet each list holds."""

LARGEST = 0.5
"""Foreground share up to which a composite is in the le50 lists (Liang et al., "DIRL", ICME 2021)."""


def write_lists(folder: Path, subset: str, pairs: pd.DataFrame) -> None:
    """Write the two lists of one sub-dataset. `pairs` needs the columns split and composite."""
    for listed, splits in SPLITS.items():
        _write(
            folder / f"{subset}_{listed}.txt",
            (Path(composite).name for composite in pairs.loc[pairs["split"].isin(splits), "composite"]),
        )


def write_joint_lists(out: Path, subsets: list[Path]) -> None:
    """Write the lists over sub-datasets, given as their folders data/composites/<subset>, to `out`."""
    columns = ["subset", "split", "composite", "foreground_ratio"]
    pairs = pd.concat([tables.read(folder / "pairs.parquet", columns) for folder in subsets], ignore_index=True)
    # those of the real iHarmony4 lie elsewhere, and are listed under the name that they have there
    lines = pairs["subset"] + "/composite_images/" + pairs["composite"].map(lambda file: Path(file).name)
    for listed, splits in SPLITS.items():
        inside = pairs["split"].isin(splits)
        _write(out / f"IHD_{listed}.txt", lines[inside])
        _write(out / f"le50_{listed}.txt", lines[inside & (pairs["foreground_ratio"] <= LARGEST)])


def _write(file: Path, lines: Iterable[str]) -> None:
    with atomic.file(file) as path:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8", newline="\n")
