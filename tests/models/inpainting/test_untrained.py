"""Mean fill, Telea, Navier-Stokes and biharmonic: the methods without training."""

import cv2
import numpy as np
import pytest
import torch

import models

NAMES = ("mean_fill", "telea", "navier_stokes", "biharmonic")


def photograph_like(n=2, size=40):
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    image = torch.stack([rows, columns, (rows + columns) / 2]).repeat(n, 1, 1, 1) * 0.8 + 0.1
    hole = torch.zeros(n, 1, size, size)
    hole[0, 0, 10:18, 12:20] = 1
    hole[1:, 0, 22:30, 5:15] = 1
    return {"image": image, "hole": hole}


@pytest.mark.parametrize("name", NAMES)
def test_hole_content_does_not_matter_and_the_rest_is_kept(name):
    model, batch = models.create(name), photograph_like()
    assert model.players == () and list(model.parameters()) == []
    out = model(batch)
    other = model(
        {
            "image": torch.where(batch["hole"] > 0, torch.rand_like(batch["image"]), batch["image"]),
            "hole": batch["hole"],
        }
    )
    torch.testing.assert_close(out, other, rtol=0, atol=0)
    assert out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(
        out * (1 - batch["hole"]), batch["image"] * (1 - batch["hole"]), rtol=0, atol=0.5 / 255 + 1e-6
    )
    single = model({key: value[1:] for key, value in batch.items()})
    torch.testing.assert_close(out[1:], single, rtol=0, atol=1e-6)


def test_mean_fill_takes_the_mean_of_the_valid_pixels():
    image = torch.tensor([[[[0.0, 0.2], [0.4, 0.9]]] * 3])
    hole = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
    out = models.create("mean_fill")({"image": image, "hole": hole})
    torch.testing.assert_close(out[0, :, 1, 1], torch.full((3,), 0.2))  # (0 + 0.2 + 0.4) / 3


@pytest.mark.parametrize("name, flag", [("telea", cv2.INPAINT_TELEA), ("navier_stokes", cv2.INPAINT_NS)])
def test_opencv_methods_are_opencvs(name, flag):
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (32, 24, 3), dtype=np.uint8)
    hole = np.zeros((32, 24), np.uint8)
    hole[8:14, 6:15] = 1
    batch = {
        "image": torch.from_numpy(levels / np.float32(255)).permute(2, 0, 1)[None],
        "hole": torch.from_numpy(hole.astype(np.float32))[None, None],
    }
    for radius in (3, 5):
        out = models.create(name, radius=radius)(batch)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal((out * 255).round().astype(np.uint8), cv2.inpaint(levels, hole, radius, flag))


def test_biharmonic_continues_a_plane():
    batch = photograph_like()
    torch.testing.assert_close(models.create("biharmonic")(batch), batch["image"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_all_hole_is_refused_and_one_without_a_hole_is_kept(name):
    batch = photograph_like()
    batch["hole"][1] = 1
    with pytest.raises(
        ValueError, match="^image 1 of the batch: it is all hole: there is no valid pixel to fill it from$"
    ):
        models.create(name)(batch)
    batch["hole"].zero_()
    torch.testing.assert_close(models.create(name)(batch), batch["image"], rtol=0, atol=0)
