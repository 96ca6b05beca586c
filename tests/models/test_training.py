"""Every network trains: what tests/models/training.py states, for each one in the form of its test vector."""

from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from tests.models import training, vector

SHUT = "a hidden layer of one or two units, whose ReLU the vector's weights shut"
CANCELS = "moves the scores of real and drawn pictures alike, which cancels while both hinges are active"
WITHOUT_GRADIENT = {
    "dovenet": {
        "discriminator.stages.4.conv.bias": CANCELS,
        "discriminator.verify.4.bias": CANCELS,
        "discriminator.judge.bias": CANCELS,
    },
    "rainnet": {
        "discriminator.stages.4.conv.bias": CANCELS,
        "discriminator.verify.4.bias": CANCELS,
        "discriminator.judge.bias": CANCELS,
    },
    "prvs": {
        "generator.decoder.[12].edge_*": "the layers below have closed the hole, so the ring that these draw is empty"
    },
    "region_contrastive": {
        "unet.up.[12].attention.background.weigh.*": SHUT,
        "unet.fusions.2.background_*": "the composite is pasted over what the last layers do to the background",
    },
    "s2am": {"unet.inside.gate.background.weigh.*": SHUT, "unet.inside.gate.mixed.weigh.*": SHUT},
    "rfr": {"bottleneck.[013].*": f"{SHUT}, when statistics no longer follow the batch (phase finetune)"},
}
"""Patterns of the names of parameters that move and still get no gradient in the form of the test vector, each with the
reason. An entry that no longer holds fails its network's test."""


def test_players_are_there_exactly_where_something_can_be_learned(case):
    model = case.fresh()
    assert bool(model.players) == bool(list(model.parameters()))
    if not model.players:
        with pytest.raises(TypeError, match="has nothing to train"):
            model.loss("network", vector.batch(model.task, case.size))


def test_a_gradient_reaches_every_parameter_of_the_player_and_no_other(trained):
    model, still = trained.fresh(), WITHOUT_GRADIENT.get(trained.name, {})
    without = training.assert_gradients(model, training.trainable_batch(model, trained.size), still)
    for pattern in still:
        assert any(fnmatch(name, pattern) for name in without), f"{pattern} gets a gradient: it is no exception"


@pytest.mark.slow
def test_the_loss_of_every_player_falls(trained):
    model = trained.fresh()
    training.assert_loss_falls(model, training.trainable_batch(model, trained.size))


@pytest.mark.slow
def test_a_batch_of_one_trains_or_is_refused_in_words(trained):
    """At the size of its vector, and at the least that its layers divide, where normalization may have one value left."""
    model = trained.fresh()
    for size in (trained.size, training.divisor(model)):
        batch = {key: value[:1] for key, value in vector.batch(model.task, size).items()}
        try:
            training.assert_trains(model, batch)
        except ValueError as refusal:
            training.assert_in_words(refusal)
            assert not str(refusal).startswith("Expected more than 1 value"), "torch's words, which name no way out"


@pytest.mark.slow
def test_an_empty_mask_and_a_full_one_train_without_harm(trained):
    """Side by side in one batch, of pictures that are not square where the network takes such."""
    model = trained.fresh()
    batch = training.trainable_batch(model, trained.size, wide=True)
    mask = batch["hole" if model.task == "inpainting" else "mask"]
    mask[0], mask[1] = 0, 1
    if model.task != "inpainting":
        batch["composite"][0] = batch["real"][0]
    training.assert_trains(model, batch)


@pytest.mark.slow
def test_bfloat16(trained):
    model = trained.fresh()
    training.assert_bfloat16(model, training.trainable_batch(model, trained.size))


def test_strangers_are_refused(trained):
    model = trained.fresh()
    training.assert_refuses_strangers(model, training.trainable_batch(model, trained.size))


@pytest.mark.slow
def test_what_was_learned_is_saved_and_loaded(trained, tmp_path):
    """A network that trained for a step in each phase answers like one built anew that reads its file of weights."""
    model = trained.fresh()
    batch = training.trainable_batch(model, trained.size)
    for _, moving in training.phases(model):
        for player in moving:
            with training.turn(player, moving) as parameters:
                training.gradients(model, player, batch)
                torch.optim.SGD(parameters, 1e-3).step()
    torch.manual_seed(5)
    other = models.create(trained.name, **trained.hyperparameters).eval()
    with torch.no_grad():
        answer = model.eval()(batch)
        assert not torch.equal(other(batch), answer)
        save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(other(batch), answer)
