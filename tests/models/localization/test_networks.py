"""What every trained localization network must do, at its smallest."""

import pytest
import torch
from torch import nn

import models
from models.losses.region import soft_iou

TINY = {
    "unet": {"width": 2},
    "dirl": {"width": 2, "channels": 4},
    "rsrnet": {"width": 2},
    "deeplabv3": {"width": 4, "channels": 16},
    "hrnet_ocr": {"variant": "w18_small", "channels": 16, "keys": 8},
    "segformer": {"variant": "b0"},
    "mfcn": {"width": 8, "fc_channels": 16},
    "mantranet": {"width": 2, "channels": 4, "hidden": 2},
    "span": {"width": 2, "channels": 8, "attention_size": 0},
    "f3net": {"width": 4, "channels": 4},
    "gatenet": {"width": 4},
    "minet": {"width": 4},
    "unet_lite0": {"width": 2},
}
DOUBLED = {"mfcn": {"edge_weight": 2.0}}  # losses beside L_seg
# specs/localization.md: 5.1, 8, 9.3, 5.2, 5.3, 5.4; exact where the spec is
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
    ("mfcn", {}, 134_270_854),  # the convolutions of VGG-16 14,714,688, its linear layers 119,545,856, two branches of 5,155
    ("mantranet", {}, 3_804_950),
    ("span", {}, 4_054_254),
    ("f3net", {}, 25_536_710),
    ("gatenet", {}, 128_629_796),
    ("gatenet", {"backbone": "vgg16"}, 100_016_105),
    ("minet", {}, 47_562_737),
    ("minet", {"backbone": "resnet50"}, 162_378_305),
]
networks = pytest.mark.parametrize("name", TINY)
OWN_LOSS = ("f3net", "gatenet", "minet")  # without the weights of L_seg's terms


def pasted_squares(n=2, side=32):
    """Noise, and in each image a square of half the side whose colours are off."""
    generator = torch.Generator().manual_seed(0)
    composite = 0.5 * torch.rand(n, 3, side, side, generator=generator)
    mask = torch.zeros(n, 1, side, side)
    for one in mask:
        top, left = (int(v) * side // 4 for v in torch.randint(0, 3, (2,), generator=generator))
        one[:, top : top + side // 2, left : left + side // 2] = 1
    composite = composite + 0.3 * mask * torch.tensor([1.0, 0.5, -0.5]).view(1, 3, 1, 1)
    return {"composite": composite.clamp(0, 1), "mask": mask}


def create(name, **hyperparameters):
    torch.manual_seed(0)
    return models.create(name, **{**TINY[name], **hyperparameters})


@pytest.mark.parametrize("name, hyperparameters, published", PUBLISHED)
def test_parameter_count_is_the_published_one(name, hyperparameters, published):
    with torch.device("meta"):
        model = models.create(name, **hyperparameters)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published or round(count / 1e6, 2) == published / 1e6


@networks
def test_prediction_is_a_probability_of_the_input_size_and_repeatable(name):
    model, batch = create(name).eval(), {"composite": torch.rand(2, 3, 32, 64)}
    with torch.no_grad():
        prediction, again = model(batch), model(batch)
    assert prediction.shape == (2, 1, 32, 64) and prediction.dtype == torch.float32
    assert prediction.min() >= 0 and prediction.max() <= 1 and prediction.std() > 0
    assert torch.equal(prediction, again)


@networks
def test_in_evaluation_an_image_alone_gets_the_map_it_gets_in_a_batch(name):
    model, composite = create(name).eval(), torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together = model({"composite": composite})
        alone = torch.cat([model({"composite": image[None]}) for image in composite])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@networks
def test_gradient_reaches_every_trainable_parameter(name):
    model = create(name).train()
    assert model.players == ("network",) and model.phases == ("train",)
    model.enter("train")
    loss, parts = model.loss("network", pasted_squares(side=64))
    loss.backward()
    assert torch.isfinite(loss) and parts and not any(part.requires_grad for part in parts.values())
    trainable = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    assert {id(p) for _, p in trainable} <= {id(p) for p in model.parameters_of("network")}
    for key, parameter in trainable:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    # ReLUs of a network two channels wide can all be shut: a weight may then rightly have gradient 0
    reached = sum(bool(p.grad.any()) for _, p in trainable)
    assert reached >= 0.9 * len(trainable)


@networks
def test_another_player_is_refused(name):
    with pytest.raises(ValueError, match="no player 'discriminator'"):
        create(name).loss("discriminator", pasted_squares())


@networks
def test_only_what_is_given_at_test_time_is_read(name):
    model, batch = create(name).eval(), pasted_squares()
    with torch.no_grad():
        assert torch.equal(model({"composite": batch["composite"]}), model(batch))


@pytest.mark.parametrize("name", [name for name in TINY if name not in OWN_LOSS])
def test_loss_weights_reach_the_loss(name):
    batch, model = pasted_squares(side=64), create(name).eval()
    double = create(name, bce_weight=2.0, ssim_weight=2.0, iou_weight=2.0, **DOUBLED.get(name, {})).eval()
    with torch.no_grad():
        torch.testing.assert_close(double.loss("network", batch)[0], 2 * model.loss("network", batch)[0])
    with pytest.raises(ValueError, match="bce_weight"):
        create(name, bce_weight=-1.0)


@networks
def test_half_precision_training_keeps_prediction_and_loss_in_float32(name):
    model, batch = create(name).train(), pasted_squares(side=64)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss("network", batch)
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        assert model.eval()(batch).dtype == torch.float32
    loss.backward()


@pytest.mark.parametrize(
    "name, height, width, message",
    [
        ("unet", 100, 64, "height 100 is not divisible by 16; pad to 112"),
        ("dirl", 64, 40, "width 40 is not divisible by 16; pad to 48"),
        ("rsrnet", 33, 64, "height 33 is not divisible by 16; pad to 48"),
        ("hrnet_ocr", 48, 64, "height 48 is not divisible by 32; pad to 64"),
        ("segformer", 64, 31, "at least 32 pixels, got 64x31"),
        ("mfcn", 64, 40, "width 40 is not divisible by 32; pad to 64"),
        ("mantranet", 1, 64, "input of 1x64 pixels is too small"),
        ("span", 64, 1, "input of 64x1 pixels is too small"),
        ("gatenet", 48, 64, "height 48 is not divisible by 32; pad to 64"),
        ("minet", 64, 40, "width 40 is not divisible by 16; pad to 48"),
        ("minet", 64, 16, "at least 32 pixels with this backbone, got 64x16"),
        ("unet_lite0", 48, 64, "height 48 is not divisible by 32; pad to 64"),
    ],
)
def test_sizes_it_can_not_take_are_refused_in_words(name, height, width, message):
    with pytest.raises(ValueError, match=message):
        create(name).eval()({"composite": torch.rand(1, 3, height, width)})


@pytest.mark.parametrize("name", ["deeplabv3", "segformer", "mantranet", "span", "f3net"])
def test_odd_sizes_that_it_can_take(name):
    with torch.no_grad():
        assert create(name).eval()({"composite": torch.rand(1, 3, 45, 67)}).shape == (1, 1, 45, 67)


@pytest.mark.parametrize(
    "name, side",
    [
        ("unet", 16),
        ("dirl", 16),
        ("rsrnet", 16),
        ("hrnet_ocr", 32),
        ("deeplabv3", 64),
        ("f3net", 32),
        ("gatenet", 64),
        ("minet", 48),
        ("unet_lite0", 32),
    ],
)
def test_a_batch_of_one_without_statistics_is_refused_in_training_alone(name, side):
    model, batch = create(name), {"composite": torch.rand(1, 3, side, side)}
    with torch.no_grad():
        assert model.eval()(batch).shape == (1, 1, side, side)
    with pytest.raises(ValueError, match="batch normalization"):
        model.train()(batch)


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("deeplabv3", "gatenet")])
def test_a_batch_of_one_trains_where_it_can(name):
    loss, _ = create(name).train().loss("network", pasted_squares(1, 64))
    loss.backward()
    assert torch.isfinite(loss)


@networks
def test_weights_that_are_not_there_are_named(name, tmp_path):
    with pytest.raises(ValueError, match="backbone_weights.*absent"):
        create(name, backbone_weights=str(tmp_path / "absent"))


@networks
def test_state_goes_and_comes_back(name):
    model, other, batch = create(name).eval(), models.create(name, **TINY[name]).eval(), pasted_squares()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(batch), model(batch))


@pytest.mark.slow
@networks
def test_overfits_four_images(name):
    wider = {
        "unet": {"width": 4},
        "dirl": {"width": 4, "channels": 8},
        "rsrnet": {"width": 4},
        "span": {"width": 4, "channels": 32, "dilations": (1, 3)},
    }.get(name, {})
    model, batch = create(name, **wider).train(), pasted_squares(4)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the question is whether it can fit
    optimizer = torch.optim.Adam(model.parameters(), lr={"segformer": 1e-3, "span": 2e-3}.get(name, 1e-2))
    for step in range(120):
        loss, _ = model.loss("network", batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            with torch.no_grad():
                found = soft_iou((model(batch) > 0.5).float(), batch["mask"])
            if found.min() > 0.95:
                return
    pytest.fail(f"IoU {found.tolist()} after {step + 1} steps")
