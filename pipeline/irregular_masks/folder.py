"""An existing folder of mask pictures, such as NVIDIA's irregular masks (Liu et al., ECCV 2018)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline import images, mask_rule
from pipeline.errors import UserError
from pipeline.logs import LOG

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MAX_PIXELS = 64_000_000

_LOOKED_AT = 200


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a folder: `names` relative to `path`, sorted; which colour is the hole ("white" or "black");
    whether that was detected or told; and which value or channel is white where that was chosen."""

    path: Path
    names: tuple[str, ...]
    polarity: Literal["white", "black"]
    detected: bool
    choice: mask_rule.Choice

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> np.ndarray:
        """One mask as bool (H, W), True = hole. Raises UserError naming the file when it can't be read or is constant."""
        white = _read_white(self.path / name, self.choice)
        return white if self.polarity == "white" else ~white


def read_folder(
    path: Path, polarity: Literal["detect", "white", "black"] = "detect", choice: mask_rule.Choice = mask_rule.Choice()
) -> MaskFolder:
    """The masks in `path` and its sub-folders.

    Files are read by the rule of `images.read_mask`; with a `choice`, the chosen pixels are white. With "detect" the hole is
    the colour that covers less than 40% of a median mask, judged on up to 200 masks spread over the folder; if neither
    does, the one that never covers more than the 60% to which published masks go, while the other does; else it is refused. With a polarity told, a median hole share above 70% gives a warning. Raises
    UserError for a folder without masks and one whose masks are all unreadable or constant.
    """
    path = Path(path)
    if polarity not in ("detect", "white", "black"):
        raise ValueError(f"polarity {polarity!r}; expected detect, white or black")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of masks")
    files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    names = sorted(file.relative_to(path).as_posix() for file in files)
    if not names:
        raise UserError(f"{path}: no mask in this folder ({', '.join(SUFFIXES)})")
    white = _white_shares(path, names, choice)
    if polarity == "detect":
        return MaskFolder(path, tuple(names), _detect(path, white), True, choice)
    hole = np.median(white if polarity == "white" else 1 - white)
    if hole > 0.7:
        doubt = f"with polarity {polarity!r} the median hole covers {hole:.0%}; is the polarity right?"
        LOG.warning(f"{path}: {doubt}")
    return MaskFolder(path, tuple(names), polarity, False, choice)


def _detect(path: Path, white: np.ndarray) -> Literal["white", "black"]:
    median = np.median(white)
    if median < 0.4 or median > 0.6:
        return "white" if median < 0.4 else "black"
    white_fits, black_fits = white.max() <= 0.6, (1 - white).max() <= 0.6
    if white_fits == black_fits:
        colours = f"half white, half black (median {median:.0%} white)"
        raise UserError(f"{path}: {colours}; set the polarity to white or black, the colour of the hole")
    return "white" if white_fits else "black"


def _white_shares(path: Path, names: list[str], choice: mask_rule.Choice) -> np.ndarray:
    """The share of white pixels of masks spread over the folder."""
    shares, refused = [], []
    for index in np.unique(np.linspace(0, len(names) - 1, _LOOKED_AT).round().astype(int)):
        try:
            shares.append(_read_white(path / names[index], choice).mean())
        except UserError as error:
            refused.append(error)
    if not shares:
        raise UserError(f"{path}: none of the {len(refused)} masks looked at can be used; the first: {refused[0]}")
    return np.array(shares)


def _read_white(file: Path, choice: mask_rule.Choice) -> np.ndarray:
    """Where a picture is white: bool (H, W)."""
    white = images.read_mask(file, choice=choice, max_pixels=MAX_PIXELS)
    if white.all() or not white.any():
        raise UserError(
            f"{file}: the mask is all {'white' if white.all() else 'black'}; it needs hole and valid pixels"
        )
    return white
