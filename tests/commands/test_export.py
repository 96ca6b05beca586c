from pipeline import tables  # noqa: F401  # pyarrow before onnxruntime: as in the commands


def test_what_can_not_be_is_said_before_anything_is_computed(project):
    ask = lambda *more: project.refused("export", *more)
    assert ask("constant_map", "-o", "map.pt") == (2, "map.pt: expected a name that ends in .onnx")
    assert ask("constant_map", "-o", "map.onnx", "--size", "8") == (2, "--size 8: expected 32 pixels or more")
    assert ask("unet", "-o", "unet.onnx")[1].startswith("artifacts/models/unet/weights.safetensors is missing")
    assert ask("unett", "-o", "unet.onnx")[1].startswith("no model 'unett'; did you mean 'unet'?")
    (project.folder / "there.onnx").touch()
    assert ask("constant_map", "-o", "there.onnx")[1].startswith("there.onnx is there already")
    del project.content["models"]["unet"]["training"]
    project.write()
    assert "has neither models.unet.training nor weights" in ask("unet", "-o", "unet.onnx")[1]
    assert not (project.folder / "unet.onnx").exists()


def test_it_says_what_was_checked(project):
    done = project.run("export", "composite", "-o", "out/composite.onnx", "--size", "32")
    assert done.code == 0, done.err
    assert done.out.startswith(
        "composite: any size\nchecked at 64x32: onnxruntime differs from torch by at most 0.0e+00\n"
    )
    assert (project.folder / "out/composite.onnx").stat().st_size > 100
