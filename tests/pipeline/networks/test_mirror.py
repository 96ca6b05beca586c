"""A training that goes on from copies of its checkpoint alone, as on another machine."""

import pytest

from pipeline import atomic
from pipeline.errors import ParameterError, UserError
from pipeline.networks import checkpoints, mirror, ray_train
from pipeline.networks.loop import publish, train_plain
from tests.pipeline.tiny import Adversarial, job

RESULTS = ("weights.safetensors", "last.safetensors", "history.csv", "history.parquet")


class Died(BaseException):
    pass


def dies_after(saves: int, monkeypatch) -> None:
    """End the training after so many checkpoints, each of which has been copied."""
    counted = 0

    def push(folder):
        nonlocal counted
        copy(folder)
        counted += 1
        if counted == saves:
            raise Died

    copy = mirror.push
    monkeypatch.setattr(mirror, "push", push)


def outputs(one, out) -> dict[str, bytes]:
    publish(one, out)
    return {name: (out / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize("saves", [1, 11])
def test_a_machine_with_the_copies_alone_ends_with_the_undisturbed_bytes(tmp_path, monkeypatch, capsys, saves):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    undisturbed = job(tmp_path / "undisturbed" / "tiny-0123", Adversarial)
    train_plain(undisturbed)
    monkeypatch.setenv(mirror.VARIABLE, (tmp_path / "storage").as_uri())
    with monkeypatch.context() as patch:
        dies_after(saves, patch)
        with pytest.raises(Died):
            ray_train.train(job(tmp_path / "lost" / "tiny-0123", Adversarial))
    capsys.readouterr()
    another = job(tmp_path / "another" / "tiny-0123", Adversarial)
    ray_train.train(another)
    said = capsys.readouterr().err
    assert "tiny-0123: its checkpoint was fetched from file://" in said and "tiny: going on from phase" in said
    assert outputs(another, tmp_path / "a") == outputs(undisturbed, tmp_path / "b")
    assert {file.name for file in (tmp_path / "storage/tiny-0123").iterdir()} <= set(mirror.FILES)


def test_another_trainings_copies_are_left_alone_and_an_own_checkpoint_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.VARIABLE, (tmp_path / "storage").as_uri())
    there, here = tmp_path / "there" / "tiny-1", tmp_path / "here" / "tiny-1"
    for folder, content in ((there, "copied"), (here, "own")):
        with atomic.file(folder / checkpoints.NEWEST) as path:
            path.write_text(content)
    mirror.push(there)
    mirror.pull(tmp_path / "here" / "tiny-2")
    assert not (tmp_path / "here" / "tiny-2").exists()
    mirror.pull(here)
    assert (here / checkpoints.NEWEST).read_text() == "own"
    (here / checkpoints.NEWEST).unlink()
    mirror.pull(here)
    assert (here / checkpoints.NEWEST).read_text() == "copied"


def test_without_the_variable_nothing_is_copied(tmp_path, monkeypatch):
    monkeypatch.delenv(mirror.VARIABLE, raising=False)
    (tmp_path / checkpoints.NEWEST).write_text("own")
    mirror.push(tmp_path)
    mirror.pull(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [checkpoints.NEWEST]


def test_storage_that_cannot_be_is_told_in_one_line_and_ends_no_training_under_way(tmp_path, monkeypatch, capsys):
    (tmp_path / "run" / "tiny").mkdir(parents=True)
    (tmp_path / "run/tiny" / checkpoints.NEWEST).write_text("own")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(mirror.VARIABLE, f"{(tmp_path / 'file').as_uri()}/deeper")
    mirror.push(tmp_path / "run" / "tiny")
    said = capsys.readouterr().err
    assert said.startswith(f"{mirror.VARIABLE} = 'file://") and "tiny couldn't be copied there" in said
    assert said.count("\n") == 1
    (tmp_path / "storage" / "other" / checkpoints.NEWEST).mkdir(parents=True)  # which can't be read as a file
    monkeypatch.setenv(mirror.VARIABLE, (tmp_path / "storage").as_uri())
    with pytest.raises(UserError, match=f"^{mirror.VARIABLE} = 'file://"):
        mirror.pull(tmp_path / "run" / "other")
    for silly in ("no-scheme", "ftp://host/folder"):
        monkeypatch.setenv(mirror.VARIABLE, silly)
        with pytest.raises(ParameterError, match=f"^{mirror.VARIABLE} = '{silly}': ") as caught:
            mirror.pull(tmp_path / "run" / "other")
        assert "\n" not in str(caught.value)
