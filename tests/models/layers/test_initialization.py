import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from models.layers.initialization import initialize_normal


def test_deviations_and_zeros():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(512), nn.ConvTranspose2d(32, 16, 4), nn.Linear(64, 64))
    initialize_normal(network, 0.05)
    for layer, mean in zip(network, (0, 1, 0, 0)):
        assert abs(layer.weight.std().item() - 0.05) < 0.006 and abs(layer.weight.mean().item() - mean) < 0.01
        assert layer.bias.abs().max() == 0


def test_a_spectrally_normalized_weight_stays():
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    before = layer.parametrizations.weight.original.clone()
    initialize_normal(nn.Sequential(layer))
    assert torch.equal(layer.parametrizations.weight.original, before) and layer.bias.abs().max() == 0
