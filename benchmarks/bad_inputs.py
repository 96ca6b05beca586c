"""Bad inputs by group: how many are tried, how many are answered in one line, and whether anything half-written is left.

    python -m benchmarks.bad_inputs
    python -m benchmarks.bad_inputs --only masks --show

Groups: values and blocks of presets/labelled.yaml in whose place something wrong stands; files that are handed over as masks;
sources in COCO's form; files of weights; folders of outputs. Each input goes through the command that a person would call,
in this process. An answer is right when the exit code isn't 0 and standard error holds one line. What a command accepts is
counted apart: many a wrong-looking value is a possible one. Exits with 1 when an input led to a traceback, to several lines, or
to a file that a refusal left behind.

--show: print each input with its answer.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from safetensors.torch import save_file

from pipeline import images, params
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.networks import check

ROOT = Path(__file__).resolve().parents[1]
YAML_SAFE = YAML(typ="safe", pure=True)
WRONG: tuple[Any, ...] = (-1, 0, "text", [], {}, None, float("nan"), True, [1, 2, 3], {"key": 1}, "../up", "a;b", 1e30)


PLACES = 150
"""Places in a preset that are tried, drawn by a seed: all of them take half an hour."""


SHARES = {"validation_share": 0.3, "test_share": 0.3}
PHOTOGRAPHS = 12
"""In a source that is tried: enough for every split to have one."""


class Answer(NamedTuple):
    code: int
    said: str
    """Standard error."""


def call(module: str, *arguments: str) -> Answer:
    """python -m <module> <arguments>, in this process."""
    kept, sys.argv = sys.argv, [str(ROOT / f"{module.replace('.', '/')}.py"), *arguments]
    sys.modules.pop(module, None)
    code: Any = 0
    error = io.StringIO()
    LOG.handlers.clear()  # the last call's, whose stream is closed
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            error.write(f"{code}\n")
            code = 1
    except BaseException as raised:  # what a defect of ours looks like from outside
        return Answer(1, f"Traceback (most recent call last)\n{type(raised).__name__}: {raised}")
    finally:
        sys.argv = kept
    return Answer(code, error.getvalue())


def leaves(content: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    yield path


def parameters(folder: Path) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Values and blocks of a preset, replaced by something wrong, taken out, or with a key that isn't known."""
    whole = YAML_SAFE.load((ROOT / "presets/labelled.yaml").read_text())
    rng = random.Random(0)

    def loaded(content: dict, name: str | None) -> Answer:
        with open(folder / "params.yaml", "w") as file:
            YAML_SAFE.dump(content, file)
        try:
            read = params.load(folder / "params.yaml")
            if name in read.models:
                check.check_methods(read.model_copy(update={"models": {name: read.models[name]}}))
        except UserError as error:
            return Answer(2, f"{error}\n")
        except Exception as error:
            return Answer(1, f"Traceback (most recent call last)\n{type(error).__name__}: {error}\n")
        return Answer(0, "")

    paths = [path for path in leaves(whole) if path]
    for path in rng.sample(paths, min(PLACES, len(paths))):
        name = path[1] if path[0] == "models" and len(path) > 1 else None
        for wrong in rng.sample(WRONG, 2):
            content = copy.deepcopy(whole)
            place = content
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            yield f"{'.'.join(map(str, path))} = {wrong!r}", lambda content=content, name=name: loaded(content, name)
        content = copy.deepcopy(whole)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[f"{path[-1]}x"] = place.pop(path[-1])
        yield f"{'.'.join(map(str, path))}x", lambda content=content, name=name: loaded(content, name)


def masks(folder: Path) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Files of several kinds, handed over as the mask of a photograph of 128 x 96 pixels."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (96, 128, 3), np.uint8)
    images.write_png(folder / "photo.png", photo)
    inside = np.zeros((96, 128), np.uint8)
    inside[20:60, 30:80] = 1
    made = {
        "the_photo": photo,
        "noise": rng.integers(0, 256, (96, 128), np.uint8),
        "three_levels": inside * 100 + (inside[::-1] * 55),
        "void_at_the_edge": np.where(cv2.dilate(inside, np.ones((5, 5))) > inside, 255, inside).astype(np.uint8),
        "empty": inside * 0,
        "full": inside * 0 + 255,
        "other_size": inside[:50] * 255,
        "soft_everywhere": cv2.GaussianBlur(inside * 255, (61, 61), 20),
        "green": np.dstack([inside * 0, inside * 255, inside * 0]),
        "red_on_photo": np.where(inside[..., None] > 0, np.uint8([0, 0, 255]), photo),
        "levels_of_16_bits": (inside.astype(np.uint16) * 700 + inside[::-1] * np.uint16(300)),
        "alpha_alone": np.dstack([photo, inside * 255]),
        "float.tiff": inside.astype(np.float32) * 0.5 + rng.random((96, 128), np.float32),
        "jpeg_of_noise.jpg": rng.integers(0, 256, (96, 128), np.uint8),
    }
    files = []
    for name, picture in made.items():
        file = folder / (name if "." in name else f"{name}.png")
        cv2.imwrite(str(file), picture)
        files.append(file)
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:900])
    (folder / "nothing.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    os.symlink(folder / "loop.png", folder / "loop.png")
    names = ("text.png", "cut.png", "nothing.png", "folder.png", "loop.png", "missing.png", "x" * 400 + ".png")
    for file in [*files, *(folder / name for name in names)]:
        out = folder / "out" / f"{file.stem[:60]}.png"

        def apply(file: Path = file, out: Path = out) -> Answer:
            words = ("--model", "histogram", str(folder / "photo.png"), str(file), "-o", str(out))
            return call("commands.apply", *words)

        yield file.name[:60], apply


def sources(folder: Path) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """A folder in COCO's form, with one thing wrong in it."""
    rng = np.random.default_rng(0)
    whole = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 160, "height": 160} for n in range(PHOTOGRAPHS)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [8, 8, 40, 40], "area": 1600}
            | {"segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]]}
            for n in range(PHOTOGRAPHS)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    pictures = [rng.integers(0, 256, (160, 160, 3), np.uint8) for _ in range(PHOTOGRAPHS)]
    yaml = YAML_SAFE.load((ROOT / "presets/labelled.yaml").read_text())

    def ingest(number: int, text: str) -> Answer:
        place = folder / str(number)
        for index, picture in enumerate(pictures):
            images.write_png(place / f"photos/images/{index}.png", picture)
        (place / "photos/instances.json").write_text(text)
        parameters = yaml | {
            "sources": {"photos": yaml["sources"]["photos"] | {"path": str(place / "photos")} | SHARES}
        }
        with open(place / "params.yaml", "w") as file:
            YAML_SAFE.dump(parameters, file)
        with contextlib.chdir(place):
            return call("stages.ingest", "photos", "data/sources/photos")

    paths = [path for path in leaves(whole) if path]
    paths += [(key, 0, inner) for key in ("images", "annotations", "categories") for inner in whole[key][0]]
    number = 0
    for path in paths:
        for wrong in ("drop", None, "text", -1, [], {}, 1e30):
            content = copy.deepcopy(whole)
            place: Any = content
            for key in path[:-1]:
                place = place[key]
            if wrong == "drop":
                del place[path[-1]]
            else:
                place[path[-1]] = wrong
            number += 1
            yield f"{path} {wrong!r}", lambda content=content, n=number: ingest(n, json.dumps(content))
    for text in ("", "[]", "null", "{", '{"images": 3}', "[" * 5000, "\xff\xfe", '{"images": NaN}'):
        number += 1
        yield f"instances.json: {text[:20]!r}", lambda text=text, n=number: ingest(n, text)


def weights(folder: Path) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Files that are given as released weights of a network that has others."""
    state = {key: value.clone() for key, value in params.build_model("rainnet", {"width": 4}).state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    one_less = dict(list(state.items())[:-1])
    changed = dict(state) | {next(iter(state)): torch.rand(3, 3, generator=rng)}
    made: dict[str, Any] = {
        "one_less.pth": one_less,
        "one_more.pth": state | {"extra": torch.zeros(2)},
        "another_shape.pth": changed,
        "empty.pth": {},
        "a_list.pth": [1, 2],
        "a_number.pth": 3,
        "two_nested.pth": {"netG": state, "netD": one_less},
        "text_for_tensors.pth": dict.fromkeys(state, "text"),
    }
    files = []
    for name, content in made.items():
        torch.save(content, folder / name)
        files.append(folder / name)
    whole = folder / "whole.pth"
    torch.save(state, whole)
    (folder / "cut.pth").write_bytes(whole.read_bytes()[:5000])
    (folder / "text.pth").write_text("no weights")
    (folder / "nothing.safetensors").write_bytes(b"")
    (folder / "code.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (folder / "a_folder.pth").mkdir()
    np.savez(folder / "arrays.npz", a=np.zeros(3))
    save_file({"a": torch.zeros(3)}, folder / "other.safetensors")
    names = (
        "cut.pth",
        "text.pth",
        "nothing.safetensors",
        "code.pth",
        "a_folder.pth",
        "arrays.npz",
        "other.safetensors",
    )
    for file in [*files, *(folder / name for name in names), folder / "missing.pth", folder / "suffix.xyz"]:
        out = str(folder / "out" / f"{file.name}.safetensors")

        def import_weights(file: Path = file, out: str = out) -> Answer:
            return call("commands.import_weights", "rainnet", str(file), "-o", out, "--hyperparameters", "{width: 4}")

        yield file.name, import_weights


GROUPS = {"parameters": parameters, "masks": masks, "sources": sources, "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=GROUPS)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    table = Table("group", "tried", "refused in one line", "accepted", "traceback", "several lines", "left behind")
    wrong = []
    for group in [given.only] if given.only else GROUPS:
        counts = dict.fromkeys(("tried", "refused", "accepted", "traceback", "several", "left"), 0)
        with tempfile.TemporaryDirectory(prefix="seambench-bad-") as root:
            folder = Path(root, group)
            folder.mkdir()
            for name, attempt in GROUPS[group](folder):
                answer = attempt()
                counts["tried"] += 1
                said = answer.said.strip()
                kind = (
                    "traceback"
                    if "Traceback" in said
                    else "accepted"
                    if answer.code == 0
                    else "refused"
                    if said.count("\n") == 0 and said
                    else "several"
                )
                counts[kind] += 1
                left = kind != "accepted" and any(path.is_file() for path in _made(folder))
                counts["left"] += left
                if left or kind in ("traceback", "several"):
                    wrong.append(f"{group}, {name}: {said[-300:] or 'no word'}")
                if given.show:
                    print(f"{group}, {name}: {kind}: {said[-200:]}", flush=True)
                for path in _made(folder):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        table.add_row(group, *(str(count) for count in counts.values()))
    Console().print(table)
    print("\n".join(wrong))
    sys.exit(bool(wrong))


def _made(folder: Path) -> list[Path]:
    """What a command wrote: outputs, and tables and pictures of a source."""
    return [*folder.glob("out/*"), *folder.glob("*/data")]


if __name__ == "__main__":
    main()
