"""What every network of the benchmark has in common."""

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""float32 tensors in [0, 1].

localization, harmonization: composite (N, 3, H, W), mask (N, 1, H, W; 1 = foreground), real (N, 3, H, W)
inpainting:                  image (N, 3, H, W), hole (N, 1, H, W; 1 = hole)
"""


class Model(nn.Module):
    """A method of the benchmark, trained or not.

    A subclass sets `task` and, if it learns, `players` (the networks that take turns within one training
    step, in that order) and `phases`. A method with nothing to train leaves `players` empty; most such are written on
    arrays (models/arrays.py), and are a Model by models/array_model.py.

    The hyperparameters are the keyword arguments of the constructor, annotated with int, float, bool, str,
    tuple[...] or Literal[...]; their defaults are the published ones.

    A harmonizer may work at two sizes: it looks at a small picture, predicts the parameters of a colour transform
    there, and the transform is applied to the picture at its own size, however large. Such a network sets
    `full_resolution` and `parameter_size`, and writes `predict_parameters` and `apply_parameters`; `harmonize_at` does
    the rest.
    """

    task: str
    stochastic: bool = False
    """whether `samples` draws several predictions for one input"""
    uses_real_photographs: bool = False
    """whether a localizer's loss reads the batch's `real`, which departs from the rule that localizers train on composites
    alone; tables say so"""
    players: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("train",)

    full_resolution: bool = False
    """Whether the network works at two sizes, so that `harmonize_at` may be called."""

    parameter_size: int
    """Height and width in pixels of the picture that a network with `full_resolution` predicts its parameters from."""

    def forward(self, batch: Batch) -> Tensor:
        """Prediction in [0, 1]: (N, 1, H, W) for localization, (N, 3, H, W) otherwise, as the network draws
        it, before it is pasted into the input. Reads only what is given at test time: composite
        (localization), composite and mask (harmonization), image and hole (inpainting; what the image holds
        inside the hole must not matter)."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def samples(self, batch: Batch, n: int) -> Tensor:
        """n predictions for each item of the batch, (n, N, C, H, W) in [0, 1]; the first is that of `forward`.

        For networks that draw one of many possible answers. They say `stochastic = True` and override this. They keep
        two laws. What they draw for an item depends on the item, the number of the sample and the hyperparameters
        alone, not on torch's generators, nor on the batch's other items or their order. Sample k is the same whatever n
        is. Raises ValueError for n below 1, and TypeError where the model gives one prediction only.
        """
        if n < 1:
            raise ValueError(f"{type(self).__name__}: {n} samples asked for, expected at least 1")
        raise TypeError(f"{type(self).__name__} gives one prediction for an input; it has no samples to draw")

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures that the network draws on its way to the prediction, by name, each (N, 3, H, W) in [0, 1], of the
        batch's height and width. A report shows them beside the prediction. Reads what `forward` reads. Most networks
        have none; those that split a picture, for instance into reflectance and illumination, return the parts."""
        return {}

    def predict_parameters(self, batch: Batch) -> Tensor:
        """Parameters of the colour transform: (N, P, h, w), float32, where P is the network's own affair. They are
        enlarged bicubically before they are applied; one parameter set for the whole picture is a map of 1x1. Reads
        composite (N, 3, parameter_size, parameter_size) and mask (N, 1, parameter_size, parameter_size)."""
        raise TypeError(f"{type(self).__name__} predicts no parameters for another size")

    def apply_parameters(self, parameters: Tensor, batch: Batch) -> Tensor:
        """Prediction (N, 3, H, W) in [0, 1] from parameters (N, P, H, W) or (N, P, 1, 1) and composite and mask
        of (H, W).

        A pixel of the prediction may depend on its own parameters, colour and mask alone, since a large picture is
        worked on in strips of rows."""
        raise TypeError(f"{type(self).__name__} predicts no parameters for another size")

    def harmonize_at(self, small: Batch, full: Batch, rows: int = 64) -> Tensor:
        """Prediction (N, 3, H, W) in [0, 1] at the size of `full`, with parameters predicted from `small`.

        small: composite and mask, resized to `parameter_size`. full: composite (N, 3, H, W) and mask (N, 1, H, W) of
        the same pictures. Both may be on other devices than the network: parts of them are moved as they are needed,
        and the prediction stands where the full composite does. `rows` rows of the picture are worked on at a time:
        memory beyond that of the picture and the prediction grows with `rows` and the width alone."""
        device = next((value.device for value in self.parameters()), full["composite"].device)
        with torch.no_grad():
            parameters = self.predict_parameters({key: value.to(device) for key, value in small.items()})
            prediction = torch.empty_like(full["composite"])
            for covered, strip in resized_strips(parameters, prediction.shape[2:], rows):
                part = {key: full[key][:, :, covered].to(device) for key in ("composite", "mask")}
                prediction[:, :, covered] = self.apply_parameters(strip, part)
        return prediction

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that `player` minimizes on this batch, and its named parts as detached scalars."""
        raise TypeError(f"{type(self).__name__} has nothing to train")

    def require_player(self, player: str) -> None:
        """Raises ValueError, naming the players there are, when this model has no such player."""
        if player not in self.players:
            raise ValueError(f"{type(self).__name__} has no player {player!r}; it has {self.players}")

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that `player` moves. With one player these are all parameters; with several, those of the
        attribute that is named like the player. Raises ValueError for an unknown player."""
        self.require_player(player)
        module = self if len(self.players) == 1 else getattr(self, player)
        return list(module.parameters())

    def predictor_parameters(self) -> list[nn.Parameter]:
        """The parameters that `forward` uses, which is what tables count. A model with a player called "generator"
        predicts with that one, so its discriminators are left out; any other model predicts with all of them."""
        module = self.get_submodule("generator") if "generator" in self.players and len(self.players) > 1 else self
        return list(module.parameters())

    def enter(self, phase: str) -> None:
        """Freeze and thaw what the paper says for this phase (one of `phases`). Called before the first step
        of a phase and again whenever the model was put in training mode."""
        if phase not in self.phases:
            raise ValueError(f"{type(self).__name__} has no phase {phase!r}; it has {self.phases}")


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """Sum of one tensor or more, from the first to the last, as Python's sum has it; its type says that it is a tensor.
    Raises TypeError where there is none."""
    return functools.reduce(operator.add, parts)


def resized_strips(maps: Tensor, size: Sequence[int], rows: int) -> Iterator[tuple[slice, Tensor]]:
    """The maps (N, C, h, w), resized bicubically to `size` = (H, W), in strips of at most `rows` rows from top to
    bottom.

    Yields the rows that a strip covers as a slice, and the strip (N, C, rows, W). Together the strips equal
    F.interpolate(maps, size, mode="bicubic", align_corners=False) up to rounding: bicubic resizing works on columns and
    rows independently, so the columns are resized once for all rows, and each strip weighs the few rows that it lies
    between.
    """
    height, width = size
    wide = F.interpolate(maps, (maps.shape[2], width), mode="bicubic", align_corners=False)
    # row y of `weights` says how much each row of the map counts in row y of the result
    unit = torch.eye(maps.shape[2], device=maps.device, dtype=maps.dtype)[None, :, :, None]
    weights = F.interpolate(unit, (height, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T
    for top in range(0, height, rows):
        covered = slice(top, min(top + rows, height))
        part = weights[covered]
        used = part.any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        yield covered, part[:, first:last] @ wide[:, :, first:last]
