"""Minimisation of a batch of independent problems, which share evaluations but not their steps.

One optimiser over the whole batch (torch.optim.LBFGS) would use one step length for all, so the result of one
image would depend on its neighbours, and a difficult image would slow down the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ARMIJO = 1e-4  # fraction of the predicted decrease that a step must reach
SHORTEN = (0.1, 0.5)  # smallest and largest factor by which a rejected step is shortened
PROBE = 1e-3  # largest change of any coordinate in the first step, which only measures the curvature


@dataclass(frozen=True)
class Evaluated:
    """An objective at one point of each problem of a batch.

    point, gradient: (B, …). value: (B,) float64. error: (B,), for the caller.
    """

    point: Tensor
    value: Tensor
    gradient: Tensor
    error: Tensor

    def replaced(self, by: Evaluated, where: Tensor) -> Evaluated:
        """`by` for the problems where `where` (B,) is true, `self` for the others."""
        pairs = zip(self._fields(), by._fields(), strict=True)
        return Evaluated(*(torch.where(_broadcast(where, old), new, old) for old, new in pairs))

    def _fields(self) -> tuple[Tensor, ...]:
        return self.point, self.value, self.gradient, self.error


Objective = Callable[[Tensor], Evaluated]


def nesterov(
    objective: Objective, start: Tensor, evaluations: int, step: float, momentum: float
) -> Iterator[Evaluated]:
    """Accelerated gradient descent from `start` (B, …); yields the best points so far after every evaluation.

    It suits problems with similar curvature in every direction and many kinks, which would stop a line search
    (Nesterov 1983, with the constant momentum of strongly convex functions). If a problem diverges, so that its value
    rises above that of its start, it continues from its best point, without momentum and with shorter steps.
    """
    if not evaluations:
        return
    first = best = now = objective(start)
    yield best
    steps = torch.full(now.value.shape, step).to(start)  # (B,)
    before = start
    for _ in range(evaluations - 1):
        after = now.point - _broadcast(steps, start) * now.gradient
        ahead = after + momentum * (after - before)
        trial = objective(ahead)
        best = best.replaced(trial, trial.value < best.value)  # false for NaN
        yield best
        stays = trial.value <= first.value
        now, before = best.replaced(trial, stays), torch.where(_broadcast(stays, start), after, best.point)
        steps = torch.where(stays, steps, SHORTEN[0] * steps)


def lbfgs(objective: Objective, start: Tensor, evaluations: int, history: int) -> Iterator[Evaluated]:
    """Limited-memory BFGS from `start` (B, …); each problem has its own memory and line search.

    Yields the best points so far after every evaluation. A non-finite trial value counts as too large: the step is
    shortened (Nocedal & Wright 2006, algorithms 3.1 and 7.4).
    """
    if not evaluations:
        return
    now = objective(start)
    yield now
    memory = _Memory(history)
    direction = -now.gradient
    step = PROBE / direction.flatten(1).abs().amax(1).clamp_min(torch.finfo(direction.dtype).tiny)
    for _ in range(evaluations - 1):
        trial = objective(now.point + _broadcast(step, direction) * direction)
        slope = _dot(now.gradient, direction).double()
        accepted = trial.value <= now.value + ARMIJO * step * slope
        memory.add(now, trial, accepted)
        step = torch.where(accepted, torch.ones_like(step), _shortened(step, slope, trial.value - now.value))
        now = now.replaced(trial, accepted)
        direction = torch.where(_broadcast(accepted, direction), -memory.times(now.gradient), direction)
        yield now


class _Memory:
    """The last steps with their changes of gradient: an estimate of each problem's inverse Hessian."""

    def __init__(self, history: int) -> None:
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)  # step, change, 1 / (step · change)
        self._scale: Tensor | None = None

    def add(self, old: Evaluated, new: Evaluated, accepted: Tensor) -> None:
        """Add the accepted steps. A pair that was rejected, or has no positive curvature, has no effect."""
        step, change = new.point - old.point, new.gradient - old.gradient
        curvature, energy = _dot(step, change), _dot(change, change)
        useful = accepted & (curvature > torch.finfo(step.dtype).eps * energy)
        reciprocal = torch.where(useful, curvature, torch.inf).reciprocal()
        keep = _broadcast(useful, step)
        self._pairs.append((torch.where(keep, step, 0), torch.where(keep, change, 0), reciprocal))
        scale = torch.ones_like(curvature) if self._scale is None else self._scale
        self._scale = torch.where(useful, curvature / energy, scale)

    def times(self, gradient: Tensor) -> Tensor:
        """Estimated inverse Hessian · gradient, by the two-loop recursion."""
        assert self._scale is not None, "`add` comes first"
        result, weights = gradient.clone(), []
        for step, change, reciprocal in reversed(self._pairs):
            weights.append(weight := reciprocal * _dot(step, result))
            result.addcmul_(_broadcast(-weight, change), change)
        result *= _broadcast(self._scale, result)
        for (step, change, reciprocal), weight in zip(self._pairs, reversed(weights), strict=True):
            result.addcmul_(_broadcast(weight - reciprocal * _dot(change, result), step), step)
        return result


def _shortened(step: Tensor, slope: Tensor, rise: Tensor) -> Tensor:
    """The minimum of the parabola through value, slope and trial value, within `SHORTEN` of the step."""
    ratio = -slope * step / (2 * (rise - slope * step))
    lowest, highest = SHORTEN
    return step * ratio.nan_to_num(lowest).clamp(lowest, highest).to(step)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts with `like` (B, …)."""
    return values.view(-1, *[1] * (like.ndim - 1))
