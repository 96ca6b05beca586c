"""Relative paths of params.yaml that lead out of the project, in the copies of it that DVC's experiments run in.

DVC's queue works in a copy below .dvc/tmp/exps/, `dvc exp run --temp` in one below .dvc/tmp/exps/standalone/. From both ../photos
is another folder than from the project. Links there lead to the one that the project means, for DVC, which hashes it, as for the
stages, which read it.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline import params
from pipeline.params.schema import ListedSubset

EXPERIMENTS = Path(".dvc/tmp")
COPIES = (EXPERIMENTS / "exps", EXPERIMENTS / "exps" / "standalone")
"""Where the copies lie: those of DVC's queue, and those of `dvc exp run --temp`."""


def paths_of(parameters: params.Params) -> list[str]:
    """Every path in params.yaml that a stage reads."""
    paths = [source.path for source in parameters.sources.values()]
    paths += [subset.path for subset in parameters.subsets.values() if isinstance(subset, ListedSubset)]
    paths += [real_set.path for real_set in parameters.real_sets.values()]
    if parameters.irregular_masks is not None and parameters.irregular_masks.folder is not None:
        paths.append(parameters.irregular_masks.folder)
    for block in parameters.models.values():
        start = block.training.start_from if block.training is not None else None
        paths += [
            *weight_files(block.hyperparameters),
            *(path for path in (block.weights, block.outputs, start) if path),
        ]
    return paths


def weight_files(hyperparameters: dict) -> list[str]:
    """The files among a network's hyperparameters: weights from elsewhere, where they are no name such as "imagenet"."""
    given = [value for key, value in hyperparameters.items() if key.endswith("_weights") and isinstance(value, str)]
    return sorted({value for value in given if "/" in value or Path(value).suffix})


def link(root: Path, paths: Iterable[str]) -> list[str]:
    """Make the links for these paths, as params.yaml of the project `root` has them; nothing in a project without DVC.

    Returns a line for each path that experiments won't find all the same, because it leads too far up or its name is taken.
    """
    if not (root / ".dvc").is_dir() or os.environ.get("DVC_ROOT"):  # in a copy itself
        return []
    lines: list[str] = []
    linked: dict[Path, Path] = {}
    for path in sorted(set(paths)):
        parts = Path(os.path.normpath(path)).parts
        if Path(path).is_absolute() or parts[0] != "..":
            continue
        ups = parts.count("..")
        entry = Path(*parts[: ups + 1])  # ../photos of ../photos/2017
        target = Path(os.path.normpath(root / entry))
        places = [Path(os.path.normpath(root / copies / "copy" / entry)) for copies in COPIES]
        free = all(_may_be_linked(place, root) and linked.get(place, target) == target for place in places)
        if len(parts) == ups or not free:
            lines.append(
                f"{path} is not found by DVC's experiments, which run in copies of the project; an absolute path would be"
            )
            continue
        for place in places:
            linked[place] = target
            if not place.is_symlink() or place.readlink() != target:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(target)
    return lines


def _may_be_linked(place: Path, root: Path) -> bool:
    return place.is_relative_to(root / EXPERIMENTS) and (place.is_symlink() or not place.exists())
