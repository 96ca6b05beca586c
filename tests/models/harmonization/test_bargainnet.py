import pytest
import torch

import models
from models.harmonization.bargainnet import BargainNet, DomainEncoder


def given(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, size, size)
    mask[..., 4:20, 8:] = 1
    image = [torch.rand(2, 3, size, size, generator=generator) for _ in range(2)]
    return {"composite": image[0], "mask": mask, "real": image[1]}


def test_count_at_published_size():
    with torch.device("meta"):
        network = models.create("bargainnet")
    assert sum(p.numel() for p in network.parameters()) == 58_695_700


def test_parameters_of_the_encoder_in_the_published_order():
    """models/bargainnet_model.py of the released code: each convolution before its norm; only the first has a bias."""
    shapes = [tuple(p.shape) for p in DomainEncoder(2).parameters()]
    norms = {4: [(4,), (4,)], 8: [(8,), (8,)], 16: [(16,), (16,)]}
    expected = [(2, 3, 3, 3), (2,)]
    for before, after in ((2, 4), (4, 8), (8, 16)):
        expected += [(after, before, 3, 3), *norms[after]]
    # weight before bias in a convolution; the last convolution has neither bias nor norm, the head has a bias
    assert sorted(shapes[:2]) == sorted(expected[:2]) and shapes[2:] == expected[2:] + [
        (16, 16, 3, 3),
        (16, 16, 1, 1),
        (16,),
    ]


def test_a_code_tells_of_its_region_alone():
    torch.manual_seed(0)
    encoder, batch = DomainEncoder(4, 3).eval(), given()
    code = encoder(batch["real"], batch["mask"])
    elsewhere = torch.where(batch["mask"] > 0.5, batch["real"], batch["composite"])
    assert code.shape == (2, 16)
    assert torch.allclose(encoder(elsewhere, batch["mask"]), code, atol=1e-6)
    assert not torch.allclose(
        encoder(elsewhere, 1 - batch["mask"]), encoder(batch["real"], 1 - batch["mask"]), atol=1e-6
    )


def test_the_generator_hears_of_the_background_through_a_scaled_code():
    torch.manual_seed(0)
    network, batch = BargainNet(levels=4, width=4, encoder_levels=3).eval(), given()
    seen = []
    network.generator.unet.register_forward_pre_hook(lambda unet, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(batch)
        code = network.encoder(batch["composite"] * 2 - 1, 1 - batch["mask"])
        network.generator.scale.fill_(-1)
        network(batch)
    assert torch.equal(seen[0][:, :3], batch["composite"] * 2 - 1) and torch.equal(seen[0][:, 3:4], batch["mask"])
    assert torch.allclose(seen[0][:, 4:], (0.1 * code)[:, :, None, None].expand(-1, -1, 32, 32), atol=1e-6)
    assert torch.allclose(seen[1][:, 4:], (0.001 * code)[:, :, None, None].expand(-1, -1, 32, 32), atol=1e-6)


def test_the_loss_by_hand():
    torch.manual_seed(0)
    network, batch = BargainNet(levels=4, width=4, encoder_levels=3, dropout=0).eval(), given()
    composite, real, mask = batch["composite"] * 2 - 1, batch["real"] * 2 - 1, batch["mask"]
    with torch.no_grad():
        loss, parts = network.loss("network", batch)
        background = network.encoder(real, 1 - mask)
        drawn = network.generator(composite, mask, background)
        foreground, harmonized, before = (network.encoder(image, mask) for image in (real, drawn, composite))

    def triplet(anchor, near, far):
        distance = [(anchor - other).norm(dim=1) for other in (near, far)]
        return (distance[0] - distance[1] + 0.1).clamp(min=0).mean()

    expected = {
        "reconstruction": (drawn - real).abs().mean(),
        "to_foreground": triplet(foreground, harmonized, before),
        "to_background": triplet(harmonized, background, before),
    }
    for name, value in expected.items():
        assert torch.isclose(parts[name], value, atol=1e-4), name
    total = expected["reconstruction"] + 0.01 * (expected["to_foreground"] + expected["to_background"])
    assert torch.isclose(loss, total, atol=1e-5)


def test_too_small_for_the_encoder():
    batch = given(32)
    with pytest.raises(ValueError, match="height 32 is below 63, the least for a domain encoder of 5 levels"):
        BargainNet(levels=4, width=4)(batch)
