import torch

import models
from models.harmonization.s2am import S2AM
from models.layers.spatial_separated_attention import SpatialSeparatedAttention


def test_count_at_published_size():
    with torch.device("meta"):
        network = models.create("s2am")
    # specs/harmonization.md, section 1 (the paper says 66.70M)
    assert sum(p.numel() for p in network.parameters()) == 67_003_051


def test_attention_on_the_three_outer_skips_and_no_dropout():
    network, block, kinds = S2AM(width=2), None, []
    block = network.unet.inside
    while block is not None:
        kinds.append(type(block.gate))
        assert block.dropout == 0
        block = block.inside
    assert kinds == [SpatialSeparatedAttention] * 3 + [type(None)] * 4


def test_the_loss_is_the_squared_error_of_the_whole_unclipped_output():
    torch.manual_seed(0)
    network = S2AM(levels=4, width=4).eval()
    batch = {name: torch.rand(2, 3, 32, 32) for name in ("composite", "real")}
    batch["mask"] = (torch.rand(2, 1, 32, 32) < 0.5).float()
    with torch.no_grad():
        drawn = network.unet(torch.cat([batch["composite"], batch["mask"]], 1), batch["mask"])
        loss, _ = network.loss("network", batch)
        assert torch.isclose(loss, (drawn - batch["real"]).square().mean())
        assert torch.equal(network(batch), drawn.clamp(0, 1)) and not torch.equal(network(batch), drawn)
        skip = S2AM(levels=4, width=4, global_skip=True).eval()
        skip.load_state_dict(network.state_dict())
        assert torch.allclose(skip(batch), (drawn + batch["composite"]).clamp(0, 1))


def test_parameters_in_the_published_order():
    """Down, up, inside, attention: scripts/models/unet.py of vinthony/s2am; 4-dimensional weights suffice to tell."""
    network = S2AM(levels=4, width=16)
    shapes = [tuple(value.shape) for value in network.unet.state_dict().values() if value.dim() == 4]
    blur = (1, 1, 5, 5)

    def learner(channels: int) -> list[tuple]:
        return [(2 * channels, channels, 3, 3), (channels, 2 * channels, 3, 3), blur]

    expected = [(16, 4, 4, 4), (32, 3, 4, 4)]
    expected += [(32, 16, 4, 4), (64, 16, 4, 4), (64, 32, 4, 4), (128, 32, 4, 4), (128, 64, 4, 4), (128, 64, 4, 4)]
    assert shapes == expected + learner(128) + learner(64) + learner(32)
