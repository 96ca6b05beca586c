from pathlib import Path

import pytest

from pipeline import params
from pipeline.running import outside

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "work/project/.dvc").mkdir(parents=True)
    for folder in ("work/photos/2017", "far"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path / "work/project"


def test_from_a_copy_relative_paths_lead_where_they_do_from_the_project(root):
    copies = [root / ".dvc/tmp/exps/tmp123", root / ".dvc/tmp/exps/standalone/tmp123"]  # the queue's, and --temp's
    for copy in copies:
        copy.mkdir(parents=True)
    paths = ["../photos/2017", "../photos", "../../far", "inside/it", str(root.parent / "photos")]
    for _ in range(2):
        assert outside.link(root, paths) == []
    for copy in copies:
        for path in paths[:3]:
            assert (copy / path).resolve() == (root / path).resolve() and (copy / path).is_dir()
        assert not (copy / "inside").exists()


def test_two_paths_that_want_one_place_are_told(root):
    (line,) = outside.link(root, ["../far", "../../far"])
    assert line.startswith("../far is not found")
    assert (root / ".dvc/tmp/exps/standalone/copy/../../far").resolve() == root.parent.parent / "far"


def test_paths_that_lead_too_far_up_or_whose_place_is_taken_are_told(root):
    (root / ".dvc/tmp/exps/run").mkdir(parents=True)
    lines = outside.link(root, ["../../../x", "../run", "../.."])
    assert [line.split(" ")[0] for line in lines] == ["../..", "../../../x", "../run"]
    assert not (root / ".dvc/x").exists() and not (root / ".dvc/tmp/exps/run").is_symlink()


def test_a_link_follows_the_project(root):
    place = root / ".dvc/tmp/exps/photos"
    place.parent.mkdir(parents=True)
    place.symlink_to("/nowhere")
    assert outside.link(root, ["../photos"]) == [] and place.resolve() == root.parent / "photos"


def test_nothing_without_dvc_and_nothing_in_a_copy(root, monkeypatch, tmp_path):
    assert outside.link(tmp_path, ["../photos"]) == [] and not (tmp_path / ".dvc").exists()
    monkeypatch.setenv("DVC_ROOT", str(root))
    assert outside.link(root, ["../photos"]) == [] and not (root / ".dvc/tmp").exists()


def test_every_path_of_a_parameter_file_is_known():
    content = params.load(ROOT / "presets/places2.yaml")
    assert outside.paths_of(content) == [content.sources["Places2"].path, content.irregular_masks.folder]
    begun = content.models["pconv"].training.model_copy(update={"start_from": "../pconv.safetensors"})
    content.models["pconv"] = content.models["pconv"].model_copy(update={"training": begun})
    content.models["rfr"] = content.models["rfr"].model_copy(update={"weights": "../rfr.safetensors"})
    assert set(outside.paths_of(content)[2:]) == {"../rfr.safetensors", "../pconv.safetensors"}
    content = params.load(ROOT / "presets/iharmony4.yaml")
    assert outside.paths_of(content) == [subset.path for subset in content.subsets.values()]
    assert outside.weight_files({"backbone_weights": "imagenet", "perceptual_weights": "../vgg16.pth", "width": 8}) == [
        "../vgg16.pth"
    ]
