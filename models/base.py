"""What every network of the benchmark has in common."""

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""float32 tensors in [0, 1].

localization, harmonization: composite (N, 3, H, W), mask (N, 1, H, W; 1 = foreground), real (N, 3, H, W)
inpainting:                  image (N, 3, H, W), hole (N, 1, H, W; 1 = hole)
"""


class Model(nn.Module):
    """A method of the benchmark, trained or not.

    A subclass sets `task` and, if it learns, `players` (the networks that take turns within one training
    step, in that order) and `phases`. A method with nothing to train leaves `players` empty.

    The hyperparameters are the keyword arguments of the constructor, annotated with int, float, bool, str,
    tuple[...] or Literal[...]; their defaults are the published ones.
    """

    task: str
    stochastic: bool = False
    """whether `samples` draws several predictions for one input"""
    players: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("train",)

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
        module = self.generator if "generator" in self.players and len(self.players) > 1 else self
        return list(module.parameters())

    def enter(self, phase: str) -> None:
        """Freeze and thaw what the paper says for this phase (one of `phases`). Called before the first step
        of a phase and again whenever the model was put in training mode."""
        if phase not in self.phases:
            raise ValueError(f"{type(self).__name__} has no phase {phase!r}; it has {self.phases}")
