"""Losses of networks that train against discriminators.

Hinge losses and gradient penalty: RainNet's supplementary, eqs 2-9, and the released codes of DoveNet and RainNet,
which agree but for what is judged. Cross-entropy: Goodfellow et al. 2014, in the form of EdgeConnect and PRVS.
Relativistic averages: Jolicoeur-Martineau 2019, in the form of CSA.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.base import sum_of

Critic = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(image (N, 3, H, W), mask (N, 1, H, W)) -> global and verification score, any shape, larger = more real."""


class Detachable(Protocol):
    """A tensor, or tensors under a name each that answer to `requires_grad` and `detach()` as one."""

    @property
    def requires_grad(self) -> bool: ...

    def detach(self) -> Self: ...


Drawing = TypeVar("Drawing", bound=Detachable)
Kept = TypeVar("Kept")


def hinge_for_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """mean relu(1 - real) + mean relu(1 + fake), a scalar, from scores of any shape."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_for_generator(fake: Tensor) -> Tensor:
    """-mean fake, a scalar."""
    return -fake.mean()


def cross_entropy_for_discriminator(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """mean -log p(real) and mean -log(1 - p(fake)), two scalars, from logits of any shape.

    Taken of logits instead of a sigmoid's output: the same function without its overflow.
    """
    return -F.logsigmoid(real.float()).mean(), -F.logsigmoid(-fake.float()).mean()


def cross_entropy_for_generator(fake: Tensor) -> Tensor:
    """mean -log p(fake), a scalar, from logits of any shape."""
    return -F.logsigmoid(fake.float()).mean()


def relativistic_least_squares(better: Tensor, worse: Tensor) -> Tensor:
    """((better - mean worse - 1)^2 + (worse - mean better + 1)^2) / 2, averaged, a scalar, from scores of any shape.

    A discriminator minimizes it with the real images' scores as `better`, a generator with the fakes'. The means go
    over the whole batch, as relativistic average discriminators have it.
    """
    better, worse = better.float(), worse.float()
    return ((better - worse.mean() - 1).square().mean() + (worse - better.mean() + 1).square().mean()) / 2


def gradient_penalty(score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """mean over images of (|d score / d image| - 1)^2 at a random mix of each real image with its fake.

    score: images (N, 3, H, W) -> (N, ...), computed per image. Gulrajani et al. 2017, without the factor 10.
    The mix is drawn from torch's global generator. Differentiable in what `score` depends on.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    mixed = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(score(mixed).sum(), mixed, create_graph=True)
    # the 1e-16 of the released codes keeps the norm differentiable at a gradient of 0
    return ((gradient.flatten(1).float() + 1e-16).norm(dim=1) - 1).square().mean()


def discriminator_game(
    critic: Critic, real: Tensor, fake: Tensor, mask: Tensor, penalty_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the two discriminators minimize together, and its parts: global, verification, gradient_penalty.

    real, fake: (N, 3, H, W); no gradient flows to either. penalty_weight: of the gradient penalty on the mean of the
    two scores (10 in the released codes); 0 leaves it out. Parts are detached and unweighted. Normalized weights are
    worked out once, and so is their power iteration. A critic that says `items_apart` reads fakes and reals in one batch.
    """
    with parametrize.cached():
        if getattr(critic, "items_apart", False):
            scores = critic(torch.cat([fake.detach(), real]), torch.cat([mask, mask]))
            fake_scores, real_scores = zip(*(score.chunk(2) for score in scores))
        else:
            fake_scores, real_scores = critic(fake.detach(), mask), critic(real, mask)
        parts = {
            "global": hinge_for_discriminator(real_scores[0].float(), fake_scores[0].float()),
            "verification": hinge_for_discriminator(real_scores[1].float(), fake_scores[1].float()),
        }
        loss = parts["global"] + parts["verification"]
        if penalty_weight:
            parts["gradient_penalty"] = gradient_penalty(lambda image: sum_of(critic(image, mask)) / 2, real, fake)
            loss = loss + penalty_weight * parts["gradient_penalty"]
    return loss, {name: part.detach() for name, part in parts.items()}


def generator_game(discriminator: nn.Module, fake: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The generator's global and verification loss, two scalars. The discriminator is a `Critic` that stays as it is:
    no gradient is computed for its parameters."""
    with frozen(discriminator), parametrize.cached():
        whole, verified = discriminator(fake, mask)
    return hinge_for_generator(whole.float()), hinge_for_generator(verified.float())


class DrawnOnce:
    """What is drawn in the first player's turn, for the other player's turn on the same batch, as released codes draw once a
    step. Where the discriminator comes first, `keep` holds the drawing with its graph, and the generator's parameters must
    not change in between. Where the generator does, `hand_on` holds what the discriminator is to judge."""

    def __init__(self):
        self.image = self.drawn = None

    def keep(self, image: Tensor, generator: nn.Module, draw: Callable[[], Drawing]) -> Drawing:
        """What `draw` draws of the image, detached. The trainer rests the generator's parameters in this turn; here they
        take part in the graph all the same."""
        resting = [parameter for parameter in generator.parameters() if not parameter.requires_grad]
        for parameter in resting:
            parameter.requires_grad_(True)
        try:
            drawn = draw()
        finally:
            for parameter in resting:
                parameter.requires_grad_(False)
        if drawn.requires_grad:
            self.image, self.drawn = image, drawn
        return drawn.detach()

    def hand_on(self, image: Tensor, drawn: object) -> None:
        """Keep what was drawn of the image, without a graph."""
        self.image, self.drawn = image, drawn

    def take(self, image: Tensor, draw: Callable[[], Kept]) -> Kept:
        """The drawing that was kept of this very tensor, once; a new one if there is none."""
        drawn = self.drawn if self.image is image else None
        self.image = self.drawn = None
        return draw() if drawn is None else drawn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within, graphs are built without the network's parameters: gradients pass through it and none reach it."""
    thawed = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)
