import models
from pipeline import tables  # noqa: F401  # pyarrow before onnxruntime: as in the commands
from pipeline.networks.weights import save_weights


def test_what_can_not_be_is_said_before_anything_is_computed(project):
    ask = lambda *more: project.refused("export", *more)
    assert ask("constant_map", "-o", "map.pt") == (2, "map.pt: expected a name that ends in .onnx")
    assert ask("constant_map", "-o", "map.onnx", "--size", "8") == (2, "--size 8: expected 32 pixels or more")
    assert ask("unet", "-o", "unet.onnx")[1].startswith("artifacts/models/unet/weights.safetensors is missing")
    assert ask("unett", "-o", "unet.onnx")[1].startswith("no model 'unett'; did you mean 'unet'?")
    (project.folder / "there.onnx").touch()
    assert ask("constant_map", "-o", "there.onnx")[1].startswith("there.onnx is there already")
    assert ask("mean_fill", "-o", "fill.onnx") == (
        1,
        "mean_fill can't be exported: it computes by array libraries, of which ONNX has no operators",
    )
    del project.content["models"]["unet"]["training"]
    project.write()
    assert "has neither models.unet.training nor weights" in ask("unet", "-o", "unet.onnx")[1]
    assert not (project.folder / "unet.onnx").exists()


def test_it_says_what_was_checked(project):
    network = models.create("unet", **project.content["models"]["unet"]["hyperparameters"])
    save_weights(network, project.folder / "unet.safetensors")
    done = project.run("export", "unet", "-o", "out/unet.onnx", "--size", "32", "--weights", "unet.safetensors")
    assert done.code == 0, done.err
    assert done.out.startswith(
        "unet: any size whose sides are multiples of 16\nchecked at 64x32: onnxruntime differs from torch by at most "
    )
    assert (project.folder / "out/unet.onnx").stat().st_size > 100
