import pytest
import torch
from torchvision.models import resnet50, vgg16_bn

from models.layers.backbones import VGG16, ResNet50, encoder


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def random_statistics(network):
    """As after training: with the running means of 0 at the start, a norm that is left out wouldn't be noticed."""
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return network.eval()


def test_published_sizes():
    """Torchvision's, without the 1000-class heads of 2,049,000 and 123,642,856 parameters."""
    with torch.device("meta"):
        assert parameters(ResNet50()) == 25_557_032 - 2_049_000
        assert parameters(VGG16()) == 138_365_992 - 123_642_856


@pytest.mark.parametrize("ours, theirs", [(ResNet50, resnet50), (VGG16, vgg16_bn)])
def test_names_order_and_shapes_are_torchvision_s(ours, theirs):
    with torch.device("meta"):
        mine = [(name, value.shape) for name, value in ours().state_dict().items()]
        library = [(name, value.shape) for name, value in theirs(weights=None).state_dict().items()]
    assert mine == library[: len(mine)]
    assert all(name.startswith(("fc.", "classifier.")) for name, _ in library[len(mine) :])


def test_resnet_with_torchvision_s_weights_gives_torchvision_s_features(tmp_path):
    torch.manual_seed(0)
    library = random_statistics(resnet50(weights=None))
    path = str(tmp_path / "resnet50.pth")
    torch.save(library.state_dict(), path)
    image = torch.rand(1, 3, 33, 64)
    with torch.no_grad():
        levels = ResNet50(weights=path).eval()(image)
        x = library.relu(library.bn1(library.conv1(image)))
        expected = [x]
        x = library.maxpool(x)
        for layer in (library.layer1, library.layer2, library.layer3, library.layer4):
            expected.append(x := layer(x))
    for level, other in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, other)


def test_vgg_with_torchvision_s_weights_gives_the_features_before_each_pool(tmp_path):
    torch.manual_seed(0)
    with torch.device("meta"):
        library = vgg16_bn(weights=None)
    features = random_statistics(library.features.to_empty(device="cpu"))
    for value in features.parameters():
        torch.nn.init.uniform_(value, -0.05, 0.1)
    path = str(tmp_path / "vgg16_bn.pth")
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    expected, x = [], torch.rand(1, 3, 35, 32)
    with torch.no_grad():
        levels = VGG16(weights=path).eval()(x)
        for layer in features:
            if isinstance(layer, torch.nn.MaxPool2d):
                expected.append(x.clone())
            x = layer(x)
    assert [level.shape[2] for level in levels] == [35, 17, 8, 4, 2]
    for level, other in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, other)


def test_channels_say_what_comes_out():
    image = torch.zeros(1, 3, 64, 64)
    for network, sides in (
        (ResNet50(2), (32, 16, 8, 4, 2)),
        (ResNet50(2, last_stride=1), (32, 16, 8, 4, 4)),
        (VGG16(2), (64, 32, 16, 8, 4)),
    ):
        levels = network.eval()(image)
        assert tuple(level.shape[1] for level in levels) == network.channels
        assert tuple(level.shape[2] for level in levels) == sides


def test_by_name_and_refusals(tmp_path):
    assert isinstance(encoder("vgg16", 2, "none"), VGG16)
    assert isinstance(encoder("resnet50", 2, "none"), ResNet50)
    with pytest.raises(ValueError, match="width = 0"):
        encoder("vgg16", 0, "none")
    path = str(tmp_path / "narrow.pth")
    torch.save(VGG16(2).state_dict(), path)
    with pytest.raises(ValueError, match=r"features.0.weight is \(2, 3, 3, 3\), this network's is \(4, 3, 3, 3\)"):
        VGG16(4, path)
