import pytest
import torch

import models
from models.harmonization.dovenet import DoveNet


def given(size: int = 32) -> dict[str, torch.Tensor]:
    mask = torch.zeros(2, 1, size, size)
    mask[..., 4:20, 8:] = 1
    return {"composite": torch.rand(2, 3, size, size), "mask": mask, "real": torch.rand(2, 3, size, size)}


@pytest.mark.parametrize("norm, parameters", [("instance", 54_755_587), ("batch", 54_759_939)])
def test_counts_at_published_size(norm, parameters):
    with torch.device("meta"):
        network = models.create("dovenet", norm=norm, adversarial=False)
    assert sum(p.numel() for p in network.predictor_parameters()) == parameters


def test_the_loss_is_taken_on_the_whole_output():
    torch.manual_seed(0)
    network, batch = DoveNet(levels=4, width=4, discriminator_width=4).eval(), given()
    loss, parts = network.loss("generator", batch)
    with torch.no_grad():
        drawn = network(batch)
        whole, verified = network.discriminator(drawn * 2 - 1, batch["mask"])
    assert torch.isclose(parts["reconstruction"], 2 * (drawn - batch["real"]).abs().mean(), atol=1e-5)
    assert torch.isclose(parts["global"], -whole.mean(), atol=1e-5)
    assert torch.isclose(parts["verification"], -verified.mean(), atol=1e-5)
    assert torch.isclose(loss, 100 * parts["reconstruction"] + parts["global"] + parts["verification"])


def test_weights():
    torch.manual_seed(0)
    settings = {"global_weight": 0.5, "verification_weight": 2.0, "reconstruction_weight": 7.0}
    network = DoveNet(levels=4, width=4, discriminator_width=4, **settings).eval()
    loss, parts = network.loss("generator", given())
    assert torch.isclose(loss, 7 * parts["reconstruction"] + 0.5 * parts["global"] + 2 * parts["verification"])


def test_parameters_in_the_published_order():
    """Shapes of the released generator's parameters with instance norm, in its order (the gate of a block comes first):
    DoveNet/models/networks.py of bcmi/Image-Harmonization-Dataset-iHarmony4."""
    shapes, outer = [(2, 4, 4, 4), (2,)], [2, 4, 8, 16, 16, 16, 16]
    inner = [4, 8, 16, 16, 16, 16, 16]
    for level in range(7):
        shapes += [(2 * outer[level], 2 * outer[level], 1, 1), (2 * outer[level],)] if level < 3 else []
        shapes += [(inner[level], outer[level], 4, 4), (inner[level],)]
    for level in range(6, -1, -1):
        shapes += [(inner[level] * (1 if level == 6 else 2), outer[level], 4, 4), (outer[level],)]
    shapes += [(4, 3, 4, 4), (3,)]
    network = DoveNet(width=2, adversarial=False)
    assert [tuple(value.shape) for value in network.generator.state_dict().values()] == shapes
