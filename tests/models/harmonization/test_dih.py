import pytest
import torch

import models
from models.harmonization.dih import DIH
from models.layers.normalization import RAIN, InstanceNorm


def test_counts_at_published_size():
    # encoder and decoder mirror each other: 4x4 kernels, 64 64 128 128 256 256, fc7 with bias to 512, norms of 2 a channel
    widths = [64, 64, 128, 128, 256, 256]
    kernels = sum(16 * a * b for a, b in zip(widths, widths[1:]))
    by_hand = (
        16 * 4 * 64 + kernels + 16 * 256 * 512 + 512 + 16 * 512 * 256 + kernels + 16 * 64 * 3 + 2 * 2 * sum(widths)
    )
    assert round(by_hand / 1e6, 2) == 8.27
    with torch.device("meta"):
        network = models.create("dih")
    assert sum(p.numel() for p in network.parameters()) == by_hand


def test_rain_in_the_decoder_and_instance_norm_in_the_encoder():
    network = DIH(rain=True, width=1)
    assert [type(layer.norm) for layer in network.encoder] == [InstanceNorm] * 6
    assert [type(layer.norm) for layer in network.decoder] == [RAIN] * 6


def test_channels_go_in_and_out_as_bgr():
    network = DIH(levels=3, width=4).eval()
    seen = []
    network.encoder[0].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 1
    with torch.no_grad():
        prediction = network({"composite": red, "mask": torch.zeros(1, 1, 32, 32)})
        assert seen[0][0, :, 0, 0].tolist() == [-1, -1, 1, 0]
        network.head.weight[:, 0] += 10
        changed = network({"composite": red, "mask": torch.zeros(1, 1, 32, 32)})
    assert torch.equal(changed[:, :2], prediction[:, :2]) and not torch.equal(changed[:, 2], prediction[:, 2])


def test_the_loss_with_rain_is_blind_to_what_is_drawn_outside():
    torch.manual_seed(0)
    batch = {"composite": torch.rand(1, 3, 32, 32), "mask": torch.zeros(1, 1, 32, 32)}
    batch["mask"][..., 8:20, 8:20] = 1
    batch["real"] = batch["composite"].clone()
    for rain in (False, True):
        network = DIH(levels=3, width=4, rain=rain).eval()
        with torch.no_grad():
            loss, _ = network.loss("network", batch)
            drawn = network._draw(batch)
            error = (drawn - (batch["real"] * 2 - 1)).square()
            assert torch.isclose(loss, (error * batch["mask"] if rain else error).mean())


def test_a_value_out_of_range_still_gets_a_gradient():
    network = DIH(levels=3, width=4)
    with torch.no_grad():
        network.head.weight.fill_(10)
    batch = {name: torch.rand(2, 3, 32, 32) for name in ("composite", "real")} | {"mask": torch.ones(2, 1, 32, 32)}
    loss, _ = network.loss("network", batch)
    loss.backward()
    assert network.head.weight.grad.abs().max() > 0


def test_refusals():
    with pytest.raises(ValueError, match="levels = 8, expected 3 to 7"):
        DIH(levels=8)
    small = {"composite": torch.rand(1, 3, 32, 24), "mask": torch.zeros(1, 1, 32, 24)}
    with pytest.raises(ValueError, match="width 24 is below 32, the least for 3 levels"):
        DIH(levels=3, width=4)(small)
