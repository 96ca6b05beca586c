import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

import models
from models.localization.mfcn import bilinear_upsampling, enhance
from models.losses.edge import balanced_bce, mask_edge

TINY = {"width": 8, "fc_channels": 16}


@pytest.mark.parametrize("factor", [2, 8])
def test_upsampling_starts_bilinear(factor):
    coarse = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    ours = bilinear_upsampling(factor)(coarse)
    theirs = F.interpolate(coarse, scale_factor=factor, mode="bilinear")
    inner = (..., slice(factor, -factor), slice(factor, -factor))  # at the border zeros are mixed in, as published
    torch.testing.assert_close(ours[inner], theirs[inner])
    assert ours.shape == theirs.shape


def test_pools_of_torchvisions_vgg_feed_the_branches():
    torch.manual_seed(0)
    model = models.create("mfcn", fc_channels=8, fc_kernel=1).eval()
    vgg = make_layers(cfgs["D"]).eval()
    vgg.load_state_dict(model.trunk.state_dict())
    seen = {}
    model.surface.register_forward_pre_hook(lambda _, given: seen.update(zip(("coarse", "middle", "fine"), given)))
    composite = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        model({"composite": composite})
        x = model.normalize(composite)
        torch.testing.assert_close(seen["fine"], vgg[:17](x))  # pool3
        torch.testing.assert_close(seen["middle"], vgg[:24](x))  # pool4
        torch.testing.assert_close(seen["coarse"], model.fc(vgg(x)))


def test_linear_layers_of_vgg_become_convolutions(tmp_path, monkeypatch):
    """On one picture of the classifier's size, 7x7 at stride 32, the middle pixel's convolution is the linear layer. A
    classifier of 4096 channels would take 2 GiB, so the published shape is made small for this test."""
    monkeypatch.setattr("models.localization.mfcn.PUBLISHED_FC", (12, 7, 1))
    torch.manual_seed(0)
    trunk = make_layers([width if width == "M" else width // 16 for width in cfgs["D"]])
    classifier = nn.Sequential(nn.Linear(32 * 49, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 12), nn.ReLU())
    theirs = nn.ModuleDict({"features": trunk, "classifier": classifier}).eval()
    path = str(tmp_path / "vgg.pth")
    torch.save(theirs.state_dict(), path)
    model = models.create("mfcn", width=4, fc_channels=12, backbone_weights=path).eval()
    features = torch.rand(1, 32, 7, 7)
    with torch.no_grad():
        expected = classifier(features.flatten(1))
        torch.testing.assert_close(model.fc(features)[:, :, 3, 3], expected)
    assert torch.equal(model.trunk[0].weight, trunk[0].weight)
    narrow = models.create("mfcn", width=4, fc_channels=6, backbone_weights=path)  # the trunk alone
    assert torch.equal(narrow.trunk[28].weight, trunk[28].weight)
    with pytest.raises(ValueError, match="published weights fit the published width only"):
        models.create("mfcn", width=8, backbone_weights=path)


def test_loss_is_the_surfaces_and_the_edges():
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 10:40, 20:50] = 1
    batch = {"composite": torch.rand(2, 3, 64, 64), "mask": mask}
    model = models.create("mfcn", edge_weight=3.0, ssim_weight=0.0, iou_weight=0.0, **TINY).eval()
    with torch.no_grad():
        surface, edge = model.logits(batch)
        total, parts = model.loss("network", batch)
    expected = F.binary_cross_entropy_with_logits(surface, mask), balanced_bce(edge, mask_edge(mask))
    torch.testing.assert_close((parts["surface"], parts["edge"]), expected)
    torch.testing.assert_close(total, expected[0] + 3 * expected[1])


def test_enhanced_mask_is_the_surface_within_closed_edges():
    edge = torch.zeros(2, 1, 12, 12)
    edge[0, 0, 2:9, 2:9] = 0.9
    edge[0, 0, 3:8, 3:8] = 0.1  # a closed frame from 2 to 8
    edge[1, 0, 2, 2:9] = 0.9  # an open line encloses nothing but itself
    surface = torch.zeros(2, 1, 12, 12)
    surface[:, :, 5:, :] = 0.7
    mask = enhance(surface, edge)
    expected = torch.zeros(2, 1, 12, 12)
    expected[0, 0, 5:9, 2:9] = 1
    assert torch.equal(mask, expected)


def test_prediction_can_be_the_enhanced_mask():
    torch.manual_seed(0)
    model = models.create("mfcn", prediction="enhanced", **TINY).eval()
    batch = {"composite": torch.rand(1, 3, 64, 64)}
    with torch.no_grad():
        surface, edge = (logits.sigmoid() for logits in model.logits(batch))
        assert torch.equal(model(batch), enhance(surface, edge))


def test_a_small_dilated_kernel_reaches_as_far():
    with torch.device("meta"):
        small = models.create("mfcn", fc_channels=1024, fc_kernel=3, fc_dilation=3)
    assert sum(p.numel() for p in small.fc.parameters()) == 512 * 9 * 1024 + 1024 + 1024 * 1024 + 1024
    with pytest.raises(ValueError, match="fc_kernel = 4"):
        models.create("mfcn", fc_kernel=4)
    with pytest.raises(ValueError, match="edge_weight = -1"):
        models.create("mfcn", edge_weight=-1.0)
