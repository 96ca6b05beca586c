"""A method on a picture of one's own, at its full size.

The networks are convolutional and take any size that their halvings divide: a picture is mirrored outward to the next
multiple, and the margin is cut off what they draw. A network that works at two sizes (models/base.py) predicts its
parameters at its own small size and applies them to every pixel. What a network draws is pasted as everywhere: outside the mask or the
hole the output has the input's very pixels, which is why outputs are PNG.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

import models
from models.base import Model
from pipeline import atomic, images, mask_rule
from pipeline.data.sources.base import files
from pipeline.errors import ParameterError, UserError, lacks_memory
from pipeline.networks import full_size, predictor
from pipeline.params.schema import ModelBlock
from pipeline.running import memory as process_memory
from pipeline.tasks import TASKS

"""Task: what is given beside the picture."""


@dataclass(frozen=True)
class Job:
    """One picture: its file, its mask file (None in localization), where the output goes."""

    image: Path
    mask: Path | None
    out: Path


def stated_model(name: str, block: ModelBlock, given: str | None = None) -> Model:
    """A method as a person's command asks for it, ready to predict.

    Its weights are those of the file `given`, else of models.<name>.weights, else what this project trained. Raises
    ParameterError where it has weights to learn and none of these is stated, UserError naming a file that doesn't fit.
    """
    stated = given or block.weights
    weights = Path(stated) if stated else None
    if weights is None and block.training is not None:
        weights = Path(f"artifacts/models/{name}/weights.safetensors")
    model = models.as_model(predictor.ready_model(name, block.hyperparameters, weights))
    if weights is None and model.players:
        raise ParameterError(
            f"{name} has weights to learn and params.yaml has neither models.{name}.training nor weights; give its file as --weights"
        )
    return model


def jobs(task: str, image: Path, mask: Path | None, out: Path, overlay: bool = False) -> list[Job]:
    """What is to be done, all of it checked from names and headers before anything is computed.

    image, mask: two files, or two folders of files with equal stems; without a mask in localization. out: a PNG file, or a
    folder, that doesn't exist yet; with `overlay` neither may the file of `overlay_of` that comes with each.

    Raises UserError naming the file: no mask where one is needed or one where none is, a picture or mask that is missing,
    unreadable or of another size, an output that is there already, isn't PNG or is the input.
    """
    wanted = TASKS[task].region
    if wanted and mask is None:
        raise UserError(
            f"{image}: {task} needs a mask too, white = {'foreground' if wanted == 'mask' else 'hole'}; give it after the picture"
        )
    if mask is not None and not wanted:
        raise UserError(f"{mask}: localization takes no mask; the method is to find it")
    if not image.exists():
        raise UserError(f"{image}: no such file or folder")
    if mask is not None and image.is_dir() != mask.is_dir():
        raise UserError(
            f"{image} is a {_kind(image)} and {mask} is {f'a {_kind(mask)}' if mask.exists() else 'missing'}; give two files or two folders"
        )
    for given in (image, mask):
        if given is not None and out.resolve() == given.resolve():
            raise UserError(f"{out} is the input; give another name for the output")
    if out.exists():
        raise UserError(f"{out} is there already; remove it or give another name")
    if not image.is_dir():
        if out.suffix.lower() != ".png":
            raise UserError(
                f"{out}: outputs are PNG, since any loss would change what lies outside the mask; end its name in .png"
            )
        planned = [Job(image, mask, out)]
    else:
        planned = _in_folders(image, mask, out)
    for job in planned:
        size = images.header_size(job.image)
        if job.mask is not None and wanted:
            images.refuse_other_size(job.mask, images.header_size(job.mask), size, wanted)
    if overlay:
        taken = {job.out for job in planned}
        for extra in map(overlay_of, sorted(taken)):
            if extra.exists() or extra in taken:
                raise UserError(
                    f"{extra} is {'there already' if extra.exists() else 'an output too'}; --overlay would write over it"
                )
    return planned


def overlay_of(out: Path) -> Path:
    """Where the overlay of a probability map goes."""
    return out.with_name(f"{out.stem}_overlay.png")


def _in_folders(image: Path, mask: Path | None, out: Path) -> list[Job]:
    pictures = _by_stem(image)
    if not pictures:
        raise UserError(f"{image}: no picture in this folder")
    masks = _by_stem(mask) if mask is not None else dict.fromkeys(pictures)
    if missing := sorted(set(pictures) - set(masks)):
        raise UserError(
            f"{mask}: no mask called {missing[0]} for {pictures[missing[0]].name}"
            + (f" (and {len(missing) - 1} more)" if missing[1:] else "")
        )
    return [Job(file, masks[stem], out / f"{stem}.png") for stem, file in pictures.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for file in files(folder)[0]:
        if stems.setdefault(file.stem, file) != file:
            raise UserError(f"{folder}: {stems[file.stem].name} and {file.name} have the same name")
    return stems


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def run(
    task: str, model: Model, work: list[Job], out: Path, *, device: str, longest_side: int | None, overlay: bool,
    say: Callable[[str], None], choice: mask_rule.Choice = mask_rule.Choice(),
) -> None:  # fmt: skip
    """Do the jobs; `out`, the file or folder, appears whole or not at all. `say` is told of each picture in a line.

    longest_side: larger pictures are shrunk to it for the network, and what it drew is brought back to full size; None
    gives it every pixel. overlay: localization also writes <name>_overlay.png, the picture with what was found in red.
    choice: which value or channel of the mask files is in.
    """
    unfinished = atomic.folder if work[0].out != out else _nearby
    with unfinished(out) as folder:
        for job in work:
            picture, mask = _read(task, job, choice, say)
            started = time.monotonic()
            drawn, shape = predict(
                task, model, picture, mask, device=device, longest_side=longest_side, name=str(job.image)
            )
            target = folder / job.out.name
            if mask is None:
                images.write_png(target, drawn)
                if overlay:
                    images.write_png(overlay_of(target), highlighted(picture, drawn))
            else:
                images.write_png(
                    target, np.where(mask[..., None], drawn, picture), effort=1
                )  # at 12 megapixels 6 takes longer than a network
            height, width = picture.shape[:2]
            seen = "" if shape == (height, width) else f", seen at {shape[1]}x{shape[0]}"
            say(f"{job.image}: {width}x{height}{seen}, {time.monotonic() - started:.1f} s, {memory(device)}")


class _nearby:
    """Like atomic.folder for files that will lie beside others: what was written takes its place when the block ends well."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out.with_name(f".{out.name}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self.folder

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            for file in sorted(self.folder.iterdir()):
                file.rename(self.out.with_name(file.name))
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(
    task: str, job: Job, choice: mask_rule.Choice, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray | None]:
    opened = images.read(job.image)
    picture = opened.pixels
    if dark := [word for word in opened.conversions if images.NEARLY_BLACK in word]:
        say(f"{job.image}: {dark[0]}; {images.HOW_TO_DECLARE}")
    if job.mask is None:
        return picture, None
    mask = images.read_mask(job.mask, picture.shape[:2], choice=choice)
    if not mask.any():
        raise images.BadImage(job.mask, f"the mask is empty: there is nothing to {TASKS[task].verb}")
    if mask.all():
        raise images.BadImage(job.mask, "the mask covers everything: there is no background to go by")
    return picture, mask


@torch.no_grad()
def predict(
    task: str,
    model: Model,
    picture: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    device: str = "cpu",
    longest_side: int | None = None,
    name: str = "the picture",
) -> tuple[np.ndarray, tuple[int, int]]:
    """What a method draws of one picture: uint8 (H, W) probabilities times 255 in localization, else uint8 RGB (H, W, 3),
    unpasted; and the (height, width) that it saw, margin included.

    picture: uint8 RGB (H, W, 3). mask: bool (H, W), True = foreground or hole; None in localization. With longest_side a
    larger picture is shrunk (antialiased) first, and the drawing enlarged; of harmonization the change of colour is
    enlarged and added to the picture, so that its detail stays. A network that works at two sizes has its small one, whatever
    longest_side says. Raises UserError naming `name` where the network refuses the size or memory doesn't suffice.
    """
    size = picture.shape[:2]
    scale = 1.0 if model.full_resolution else min(1.0, (longest_side or max(size)) / max(size))
    small = tuple(max(1, round(side * scale)) for side in size)
    shrunk = images.resize(picture, small)
    item = {TASKS[task].picture: shrunk}
    region = TASKS[task].region
    if mask is not None and region:
        item[region] = images.resize(mask, small, "mask")
    target = torch.device("cuda" if device == "gpu" else "cpu")
    try:
        drawing, shape = full_size.draw(model, item, target)
        prediction = drawing[0].float().cpu().numpy()
    except ValueError as error:
        raise UserError(f"{name}: the network refuses {small[1]}x{small[0]} pixels: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            f"{name}: not enough memory for {small[1]}x{small[0]} pixels; --longest-side shrinks the picture for the network"
        ) from error
    if not np.isfinite(prediction).all():
        raise UserError(f"{name}: what the network draws is not finite")
    drawn = images.to_uint8(prediction)
    if small == size:
        return drawn, shape
    wide = (size[1], size[0])
    if task == "harmonization":
        change = cv2.resize(drawn.astype(np.float32) - shrunk, wide, interpolation=cv2.INTER_LINEAR)
        return np.clip(np.rint(picture + change), 0, 255).astype(np.uint8), shape
    return cv2.resize(drawn, wide, interpolation=cv2.INTER_LINEAR), shape


def highlighted(picture: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The picture in grey with what was found in red: uint8 RGB (H, W, 3) and uint8 (H, W), 255 = certain."""
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    share = 0.75 * (probability / 255)[..., None]
    return np.rint((1 - share) * grey + share * np.array([230, 30, 30])).astype(np.uint8)


def local_device(wanted: str) -> str:
    """cpu or gpu of this machine; "auto" takes a GPU if there is one. Raises ParameterError for one that isn't there."""
    there = torch.cuda.is_available()
    if wanted == "gpu" and not there:
        raise ParameterError("--device gpu: this process sees no GPU; --device cpu does without")
    return "gpu" if there and wanted != "cpu" else "cpu"


def memory(device: str) -> str:
    """The most memory that this process has used so far, in words."""
    if device == "gpu":
        return f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
    return f"peak memory {process_memory.peak() / 2**30:.2f} GiB"
