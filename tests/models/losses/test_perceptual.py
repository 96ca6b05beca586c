"""A VGG of the right layout with seeded random weights stands in for ImageNet's: no number here is a perceptual score."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from models.losses import perceptual
from models.losses.perceptual import (
    POOLS_1_TO_3,
    VGGFeatures,
    gram,
    raw_and_composite_terms,
)


@pytest.fixture(scope="module")
def random_vgg16(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vgg")
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"][:10])
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save(state, folder / "random.pth")
    save_file(state, folder / "random.safetensors")
    return folder, features


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_taps_are_torchvisions_first_three_pools(random_vgg16, suffix):
    folder, features = random_vgg16
    image = torch.rand(2, 3, 32, 24)
    taps = VGGFeatures("vgg16", str(folder / f"random.{suffix}"), POOLS_1_TO_3, normalize=False)(image)
    assert [tuple(tap.shape) for tap in taps] == [(2, 64, 16, 12), (2, 128, 8, 6), (2, 256, 4, 3)]
    for tap, index in zip(taps, POOLS_1_TO_3):
        torch.testing.assert_close(tap, features[: index + 1](image))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    standard = torchvision.transforms.functional.normalize(image, mean, deviation)
    normalized = VGGFeatures("vgg16", str(folder / f"random.{suffix}"), POOLS_1_TO_3, normalize=True)(image)
    torch.testing.assert_close(normalized[2], features[:17](standard), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture, letter", [("vgg16", "D"), ("vgg19", "E")])
def test_layout_is_torchvisions(architecture, letter):
    with torch.device("meta"):
        ours = perceptual._layers(architecture)
        theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[letter])
    assert str(list(ours)).replace(" ", "") == str(list(theirs)).replace(" ", "")


def test_terms_against_the_equations(random_vgg16):
    folder, features = random_vgg16
    torch.manual_seed(1)
    raw, composite, real = torch.rand(3, 2, 3, 16, 16)
    vgg = VGGFeatures("vgg16", str(folder / "random.pth"), POOLS_1_TO_3, normalize=False)
    perceptual_term, style_term = raw_and_composite_terms(vgg, raw, composite, real)
    expected_perceptual = expected_style = 0.0
    for index in POOLS_1_TO_3:
        wanted = features[: index + 1](real)
        n, c, h, w = wanted.shape
        for image in (raw, composite):
            given = features[: index + 1](image)
            expected_perceptual += (given - wanted).abs().sum() / (n * c * h * w)
            for ours, other in zip(given, wanted):
                ours, other = ours.reshape(c, h * w), other.reshape(c, h * w)
                expected_style += ((ours @ ours.T - other @ other.T) / (c * h * w)).abs().sum() / (c * c) / n
    torch.testing.assert_close(perceptual_term, expected_perceptual, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(style_term, expected_style, rtol=1e-4, atol=1e-7)


def test_gram_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # C = 2, H W = 2
    torch.testing.assert_close(gram(features), torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / 4)


def test_gradient_reaches_the_image_and_no_weight(random_vgg16):
    vgg = VGGFeatures("vgg16", str(random_vgg16[0] / "random.pth"), POOLS_1_TO_3, normalize=False)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    sum(raw_and_composite_terms(vgg, image, image, torch.rand(1, 3, 16, 16))).backward()
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in vgg._network.parameters())


def test_weights_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    image = torch.zeros(1, 3, 16, 16)
    missing = tmp_path / "vgg.pth"
    with pytest.raises(ValueError, match="no such file; put torchvision's vgg16 weights there"):
        VGGFeatures("vgg16", str(missing), POOLS_1_TO_3, normalize=False)(image)
    missing.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="vgg.pth' cannot be read"):
        VGGFeatures("vgg16", str(missing), POOLS_1_TO_3, normalize=False)(image)
    torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, missing)
    with pytest.raises(
        ValueError, match=r"is no vgg16: features.0.weight has shape \(64, 3, 5, 5\), expected \(64, 3, 3, 3\)"
    ):
        VGGFeatures("vgg16", str(missing), POOLS_1_TO_3, normalize=False)(image)

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.VGG19_Weights, "get_state_dict", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = str(tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth")
    with pytest.raises(ValueError, match=f"cannot be fetched .no network.; put it at {expected}"):
        VGGFeatures("vgg19", "torchvision", (1,), normalize=False)(image)


def test_torchvisions_own_fetch_is_asked_for_a_safe_checked_load(monkeypatch):
    asked = {}

    def fetch(self, **options):
        asked.update(options)
        return {f"features.{key}": value for key, value in perceptual._layers("vgg16").state_dict().items()}

    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", fetch)
    assert len(VGGFeatures("vgg16", "torchvision", POOLS_1_TO_3, normalize=False)(torch.zeros(1, 3, 16, 16))) == 3
    assert asked["weights_only"] is True and asked["check_hash"] is True
