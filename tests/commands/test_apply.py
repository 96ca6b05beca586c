import os

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from tests.pipeline.tiny import random_picture

SAY = "peak memory"


@pytest.fixture
def own(project):
    """A project in whose folder lie pictures of one's own: 45 x 61 pixels, which no halving divides."""
    project.content["models"] |= {"histogram": {"hyperparameters": {}}, "telea": {"hyperparameters": {}}}
    project.content["models"]["rainnet"] = {
        "hyperparameters": {"width": 4, "levels": 4, "adversarial": False},
        "training": project.content["models"]["unet"]["training"],
    }
    project.write()
    for number, name in enumerate(("a", "b")):
        images.write_png(project.folder / f"pictures/{name}.png", random_picture(number, 45, 61))
        images.write_png(project.folder / f"masks/{name}.png", inside(number))
    return project


def inside(number: int = 0) -> np.ndarray:
    mask = np.zeros((45, 61), bool)
    mask[10:30, 5 + number : 40] = True
    return mask


def classes() -> np.ndarray:
    """Class 2 is what `inside` is; class 1 lies beside it."""
    numbers = inside().astype(np.uint8) * 2
    numbers[35:40, 5:20] = 1
    return numbers


def erased(file) -> None:
    """A photograph whose hole was rubbed out: alpha 0 there, its colours kept."""
    alpha = np.where(inside(), 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([random_picture(0, 45, 61), alpha])).save(file)


@pytest.mark.parametrize(
    "choice, name",
    [(["--mask-value", "2"], "classes.png"), (["--mask-channel", "alpha", "--mask-value", "0"], "erased.png")],
)
def test_what_of_a_mask_file_counts_can_be_chosen(own, choice, name):
    images.write_png(own.folder / "classes.png", classes())
    erased(own.folder / "erased.png")
    for mask, more, out in (("masks/a.png", [], "plain.png"), (name, choice, "chosen.png")):
        assert own.run("apply", "--model", "telea", "pictures/a.png", mask, "-o", out, *more).code == 0
    assert (own.folder / "plain.png").read_bytes() == (own.folder / "chosen.png").read_bytes()
    code, said = own.refused("apply", "--model", "constant_map", "pictures/a.png", "-o", "map.png", *choice)
    assert code == 2 and said.startswith("--mask-value and --mask-channel say what of a mask counts")


@pytest.fixture
def trained(own):
    data = own.make_composites()
    for model in ("unet", "rainnet"):
        assert own.run("train", model, "--data", *data).code == 0
    return own


@pytest.mark.parametrize("model", ["histogram", "telea"])
def test_outside_the_mask_every_byte_stays(own, model):
    done = own.run("apply", "--model", model, "pictures/a.png", "masks/a.png", "-o", "new/out.png")
    assert done.code == 0, done.err
    assert done.out.startswith("pictures/a.png: 61x45, ") and SAY in done.out
    out, before = images.read_rgb(own.folder / "new/out.png"), random_picture(0, 45, 61)
    assert np.array_equal(out[~inside()], before[~inside()])
    assert (out[inside()] != before[inside()]).any(axis=1).mean() > 0.5
    assert sorted(os.listdir(own.folder / "new")) == ["out.png"]


def test_trained_networks_see_every_pixel_with_a_margin_to_their_multiple(trained):
    done = trained.run("apply", "--model", "rainnet", "pictures/a.png", "masks/a.png", "-o", "out.png")
    assert done.code == 0 and "61x45, seen at 64x48, " in done.out, "four halvings ask for multiples of 16"
    out, before = images.read_rgb(trained.folder / "out.png"), random_picture(0, 45, 61)
    assert out.shape == before.shape and np.array_equal(out[~inside()], before[~inside()]) and (out != before).any()
    done = trained.run("apply", "--model", "unet", "pictures/a.png", "-o", "map.png", "--overlay")
    assert done.code == 0 and "seen at 64x48" in done.out
    with Image.open(trained.folder / "map.png") as picture:
        assert picture.mode == "L" and picture.size == (61, 45)
    assert images.read_rgb(trained.folder / "map_overlay.png").shape == (45, 61, 3)


def test_it_predicts_what_inference_predicts(trained):
    """On a test composite of the size that networks see, the map is that of stages.infer."""
    data = trained.folder / "data/composites/HCOCO"
    trained.run(
        "infer", "unet", "--weights", "artifacts/models/unet/weights.safetensors", "--data", "data/composites/HCOCO"
    )
    small = images.resize(images.read_rgb(data / "composite_images/c5_1_1.png"), (32, 32))
    images.write_png(trained.folder / "small.png", small)
    trained.run("apply", "--model", "unet", "small.png", "-o", "map.png", "--device", "cpu")
    ours, theirs = (
        np.asarray(Image.open(trained.folder / name)).astype(int)
        for name in ("map.png", "artifacts/predictions/unet/test/c5_1_1.png")
    )
    assert abs(ours - theirs).max() <= 1  # theirs went through in a batch


def test_folders(own):
    done = own.run("apply", "--model", "histogram", "pictures", "masks", "-o", "out")
    assert done.code == 0 and done.out.count(SAY) == 2
    assert sorted(os.listdir(own.folder / "out")) == ["a.png", "b.png"]
    own.run("apply", "--model", "histogram", "pictures/b.png", "masks/b.png", "-o", "b.png")
    assert (own.folder / "b.png").read_bytes() == (own.folder / "out/b.png").read_bytes()


def test_colour_with_alpha_soft_masks_and_a_turned_photograph(own):
    """As in DIH99: RGBA pictures, grey-edged masks; and as cameras write them, on their side."""
    picture = random_picture(3, 45, 61)
    Image.fromarray(np.dstack([picture, np.full((45, 61), 7, np.uint8)])).save(own.folder / "rgba.png")
    soft = np.where(inside(), 128, 127).astype(np.uint8)
    Image.fromarray(np.dstack([soft, 255 - soft, soft, soft])).save(own.folder / "soft.png")
    assert own.run("apply", "--model", "histogram", "rgba.png", "soft.png", "-o", "out.png").code == 0
    out = images.read_rgb(own.folder / "out.png")
    assert np.array_equal(out[~inside()], picture[~inside()]) and not np.array_equal(out[inside()], picture[inside()])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(own.folder / "turned.png", exif=exif)
    Image.fromarray(np.ascontiguousarray(np.rot90(inside(), -1))).save(own.folder / "upright.png")
    done = own.run("apply", "--model", "histogram", "turned.png", "upright.png", "-o", "turned_out.png")
    assert done.code == 0 and "45x61" in done.out


def test_longest_side_shrinks_for_the_network_and_keeps_the_detail(trained):
    done = trained.run(
        "apply", "--model", "rainnet", "pictures/a.png", "masks/a.png", "-o", "out.png", "--longest-side", "32"
    )
    assert done.code == 0 and "61x45, seen at 32x32, " in done.out  # 32x24, and the margin
    out, before = images.read_rgb(trained.folder / "out.png").astype(int), random_picture(0, 45, 61).astype(int)
    assert np.array_equal(out[~inside()], before[~inside()]) and not np.array_equal(out, before)
    # what is added is smooth: where nothing is clipped, the noise of the picture is still there
    kept = inside() & ((out > 0) & (out < 255)).all(axis=2)
    change = np.where(kept[..., None], out - before, 0)[12:28, 8:38]
    assert np.abs(np.diff(change, axis=1)).mean() < 0.5 * np.abs(np.diff(before[12:28, 8:38], axis=1)).mean()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ["histogram", "pictures/a.png"],
            "pictures/a.png: harmonization needs a mask too, white = foreground; give it after the picture",
        ),
        (
            ["telea", "pictures/a.png"],
            "pictures/a.png: inpainting needs a mask too, white = hole; give it after the picture",
        ),
        (
            ["constant_map", "pictures/a.png", "masks/a.png"],
            "masks/a.png: localization takes no mask; the method is to find it",
        ),
        (["histogram", "gone.png", "masks/a.png"], "gone.png: no such file or folder"),
        (["histogram", "pictures/a.png", "gone.png"], "gone.png: no such file"),
        (["histogram", "pictures", "gone"], "pictures is a folder and gone is missing; give two files or two folders"),
        (
            ["histogram", "pictures", "masks/a.png"],
            "pictures is a folder and masks/a.png is a file; give two files or two folders",
        ),
        (["histogram", "empty", "masks"], "empty: no picture in this folder"),
        (["histogram", "more", "masks"], "masks: no mask called c for c.png (and 1 more)"),
        (["histogram", "pictures/a.png", "small.png"], "small.png: the mask is 20x10, its image 61x45"),
        (["telea", "pictures/a.png", "small.png"], "small.png: the hole is 20x10, its image 61x45"),
        (["histogram", "pictures/a.png", "black.png"], "black.png: the mask is empty: there is nothing to harmonize"),
        (["telea", "pictures/a.png", "black.png"], "black.png: the mask is empty: there is nothing to fill"),
        (
            ["histogram", "pictures/a.png", "white.png"],
            "white.png: the mask covers everything: there is no background to go by",
        ),
        (["histogram", "pictures/a.png", "ones.png"], "ones.png: every pixel of this mask is 1; 0 = out, 255 = in"),
        (["histogram", "pictures/a.png", "pictures/b.png"], "pictures/b.png: in colour at "),
        (
            ["histogram", "pictures/a.png", "classes.png"],
            "classes.png: no pixel of this mask reaches 128; the brightest is 2, 255 = in; values 0 (",
        ),
        (
            ["histogram", "pictures/a.png", "classes.png", "--mask-value", "9"],
            "classes.png: mask_value 9: no pixel has this value; values 0 (",
        ),
        (["histogram", "pictures/a.png", "erased.png"], "erased.png: in colour at "),
        (["constant_map", "cut.png"], "cut.png: can't be decoded"),
        (["constant_map", "text.png"], "text.png: not a picture in one of the formats"),
        (
            ["unet", "pictures/a.png"],
            "artifacts/models/unet/weights.safetensors is missing; `dvc repro models/dvc.yaml:train-unet` makes it",
        ),
        (["unet", "pictures/a.png", "--weights", "text.png"], "text.png is not a safetensors file"),
    ],
)
def test_what_can_not_be_done_is_said_and_nothing_is_written(own, arguments, said):
    (own.folder / "empty").mkdir()
    for name in ("a", "c", "d"):
        images.write_png(own.folder / f"more/{name}.png", random_picture(0, 45, 61))
    images.write_png(own.folder / "small.png", inside()[:10, :20])
    images.write_png(own.folder / "black.png", np.zeros((45, 61), bool))
    images.write_png(own.folder / "white.png", np.ones((45, 61), bool))
    images.write_png(own.folder / "ones.png", np.ones((45, 61), np.uint8))
    images.write_png(own.folder / "classes.png", classes())
    erased(own.folder / "erased.png")
    (own.folder / "cut.png").write_bytes((own.folder / "pictures/a.png").read_bytes()[:900])
    (own.folder / "text.png").write_text("this is not a picture")
    code, line = own.refused("apply", "--model", arguments[0], *arguments[1:], "-o", "out.png")
    assert code == 1 and line.startswith(said)
    assert not [name for name in os.listdir(own.folder) if "out" in name]


def test_outputs_that_can_not_be(own):
    ask = lambda *more: own.refused("apply", "--model", "constant_map", *more)
    assert ask("pictures/a.png", "-o", "pictures/../pictures/a.png") == (
        1,
        "pictures/../pictures/a.png is the input; give another name for the output",
    )
    assert ask("pictures", "-o", "pictures") == (1, "pictures is the input; give another name for the output")
    assert ask("pictures/a.png", "-o", "masks/a.png") == (
        1,
        "masks/a.png is there already; remove it or give another name",
    )
    assert ask("pictures/a.png", "-o", "a.jpg")[1].startswith("a.jpg: outputs are PNG")
    (own.folder / "a_overlay.png").touch()
    assert ask("pictures/a.png", "-o", "a.png", "--overlay") == (
        1,
        "a_overlay.png is there already; --overlay would write over it",
    )
    assert ask("pictures/a.png", "-o", "a.png", "--longest-side", "0") == (
        2,
        "--longest-side 0: expected 1 pixel or more",
    )
    code, said = own.refused(
        "apply", "--model", "histogram", "pictures/a.png", "masks/a.png", "-o", "a.png", "--overlay"
    )
    assert code == 2 and said == "--overlay shows where a localizer looks; histogram is a method of harmonization"
    images.write_png(own.folder / "pictures/a_overlay.png", random_picture(0, 45, 61))
    assert ask("pictures", "-o", "out", "--overlay") == (
        1,
        "out/a_overlay.png is an output too; --overlay would write over it",
    )
    assert not (own.folder / "a.png").exists() and not (own.folder / "out").exists()


def test_a_picture_that_fails_in_the_middle_of_a_folder_leaves_no_output(own):
    images.write_png(own.folder / "masks/b.png", np.zeros((45, 61), bool))
    done = own.run("apply", "--model", "histogram", "pictures", "masks", "-o", "out")
    assert done.code == 1 and done.err == "apply: masks/b.png: the mask is empty: there is nothing to harmonize\n"
    assert sorted(os.listdir(own.folder)) == ["masks", "params.yaml", "pictures"]


def test_a_network_without_its_training_block_needs_weights(trained):
    del trained.content["models"]["unet"]["training"]
    trained.write()
    code, said = trained.refused("apply", "--model", "unet", "pictures/a.png", "-o", "out.png")
    assert (
        code == 2
        and said
        == "unet has weights to learn and params.yaml has neither models.unet.training nor weights; give its file as --weights"
    )
    assert (
        trained.run(
            "apply",
            "--model",
            "unet",
            "pictures/a.png",
            "-o",
            "out.png",
            "--weights",
            "artifacts/models/unet/weights.safetensors",
        ).code
        == 0
    )


def test_weights_that_params_yaml_names_are_taken(trained):
    command = ["apply", "--model", "unet", "pictures/a.png", "-o"]
    assert trained.run(*command, "by_training.png").code == 0
    (trained.folder / "artifacts/models/unet/weights.safetensors").rename(trained.folder / "released.safetensors")
    block = trained.content["models"]["unet"]
    trained.content["models"]["unet"] = {"hyperparameters": block["hyperparameters"], "weights": "released.safetensors"}
    trained.write()
    assert trained.run(*command, "by_file.png").code == 0
    assert (trained.folder / "by_file.png").read_bytes() == (trained.folder / "by_training.png").read_bytes()


def test_a_gpu_that_is_not_there(own, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, said = own.refused(
        "apply", "--model", "histogram", "pictures/a.png", "masks/a.png", "-o", "out.png", "--device", "gpu"
    )
    assert code == 2 and said == "--device gpu: this process sees no GPU; --device cpu does without"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 bytes"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:120] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
    ids=["NumPy's", "torch's"],
)
def test_memory_that_does_not_suffice(own, monkeypatch, error):
    from models.harmonization import histogram

    def fail(self, item):
        raise error

    monkeypatch.setattr(histogram.Histogram, "draw", fail)
    code, said = own.refused("apply", "--model", "histogram", "pictures/a.png", "masks/a.png", "-o", "out.png")
    assert (
        code == 1
        and said
        == "pictures/a.png: not enough memory for 61x45 pixels; --longest-side shrinks the picture for the network"
    )
