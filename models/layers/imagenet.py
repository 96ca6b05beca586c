"""What every backbone trained on ImageNet shares: its input's normalization, and its weights from elsewhere."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNetNormalize(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) -> (image - mean) / std for each channel.

    `mean` and `std`, in [0, 1]: ImageNet's by default. Some released networks use statistics of their own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD):
        super().__init__()
        # constants, so not in the state dict: a published one has no such entries
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def load_backbone(backbone: nn.Module, source: str, published: Callable[[], dict], file: str) -> None:
    """Fill `backbone` from `source`: "none" (nothing is done), "imagenet" (what `published()` returns, fetched
    or from the library's cache), or the path of a state dict (.safetensors, or .pth read without unpickling objects).

    Entries that the backbone lacks, such as a classifier's, are left out. `file` is the published file's name.
    Raises ValueError, one line, if the file can't be had or doesn't hold what the backbone needs.
    """
    if source == "none":
        return
    if source == "imagenet":
        try:
            state = published()
        except Exception as error:  # each library in the chain has its own error for "no network"
            raise ValueError(
                f"backbone_weights = 'imagenet': {file} can't be fetched ({type(error).__name__}); put that file on "
                "this machine and give its path as backbone_weights, or take 'none'"
            ) from error
    else:
        state = read_state_dict(source)
    # older files lack the counters that batch normalization keeps, and nothing depends on them
    state_dict = backbone.state_dict()
    wanted = {name: tensor for name, tensor in state_dict.items() if not name.endswith("num_batches_tracked")}
    for name, tensor in wanted.items():
        if name not in state:
            raise ValueError(f"backbone_weights = {source!r} has no tensor {name}; expected the content of {file}")
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"backbone_weights = {source!r}: {name} is {tuple(state[name].shape)}, this network's is "
                f"{tuple(tensor.shape)}; published weights fit the published width only"
            )
    backbone.load_state_dict({name: state[name] for name in wanted}, strict=False)


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The tensors in a .safetensors or torch file, on the CPU. Raises ValueError naming a file that can't be read."""
    if not Path(path).is_file():
        raise ValueError(f"backbone_weights: no file {path} (expected 'none', 'imagenet' or the path of a state dict)")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in whatever way their first wrong byte brings about
        kind = type(error).__name__
        raise ValueError(f"backbone_weights: {path} is no state dict that can be read ({kind})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone_weights: {path} holds something other than a state dict of tensors")
    return state
