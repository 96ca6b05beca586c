import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.segmentation import deeplabv3_resnet50

import models


def test_at_published_size_it_is_torchvisions_network():
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=False).eval()
    ours = models.create("deeplabv3").eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    composite = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        expected = theirs(ours.normalize(composite))["out"].sigmoid()
        torch.testing.assert_close(ours({"composite": composite}), expected)


def test_weights_of_torchvisions_classifier_fill_the_backbone(tmp_path):
    torch.manual_seed(0)
    state = resnet50(weights=None).state_dict()
    path = str(tmp_path / "resnet50.pth")
    torch.save(state, path)
    model = models.create("deeplabv3", backbone_weights=path)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.backbone.state_dict().items())


def test_without_network_one_line_says_what_to_fetch(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"resnet50-\w+\.pth can't be fetched"):
        models.create("deeplabv3", backbone_weights="imagenet")
