import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models import vgg16

import models
from models.harmonization.realism_cnn import RealismCNN

TINY = {"size": 32, "width": 2}


def given(height: int = 40, width: int = 36, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = 0.2 + 0.5 * F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (height, width), mode="bilinear")
    mask = torch.zeros(count, 1, height, width)
    mask[..., 8:28, 6:30] = 1
    return {"composite": torch.lerp(real, real * 0.7, mask), "mask": mask, "real": real}


def test_the_critic_is_vgg16_with_two_classes():
    with torch.device("meta"):
        ours, theirs = models.create("realism_cnn").critic, vgg16(num_classes=2)
    # 138,357,544 less the 4,097 thousand of torchvision's last layer, plus 2 x 4,097
    assert sum(p.numel() for p in ours.parameters()) == 138_357_544 - 4_097_000 + 8_194
    assert [(name, value.shape) for name, value in ours.state_dict().items()] == [
        (name, value.shape) for name, value in theirs.state_dict().items()
    ]


def test_first_weights_from_a_file(tmp_path):
    donor = RealismCNN(**TINY)
    state = {key: value.clone() for key, value in donor.critic.state_dict().items()}
    state["classifier.6.weight"], state["classifier.6.bias"] = torch.zeros(1000, 128), torch.zeros(1000)
    save_file(state, tmp_path / "vgg.safetensors")
    network = RealismCNN(**TINY, backbone_weights=str(tmp_path / "vgg.safetensors"))
    for name, value in network.critic.state_dict().items():
        assert torch.equal(value, donor.critic.state_dict()[name]) == ("classifier.6.weight" not in name)
    with pytest.raises(ValueError, match="backbone_weights: no file missing.pth"):
        RealismCNN(**TINY, backbone_weights="missing.pth")


@pytest.mark.slow
def test_the_critic_learns_to_tell_and_every_parameter_moves():
    torch.manual_seed(0)
    network, batch = RealismCNN(size=32, width=8), given(count=3)
    batch["composite"] = batch["real"] * torch.lerp(
        torch.ones(3, 1, 1, 1), torch.full((3, 1, 1, 1), 0.3), batch["mask"]
    )
    optimizer = torch.optim.Adam(network.parameters_of("critic"), lr=1e-3)
    losses = []
    for _ in range(40):
        loss, parts = network.loss("critic", batch)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.693, abs=0.05) and losses[-1] < 0.3
    assert network.eval().loss("critic", batch)[1]["accuracy"] == 1


def test_energy_by_hand():
    """A critic without an opinion leaves log 2 and the penalty, here of a grey-blue pixel that changes by (0.1, 0.2, 0)."""
    network = RealismCNN(**TINY, penalty=50.0).eval()
    torch.nn.init.zeros_(network.critic.classifier[6].weight)
    mask = torch.zeros(1, 32, 32)
    mask[0, 3, 4] = 1
    composite = torch.tensor([0.4, 0.4, 0.5]).view(3, 1, 1).expand(3, 32, 32)
    point = torch.tensor([[1.25, 1.0, 1.0, 0.0, 0.2, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    ratio = (0.16 + 0.16 + 0.25) / (0.01 + 0.01)
    assert ratio > 20
    penalty = 50 / (2 * 3) * ((0.01 + 0.04) + 20 * (0.01 + 0.04 + 0.01))
    with torch.no_grad():
        energy = network.energy(point, composite, mask)
    assert energy.tolist() == pytest.approx([0.693147 + penalty, 0.693147], rel=1e-4)


def test_without_an_opinion_of_the_critic_nothing_changes():
    network, batch = RealismCNN(**TINY).eval(), given()
    torch.nn.init.zeros_(network.critic.classifier[6].weight)
    parameters = network.predict_parameters({key: F.interpolate(batch[key], (32, 32)) for key in ("composite", "mask")})
    torch.testing.assert_close(
        parameters.flatten(1), torch.tensor([[1.0, 1, 1, 0, 0, 0]]).expand(2, -1), atol=0.02, rtol=0
    )


class Bright(torch.nn.Module):
    """Takes a picture for real the more, the brighter its red is, up to 0.45 in the mean."""

    def forward(self, image):
        red = image[:, 0].mean((1, 2))
        return torch.stack([torch.zeros_like(red), -400 * (red - 0.45) ** 2], dim=1)


def test_follows_the_critic_as_far_as_the_penalty_lets_it():
    batch, network = given(), RealismCNN(**TINY, penalty=0.5, iterations=40).eval()
    network.critic = Bright()
    with torch.no_grad():
        result = network(batch)
        means = [image[:, 0].mean((1, 2)) for image in (batch["composite"], result)]
    assert ((means[1] - 0.45).abs() < 0.5 * (means[0] - 0.45).abs()).all()
    outside = (batch["mask"] == 0).expand_as(result)
    assert torch.equal(result[outside], batch["composite"][outside])
    strong = RealismCNN(**TINY, penalty=5000.0, iterations=40).eval()
    strong.critic = Bright()
    with torch.no_grad():
        assert (strong(batch) - batch["composite"]).abs().max() < (result - batch["composite"]).abs().max()


@pytest.mark.slow
def test_two_sizes_and_modes():
    torch.manual_seed(0)
    network, batch = RealismCNN(**TINY), given(32, 32)
    full = {key: F.interpolate(batch[key], (75, 50), mode="nearest") for key in ("composite", "mask")}
    with torch.no_grad():
        parameters = network.predict_parameters(batch)
        assert network.critic.training and parameters.shape == (2, 6, 1, 1)
        assert all(p.requires_grad for p in network.parameters())
        expected = network.apply_parameters(parameters, full)
    torch.testing.assert_close(network.harmonize_at(batch, full, rows=16), expected, atol=1e-5, rtol=0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(batch), network.apply_parameters(parameters, batch), atol=1e-5, rtol=0)
    empty = batch | {"mask": torch.zeros_like(batch["mask"])}
    with torch.no_grad():
        torch.testing.assert_close(network(empty), batch["composite"])
    with pytest.raises(ValueError, match="size = 16, expected 32 pixels or more"):
        RealismCNN(size=16)
