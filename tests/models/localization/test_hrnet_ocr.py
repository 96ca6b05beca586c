import math

import pytest
import timm
import torch

import models
from models.localization.hrnet_ocr import ObjectAttention, gather_regions

SMALL = {"variant": "w18_small", "channels": 16, "keys": 8}


def test_a_region_gathers_the_features_under_its_soft_map():
    feature = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    regions = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, math.log(3.0)]]]])
    # evenly: 10 / 4;  weights 1, 1, 1, 3 of 6: (1 + 2 + 3 + 12) / 6
    torch.testing.assert_close(gather_regions(feature, regions), torch.tensor([[[[2.5], [3.0]]]]))


def test_attention_against_the_formula():
    torch.manual_seed(0)
    block = ObjectAttention(6, 4).eval()
    feature, regions = torch.rand(2, 6, 3, 5), torch.rand(2, 6, 2, 1)
    with torch.no_grad():
        query, key, value = block.query(feature).flatten(2), block.key(regions)[..., 0], block.value(regions)[..., 0]
        weight = torch.softmax(torch.einsum("ncp,nck->npk", query, key) / math.sqrt(4), dim=2)
        expected = block.out(torch.einsum("npk,nck->ncp", weight, value).view(2, 4, 3, 5))
        torch.testing.assert_close(block(feature, regions), expected)


def test_loss_adds_the_soft_regions_at_their_weight():
    torch.manual_seed(0)
    model = models.create("hrnet_ocr", aux_weight=0.25, **SMALL).eval()
    batch = {"composite": torch.rand(1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)}
    total, parts = model.loss("network", batch)
    torch.testing.assert_close(total.detach(), parts["main"] + 0.25 * parts["aux"])
    with pytest.raises(ValueError, match="aux_weight = -0.1"):
        models.create("hrnet_ocr", aux_weight=-0.1, **SMALL)


def test_weights_of_the_library_s_classifier_fill_the_backbone(tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model("hrnet_w18_small", pretrained=False).eval()
    path = str(tmp_path / "hrnet.pth")
    torch.save(classifier.state_dict(), path)
    model = models.create("hrnet_ocr", backbone_weights=path, **SMALL).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        stem = classifier.act1(classifier.bn1(classifier.conv1(image)))
        stem = classifier.act2(classifier.bn2(classifier.conv2(stem)))
        for ours, theirs in zip(model.backbone(image), classifier.stages(stem), strict=True):
            assert torch.equal(ours, theirs)


def test_without_network_one_line_says_what_to_fetch(monkeypatch):
    build = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no network")
        return build(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"timm's weights of hrnet_w18_small\.\w+ can't be fetched"):
        models.create("hrnet_ocr", backbone_weights="imagenet", **SMALL)
