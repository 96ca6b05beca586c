import pytest
import torch
from torch import nn

from models.layers.normalization import RAIN, InstanceNorm
from models.layers.unet import Block, Gate, Step, UNet


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def instance(position: int, channels: int) -> nn.Module:
    return InstanceNorm(channels)


def batch_norm(position: int, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


@pytest.mark.parametrize(
    "arguments, parameters",
    # specs/harmonization.md, section 1, recomputed from the published layers
    [((4, instance, True), 54_755_587), ((4, batch_norm, False), 54_759_939), ((20, batch_norm, False), 54_776_323)],
)
def test_counts_at_published_size(arguments, parameters):
    with torch.device("meta"):
        assert count(UNet(*arguments)) == parameters


def test_shapes_within():
    seen = {}
    network = UNet(3, instance, True, levels=8, width=2, dropout=0).eval()
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda layer, _, out, name=name: seen.update({name: tuple(out.shape[1:])}))
    assert network(torch.randn(1, 3, 256, 256)).shape == (1, 3, 256, 256)
    path = "inside"
    # channels and size of the encoder from the outside in, width 2 for 64
    encoder = [(4, 64, 64), (8, 32, 32), (16, 16, 16), (16, 8, 8), (16, 4, 4), (16, 2, 2), (16, 1, 1)]
    decoder = [(2, 128, 128), (4, 64, 64), (8, 32, 32), (16, 16, 16), (16, 8, 8), (16, 4, 4), (16, 2, 2)]
    for level in range(7):
        assert seen[f"{path}.down.conv"] == encoder[level]
        assert seen[f"{path}.up.conv"] == decoder[level]
        # gates on the joined features of 128, 256 and 512 channels, at 128, 64 and 32 pixels
        gate = (4, 128, 128), (8, 64, 64), (16, 32, 32)
        assert seen.get(f"{path}.gate.conv") == (gate[level] if level < 3 else None)
        path += ".inside"


def test_norms_get_their_published_positions():
    positions = []

    def norm(position: int, channels: int) -> nn.Module:
        positions.append((position, channels))
        return nn.Identity()

    UNet(3, norm, True, levels=8, width=64)
    encoder = [(1, 128), (2, 256), (3, 512), (4, 512), (5, 512), (6, 512)]
    decoder = [(8, 512), (9, 512), (10, 512), (11, 512), (12, 256), (13, 128), (14, 64)]
    assert sorted(positions) == encoder + decoder


def test_a_skip_carries_the_activated_feature():
    down, up = nn.Conv2d(1, 1, 4, 2, 1), nn.ConvTranspose2d(1, 1, 4, 2, 1)
    block = Block(Step(down), None, Step(up), None, 0.0, ("down", "inside", "up", "gate"))
    x = torch.randn(1, 1, 4, 4)
    activated = torch.where(x < 0, 0.2 * x, x)
    out = block(x.clone(), None)
    assert torch.equal(out[:, :1], activated)
    assert torch.allclose(out[:, 1:], up(down(activated).relu()))


def test_gate():
    gate, x = Gate(2), torch.randn(1, 2, 3, 3)
    with torch.no_grad():
        gate.conv.weight.zero_()
        gate.conv.bias.copy_(torch.tensor([0.0, 100.0]))
    assert torch.allclose(gate(x), x * torch.tensor([0.5, 1.0]).view(1, 2, 1, 1))


def test_dropout_acts_between_the_gates_and_the_innermost_block():
    network, rates = UNet(3, instance, True, levels=8, width=2), []
    block = network.inside
    while block is not None:
        rates.append(block.dropout)
        block = block.inside
    assert rates == [0, 0, 0, 0.5, 0.5, 0.5, 0]


@pytest.mark.parametrize("levels, size", [(4, (16, 48)), (5, (96, 96)), (6, (64, 128)), (7, (128, 128))])
def test_other_depths(levels, size):
    network = UNet(3, instance, True, levels=levels, width=2).eval()
    assert network(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_refusals():
    with pytest.raises(ValueError, match="levels = 3, expected 4 or more"):
        UNet(3, instance, True, levels=3)
    with pytest.raises(ValueError, match="width 100 is not divisible by 16; pad to 112"):
        UNet(3, instance, True, levels=4, width=2)(torch.randn(1, 3, 96, 100))


def test_the_mask_reaches_the_layers_that_take_it():
    network = UNet(3, lambda position, channels: RAIN(channels), False, levels=4, width=2, dropout=0)
    x, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    assert not torch.allclose(network(x, mask), network(x, 1 - mask))


def test_registration_follows_the_order_asked_for():
    # biases mark the layers: down 3-, up 1-, gate 4-dimensional by their channels (width 2, level 1)
    def names(order):
        network = UNet(3, instance, True, levels=4, width=2, order=order)
        return [name for name, _ in network.inside.named_children()], [name for name, _ in network.named_children()]

    assert names(("gate", "down", "inside", "up")) == (["gate", "down", "inside", "up"], ["down", "inside", "up"])
    assert names(("down", "up", "inside", "gate")) == (["down", "up", "inside", "gate"], ["down", "up", "inside"])
