import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.layers.domain_verification import DomainVerificationDiscriminator
from models.losses.adversarial import (
    cross_entropy_for_discriminator,
    cross_entropy_for_generator,
    discriminator_game,
    frozen,
    generator_game,
    gradient_penalty,
    hinge_for_discriminator,
    hinge_for_generator,
    relativistic_least_squares,
)


class Critic(nn.Module):
    """Global score w . image, verification score 2 w . image."""

    def __init__(self, size: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, size, size))

    def forward(self, image, mask):
        score = (image * self.weight).sum((1, 2, 3))
        return score, 2 * score


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    # relu(1 - real) = 0, 0.5, 2; relu(1 + fake) = 0, 1
    assert hinge_for_discriminator(real, fake) == pytest.approx(2.5 / 3 + 0.5)
    assert hinge_for_generator(fake) == pytest.approx(1.5)


def test_cross_entropy_is_that_of_probabilities_and_does_not_overflow():
    real, fake = torch.tensor([2.0, -0.5]), torch.tensor([[0.3], [-1.0]])
    losses = cross_entropy_for_discriminator(real, fake)
    torch.testing.assert_close(losses[0], F.binary_cross_entropy(real.sigmoid(), torch.ones(2)))
    torch.testing.assert_close(losses[1], F.binary_cross_entropy(fake.sigmoid(), torch.zeros(2, 1)))
    torch.testing.assert_close(
        cross_entropy_for_generator(fake), F.binary_cross_entropy(fake.sigmoid(), torch.ones(2, 1))
    )
    assert cross_entropy_for_generator(torch.tensor([-500.0])) == 500


def test_relativistic_least_squares_by_hand():
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([0.0, -1.0])
    # means 2 and -0.5: real - mean fake - 1 = 2.5, 0.5; fake - mean real + 1 = -1, -2
    assert relativistic_least_squares(real, fake) == pytest.approx(((6.25 + 0.25) / 2 + (1 + 4) / 2) / 2)
    # a generator swaps the two: fake - mean real - 1 = -3, -4; real - mean fake + 1 = 4.5, 2.5
    assert relativistic_least_squares(fake, real) == pytest.approx(((9 + 16) / 2 + (20.25 + 6.25) / 2) / 2)


def test_penalty_of_a_linear_score_is_that_of_its_weights():
    weight = torch.randn(3, 4, 4, requires_grad=True)
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    penalty = gradient_penalty(lambda image: (image * weight).sum((1, 2, 3)), real, fake)
    norm = weight.detach().norm()
    assert torch.isclose(penalty, (norm - 1) ** 2)
    penalty.backward()
    assert torch.allclose(weight.grad, 2 * (norm - 1) * weight.detach() / norm, atol=1e-5)


def test_the_penalty_is_taken_between_real_and_fake():
    seen = []

    def score(image):
        seen.append(image.detach())
        return image.square().sum((1, 2, 3))

    real, fake = torch.zeros(3, 3, 4, 4), torch.ones(3, 3, 4, 4)
    gradient_penalty(score, real, fake)
    shares = seen[0].flatten(1)
    assert torch.allclose(shares, shares[:, :1].expand_as(shares), atol=1e-6)
    assert (shares > 0).all() and (shares < 1).all() and len(shares[:, 0].unique()) == 3


def test_penalty_at_a_gradient_of_zero_is_differentiable():
    weight = torch.zeros(3, 4, 4, requires_grad=True)
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    gradient_penalty(lambda image: (image * weight).sum((1, 2, 3)), real, fake).backward()
    assert weight.grad.isfinite().all()


def test_discriminator_game_adds_up():
    critic, mask = Critic(), torch.ones(2, 1, 4, 4)
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4, requires_grad=True)
    loss, parts = discriminator_game(critic, real, fake, mask, 10.0)
    scores = [(image * critic.weight).sum((1, 2, 3)) for image in (real, fake)]
    assert torch.isclose(parts["global"], hinge_for_discriminator(*scores))
    assert torch.isclose(parts["verification"], hinge_for_discriminator(2 * scores[0], 2 * scores[1]))
    # the mean of the two scores is 1.5 w . image
    assert torch.isclose(parts["gradient_penalty"], (1.5 * critic.weight.norm() - 1) ** 2)
    assert torch.isclose(loss, parts["global"] + parts["verification"] + 10 * parts["gradient_penalty"])
    loss.backward()
    assert fake.grad is None and critic.weight.grad is not None
    assert not any(part.requires_grad for part in parts.values())
    assert set(discriminator_game(critic, real, fake, mask, 0.0)[1]) == {"global", "verification"}


def test_discriminator_game_reaches_every_spectrally_normalized_weight():
    torch.manual_seed(0)
    critic, mask = DomainVerificationDiscriminator(4, 4), torch.zeros(2, 1, 32, 32)
    mask[..., 4:20, 8:24] = 1
    loss, _ = discriminator_game(critic, torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), mask, 10.0)
    loss.backward()
    originals = [p for name, p in critic.named_parameters() if name.endswith("original")]
    assert len(originals) == 10 and all(p.grad is not None and p.grad.abs().max() > 0 for p in originals)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_discriminator_game_reads_fakes_and_reals_in_one_batch_where_that_changes_nothing(norm):
    torch.manual_seed(0)
    critic = DomainVerificationDiscriminator(4, 4, norm).eval()
    for module in critic.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()  # statistics of the batch: fakes and reals have to keep their own
    sizes = []
    critic.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    real, fake, mask = torch.randn(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[..., 4:20, 8:24] = 1
    _, parts = discriminator_game(critic, real, fake, mask, 0.0)
    assert sizes == ([4] if norm == "instance" else [2, 2])
    for part, of_real, of_fake in zip(("global", "verification"), critic(real, mask), critic(fake, mask)):
        torch.testing.assert_close(parts[part], hinge_for_discriminator(of_real, of_fake).detach())


def test_generator_game_leaves_the_discriminator_alone():
    critic, fake = Critic(), torch.randn(2, 3, 4, 4, requires_grad=True)
    whole, verified = generator_game(critic, fake, torch.ones(2, 1, 4, 4))
    (whole + verified).backward()
    assert critic.weight.grad is None and critic.weight.requires_grad
    assert torch.allclose(fake.grad, (-1.5 * critic.weight.detach()).expand_as(fake))


def test_frozen_gives_back_what_it_took():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="within"), frozen(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        raise RuntimeError("within")
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False, True, True]
