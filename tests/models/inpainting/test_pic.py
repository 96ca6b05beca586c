import pytest
import torch
from torch.nn import functional as F

import models
from models.inpainting.pic import SelfAttention, ShortLongAttention
from tests.models import released, training, vector


def tiny(**hyperparameters):
    torch.manual_seed(0)
    return models.create("pic", **{"width": 4, "discriminator_width": 4, "prior_blocks": 2, **hyperparameters})


def batch_of(n=2, size=96, side=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(n, 1, size, size)
    for index in range(n):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        hole[index, :, top : top + side, left : left + side] = 1
    return {"image": torch.rand(n, 3, size, size, generator=generator), "hole": hole}


def test_state_dict_of_the_released_network():
    """The digest lists the encoder, then the generator of lyndonzheng/Pluralistic-Inpainting with its default options
    (base 32, latent 128, 5 layers, 6 blocks of the prior), each tensor once, with u and v of spectral normalization."""
    with torch.device("meta"):
        model = models.create("pic")
    assert released.digest(released.shapes(model.generator)) == "b818ff4fa4a9aacd"
    assert list(model.state_dict())[:280] == [f"generator.{name}" for name in model.generator.state_dict()]
    assert sum(value.numel() for value in model.generator.state_dict().values()) == 6_035_172
    # what is learned, without u and v; the specification's 3.60 M are the encoder's
    assert sum(parameter.numel() for parameter in model.predictor_parameters()) == 5_978_240
    assert sum(parameter.numel() for parameter in model.generator.encoder.parameters()) == 3_604_224


# -- the released forward pass, written out with functions


def normalized(layer):
    """One power iteration from the stored vectors, over dimension 0 also in transposed convolutions."""
    matrix = layer.weight.detach().reshape(len(layer.weight), -1)
    v = matrix.T @ layer.weight_u
    v = v / v.norm()
    u = matrix @ v
    u = u / u.norm()
    return layer.weight / (u @ matrix @ v)


def convolution(layer, x, padding):
    return F.conv2d(x, normalized(layer), layer.bias, padding=padding)


def transposed(layer, x):
    return F.conv_transpose2d(x, normalized(layer), layer.bias, stride=2, padding=1, output_padding=1)


def residual(block, x, slope=0.1):
    out = convolution(block.conv2, F.leaky_relu(convolution(block.conv1, F.leaky_relu(x, slope), 1), slope), 1)
    return out, convolution(block.bypass, x, 0)


def encode(encoder, x):
    first = encoder.blocks[0]
    inner = convolution(first.conv2, F.leaky_relu(convolution(first.conv1, x, 1), 0.1), 1)
    features = [F.avg_pool2d(inner, 2) + convolution(first.bypass, F.avg_pool2d(x, 2), 0)]
    for block in encoder.blocks[1:]:
        features.append(sum(F.avg_pool2d(part, 2) for part in residual(block, features[-1])))
    return features


def distribution(block, x):
    mean, deviation = sum(residual(block, x)).chunk(2, dim=1)
    return mean, (1 + deviation.exp()).log()


def prior(encoder, x):
    for block in encoder.prior_blocks:
        x = sum(residual(block, x))
    return distribution(encoder.prior, x)


def up(block, x):
    def norm(layer, x):
        centred = x - x.mean((2, 3), keepdim=True)
        scaled = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        return scaled * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)

    inner = convolution(block.conv1, F.leaky_relu(norm(block.norm1, x), 0.1), 1)
    return transposed(block.conv2, F.leaky_relu(norm(block.norm2, inner), 0.1)) + transposed(block.bypass, x)


def attention(layer, x, earlier, mask):
    flat = F.conv2d(x, layer.query.weight, layer.query.bias).flatten(2)
    weights = (flat.transpose(1, 2) @ flat).softmax(dim=2)
    short = layer.gamma * (x.flatten(2) @ weights.transpose(1, 2)).view_as(x) + x
    flow = (earlier.flatten(2) @ weights.transpose(1, 2)).view_as(x)
    long = layer.alpha * (1 - mask) * flow + mask * earlier
    return sum(residual(layer.merge, torch.cat([short, long], 1), slope=0.01))


def aligned(image, size):
    return F.interpolate(image, size, mode="bilinear", align_corners=True)


def decode(decoder, z, features, visible):
    mask = aligned(visible, features[2].shape[2:])
    x = up(decoder.decoder1, up(decoder.decoder0, features[-1] + sum(residual(decoder.from_latent, z))))
    x = attention(decoder.attention, x, features[2], mask)
    outputs = []
    for number in (1, 2, 3, 4):
        if number > 1:
            x = up(getattr(decoder, f"decoder{number}"), torch.cat([x, outputs[-1]], 1))
        padded = F.pad(F.leaky_relu(x, 0.1), (1, 1, 1, 1), mode="reflect")
        outputs.append(torch.tanh(convolution(getattr(decoder, f"out{number}").conv1, padded, 0)))
    return outputs


def awake(model):
    """gamma and alpha start at 0, which would hide the attention."""
    torch.nn.init.constant_(model.generator.decoder.attention.gamma, 0.7)
    torch.nn.init.constant_(model.generator.decoder.attention.alpha, 0.6)
    return model


def test_equals_the_released_graph_written_out():
    model, batch = awake(tiny(prediction="mean")).eval(), batch_of()
    visible = 1 - batch["hole"]
    with torch.no_grad():
        features = encode(model.generator.encoder, (2 * batch["image"] - 1) * visible)
        mean, _ = prior(model.generator.encoder, features[-1])
        expected = decode(model.generator.decoder, mean, features, visible)
        torch.testing.assert_close(model(batch), (expected[-1] + 1) / 2, rtol=0, atol=2e-5)
        encoded = model.generator.encoder((2 * batch["image"] - 1) * visible)
        drawn = model.generator.decoder(mean, encoded, visible)
    assert [image.shape[-1] for image in drawn] == [12, 24, 48, 96]
    for image, wanted in zip(drawn, expected):
        torch.testing.assert_close(image, wanted, rtol=0, atol=4e-5)


def test_loss_is_the_released_sum():
    model, batch = awake(tiny()).eval(), batch_of()
    encoder, decoder = model.generator.encoder, model.generator.decoder
    real, visible = 2 * batch["image"] - 1, 1 - batch["hole"]
    with torch.no_grad():
        torch.manual_seed(4)
        total, parts = model.loss("generator", batch)
        torch.manual_seed(4)
        shown, hidden = encode(encoder, real * visible), encode(encoder, real * (1 - visible))
        mean, deviation = prior(encoder, shown[-1])
        post_mean, post_deviation = distribution(encoder.posterior, hidden[-1])
        first, second = (torch.randn(mean.shape) for _ in range(2))
        reconstructed = decode(decoder, post_mean + post_deviation * first, shown, visible)
        generated = decode(decoder, mean + deviation * second, shown, visible)
        assumed = 1 / (1 + torch.exp((visible.mean((1, 2, 3)) - 1e-5 - 0.8) * 8)).view(-1, 1, 1, 1)

        def divergence(m, s, other_m, other_s):
            return ((other_s / s).log() + (s**2 + (m - other_m) ** 2) / (2 * other_s**2) - 0.5).mean()

        expected = {
            "posterior_kl": divergence(torch.zeros_like(mean), assumed, post_mean, post_deviation),
            "prior_kl": divergence(post_mean, post_deviation, mean, deviation),
            "reconstructed": 0,
            "generated": 0,
        }
        for reconstruction, generation in zip(reconstructed, generated):
            scaled, mask = (aligned(given, reconstruction.shape[2:]) for given in (real, visible))
            expected["reconstructed"] += (reconstruction - scaled).abs().mean()
            expected["generated"] += (generation * mask - scaled * mask).abs().mean()
        critics = model.discriminator
        expected["adversarial"] = ((critics.generated(generated[-1]) - 1) ** 2).mean()
        expected["matching"] = ((critics.reconstructed(reconstructed[-1]) - critics.reconstructed(real)) ** 2).mean()
        for name, value in expected.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-6)
        assert set(parts) == set(expected)
        weights = dict.fromkeys(("posterior_kl", "prior_kl"), 80) | dict.fromkeys(("reconstructed", "generated"), 20)
        weights |= {"adversarial": 1, "matching": 1}
        torch.testing.assert_close(total, sum(weights[name] * parts[name] for name in weights))
        torch.manual_seed(4)
        loss, judged = model.loss("discriminator", batch)
        wanted = [
            (((critic(real) - 1) ** 2).mean() + (critic(drawn[-1]) ** 2).mean()) / 2
            for critic, drawn in ((critics.generated, generated), (critics.reconstructed, reconstructed))
        ]
        torch.testing.assert_close(loss, sum(wanted), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(judged["reconstructed_judged"], wanted[1], rtol=1e-3, atol=1e-6)


def test_one_path_is_held_to_all_pixels_and_to_a_fixed_distribution():
    model, batch = tiny(paths="one").eval(), batch_of()
    with torch.no_grad():
        torch.manual_seed(4)
        parts = model.loss("generator", batch)[1]
        torch.manual_seed(4)
        drawn = model.draw_paths(batch["image"], batch["hole"])
    real = 2 * batch["image"] - 1
    scaled = [aligned(real, image.shape[2:]) for image in drawn.generated]
    assert set(parts) == {"prior_kl", "generated", "adversarial"}
    torch.testing.assert_close(parts["generated"], sum(F.l1_loss(*pair) for pair in zip(drawn.generated, scaled)))
    assert model.discriminator.reconstructed is None


def test_the_posterior_is_stopped_where_the_prior_is_drawn_to_it():
    model, batch = tiny(), batch_of()
    divergences = model.draw_paths(batch["image"], batch["hole"]).divergences
    divergences["prior_kl"].backward()
    encoder = model.generator.encoder
    assert encoder.posterior.conv1.weight.grad is None
    assert encoder.prior.conv1.weight.grad.abs().sum() > 0


# -- attention


def test_attention_never_holds_the_weights_of_all_pairs():
    """At 64x64 positions those are 64 MiB in float32. The layer's largest tensor may have a tenth of that."""
    torch.manual_seed(0)
    layer, features, largest = SelfAttention(16).eval(), torch.randn(1, 16, 64, 64), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            several = out if isinstance(out, tuple) else (out,)
            largest.extend(tensor.numel() for tensor in several if isinstance(tensor, torch.Tensor))
            return out

    with torch.no_grad(), Watch():
        layer(features)
    assert 16 * 4096 <= max(largest) < 4096**2 // 10


def test_short_and_long_attention_by_hand():
    """With gamma 1 and equal queries everywhere, short-term attention adds the mean; the long branch has the encoder's
    features where the picture is visible and alpha times their mean in the hole."""
    torch.manual_seed(0)
    layer = ShortLongAttention(4).eval()
    with torch.no_grad():
        layer.query.weight.zero_()
        layer.gamma.fill_(1.0)
        layer.alpha.fill_(0.5)
        seen = []
        layer.merge.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        features, encoded, visible = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5), torch.ones(2, 1, 3, 5)
        visible[:, :, 1] = 0
        layer(features, encoded, visible)
    short, long = seen[0].chunk(2, dim=1)
    torch.testing.assert_close(short, features + features.mean((2, 3), keepdim=True))
    torch.testing.assert_close(long[:, :, [0, 2]], encoded[:, :, [0, 2]])
    torch.testing.assert_close(long[:, :, 1], 0.5 * encoded.mean((2, 3))[:, :, None].expand(-1, -1, 5))


# -- samples


def test_a_prediction_depends_on_its_item_alone():
    model, batch = awake(tiny()).eval(), batch_of(3)
    with torch.no_grad():
        out = model(batch)
        assert out.shape == batch["image"].shape and out.min() >= 0 and out.max() <= 1
        torch.manual_seed(99)
        assert torch.equal(model(batch), out)  # neither the generator nor an earlier forward pass
        hidden = torch.where(batch["hole"] > 0, torch.nan, batch["image"])
        assert torch.equal(model({**batch, "image": hidden}), out)
        turned = model({key: value.flip(0) for key, value in batch.items()})
        alone = torch.cat([model({key: value[i : i + 1] for key, value in batch.items()}) for i in range(3)])
    # a wrong latent would differ by some 1e-1; the products of another batch size are rounded otherwise
    torch.testing.assert_close(turned.flip(0), out, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, out, rtol=0, atol=1e-5)


def test_samples_differ_and_the_first_is_the_prediction():
    model, batch = tiny().eval(), batch_of()
    with torch.no_grad():
        samples = model.samples(batch, 3)
        assert samples.shape == (3, *batch["image"].shape)
        assert torch.equal(samples[0], model(batch)) and torch.equal(model.samples(batch, 2), samples[:2])
        mean = tiny(prediction="mean").eval().samples(batch, 2)
        other = tiny(seed=1).eval()(batch)
    assert (samples[0] - samples[1]).abs().mean() > 1e-3 and (samples[1] - samples[2]).abs().mean() > 1e-3
    assert torch.equal(mean[1], samples[1]) and (mean[0] - samples[0]).abs().mean() > 1e-3
    assert (other - samples[0]).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="PIC: 0 samples asked for"):
        model.samples(batch, 0)


def test_a_latent_changes_with_a_visible_pixel_and_with_the_hole():
    from models.inpainting.pic import _digests

    batch = batch_of(1)
    visible, at = 1 - batch["hole"], (0, 1, 3, 5)
    visible[0, 0, 3, 5] = 1
    (digest,) = _digests(batch["image"], visible)
    step, tiny_step = batch["image"].clone(), batch["image"].clone()
    step[at] = (255 * step[at]).round() / 255 + (1 / 255 if step[at] < 0.5 else -1 / 255)
    tiny_step[at] = (255 * tiny_step[at]).round() / 255 + 1e-6
    assert _digests(step, visible) != [digest] and _digests(tiny_step, visible) == [digest]
    smaller = visible.clone()
    smaller[0, 0, 3, 5] = 0
    assert _digests(batch["image"], smaller) != [digest]


# -- training


def test_one_path_trains_all_but_the_posterior():
    """The posterior, which only the other path reads, stays as it is."""
    model = vector.build("pic", {"width": 4, "discriminator_width": 4, "prior_blocks": 2, "paths": "one"})
    without = training.assert_gradients(model, vector.batch("inpainting", 96), ["generator.encoder.posterior.*"])
    assert without == {name for name, _ in model.named_parameters() if name.startswith("generator.encoder.posterior.")}


def test_both_turns_of_a_step_share_one_drawing():
    model, batch, drawings = tiny().train(), batch_of(1), []
    model.generator.decoder.register_forward_hook(lambda *_: drawings.append(1))
    model.loss("discriminator", batch)[0].backward()
    model.loss("generator", batch)[0].backward()
    assert len(drawings) == 1
    assert all(parameter.grad is not None for parameter in model.generator.parameters())


def test_refusals():
    with pytest.raises(ValueError, match="pic: width = 0, expected at least 1"):
        tiny(width=0)
    model = tiny()
    with pytest.raises(ValueError, match="width 70 is not divisible by 32; pad to 96"):
        model({"image": torch.zeros(1, 3, 64, 70), "hole": torch.zeros(1, 1, 64, 70)})
    with pytest.raises(ValueError, match="give one side 64 or more"):
        model({"image": torch.zeros(1, 3, 32, 32), "hole": torch.zeros(1, 1, 32, 32)})
    with pytest.raises(ValueError, match="sides of 96 pixels or more, got \\(64, 64\\); adversarial: false"):
        model.loss("generator", batch_of(1, 64, 24))
