"""Methods without training: each against a result worked out another way."""

import cv2
import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

import models

NAMES = ("composite", "reinhard_lab", "histogram", "poisson")


def texture(seed: int, size: int = 64) -> np.ndarray:
    """A smooth random picture, float32 (size, size, 3) in about 0.2..0.7."""
    noise = np.random.default_rng(seed).normal(size=(size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return (0.45 + smooth / smooth.std() * 0.07).clip(0.2, 0.7)


def disc(row: int, column: int, radius: int, size: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def batch(images: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, torch.Tensor]:
    levels = [np.round(image * 255).astype(np.float32) / 255 for image in images]
    return {
        "composite": torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2).contiguous(),
        "mask": torch.from_numpy(np.stack(masks)[:, None].astype(np.float32)),
    }


@pytest.fixture
def shifted() -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """A real picture, and the batch of it with a disc made lighter by 0.2."""
    real, mask = texture(0), disc(30, 34, 15)
    return real, batch([real + 0.2 * mask[..., None]], [mask])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_train_and_the_rest_untouched(name, shifted):
    model, (_, given) = models.create(name), shifted
    assert model.players == () and list(model.parameters()) == []
    result = model(given)
    assert result.shape == given["composite"].shape and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    outside = (given["mask"] < 0.5).expand_as(result)
    assert torch.equal(result[outside], given["composite"][outside])


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_or_a_full_mask_returns_the_input(name):
    image = texture(1)
    given = batch([image, image], [np.zeros((64, 64), bool), np.ones((64, 64), bool)])
    assert torch.equal(models.create(name)(given), given["composite"])


@pytest.mark.parametrize("name", NAMES)
def test_items_do_not_mix(name):
    given = batch([texture(2), texture(3)], [disc(20, 20, 9), disc(40, 44, 12)])
    model = models.create(name)
    alone = torch.cat([model({key: value[i : i + 1] for key, value in given.items()}) for i in range(2)])
    assert torch.equal(model(given), alone)


def test_reinhard_gives_the_foreground_the_statistics_of_the_background(shifted):
    _, given = shifted
    result = models.create("reinhard_lab")(given)[0].permute(1, 2, 0).numpy()
    inside = given["mask"][0, 0].numpy() > 0.5
    # scikit-image's float CIELab is the referee; 8-bit L has steps of 0.39 and a, b of 1
    lab = rgb2lab(result)
    np.testing.assert_allclose(lab[inside].mean(0), lab[~inside].mean(0), atol=0.7)
    np.testing.assert_allclose(lab[inside].std(0), lab[~inside].std(0), atol=0.7)


def test_reinhard_shifts_a_flat_foreground():
    mask = disc(32, 32, 10)
    image = texture(4)
    image[mask] = (0.8, 0.3, 0.3)
    result = models.create("reinhard_lab")(batch([image], [mask]))[0].permute(1, 2, 0).numpy()
    assert np.ptp(result[mask], axis=0).max() == 0
    mean = rgb2lab(image)[~mask].mean(0)
    np.testing.assert_allclose(result[mask][0], lab2rgb(mean[None, None])[0, 0], atol=3 / 255)


def test_histogram_gives_the_foreground_the_quantiles_of_the_background(shifted):
    _, given = shifted
    levels = models.create("histogram")(given)[0].numpy() * 255
    inside = given["mask"][0, 0].numpy() > 0.5
    for channel in levels:
        share = np.linspace(0.05, 0.95, 19)
        np.testing.assert_allclose(np.quantile(channel[inside], share), np.quantile(channel[~inside], share), atol=2.5)


@pytest.mark.parametrize("row, column", [(30, 34), (4, 30), (60, 62)])
def test_poisson_takes_back_a_constant_shift(row, column):
    real, mask = texture(5), disc(row, column, 14)
    given = batch([real + 0.2 * mask[..., None]], [mask])
    result = models.create("poisson")(given)[0].permute(1, 2, 0).numpy()
    error = np.abs(result - real)[mask].mean()
    # the shift of 0.2 is what remained to be undone; at an image's border one side of the object has no neighbour
    assert error < (0.04 if (row, column) == (30, 34) else 0.08)


def test_poisson_keeps_the_gradients_inside(shifted):
    _, given = shifted
    before, after = (
        image[0].permute(1, 2, 0).numpy() for image in (given["composite"], models.create("poisson")(given))
    )
    core = disc(30, 34, 10)
    change = (after - before)[core]
    # a harmonic change of level over the disc is smooth: it varies far less than the picture does
    assert np.abs(change.mean()) > 0.1
    assert change.std() < 0.6 * before[core].std()


def test_a_mask_is_cut_at_one_half(shifted):
    _, given = shifted
    soft = {**given, "mask": given["mask"] * 0.4}
    assert torch.equal(models.create("histogram")(soft), given["composite"])
