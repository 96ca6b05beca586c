import dataclasses
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pipeline import images
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.networks import watching
from pipeline.networks.loop import Loop, train_plain
from pipeline.networks.watching import Course
from pipeline.tasks import compose, shown_input
from tests.pipeline.networks.test_loop import Killed, result
from tests.pipeline.tiny import Adversarial, Network, job, pictures


def watched(folder, every: int, network=Network, **own):
    return dataclasses.replace(job(folder, network, **own), samples_every=every)


@pytest.mark.parametrize("network", [Network, pytest.param(Adversarial, marks=pytest.mark.slow)])
def test_samples_change_no_byte_of_a_training(tmp_path, network):
    """Both have batch statistics and dropout; validation, which also predicts, is left to the last epoch."""
    left = {}
    for every in (0, 1):
        training = watched(tmp_path / str(every), every, network, validate_every=9)
        train_plain(training)
        left[every] = result(training, tmp_path / str(every) / "out")
    assert left[0] == left[1]
    assert not (tmp_path / "0" / watching.SAMPLES).exists() and (tmp_path / "1" / watching.SAMPLES).is_dir()


def test_samples_are_drawn_every_few_epochs_over_all_phases_and_after_the_last(tmp_path):
    train_plain(watched(tmp_path, 2, Adversarial, epochs=3))  # and 2 of the second phase
    samples = Course(tmp_path).samples()
    assert list(samples) == ["v00", "v01", "v02", "v03"]
    assert {tuple(by_epoch) for by_epoch in samples.values()} == {(2, 4, 5)}


def test_a_sample_is_what_would_be_scored(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        watching.Watch, "epoch", lambda watch, history, samples: seen.update((s[0], s) for s in samples)
    )
    training = watched(tmp_path, 1, epochs=1)
    train_plain(training)
    _, validation = pictures()
    for index, image_id in enumerate(validation.ids):
        _, item, prediction = seen[image_id]
        mask = item["mask"]
        assert prediction.shape == (16, 16, 3) and prediction.dtype == np.uint8
        assert (prediction[~mask] == validation.item(index)["composite"][~mask]).all()
        assert (prediction[mask] != validation.item(index)["composite"][mask]).any()


def test_pictures_and_history_stand_in_the_run_folder_after_each_epoch(tmp_path):
    watch = watching.Watch(tmp_path, "inpainting", [("train", 2, 0.1)], 0)
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    hole = np.eye(16, dtype=bool)
    item = {"image": picture, "hole": hole}
    assert Course(tmp_path).done == 0 and not Course(tmp_path).finished
    history = pd.DataFrame([{"model": "a", "phase": "train", "epoch": 1, "step": 3, "loss": 0.5}])
    watch.epoch(history, [("p", item, compose("inpainting", 255 - picture, item))])
    assert pd.read_csv(tmp_path / "history.csv").to_dict("records") == history.to_dict("records")
    folder = tmp_path / "samples/p"
    assert (images.read_rgb(folder / "truth.png") == picture).all()
    shown = images.read_rgb(folder / "input.png")
    assert (shown[hole] == 128).all() and (shown[~hole] == picture[~hole]).all()
    drawn = images.read_rgb(folder / "epoch0001.png")
    assert (drawn[hole] == 255 - picture[hole]).all() and (drawn[~hole] == picture[~hole]).all()
    assert Course(tmp_path).samples() == {"p": {1: folder / "epoch0001.png"}}


def test_the_history_grows_with_every_epoch(tmp_path, monkeypatch):
    lengths, finish = [], Loop._finish_epoch

    def finishing(loop, *arguments):
        finish(loop, *arguments)
        lengths.append(len(pd.read_csv(tmp_path / "history.csv")))

    monkeypatch.setattr(Loop, "_finish_epoch", finishing)
    training = job(tmp_path, epochs=3)
    train_plain(training)
    assert lengths == [1, 2, 3]
    assert Course(tmp_path).finished and Course(tmp_path).running is False


def test_the_input_of_a_page_hides_what_is_asked_for_and_nothing_else():
    item = {"composite": np.zeros((2, 2, 3), np.uint8), "mask": np.eye(2, dtype=bool)}
    assert shown_input("harmonization", item) is item["composite"] is shown_input("localization", item)


# ---- how far it is


def test_a_course_tells_running_from_stopped(tmp_path, monkeypatch):
    training = job(tmp_path, epochs=4)

    def dies(loop, *arguments):
        if loop.epoch == 2:
            raise Killed
        return train(loop, *arguments)

    train = Loop._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_epoch", dies)
        with pytest.raises(Killed):
            train_plain(training)
    course = Course(tmp_path)
    assert (course.task, course.done, course.epochs, course.finished) == ("harmonization", 2, 4, False)
    assert course.running is True  # this process is still there
    course.host += ".elsewhere"
    assert course.running is None
    code = "import psutil; print(psutil.Process().pid, psutil.Process().create_time())"
    gone, began = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    course = Course(tmp_path)
    course.process, course.began = int(gone), float(began)
    assert course.running is False
    course = Course(tmp_path)
    course.began -= 1  # another process has its number now
    assert course.running is False


def test_samples_of_epochs_that_a_kill_took_back_are_not_shown(tmp_path):
    train_plain(watched(tmp_path, 1, epochs=2))
    table = pd.read_csv(tmp_path / "history.csv")
    table.iloc[:1].to_csv(tmp_path / "history.csv", index=False)
    assert {tuple(by_epoch) for by_epoch in Course(tmp_path).samples().values()} == {(1,)}


@pytest.mark.parametrize("content", ["", "[]", '{"task": "cooking", "phases": []}', '{"task": "inpainting"}'])
def test_a_course_that_is_none_is_told_with_its_file(tmp_path, content):
    (tmp_path / "course.json").write_text(content)
    with pytest.raises(UserError, match="course.json: not the course of a training"):
        Course(tmp_path)


# ---- TensorBoard


def test_without_tensorboard_its_log_says_so_once_and_the_screen_does_not(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watching, "has_tensorboard", lambda: False)
    monkeypatch.setattr(LOG, "propagate", True)
    with caplog.at_level(logging.INFO, logger="seambench"):
        for epochs in (1, 1):
            train_plain(watched(tmp_path, 1, epochs=epochs))
    said = "no event files for TensorBoard, the package tensorboard isn't installed"
    assert (tmp_path / "training.log").read_text().count(said) == 1
    assert said not in caplog.text and "epoch 1/1" in caplog.text
    assert not (tmp_path / watching.EVENTS).exists()


def test_event_files_hold_losses_scores_and_samples(tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training = watched(tmp_path, 1, epochs=3)

    def dies(loop, *arguments):
        if loop.epoch == 1:
            raise Killed
        return train(loop, *arguments)

    train = Loop._train_epoch
    with monkeypatch.context() as patch:  # a second event file
        patch.setattr(Loop, "_train_epoch", dies)
        with pytest.raises(Killed):
            train_plain(training)
    train_plain(training)
    read = events.EventAccumulator(str(tmp_path / watching.EVENTS))
    read.Reload()
    history = pd.read_csv(tmp_path / "history.csv")
    for column in ("loss", "validation_fmse", "learning_rate"):
        scalars = read.Scalars(column)
        assert [scalar.step for scalar in scalars] == history["step"].tolist() == [3, 6, 9]
        np.testing.assert_allclose([scalar.value for scalar in scalars], history[column], rtol=1e-6)
    assert [picture.step for picture in read.Images("samples/v00")] == [3, 6, 9]
    assert (read.Images("samples/v00")[0].width, read.Images("samples/v00")[0].height) == (3 * 16, 16)
