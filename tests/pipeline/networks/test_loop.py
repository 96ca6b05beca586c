import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._inductor import config as inductor

from pipeline import atomic, images
from pipeline.errors import ParameterError, UserError
from pipeline.networks import checkpoints, devices, ray_train, weights
from pipeline.networks import loop as loop_module
from pipeline.networks import schedule as rates
from pipeline.networks.loop import Job, Loop, collate_with_ids, publish, train_plain
from pipeline.params import schema
from pipeline.running import cluster
from pipeline.scoring import image_scores
from pipeline.tasks import TASKS
from tests.pipeline.tiny import Adversarial, Network, job

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ("weights.safetensors", "last.safetensors", "history.csv", "history.parquet")


def result(training: Job, out: Path) -> dict[str, bytes]:
    publish(training, out)
    return {name: (out / name).read_bytes() for name in RESULTS}


def trained(folder: Path, *arguments, **options) -> dict[str, bytes]:
    training = job(folder, *arguments, **options)
    train_plain(training)
    return result(training, folder / "out")


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


# ---- what a training does


@pytest.mark.parametrize("network", [Network, Adversarial])
def test_the_loss_falls_and_every_epoch_leaves_a_row(tmp_path, network):
    trained(tmp_path, network, epochs=5)
    table = history(tmp_path / "out")
    key = "generator_pixel" if network is Adversarial else "pixel"
    pixel = table[key].fillna(table["pixel"]) if "pixel" in table else table[key]
    assert pixel.iloc[-1] < 0.5 * pixel.iloc[0]
    assert table["step"].tolist() == [3 * (number + 1) for number in range(len(table))]
    expected = ["warm"] * 5 + ["joint"] * 2 if network is Adversarial else ["train"] * 5
    assert table["phase"].tolist() == expected and set(table["model"]) == {"tiny"}
    for metric in TASKS["harmonization"].metrics:
        assert np.isfinite(table[f"validation_{metric}"]).all()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "history.parquet"), table, check_dtype=False)


@pytest.mark.parametrize("network", [Network, Adversarial])
def test_channels_last_changes_the_memory_format_alone(tmp_path, monkeypatch, network):
    """Without normalization: the bias before one has no gradient but rounding, which Adam makes large."""
    seen, forward = set(), Network.forward

    def watched(model, batch):
        for value in (
            batch["composite"],
            *(weight for weight in model.parameters() if weight.dim() == 4 and weight.shape[2] > 1),
        ):
            seen.add((value.is_contiguous(memory_format=torch.channels_last), value.is_contiguous()))
        return forward(model, batch)

    monkeypatch.setattr(Network, "forward", watched)
    trained(tmp_path / "usual", network, options={"norm": False, "dropout": 0.0})
    assert seen == {(False, True)}
    seen.clear()
    trained(tmp_path / "last", network, options={"norm": False, "dropout": 0.0}, channels_last=True)
    assert seen == {(True, False)}
    usual, last = (load_file(tmp_path / name / "out" / "weights.safetensors") for name in ("usual", "last"))
    assert list(usual) == list(last)
    for name, value in usual.items():
        torch.testing.assert_close(last[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer, refused", [((15, 4, 1, 2), True), ((16, 4, 1, 2), False), ((8, 4, 1, 1), False), ((8, 4, 3, 2), False)]
)
def test_channels_last_is_refused_where_a_cpu_would_write_outside_its_memory(tmp_path, layer, refused):
    class Strided(Network):
        def __init__(self):
            super().__init__()
            self.extra = nn.Conv2d(*layer)

    training = job(tmp_path, Strided, epochs=0, channels_last=True)
    if not refused:
        train_plain(training)
        return
    with pytest.raises(
        ParameterError, match=r"models.tiny.training.channels_last: its convolution extra \(1x1, strided"
    ):
        train_plain(training)
    train_plain(job(tmp_path, Strided, epochs=0))


@pytest.mark.parametrize("network", [Network, pytest.param(Adversarial, marks=pytest.mark.slow)])
def test_compiling_changes_neither_names_nor_what_a_resumed_run_ends_with(tmp_path, monkeypatch, network):
    """By dynamo alone, whose graphs torch then runs as they are: the bytes are those without it."""
    monkeypatch.setattr(loop_module, "COMPILED", {"backend": "eager"})
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    usual = trained(tmp_path / "usual", network)
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    assert trained(tmp_path / "compiled", network, compile=True) == usual
    assert graphs["unique_graphs"] >= before + len(network.players)
    assert "torch.compile compiles" in (tmp_path / "compiled" / "training.log").read_text()
    training = job(tmp_path / "killed", network, compile=True)
    assert interrupted(monkeypatch, checkpoints, "save", 4, training, after=True)
    torch._dynamo.reset()
    train_plain(training)
    assert result(training, tmp_path / "killed" / "out") == usual


def test_compiling_is_refused_where_there_is_no_compiler(tmp_path):
    told = "models.tiny.training.compile: torch.compile needs a C.. compiler on a CPU"
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(ParameterError, match=told):
        train_plain(job(tmp_path, compile=True))


def test_what_compiling_fails_at_is_one_line(tmp_path, monkeypatch):
    def failing(graph, inputs):
        raise RuntimeError("no such kernel\nand much more")

    torch._dynamo.reset()
    monkeypatch.setattr(loop_module, "COMPILED", {"backend": failing})
    with pytest.raises(
        UserError, match=r"training tiny: torch.compile fails \(.*no such kernel\); set models.tiny"
    ) as told:
        train_plain(job(tmp_path, compile=True))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("cost, precision, told", [(1.8, "bf16", True), (0.5, "bf16", False), (1.8, "fp32", False)])
def test_a_cpu_that_is_slower_in_bfloat16_is_told_of(tmp_path, monkeypatch, cost, precision, told):
    monkeypatch.setattr(loop_module, "bfloat16_cost", lambda: cost)
    training = job(tmp_path, Network, epochs=1)
    train_plain(dataclasses.replace(training, shared=training.shared.model_copy(update={"precision": precision})))
    assert ("take 1.8 times as long as in fp32" in (training.folder / "training.log").read_text()) == told


def test_the_cost_of_bfloat16_is_a_ratio():
    assert 0.01 < devices.bfloat16_cost() < 1000


def test_players_take_turns_and_rest_as_the_phase_says(tmp_path):
    training = job(tmp_path, Adversarial)
    loop = Loop(training, "cpu", 0, 1)
    before = {key: value.clone() for key, value in loop.model.state_dict().items()}
    loop.phases = loop.phases[:1]
    loop.run()
    moved = {key for key, value in loop.model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and not any(key.startswith("critic") for key in moved)
    trained(tmp_path / "both", Adversarial)
    table = history(tmp_path / "both" / "out")
    assert table["discriminator_loss"].isna().tolist() == [True, True, False, False]
    assert table["generator_fool"].isna().tolist() == [True, True, False, False]


def test_a_player_moves_only_its_own_parameters(tmp_path):
    loop = Loop(job(tmp_path, Adversarial), "cpu", 0, 1)
    loop.model.train()
    loop.model.enter("joint")
    loop._prepare(0.01)
    batch, ids = collate_with_ids([(loop.training_set.item(index), loop.training_set.ids[index]) for index in range(4)])
    for player, others in (("discriminator", "body"), ("generator", "critic")):
        before = {key: value.detach().clone() for key, value in loop.model.named_parameters()}
        loop._turn(player, loop.optimizers[player], 1.0, batch, ids, "joint")
        moved = {
            key.split(".")[0] for key, value in loop.model.named_parameters() if not torch.equal(value, before[key])
        }
        assert moved and others not in moved
        if player == "discriminator":
            assert all(parameter.grad is None for parameter in loop.model.parameters_of("generator"))


def test_learning_rates_follow_phase_player_and_schedule(tmp_path):
    optimization = {"learning_rate": 0.01, "schedule": {"name": "step", "milestones": [0.5], "factor": 0.1}}
    training = job(tmp_path, Adversarial, players={"discriminator": {"learning_rate": 0.04}}, optimization=optimization)
    loop = Loop(training, "cpu", 0, 1)
    loop.run()
    table = pd.DataFrame(loop.history)
    # the first player that learns in the phase: warm = generator, 0.01; joint = discriminator, four times 0.005
    assert table["learning_rate"].tolist() == pytest.approx([0.01, 0.001, 0.02, 0.002])
    assert loop.optimizers["generator"].param_groups[0]["lr"] == pytest.approx(0.0005)


def test_every_epoch_sees_every_image_once_in_another_order(tmp_path):
    loop = Loop(job(tmp_path), "cpu", 0, 1)
    seen = []
    for loop.order.epoch in range(2):
        seen.append([index for batch in loop.order for _, _, index in batch])
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(12)) and seen[0] != seen[1]


def test_further_draws_of_an_image_are_other_crops_and_the_first_is_that_of_a_single_draw(tmp_path):
    once, thrice = Loop(job(tmp_path), "cpu", 0, 1), Loop(job(tmp_path, draws=3), "cpu", 0, 1)
    assert thrice.steps_per_epoch == 3 * once.steps_per_epoch
    assert sorted(number for batch in thrice.order for _, _, number in batch) == list(range(3 * 12))
    taken = {draw: thrice.loader.dataset[0, 0, 12 * draw + 5] for draw in range(3)}
    assert {name for _, name in taken.values()} == {once.training_set.ids[5]}
    first, second, third = (item["composite"] for item, _ in taken.values())
    assert np.array_equal(first, once.loader.dataset[0, 0, 5][0]["composite"])
    assert not np.array_equal(first, second) and not np.array_equal(second, third)


def test_few_images_fill_a_batch_by_being_drawn_often(tmp_path):
    assert Loop(job(tmp_path, data={"train": 2}, draws=3), "cpu", 0, 1).steps_per_epoch == 1
    with pytest.raises(UserError, match="1 training images drawn 3 times an epoch, fewer than"):
        Loop(job(tmp_path, data={"train": 1}, draws=3), "cpu", 0, 1)


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_out_the_same_batches(tmp_path, world):
    whole = [sorted(batch) for batch in Loop(job(tmp_path, batch_size=4), "cpu", 0, 1).order]
    shares = []
    for rank in range(world):
        loop = Loop(job(tmp_path, batch_size=4), "cpu", rank, world)
        shares.append(list(loop.order))
    assert [sorted(sum(parts, [])) for parts in zip(*shares)] == whole


def test_the_last_smaller_batch_is_dropped_and_epochs_can_be_cut_short(tmp_path):
    assert Loop(job(tmp_path, data={"train": 11}), "cpu", 0, 1).steps_per_epoch == 2
    assert Loop(job(tmp_path, max_steps_per_epoch=1), "cpu", 0, 1).steps_per_epoch == 1


def test_gradients_are_clipped(tmp_path):
    settings = {
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "betas": [0.0, 0.9],
        "clip_norm": 0.01,
        "schedule": {"name": "constant"},
    }
    loop = Loop(job(tmp_path, optimization=settings, epochs=1, max_steps_per_epoch=1), "cpu", 0, 1)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in loop.model.parameters()])
    loop.run()
    after = torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(
        0.01, rel=1e-3
    )  # SGD without momentum: step = rate * gradient


@pytest.mark.parametrize(
    "name, kind", [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers_are_those_of_the_parameters(name, kind):
    settings = schema.Optimization(
        optimizer=name, learning_rate=1.0, betas=[0.5, 0.9], weight_decay=0.1, schedule={"name": "constant"}
    )
    made = rates.make_optimizer(settings, [nn.Parameter(torch.ones(1))], 0.3)
    group = made.param_groups[0]
    assert type(made) is kind and group["lr"] == 0.3 and group["weight_decay"] == 0.1
    assert group["momentum"] == 0.5 if name == "sgd" else group["betas"] == (0.5, 0.9)


def test_the_best_epoch_is_kept_by_its_validation_score(tmp_path, monkeypatch):
    training = job(tmp_path, epochs=4)
    scores = iter([9.0, math.nan, 4.0, 6.0])  # fmse: less is better; NaN never counts
    monkeypatch.setattr(Loop, "_validate", lambda self: {"validation_fmse": next(scores)})
    kept = []
    write = loop_module.save_weights
    monkeypatch.setattr(loop_module, "save_weights", lambda model, file: (kept.append(file.name), write(model, file)))
    train_plain(training)
    assert kept == ["best.safetensors", "best.safetensors", "last.safetensors"]
    assert json.loads(json.dumps(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["best"])) == 4.0
    best = result(training, tmp_path / "a")
    assert best["weights.safetensors"] == (tmp_path / "best.safetensors").read_bytes() != best["last.safetensors"]
    last = result(dataclasses.replace(training, own=training.own.model_copy(update={"keep": "last"})), tmp_path / "b")
    assert last["weights.safetensors"] == last["last.safetensors"]


def test_a_first_score_that_is_undefined_does_not_stand_for_the_best(tmp_path):
    loop = Loop(job(tmp_path), "cpu", 0, 1)
    loop._keep_best({"validation_fmse": math.nan})
    assert loop.best is None and not (tmp_path / "best.safetensors").exists()
    loop._keep_best({"validation_fmse": 3.0})
    assert loop.best == 3.0


@pytest.mark.parametrize(
    "limit, scored", [(9, [0, 1, 2, 3]), (2, [0, 2]), (1, [0])]
)  # fewer than there are: evenly over the sorted set
def test_validation_scores_what_evaluation_will_score(tmp_path, limit, scored):
    loop = Loop(job(tmp_path, shared={"validation_images": limit}), "cpu", 0, 1)
    loop.model.train()
    scores = loop._validate()
    assert loop.model.training
    loop.model.eval()
    rows = []
    for index in scored:
        item = loop.validation_set.item(index)
        batch, _ = collate_with_ids([(item, "")])
        with torch.no_grad():
            drawn = loop.model(batch)[0].numpy()
        rows.append(image_scores.score("harmonization", images.to_uint8(drawn), item))
    assert scores["validation_psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]), abs=0.02)
    assert set(scores) == {f"validation_{key}" for key in TASKS["harmonization"].metrics}


def test_no_epochs_leave_the_first_weights(tmp_path):
    made = trained(tmp_path, epochs=0)
    first = Loop(job(tmp_path / "other"), "cpu", 0, 1).model.state_dict()
    stored = load_file(tmp_path / "out" / "weights.safetensors")
    assert all(torch.equal(stored[key], value) for key, value in first.items()) and made["history.csv"].strip() == b""


# ---- interrupted and taken up again


class Killed(BaseException):
    """Like a signal: nothing in the code under test may catch it."""


def interrupted(monkeypatch, owner, name: str, at: int, training: Job, after: bool = False) -> bool:
    """Train until call number `at` of owner.name; whether it came so far."""
    original, calls = getattr(owner, name), 0

    def counting(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise Killed
        value = original(*arguments, **options)
        if calls == at:
            raise Killed
        return value

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        try:
            train_plain(training)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("network", [Network, pytest.param(Adversarial, marks=pytest.mark.slow)])
def test_interrupted_in_any_turn_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, network, every_step):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0 if every_step else 1e9)
    whole = trained(tmp_path / "whole", network)
    at = 0
    while True:
        at += 1
        training = job(tmp_path / f"at{at}", network)
        if not interrupted(monkeypatch, network, "loss", at, training):
            break
        train_plain(training)
        assert result(training, tmp_path / f"at{at}" / "out") == whole, f"interrupted in loss number {at}"
    assert at - 1 == (6 if network is Network else 6 + 12)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_interrupted_at_any_file_it_writes_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, after):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    short = {"epochs": 1, "phases": {"joint": {"epochs": 1, "learning_rate": 0.01}}, "data": {"train": 8}}
    whole = trained(tmp_path / "whole", Adversarial, **short)
    at = 0
    while True:
        at += 1
        training = job(tmp_path / f"at{at}", Adversarial, **short)
        if not interrupted(monkeypatch, atomic.os, "replace", at, training, after):
            break
        train_plain(training)
        assert result(training, tmp_path / f"at{at}" / "out") == whole, f"interrupted at file number {at}"
    # a checkpoint after each of 4 steps and 2 epochs (all but the first move the one before aside), best weights, the course
    # and a history after each epoch to look at, and the 4 files that a finished run leaves
    assert at - 1 in (6 + 5 + 1 + 3 + 4, 6 + 5 + 2 + 3 + 4)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def other(file: Path) -> None:
    torch.save({"model": {}}, file)


@pytest.mark.parametrize(
    "damage, damaged",
    [
        (cut, ["checkpoint.pt"]),
        (cut, ["checkpoint.pt", "checkpoint-before.pt"]),
        *(pytest.param(damage, ["checkpoint.pt"], marks=pytest.mark.slow) for damage in (alter, empty, other)),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, monkeypatch, capsys, damage, damaged):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    whole = trained(tmp_path / "whole")
    training = job(tmp_path / "one")
    assert interrupted(monkeypatch, Network, "loss", 5, training)
    for name in damaged:
        damage(training.folder / name)
    capsys.readouterr()
    train_plain(training)
    said = capsys.readouterr().err
    assert result(training, tmp_path / "one" / "out") == whole
    for name in damaged:
        assert (
            said.count(f"{training.folder / name} is damaged") == 1 and (training.folder / f"{name}.damaged").exists()
        )
    assert ("going on from" in said) == (len(damaged) == 1)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
def test_interrupted_again_and_again(tmp_path, monkeypatch, channels_last):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    whole = trained(tmp_path / "whole", Adversarial, channels_last=channels_last)
    training, times = job(tmp_path / "bits", Adversarial, channels_last=channels_last), 0
    while interrupted(monkeypatch, Adversarial, "loss", 4, training):
        times += 1
    assert times > 4 and result(training, tmp_path / "bits" / "out") == whole


@pytest.mark.slow
def test_how_often_a_checkpoint_is_written_changes_nothing(tmp_path, monkeypatch):
    made = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", seconds)
        made.append(trained(tmp_path / str(seconds), Adversarial))
    assert made[0] == made[1]


def test_a_finished_run_trains_nothing_more(tmp_path, monkeypatch):
    first = trained(tmp_path)
    account = (tmp_path / "training.json").read_text()
    monkeypatch.setattr(Network, "loss", None)  # whoever calls it fails
    assert trained(tmp_path) == first
    assert (tmp_path / "training.json").read_text() == account and json.loads(account)["steps_of_the_last_run"] == 6


@pytest.mark.slow
def test_a_process_killed_with_sigkill_is_taken_up_where_it_stopped(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipeline.networks.loop import train_plain; from tests.pipeline.tiny import Adversarial, job; "
        "train_plain(job(Path(sys.argv[1]), Adversarial, epochs=40, data={'train': 24}))"
    )
    environment = dict(os.environ, SEAMBENCH_CHECKPOINT_SECONDS="0", PYTHONPATH=str(ROOT))

    def start(folder: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        )

    killed, log = start(tmp_path / "killed"), tmp_path / "killed" / "training.log"
    while killed.poll() is None and not (log.exists() and log.read_text().count("\n") >= 5):
        time.sleep(0.01)
    assert killed.poll() is None, "it ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    training = job(tmp_path / "killed", Adversarial, epochs=40, data={"train": 24})
    train_plain(training)
    assert result(training, tmp_path / "a") == trained(tmp_path / "whole", Adversarial, epochs=40, data={"train": 24})


# ---- what is refused


def test_a_loss_that_is_not_finite_names_model_player_phase_step_and_batch(tmp_path, monkeypatch):
    training = job(tmp_path)
    loss, calls = Network.loss, []

    def poisoned(self, player, batch):
        calls.append(player)
        value, parts = loss(self, player, batch)
        return (value * math.inf if len(calls) == 5 else value), parts

    monkeypatch.setattr(Network, "loss", poisoned)
    loop = Loop(training, "cpu", 0, 1)
    loop.order.epoch = 1
    (second,) = [batch for number, batch in enumerate(loop.order) if number == 1]
    expected = ", ".join(loop.training_set.ids[index] for _, _, index in second)
    with pytest.raises(UserError) as caught:
        train_plain(training)
    assert str(caught.value) == f"training tiny: network in phase train, epoch 2, step 2: loss is inf, batch {expected}"
    assert not (tmp_path / "last.safetensors").exists()


def test_a_validation_prediction_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"^training tiny: epoch 1: a validation prediction of v00 \.\. v03 is not finite$"
    ):
        trained(tmp_path, options={"poison": "validation"})


def test_what_the_network_refuses_is_told_in_one_line(tmp_path):
    with pytest.raises(
        UserError,
        match=r"^training tiny: the network refuses the batch of t\d\d: height 16 is not divisible by 32; pad to 32$",
    ):
        trained(tmp_path, options={"poison": "size"})


def test_phases_and_players_must_be_those_of_the_network(tmp_path):
    with pytest.raises(ParameterError) as caught:
        trained(tmp_path, phases={"finetune": {"epochs": 1, "learning_rate": 0.1}})
    assert (
        str(caught.value)
        == "models.tiny.training.phases names ['finetune']; after its first phase the network has none"
    )
    with pytest.raises(ParameterError, match=r"names none; after its first phase the network has \['joint'\]"):
        trained(tmp_path, Adversarial, phases={})
    with pytest.raises(
        ParameterError, match=r"training\.players names \['critic'\]; the network has \['discriminator', 'generator'\]"
    ):
        trained(tmp_path, Adversarial, players={"critic": {"learning_rate": 0.1}})


def test_a_method_without_players_is_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(Network, "players", ())
    with pytest.raises(ParameterError, match=r"models\.tiny\.training: the method has nothing to train"):
        trained(tmp_path)


def test_batches_must_fit_the_data_and_the_workers(tmp_path):
    with pytest.raises(
        UserError, match=r"tiny: 12 training images, fewer than models\.tiny\.training\.batch_size = 13"
    ):
        trained(tmp_path, batch_size=13)
    with pytest.raises(
        ParameterError, match=r"models\.tiny\.training\.batch_size = 4 is not divisible by training\.workers = 3"
    ):
        Loop(job(tmp_path), "cpu", 0, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_words(tmp_path):
    with pytest.raises(
        UserError, match="training.device = 'gpu' and this process sees no GPU; set training.device: cpu"
    ):
        trained(tmp_path, shared={"device": "gpu"})
    assert devices.resolve_device("auto", 1) == "cpu"


# ---- phases that were trained before, and weights to start from


def two_phases(folder: Path, ends: Path, joint: int = 2) -> Job:
    training = job(folder, Adversarial, phases={"joint": {"epochs": joint, "learning_rate": 0.005}})
    return dataclasses.replace(training, phase_ends=(ends,))


def losses_counted(monkeypatch, training: Job) -> int:
    calls = []
    original = Adversarial.loss
    with monkeypatch.context() as patch:
        patch.setattr(Adversarial, "loss", lambda self, *arguments: calls.append(1) or original(self, *arguments))
        train_plain(training)
    return len(calls)


@pytest.mark.slow
def test_other_epochs_of_the_second_phase_do_not_train_the_first_anew(tmp_path, monkeypatch, capsys):
    assert losses_counted(monkeypatch, two_phases(tmp_path / "short", tmp_path / "end")) == 6 + 12
    whole = two_phases(tmp_path / "whole", tmp_path / "elsewhere", joint=3)
    assert losses_counted(monkeypatch, whole) == 6 + 18
    capsys.readouterr()
    longer = two_phases(tmp_path / "longer", tmp_path / "end", joint=3)
    assert losses_counted(monkeypatch, longer) == 18
    assert (
        "tiny: phase warm was trained before, with the same settings, and is taken from there"
        in capsys.readouterr().err
    )
    assert result(longer, tmp_path / "a") == result(whole, tmp_path / "b")
    assert losses_counted(monkeypatch, longer) == 0, "finished"


@pytest.mark.slow
def test_interrupted_around_the_end_of_a_phase_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    whole = two_phases(tmp_path / "whole", tmp_path / "whole_end")
    train_plain(whole)
    expected = result(whole, tmp_path / "out")
    for owner, name in ((Loop, "_keep_phase_end"), (Loop, "_latest_phase_end"), (loop_module.shutil, "copyfile")):
        for after in (False, True):
            training = two_phases(tmp_path / f"{name}{after}", tmp_path / f"{name}{after}_end")
            assert interrupted(monkeypatch, owner, name, 1, training, after=after)
            train_plain(training)
            assert result(training, tmp_path / f"{name}{after}" / "out") == expected
            other = two_phases(tmp_path / f"{name}{after}_other", tmp_path / f"{name}{after}_end")
            train_plain(other)
            assert result(other, tmp_path / f"{name}{after}_other" / "out") == expected


def test_training_starts_from_a_file(tmp_path, capsys):
    first = job(tmp_path / "first", Network)
    train_plain(first)
    file = tmp_path / "first/last.safetensors"
    again = dataclasses.replace(job(tmp_path / "again", Network, epochs=0), start_from=file)
    train_plain(again)
    assert result(again, tmp_path / "out")["weights.safetensors"] == file.read_bytes()
    less = {
        key: value
        for key, value in torch.load(tmp_path / "first/checkpoint.pt", weights_only=True)["model"].items()
        if key != "body.4.bias"
    }
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(
        UserError,
        match=r"less\.safetensors does not fit the network: 1 of its \d+ tensors missing in the file \(first: body\.4\.bias\)",
    ):
        train_plain(dataclasses.replace(again, start_from=tmp_path / "less.safetensors"))


def test_a_file_without_the_discriminator_is_enough_to_start_from(tmp_path, capsys):
    """Released files hold the network that predicts, and no other."""

    class Judged(Adversarial):
        def predictor_parameters(self):
            return list(self.body.parameters())

    model = Judged()
    save_file(
        {key: value + 1 for key, value in model.state_dict().items() if not key.startswith("critic")},
        tmp_path / "released.safetensors",
    )
    training = dataclasses.replace(
        job(tmp_path / "run", Judged, epochs=0, phases={"joint": {"epochs": 0, "learning_rate": 0.1}}),
        start_from=tmp_path / "released.safetensors",
    )
    train_plain(training)
    assert (
        "released.safetensors has no critic.0.weight (4 entries in all); what it lacks begins at random"
        in capsys.readouterr().err
    )
    stored, random = (
        load_file(tmp_path / "run/last.safetensors"),
        Loop(dataclasses.replace(training, folder=tmp_path, start_from=None), "cpu", 0, 1).model.state_dict(),
    )
    assert torch.equal(stored["critic.0.weight"], random["critic.0.weight"])
    assert torch.equal(stored["body.0.weight"], load_file(tmp_path / "released.safetensors")["body.0.weight"])


# ---- weights


def test_buffers_belong_to_the_prediction_as_the_module_around_them_does():
    class Both(Adversarial):
        def predictor_parameters(self):
            return list(self.body.parameters())

    model = Both()
    model.body[0].register_buffer("stored", torch.zeros(1))
    model.critic[0].register_buffer("stored", torch.zeros(1))
    model.body.add_module("constant", nn.Module())
    model.body.constant.register_buffer("kernel", torch.zeros(1))
    assert weights.predictor_entries(model) == [name for name in model.state_dict() if name.startswith("body.")]
    assert "body.constant.kernel" in weights.predictor_entries(
        model
    ) and "body.1.running_mean" in weights.predictor_entries(model)


def test_weights_are_safetensors_and_load_back(tmp_path):
    trained(tmp_path)
    model = Network()
    weights.load_weights(model, tmp_path / "out" / "last.safetensors")
    expected = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_tensors_that_share_memory_are_written_too(tmp_path):
    loop = Loop(job(tmp_path), "cpu", 0, 1)
    loop.model.twin = loop.model.body[0]
    weights.save_weights(loop.model, tmp_path / "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    assert torch.equal(stored["twin.weight"], stored["body.0.weight"])


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"downloads/weights\.safetensors is missing$"):
        weights.load_weights(Network(), tmp_path / "downloads" / "weights.safetensors")  # which no stage makes
    file = tmp_path / "models" / "tiny" / "weights.safetensors"
    with pytest.raises(
        UserError, match=r"weights\.safetensors is missing; `dvc repro models/dvc\.yaml:train-tiny` makes it"
    ):
        weights.load_weights(Network(), file)
    file.parent.mkdir(parents=True)
    for tensors, said in [
        (Network().state_dict() | {"body.0.bias": torch.ones(7)}, r"1 of another shape \(first: body.0.bias is \(7,\)"),
        (Network().state_dict() | {"more": torch.ones(1)}, "more"),
        ({key: value for key, value in Network().state_dict().items() if key != "body.0.weight"}, "body.0.weight"),
    ]:
        save_file(tensors, file)
        with pytest.raises(UserError, match=said) as caught:
            weights.load_weights(Network(), file)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{file} does not fit the network: ")
    file.write_bytes(b"PK\x03\x04 this is a pickle in a zip")
    with pytest.raises(UserError, match="weights.safetensors is not a safetensors file: ") as caught:
        weights.load_weights(Network(), file)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    torch.save({"model": Bomb()}, tmp_path / "checkpoint.pt")
    trained(tmp_path)
    assert not (tmp_path / "boom").exists()
    said = capsys.readouterr().err
    assert (
        "checkpoint.pt is damaged (it holds more than tensors, numbers and text): set aside as checkpoint.pt.damaged"
        in said
    )


# ---- schedules


def factor(progress: float, **schedule) -> float:
    return rates.schedule_factor(schema.Schedule(**schedule), progress)


def test_schedules_by_hand():
    assert [factor(x, name="constant") for x in (0.0, 0.5, 0.999)] == [1, 1, 1]
    steps = {"name": "step", "milestones": [0.5, 0.75], "factor": 0.1}
    assert [factor(x, **steps) for x in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    linear = {"name": "linear", "start": 0.5}
    assert [factor(x, **linear) for x in (0.0, 0.49, 0.5, 0.75, 0.9)] == pytest.approx([1, 1, 1, 0.5, 0.2])
    assert [factor(x, name="cosine") for x in (0.0, 1 / 3, 0.5, 2 / 3)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factor(0.999999, name="cosine") == pytest.approx(0, abs=1e-9)


def test_warmup_climbs_from_almost_nothing_to_one_and_then_the_schedule_goes_on():
    climbing = [factor(x, name="cosine", warmup=0.1) for x in np.linspace(0, 0.0999, 20)]
    assert climbing == sorted(climbing) and 0 < climbing[0] < 0.02 and climbing[-1] == pytest.approx(1, abs=0.01)
    assert factor(0.1, name="cosine", warmup=0.1) == 1.0
    assert factor(0.55, name="cosine", warmup=0.1) == pytest.approx(0.5)  # half of what follows the warm-up


# ---- by Ray


@pytest.mark.slow
def test_one_cpu_worker_trains_in_this_process_without_a_cluster(tmp_path):
    import ray

    training = job(tmp_path / "ray", Adversarial)
    ray_train.train(training)
    assert not ray.is_initialized()
    assert result(training, tmp_path / "a") == trained(tmp_path / "plain", Adversarial)
    assert not (training.folder / "ray").exists()


def test_what_a_lone_worker_refuses_comes_through_as_it_was(tmp_path):
    with pytest.raises(ParameterError, match="training.phases names none"):
        ray_train.train(job(tmp_path, Adversarial, phases={}))


SGD = {"optimizer": "sgd", "learning_rate": 0.02, "betas": [0.9, 0.99], "schedule": {"name": "constant"}}
STEADY = {
    "options": {"norm": False, "dropout": 0.0},
    "data": {"train": 16},
    "batch_size": 8,
    "epochs": 3,
    "optimization": SGD,
}


@pytest.fixture(scope="module")
def two_workers():
    """A cluster of two cores whose workers write a checkpoint after every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEAMBENCH_CPUS", "2")
        patch.setenv("SEAMBENCH_CHECKPOINT_SECONDS", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster.session():
            yield {"shared": {"workers": 2}}


@pytest.mark.slow
def test_two_workers_train_what_one_trains_and_a_killed_one_is_replaced(tmp_path, two_workers):
    undisturbed = job(tmp_path / "two", **STEADY, **two_workers)
    ray_train.train(undisturbed)
    two = result(undisturbed, tmp_path / "two" / "out")
    # gradients are averaged: two workers with half a batch each move as one with the whole batch
    trained(tmp_path / "one", **STEADY)
    alone, together = (load_file(tmp_path / name / "out" / "last.safetensors") for name in ("one", "two"))
    first = Network(norm=False).state_dict()
    for key, value in alone.items():
        assert torch.allclose(value, together[key], atol=1e-5, rtol=0)
    assert max(float((value - first[key]).abs().max()) for key, value in alone.items()) > 1e-2  # and move they did
    a, b = history(tmp_path / "one" / "out"), history(tmp_path / "two" / "out")
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    # a worker that kills itself in its fourth step, the first time round
    marker = tmp_path / "died"
    options = STEADY | {"options": STEADY["options"] | {"victim": str(marker)}}
    disturbed = job(tmp_path / "killed", **options, **two_workers)
    ray_train.train(disturbed)
    assert marker.exists()
    assert result(disturbed, tmp_path / "killed" / "out") == two


@pytest.mark.slow
def test_a_worker_leaves_its_refusal_for_the_driver_and_no_later_attempt_trains(tmp_path, monkeypatch):
    import ray.train

    class Context:
        get_world_rank = staticmethod(lambda: 1)
        get_world_size = staticmethod(lambda: 2)

    monkeypatch.setattr(ray.train, "get_context", Context)
    config = {"job": job(tmp_path, batch_size=3), "device": "cpu"}
    with pytest.raises(ParameterError, match="not divisible by training.workers = 2"):
        ray_train._ray_worker(config)
    said = "2\nmodels.tiny.training.batch_size = 3 is not divisible by training.workers = 2"
    assert (tmp_path / "failure.txt").read_text() == said
    assert ray_train._ray_worker(config) is None


def test_lines_that_workers_add_to_a_log_are_printed(tmp_path, capsys):
    log = tmp_path / "training.log"
    log.write_text("of a run before\n")
    with ray_train._printed_as_it_grows(log):
        with open(log, "a") as file:
            file.write("one\n")
        time.sleep(0.7)
        with open(log, "a") as file:
            file.write("two\n")
    assert capsys.readouterr().err == "one\ntwo\n"


@pytest.mark.slow
def test_what_one_of_two_workers_refuses_ends_both(tmp_path, two_workers):
    # t05 is read by one worker only; the other waits for its gradients meanwhile
    with pytest.raises(UserError, match=r"^t05\.png: can't be decoded$") as caught:
        ray_train.train(job(tmp_path, **STEADY | {"data": {"train": 16, "unreadable": "t05"}}, **two_workers))
    assert caught.value.exit_code == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_of_two_workers_names_that_workers_batch(tmp_path, two_workers):
    with pytest.raises(
        UserError, match=r"^training tiny: network in phase train, epoch 1, step 1: loss is nan, batch t\d\d(, t\d\d)*$"
    ):
        ray_train.train(
            job(tmp_path, **STEADY | {"options": {"norm": False, "poison": "second worker"}}, **two_workers)
        )


@pytest.mark.slow
def test_a_cluster_without_the_gpus_that_are_asked_for_is_refused(tmp_path, two_workers):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"training\.device = 'gpu' needs 1 GPU\(s\) and this Ray cluster has 0"):
        ray_train.train(job(tmp_path, shared={"device": "gpu"}))
