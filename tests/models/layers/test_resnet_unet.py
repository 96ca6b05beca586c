import subprocess
import sys

import pytest
import torch
from torchvision.models import ResNet34_Weights, resnet34
from torchvision.models import resnet as torchvisions

from models.layers.resnet_unet import IMAGENET_FILE, BasicBlock, ResNetEncoder, UNetDecoder


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_sizes():
    """specs/localization.md 5.1: encoder 35.44M, decoder with head 13.31M."""
    with torch.device("meta"):
        assert round(parameters(ResNetEncoder()) / 1e6, 2) == 35.44
        assert round((parameters(UNetDecoder()) + 65) / 1e6, 2) == 13.31


def test_levels_halve_four_times():
    levels = ResNetEncoder(width=2).eval()(torch.zeros(1, 3, 64, 32))
    assert [tuple(level.shape) for level in levels] == [
        (1, 2, 64, 32), (1, 4, 32, 16), (1, 8, 16, 8), (1, 16, 8, 4), (1, 16, 4, 2),
    ]  # fmt: skip
    assert UNetDecoder(width=2).eval()(levels).shape == (1, 2, 64, 32)


def test_torchvision_weights_fill_four_layers_and_only_those(tmp_path):
    torch.manual_seed(0)
    published = resnet34(weights=None)
    path = str(tmp_path / "resnet34.pth")
    torch.save(published.state_dict(), path)
    encoder = ResNetEncoder(backbone_weights=path).eval()
    x = torch.rand(1, 64, 16, 16)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        theirs = getattr(published.eval(), name)
        assert torch.equal(getattr(encoder, name)(x), theirs(x))
        x = theirs(x)


def test_gradients_are_torchvisions_to_the_last_bit():
    """A level of the encoder is read three times, by the next block, its shortcut and the decoder, and the order in which
    three gradients are summed shows in the last bit."""
    torch.manual_seed(0)
    theirs, ours = (kind(4, 4, downsample=torch.nn.Conv2d(4, 4, 1)) for kind in (torchvisions.BasicBlock, BasicBlock))
    ours.load_state_dict(theirs.state_dict())
    image, weights = torch.randn(2, 4, 16, 16), torch.randn(3, 2, 4, 16, 16)

    def gradient(block):
        x = image.clone().requires_grad_()
        level = x * weights[0]
        ((block(level) * weights[1]).sum() + (level.tanh() * weights[2]).sum()).backward()
        return x.grad

    assert torch.equal(gradient(ours), gradient(theirs))


def test_published_weights_do_not_fit_another_width(tmp_path):
    path = str(tmp_path / "resnet34.pth")
    torch.save(resnet34(weights=None).state_dict(), path)
    with pytest.raises(ValueError, match=r"layer1.0.conv1.weight is \(64, 64, 3, 3\).*published width only"):
        ResNetEncoder(width=8, backbone_weights=path)


def test_width_must_be_positive():
    with pytest.raises(ValueError, match="width = 0"):
        ResNetEncoder(width=0)


def test_imagenet_file_is_torchvisions():
    assert ResNet34_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1] == IMAGENET_FILE


def test_building_loads_no_torchvision():
    """Its import takes longer than everything else that a small network's stage needs."""
    code = "import sys, models; models.create('unet', width=2, backbone_weights='none'); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
