"""Minimizing many small problems at once, each within bounds, by a quasi-Newton method."""

from collections.abc import Callable

import torch
from torch import Tensor

SUFFICIENT = 1e-4
"""share of the decrease that the gradient promises which a step must bring (Armijo)"""
HALVINGS = 8


def minimize_within_bounds(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    iterations: int,
    tolerance: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """The best points found (B, D), and their values (B,), of B problems with D unknowns each that are solved side by
    side.

    function: points (B, D) -> values (B,), differentiable, in which a problem's value depends on its own point alone.
    start: (B, D). lower, upper: (D,). A problem is done when a step moves no unknown by more than `tolerance`, or when
    no step along its direction brings enough; all end after `iterations` steps.

    BFGS with projection (Bertsekas 1982): an unknown at a bound that its gradient presses against rests for that step,
    and steps are cut at the bounds and halved until they bring enough. It is L-BFGS that forgets nothing: with a
    handful of unknowns the inverse Hessian is kept whole.
    """
    lower, upper = lower.to(start), upper.to(start)
    point = start.clamp(lower, upper)
    value, gradient = _value_and_gradient(function, point)
    unit = torch.eye(start.shape[1]).to(start)
    inverse = unit.expand(len(start), -1, -1).clone()
    active = torch.ones(len(start), dtype=torch.bool, device=start.device)
    fresh = active.clone()  # whose inverse Hessian has not yet seen a step
    for _ in range(iterations):
        resting = ((point <= lower) & (gradient > 0)) | ((point >= upper) & (gradient < 0))
        free = (~resting).to(point.dtype)
        slope = gradient * free
        direction = -(inverse @ slope.unsqueeze(2)).squeeze(2) * free
        uphill = (direction * slope).sum(1) >= 0
        direction[uphill] = -slope[uphill]
        # the first step knows no scale: it moves by a tenth at most
        longest = direction.abs().amax(1, keepdim=True).clamp(min=1e-12)
        direction = torch.where((fresh | uphill)[:, None], direction * (0.1 / longest).clamp(max=1), direction)
        length, undecided, following = torch.ones_like(value), active.clone(), point.clone()
        for _ in range(HALVINGS):
            tried = (point + length[:, None] * direction).clamp(lower, upper)
            trial = torch.where(undecided[:, None], tried, following)
            with torch.no_grad():
                enough = function(trial) <= value + SUFFICIENT * (gradient * (trial - point)).sum(1)
            following = torch.where((undecided & enough)[:, None], trial, following)
            undecided = undecided & ~enough
            if not undecided.any():
                break
            length = torch.where(undecided, length / 2, length)
        step = following - point
        after, slope_after = _value_and_gradient(function, following)
        change = slope_after - gradient
        curved = (step * change).sum(1)
        learn = active & (curved > 1e-10)
        scale = curved / change.square().sum(1).clamp(min=1e-20)
        inverse = torch.where((learn & fresh)[:, None, None], scale[:, None, None] * unit, inverse)
        ratio = 1 / torch.where(learn, curved, torch.ones_like(curved))
        left = unit - ratio[:, None, None] * step[:, :, None] * change[:, None, :]
        updated = left @ inverse @ left.transpose(1, 2) + ratio[:, None, None] * step[:, :, None] * step[:, None, :]
        inverse = torch.where(learn[:, None, None], updated, inverse)
        fresh = fresh & ~learn
        point, value, gradient = following, after, slope_after
        active = active & (step.abs().amax(1) > tolerance)
        if not active.any():
            break
    return point, value


def _value_and_gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = point.detach().requires_grad_(True)
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient
