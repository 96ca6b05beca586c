import copy

import pytest
import torch
import torchvision
from torch.nn import functional as F

import models


def tiny(**hyperparameters):
    torch.manual_seed(0)
    return models.create("pconv", **{"width": 8, "levels": 4, "perceptual_weights": "none", **hyperparameters})


def batch_of(n=2, size=32, side=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(n, 1, size, size)
    for index in range(n):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        hole[index, :, top : top + side, left : left + side] = 1
    return {"image": torch.rand(n, 3, size, size, generator=generator), "hole": hole}


@pytest.mark.parametrize("levels, count", [(8, 32_859_732), (7, 25_779_796)])
def test_published_sizes(levels, count):
    with torch.device("meta"):
        model = models.create("pconv", levels=levels, perceptual_weights="none")
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 4]
    encoder = [(64, 3, 7, 7), (128, 64, 5, 5), (256, 128, 5, 5), (512, 256, 3, 3)] + [(512, 512, 3, 3)] * (levels - 4)
    decoder = [(512, 1024, 3, 3)] * (levels - 4) + [(256, 768, 3, 3), (128, 384, 3, 3), (64, 192, 3, 3), (3, 67, 3, 3)]
    assert shapes == encoder + decoder
    assert list(model.decoder) == [str(level) for level in [*range(5, levels + 1), 4, 3, 2, 1]]


def reference(model, image, hole):
    """The U-Net written out with a mask of as many channels as the features."""

    def partial(block, features, mask):
        layer = block.partial
        valid = F.conv2d(mask, torch.ones_like(layer.weight), None, layer.stride, layer.padding)
        scale = torch.where(valid > 0, layer.weight[0].numel() / valid.clamp(min=1), torch.zeros(()))
        features = F.conv2d(features * mask, layer.weight, None, layer.stride, layer.padding) * scale
        if layer.bias is not None:
            features = (features + layer.bias.view(1, -1, 1, 1)) * (valid > 0)
        features = features if block.norm is None else block.norm(features)
        return features if block.activation is None else block.activation(features), (valid > 0).float()

    levels = [(image * (1 - hole), (1 - hole).expand_as(image))]
    for block in model.encoder:
        levels.append(partial(block, *levels[-1]))
    features, mask = levels.pop()
    while levels:
        skip, skip_mask = levels.pop()
        joined = [torch.cat([F.interpolate(a, scale_factor=2), b], 1) for a, b in ((features, skip), (mask, skip_mask))]
        features, mask = partial(model.decoder[str(len(levels) + 1)], *joined)
    return features


def test_equals_a_unet_with_a_mask_per_channel():
    model, batch = tiny().eval(), batch_of()
    with torch.no_grad():
        drawn = model.draw(batch["image"], batch["hole"])
        torch.testing.assert_close(drawn, reference(model, batch["image"], batch["hole"]), rtol=1e-4, atol=1e-5)


def test_predictions_leave_imagenets_statistics():
    model, batch = tiny().eval(), batch_of()
    out = model(batch)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    standard = torchvision.transforms.functional.normalize(batch["image"], mean, deviation)
    raw = model.draw(standard, batch["hole"])
    torch.testing.assert_close(out, (raw * deviation.view(3, 1, 1) + mean.view(3, 1, 1)).clamp(0, 1))


def test_loss_is_the_papers_sum(tmp_path):
    torch.manual_seed(5)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"][:10])  # random: no ImageNet here
    path = tmp_path / "random_vgg16.pth"
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    model, batch = tiny(perceptual_weights=str(path)).eval(), batch_of(1)
    total, parts = model.loss("generator", batch)
    with torch.no_grad():
        real, hole = model.normalize(batch["image"]), batch["hole"]
        raw = model.draw(real, hole)
        composite = real * (1 - hole) + raw * hole
        expected = {"hole": ((raw - real).abs() * hole).mean(), "valid": ((raw - real).abs() * (1 - hole)).mean()}
        expected["perceptual"] = sum(
            (features[: index + 1](image) - features[: index + 1](real)).abs().mean()
            for index in (4, 9, 16)
            for image in (raw, composite)
        )
        # horizontal and vertical differences where both pixels lie in the hole or next to it
        near = F.max_pool2d(hole, 3, 1, 1)
        across = (composite[..., 1:] - composite[..., :-1]).abs() * near[..., 1:] * near[..., :-1]
        down = (composite[..., 1:, :] - composite[..., :-1, :]).abs() * near[..., 1:, :] * near[..., :-1, :]
        expected["variation"] = across.mean() + down.mean()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    weights = {"hole": 6, "valid": 1, "perceptual": 0.05, "style": 120, "variation": 0.1}
    torch.testing.assert_close(total.detach(), sum(weights[name] * parts[name] for name in weights))
    assert tiny().loss("generator", batch_of())[1].keys() == {"hole", "valid", "variation"}


def test_finetune_freezes_the_encoders_statistics_only():
    model, batch = tiny(), batch_of()
    model.train()
    model.enter("finetune")
    before = copy.deepcopy(model.state_dict())
    model.loss("generator", batch)[0].backward()
    after = model.state_dict()
    moved = {name for name in after if name.endswith("running_mean") and not torch.equal(after[name], before[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
    assert model.encoder[1].norm.weight.grad.abs().sum() > 0


def test_refusals():
    with pytest.raises(ValueError, match="levels = 1, expected at least 2"):
        tiny(levels=1)
    model = tiny()
    with pytest.raises(ValueError, match="width 40 is not divisible by 16; pad to 48"):
        model({"image": torch.zeros(1, 3, 32, 40), "hole": torch.zeros(1, 1, 32, 40)})
    with pytest.raises(ValueError, match="batch of 2"):
        model({"image": torch.zeros(1, 3, 16, 16), "hole": torch.zeros(1, 1, 16, 16)})
