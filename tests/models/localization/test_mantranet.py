import numpy as np
import pytest
import torch
from scipy import ndimage

import models
from models.localization.mantranet import ConvLSTM, ZScores, hard_sigmoid, window_mean
from tests.models import released


def test_shapes_in_the_order_of_the_released_file():
    """Pretrained model 4 of ISICV/ManTraNet, translated to kernels of (out, in, height, width).

    Checked once, outside the repository: a transcription of the authors' graph in TensorFlow gives, from the same
    tensors taken by position, the same probabilities within 4e-6 when computed in float64 there (within 1e-5 in
    float32).
    """
    with torch.device("meta"):
        model = models.create("mantranet")
    shapes = released.shapes(model, ("num_batches_tracked",))
    assert len(shapes) == 35 and released.digest(shapes) == "cb3edcd42bc27040"


@pytest.mark.parametrize("window", [3, 7, 31])
def test_window_mean_counts_only_pixels_in_the_picture(window):
    features = np.random.default_rng(0).normal(size=(1, 2, 12, 9))
    means = window_mean(torch.from_numpy(features), window).numpy()
    for c in range(2):
        footprint = np.ones((window, window))
        total = ndimage.convolve(features[0, c], footprint, mode="constant")
        count = ndimage.convolve(np.ones((12, 9)), footprint, mode="constant")
        np.testing.assert_allclose(means[0, c], total / count, atol=1e-12)


def test_z_scores_against_numpy():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 10, 11) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 2
    scores = ZScores(3, (3,)).eval()(features).detach().numpy()
    assert scores.shape == (2, 2, 3, 10, 11)
    for n in range(2):
        for c in range(3):
            channel = features[n, c].numpy()
            local = channel[3:6, 4:7].mean()
            assert scores[n, 0, c, 4, 5] == pytest.approx(abs(local - channel[4, 5]) / channel.std(), rel=1e-4)
            np.testing.assert_allclose(scores[n, 1, c], abs(channel.mean() - channel) / channel.std(), atol=1e-4)


def test_a_small_deviation_is_replaced_by_the_floor():
    layer = ZScores(1, ()).eval()
    features = torch.tensor([[0.0, 2.0]]).view(1, 1, 1, 2).requires_grad_()  # deviation 1
    with torch.no_grad():
        layer.floor.fill_(4.0)
    scores = layer(features)
    torch.testing.assert_close(scores.flatten(), torch.full((2,), 1 / (4 + 1e-6)))
    scores.sum().backward()
    assert layer.floor.grad.item() == pytest.approx(-2 / 16, rel=1e-4)


def test_a_flat_picture_scores_nothing_and_has_a_gradient():
    model = models.create("mantranet", width=2, channels=4, hidden=2)
    batch = {"composite": torch.full((2, 3, 16, 16), 0.5), "mask": torch.zeros(2, 1, 16, 16)}
    loss, _ = model.loss("network", batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert not ZScores(2, (3, 5)).eval()(torch.ones(1, 2, 6, 6)).any()


def test_hard_sigmoid_of_keras():
    x = torch.tensor([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 3.0])
    torch.testing.assert_close(hard_sigmoid(x), torch.tensor([0, 0, 0.3, 0.5, 0.7, 1.0, 1.0]))


def test_lstm_against_its_equations():
    """One pixel, so a 3x3 convolution is its middle tap; gates i, f, c, o by hand over two moments."""
    lstm = ConvLSTM(1, 1, kernel_size=3)
    given, recurrent, bias = [0.5, -1.0, 2.0, 1.5], [0.3, 0.4, -0.7, 0.2], [0.1, 1.0, 0.0, -0.2]
    with torch.no_grad():
        lstm.kernel.zero_()[:, 0, 1, 1] = torch.tensor(given)
        lstm.recurrent_kernel.zero_()[:, 0, 1, 1] = torch.tensor(recurrent)
        lstm.bias.copy_(torch.tensor(bias))
    h = c = 0.0
    for x in (0.7, -0.4):
        i, f, g, o = (w * x + u * h + b for w, u, b in zip(given, recurrent, bias))
        i, f, o = (min(max(0.2 * gate + 0.5, 0), 1) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    state = lstm(torch.tensor([0.7, -0.4]).view(1, 2, 1, 1, 1))
    assert state.item() == pytest.approx(h, abs=1e-6)


def test_lstm_starts_with_open_memory():
    assert ConvLSTM(3, 2).bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_frozen_features_stay():
    model = models.create("mantranet", width=2, channels=4, hidden=2, freeze_features=True)
    loss, _ = model.loss("network", {"composite": torch.rand(1, 3, 16, 16), "mask": torch.ones(1, 1, 16, 16)})
    loss.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith("features."), key


def test_even_windows_are_refused():
    with pytest.raises(ValueError, match=r"windows = \(7, 16\): expected odd"):
        models.create("mantranet", windows=(7, 16))
