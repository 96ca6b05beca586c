import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import normalize

from models.layers.imagenet import MEAN, STD, ImageNetNormalize, load_backbone


def backbone():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def published(seed=0):
    torch.manual_seed(seed)
    return backbone().state_dict()


def fetched():
    raise OSError("no network")


def test_normalization_against_torchvision():
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ImageNetNormalize()(image), normalize(image, MEAN, STD))
    assert not ImageNetNormalize().state_dict()


def test_none_leaves_the_weights_alone():
    network = backbone()
    before = network[0].weight.clone()
    load_backbone(network, "none", fetched, "some.pth")
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_from_a_file_with_a_classifier_that_nobody_asked_for(tmp_path, suffix):
    state = published() | {"fc.weight": torch.zeros(10, 4)}
    path = str(tmp_path / f"weights.{suffix}")
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    network = backbone()
    load_backbone(network, path, fetched, "some.pth")
    assert torch.equal(network[0].weight, state["0.weight"])


def test_from_the_library():
    network = backbone()
    load_backbone(network, "imagenet", published, "some.pth")
    assert torch.equal(network[0].weight, published()["0.weight"])


def test_without_network_one_line_names_the_file_to_fetch():
    with pytest.raises(ValueError, match=r"^backbone_weights = 'imagenet': some.pth can't be fetched \(OSError\)"):
        load_backbone(backbone(), "imagenet", fetched, "some.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no file .*absent.pth"):
        load_backbone(backbone(), str(tmp_path / "absent.pth"), fetched, "some.pth")


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="damaged.pth is no state dict"):
        load_backbone(backbone(), str(path), fetched, "some.pth")


class Payload:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    path = tmp_path / "payload.pth"
    torch.save({"0.weight": Payload()}, path)
    with pytest.raises(ValueError, match="payload.pth"):
        load_backbone(backbone(), str(path), fetched, "some.pth")
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("1.running_mean"), "has no tensor 1.running_mean; expected the content of some.pth"),
        (lambda state: state.update({"0.weight": torch.zeros(8, 3, 3, 3)}), r"0.weight is \(8, 3, 3, 3\)"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(tmp_path, change, message):
    state = dict(published())
    change(state)
    path = str(tmp_path / "weights.pth")
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        load_backbone(backbone(), path, fetched, "some.pth")
