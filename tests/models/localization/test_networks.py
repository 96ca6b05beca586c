"""What several localizers share: published sizes, the weights of their loss, weights from elsewhere."""

import inspect

import pytest
import torch

import models
from tests.models import vector

DOUBLED = {"mfcn": {"edge_weight": 2.0}}  # losses beside L_seg
# exact where the published number is
PUBLISHED = [
    ("unet", {}, 48.75e6),
    ("dirl", {}, 53_471_354),
    ("rsrnet", {}, 50.48e6),
    ("deeplabv3", {}, 39.63e6),
    ("deeplabv3", {"backbone": "resnet101"}, 58.63e6),
    ("hrnet_ocr", {}, 70.35e6),
    ("hrnet_ocr", {"variant": "w32"}, 32.94e6),
    ("hrnet_ocr", {"variant": "w18"}, 12.07e6),
    ("segformer", {"variant": "b0"}, 3.71e6),
    ("segformer", {"variant": "b1"}, 13.68e6),
    ("segformer", {}, 27.35e6),
    ("segformer", {"variant": "b3"}, 47.22e6),
    ("segformer", {"variant": "b5"}, 84.59e6),
    (
        "mfcn",
        {},
        134_270_854,
    ),  # the convolutions of VGG-16 14,714,688, its linear layers 119,545,856, two branches of 5,155
    ("mantranet", {}, 3_804_950),
    ("span", {}, 4_054_254),
    ("f3net", {}, 25_536_710),
    ("gatenet", {}, 128_629_796),
    ("gatenet", {"backbone": "vgg16"}, 100_016_105),
    ("minet", {}, 47_562_737),
    ("minet", {"backbone": "resnet50"}, 162_378_305),
]


def pasted_squares(n=2, side=32):
    """Noise, and in each image a square of half the side whose colours are off."""
    generator = torch.Generator().manual_seed(0)
    composite = 0.5 * torch.rand(n, 3, side, side, generator=generator)
    mask = torch.zeros(n, 1, side, side)
    for square in mask:
        top, left = (int(v) * side // 4 for v in torch.randint(0, 3, (2,), generator=generator))
        square[:, top : top + side // 2, left : left + side // 2] = 1
    composite = composite + 0.3 * mask * torch.tensor([1.0, 0.5, -0.5]).view(1, 3, 1, 1)
    return {"composite": composite.clamp(0, 1), "mask": mask}


def localizers_with(hyperparameter):
    """Each localizer that has this hyperparameter, with a function that builds it in the form of its test vector."""
    for name in models.names("localization"):
        tiny = vector.hyperparameters(name)
        kind = type(models.create(name, **tiny))
        if hyperparameter in inspect.signature(kind).parameters:

            def create(name=name, tiny=tiny, **hyperparameters):
                torch.manual_seed(0)
                return models.create(name, **tiny | hyperparameters)

            yield name, create


@pytest.mark.parametrize("name, hyperparameters, published", PUBLISHED)
def test_parameter_count_is_the_published_one(name, hyperparameters, published):
    with torch.device("meta"):
        model = models.create(name, **hyperparameters)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published or round(count / 1e6, 2) == published / 1e6


@pytest.mark.slow
def test_loss_weights_reach_the_loss():
    batch, doubled = pasted_squares(side=64), {"bce_weight": 2.0, "ssim_weight": 2.0, "iou_weight": 2.0}
    for name, create in localizers_with("bce_weight"):
        single, double = create().eval(), create(**doubled, **DOUBLED.get(name, {})).eval()
        with torch.no_grad():
            expected = 2 * single.loss("network", batch)[0]
            torch.testing.assert_close(double.loss("network", batch)[0], expected, msg=lambda text: f"{name}: {text}")
        with pytest.raises(ValueError, match="bce_weight"):
            create(bce_weight=-1.0)


def test_weights_that_are_not_there_are_named(tmp_path):
    for _, create in localizers_with("backbone_weights"):
        with pytest.raises(ValueError, match="backbone_weights.*absent"):
            create(backbone_weights=str(tmp_path / "absent"))
