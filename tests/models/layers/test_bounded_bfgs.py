import numpy as np
import torch
from scipy.optimize import minimize

from models.layers.bounded_bfgs import minimize_within_bounds


def test_ends_where_scipys_bounded_search_ends():
    """Rosenbrock's valley in four unknowns, with and without a bound in the way, five starts side by side."""
    starts = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 0.9, (5, 4)))

    def valley(point):
        return (100 * (point[..., 1:] - point[..., :-1] ** 2) ** 2 + (1 - point[..., :-1]) ** 2).sum(-1)

    for upper in (2.0, 0.8):
        lower, high = torch.full((4,), -1.0), torch.full((4,), upper)
        points, values = minimize_within_bounds(valley, starts, lower, high, iterations=200, tolerance=1e-9)
        for start, point, value in zip(starts, points, values):
            expected = minimize(
                lambda x: float(valley(torch.from_numpy(x))), start.numpy(), method="L-BFGS-B", bounds=[(-1, upper)] * 4
            )
            assert value <= expected.fun + 1e-5
            np.testing.assert_allclose(point, expected.x, atol=5e-3)
        assert points.max() <= np.float32(upper) and torch.allclose(values, valley(points))


def test_problems_do_not_mix_and_starts_come_into_the_bounds():
    centre = torch.tensor([[0.3, 5.0], [-4.0, 0.2]])
    scale = torch.tensor([[1.0, 30.0], [2.0, 0.1]])

    def bowl(rows):
        return lambda point: (scale[rows] * (point - centre[rows]) ** 2).sum(1)

    bounds = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    starts = torch.tensor([[7.0, -7.0], [0.0, 0.0]])
    together, _ = minimize_within_bounds(bowl([0, 1]), starts, *bounds, iterations=50, tolerance=1e-6)
    torch.testing.assert_close(together, torch.tensor([[0.3, 1.0], [-1.0, 0.2]]), atol=1e-3, rtol=0)
    for row in range(2):
        alone, _ = minimize_within_bounds(bowl([row]), starts[row : row + 1], *bounds, iterations=50, tolerance=1e-6)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=0)
