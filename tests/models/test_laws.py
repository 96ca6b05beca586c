"""The laws of tests/models/training.py see what they are there for: each of these networks breaks one of them."""

import pytest
import torch
from torch import Tensor, nn

from models.base import Batch, Model
from tests.models import training, vector


class Painter(Model):
    """Two players: one draws a colour per picture, the other judges it. As it stands it keeps all laws."""

    task = "inpainting"
    players = ("discriminator", "generator")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(3, 3), nn.Linear(3, 1)

    def draw(self, batch: Batch) -> Tensor:
        return self.generator((batch["image"] * (1 - batch["hole"])).mean((2, 3))).sigmoid()

    def forward(self, batch: Batch) -> Tensor:
        return self.draw(batch)[:, :, None, None].float().expand_as(batch["image"])

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.require_player(player)
        real, drawn = batch["image"].mean((2, 3)), self.draw(batch)
        if player == "discriminator":
            scores = (self.discriminator(real) - 1).square() + self.discriminator(drawn.detach()).square()
            value = scores.mean().float()
        else:
            value = ((drawn - real).square().mean() - 0.01 * self.discriminator(drawn).mean()).float()
        return value, {"whole": value.detach()}


class Unused(Painter):
    def __init__(self):
        super().__init__()
        self.generator.spare = nn.Parameter(torch.zeros(1))


class Cut(Painter):
    def draw(self, batch):
        return super().draw(batch).detach().requires_grad_()


class Endless(Painter):
    def loss(self, player, batch):
        value, parts = super().loss(player, batch)
        return value / 0, parts


class Attached(Painter):
    def loss(self, player, batch):
        value, _ = super().loss(player, batch)
        return value, {"whole": value}


class Climbing(Painter):
    """Its gradient points the wrong way."""

    def draw(self, batch):
        drawn = super().draw(batch)
        return 2 * drawn.detach() - drawn


class Uninvited(Painter):
    """Its discriminator's turn thaws the generator and moves it as well."""

    def loss(self, player, batch):
        self.generator.requires_grad_(True)
        value, parts = super().loss(player, batch)
        return value + 0 * self.draw(batch).mean(), parts


class Idle(Painter):
    phases = ("first", "second")

    def enter(self, phase):
        super().enter(phase)
        self.requires_grad_(phase == "first")


class Halved(Painter):
    def forward(self, batch):
        return super().forward(batch).bfloat16()


@pytest.fixture
def batch() -> Batch:
    return vector.batch("inpainting", 16)


def test_a_network_that_keeps_the_laws(batch):
    assert training.assert_gradients(Painter(), batch) == set()
    training.assert_loss_falls(Painter(), batch)
    training.assert_trains(Painter(), batch)
    training.assert_bfloat16(Painter(), batch)
    training.assert_refuses_strangers(Painter(), batch)


@pytest.mark.parametrize(
    "broken, law, words",
    [
        (Unused, training.assert_gradients, r"no gradient reaches \['generator.spare'\]"),
        (Cut, training.assert_gradients, "no gradient reaches .*'generator.weight'"),
        (Endless, training.assert_gradients, "discriminator: the loss is inf"),
        (Attached, training.assert_gradients, "part whole is"),
        (Uninvited, training.assert_gradients, r"discriminator: others got a gradient: \['generator.weight'"),
        (Idle, training.assert_gradients, "nothing is trained in phase second"),
        (Climbing, training.assert_loss_falls, "phase train, generator: "),
        (Halved, training.assert_bfloat16, "bfloat16"),
    ],
)
def test_one_that_breaks_a_law_is_told_which(broken, law, words, batch):
    with pytest.raises(AssertionError, match=words):
        law(broken(), batch)


def test_an_exception_is_by_name_and_is_reported(batch):
    assert training.assert_gradients(Unused(), batch, ["*.spare"]) == {"generator.spare"}


def test_what_is_no_sentence_is_no_refusal_in_words():
    training.assert_in_words(ValueError("height 40 is not divisible by 16; pad to 48"))
    for riddle in ("bad size", "sizes do not match here", "40"):
        with pytest.raises(AssertionError, match="a riddle"):
            training.assert_in_words(ValueError(riddle))
