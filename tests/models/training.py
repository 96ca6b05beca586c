"""What training asks of every network, whatever it is: the laws that tests/models/test_training.py holds each one to by
its test vector, and that a network's own tests hold its variants to.

The model is driven as the trainer drives it (pipeline/networks/loop.py): phases in their order, in each the players in
turn, a player's turn with the parameters of the others at rest.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch

import pytest
import torch
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.input_size import NotDivisible
from tests.models import vector

LEARNING_RATE = 1e-3
FEWEST_STEPS, MOST_STEPS = 3, 20
FALL = 1e-3
"""share of the first loss that it must have fallen by"""


def phases(model: Model) -> Iterator[tuple[str, dict[str, list[nn.Parameter]]]]:
    """Puts the model into each of its phases; yields the phase and what moves in it: the players that have something to
    train there, each with its parameters."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for phase in model.phases:
        for parameter in thawed:
            parameter.requires_grad_(True)
        model.train()
        model.enter(phase)
        moving = {player: [p for p in model.parameters_of(player) if p.requires_grad] for player in model.players}
        yield phase, {player: parameters for player, parameters in moving.items() if parameters}


@contextmanager
def turn(player: str, moving: dict[str, list[nn.Parameter]]) -> Iterator[list[nn.Parameter]]:
    """The turn of one player: the parameters that move, while those of the other players rest."""
    resting = [parameter for other, parameters in moving.items() if other != player for parameter in parameters]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield moving[player]
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)


def trainable_batch(model: Model, size: int, count: int = 2, wide: bool = False) -> Batch:
    """The smallest batch that the model trains on, of pictures of `size` pixels, or half as many again, or twice as
    many; with `wide` twice as wide as high where it takes such pictures. What it doesn't take, it refuses in words."""
    sides = [(side, width) for width in ((2, 1) if wide else (1,)) for side in (size, size * 3 // 2, 2 * size)]
    refusals = []
    for height, width in sides:
        batch = {key: value[:count] for key, value in vector.batch(model.task, height, width * height).items()}
        try:
            with torch.no_grad():
                model.loss(model.players[-1], batch)
            return batch
        except ValueError as refusal:
            assert_in_words(refusal)
            refusals.append(str(refusal))
    raise AssertionError(f"no size it trains on among {sides}: {refusals}")


def divisor(model: Model) -> int:
    """What the model wants sides to be multiples of; 8 for a model that takes any."""
    try:
        with torch.no_grad():
            model.eval()(vector.batch(model.task, 63))
    except NotDivisible as refusal:
        return refusal.by
    except ValueError as refusal:
        assert_in_words(refusal)
    return 8


def assert_in_words(refusal: ValueError) -> None:
    """A refusal says what was wrong with which size: it is a sentence with a number in it."""
    words = str(refusal)
    assert len(words.split()) > 3 and re.search(r"\d", words), f"a riddle: {words}"


def gradients(model: Model, player: str, batch: Batch) -> tuple[Tensor, list[str], list[str]]:
    """The player's loss after one backward pass, the names of its parameters that got no gradient or one of zeros, and
    of other players' parameters that got one. Loss and gradients are finite, and the named parts are plain numbers."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    loss, parts = model.loss(player, batch)
    loss.backward()
    assert loss.dim() == 0 and loss.isfinite(), f"{player}: the loss is {loss}"
    for name, part in parts.items():
        assert part.dim() == 0 and not part.requires_grad and part.isfinite(), f"{player}: part {name} is {part}"
    own = {id(parameter) for parameter in model.parameters_of(player) if parameter.requires_grad}
    without, strange = [], []
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is None or gradient.isfinite().all(), f"{player}: {name} has a gradient that is not finite"
        if id(parameter) in own and (gradient is None or not gradient.any()):
            without.append(name)
        if id(parameter) not in own and gradient is not None:
            strange.append(name)
    return loss.detach(), without, strange


def assert_gradients(model: Model, batch: Batch, still: Collection[str] = ()) -> set[str]:
    """In every phase, each player in its turn: the loss is finite, each parameter that the player moves gets a
    gradient, but those whose name fits a pattern of `still`, and no other player's parameter does. Each phase trains
    something, and each player is trained in some phase. Returns the names of those that got no gradient."""
    stayed, trained = set(), set()
    for phase, moving in phases(model):
        assert moving, f"nothing is trained in phase {phase}"
        trained |= set(moving)
        for player in moving:
            where = f"{type(model).__name__}, phase {phase}, {player}"
            with turn(player, moving):
                _, without, strange = gradients(model, player, batch)
            assert not strange, f"{where}: others got a gradient: {strange}"
            unexplained = [name for name in without if not any(fnmatch(name, pattern) for pattern in still)]
            assert not unexplained, f"{where}: no gradient reaches {unexplained}"
            stayed |= set(without)
    assert trained == set(model.players), f"{set(model.players) - trained} never trained"
    return stayed


def assert_loss_falls(model: Model, batch: Batch) -> None:
    """In every phase, the loss of each player falls over a few steps of Adam on the batch, while the networks of the
    other players and the random numbers stay the same. Three steps suffice for most; some first lose their way."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for phase, moving in phases(model):
        for player in moving:
            model.load_state_dict(start)
            own_batch = {key: value.clone() for key, value in batch.items()}  # nothing is kept from an earlier turn
            losses = []
            with turn(player, moving) as parameters:
                optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
                while len(losses) <= FEWEST_STEPS or losses[-1] > losses[0] - FALL * abs(losses[0]):
                    losses.append(gradients(model, player, own_batch)[0].item())
                    assert len(losses) <= MOST_STEPS, f"{type(model).__name__}, phase {phase}, {player}: {losses}"
                    optimizer.step()


def assert_trains(model: Model, batch: Batch) -> None:
    """Loss and gradients of each player in the model's last phase are finite."""
    for _, moving in phases(model):
        pass
    for player in moving:
        with turn(player, moving):
            gradients(model, player, batch)


def assert_bfloat16(model: Model, batch: Batch) -> None:
    """Under autocast to bfloat16 the prediction is float32 and about the same, losses are float32 and finite, and so
    are gradients."""
    model.eval()
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch)
    assert rough.dtype == torch.float32 and rough.isfinite().all(), f"the prediction is {rough.dtype}"
    distance = (rough - exact).abs().mean()
    assert distance < 0.03, f"the prediction is {distance:.3f} from that in float32"
    for _, moving in phases(model):
        pass
    for player in moving:
        with turn(player, moving):
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = model.loss(player, batch)
            assert loss.dtype == torch.float32 and loss.isfinite(), player
            model.zero_grad(set_to_none=True)
            loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), player


def assert_refuses_strangers(model: Model, batch: Batch) -> None:
    """A player or phase that the model doesn't have is refused by name."""
    for call in (lambda: model.loss("nobody", batch), lambda: model.parameters_of("nobody")):
        with pytest.raises(ValueError, match="has no player 'nobody'"):
            call()
    with pytest.raises(ValueError, match="has no phase 'no such phase'"):
        model.enter("no such phase")
