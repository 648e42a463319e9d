"""Batched L-BFGS and accelerated gradients against exact solutions, and one problem's independence of the others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.refinement.descent import Evaluated, Objective, lbfgs, nesterov


def _objective(function: Callable[[torch.Tensor], torch.Tensor]) -> Objective:
    def evaluate(point: torch.Tensor) -> Evaluated:
        point = point.detach().requires_grad_()
        value = function(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return Evaluated(point.detach(), value.detach().double(), gradient, value.detach().sqrt())

    return evaluate


def _quadratics(problems: int = 3, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric positive definite matrices of very different scales, and right-hand sides."""
    random = torch.Generator().manual_seed(0)
    factors = torch.randn(problems, size, size, generator=random, dtype=torch.float64)
    scales = torch.tensor([1e-2, 1.0, 1e3], dtype=torch.float64)[:, None, None]
    matrices = scales * (factors @ factors.mT + torch.eye(size))
    return matrices, torch.randn(problems, size, generator=random, dtype=torch.float64)


def test_quadratics_of_any_scale_are_solved() -> None:
    matrices, sides = _quadratics()

    def function(x: torch.Tensor) -> torch.Tensor:
        return ((matrices @ x[..., None])[..., 0] * x).sum(1) / 2 - (sides * x).sum(1) + 1e6

    *_, last = lbfgs(_objective(function), torch.zeros_like(sides), 80, history=10)
    expected = np.linalg.solve(matrices.numpy(), sides.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(last.point.numpy(), expected, rtol=1e-3, atol=1e-4)


def _rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[:, 0]).square() + 100 * (x[:, 1] - x[:, 0].square()).square()


def test_a_curved_valley_is_followed_to_its_end() -> None:
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0]], dtype=torch.float64)
    *_, last = lbfgs(_objective(_rosenbrock), start, 120, history=10)
    np.testing.assert_allclose(last.point.numpy(), 1.0, atol=1e-4)


def test_no_value_rises_and_every_evaluation_is_reported() -> None:
    calls = 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return _rosenbrock(x)

    start = torch.tensor([[-1.2, 1.0], [0.3, 0.9]], dtype=torch.float64)
    path = list(lbfgs(_objective(counted), start, 25, history=5))
    assert len(path) == calls == 25
    values = torch.stack([each.value for each in path])
    assert (values[1:] <= values[:-1]).all()
    for each in path:  # everything carried along belongs to the point beside it
        torch.testing.assert_close(each.value, _rosenbrock(each.point))
        torch.testing.assert_close(each.error, each.value.sqrt())


def test_a_problem_does_not_depend_on_its_neighbours() -> None:
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    *_, together = lbfgs(_objective(_rosenbrock), start, 40, history=6)
    for one in range(3):
        *_, alone = lbfgs(_objective(_rosenbrock), start[one : one + 1], 40, history=6)
        torch.testing.assert_close(together.point[one], alone.point[0])


def test_a_step_out_of_the_domain_is_shortened() -> None:
    def barrier(x: torch.Tensor) -> torch.Tensor:
        return (x - 10 * x.log()).sum(1)  # not a number for x < 0; lowest at 10

    *_, last = lbfgs(_objective(barrier), torch.tensor([[0.5], [30.0]], dtype=torch.float64), 60, history=5)
    np.testing.assert_allclose(last.point.numpy(), 10.0, rtol=1e-4)


@pytest.mark.parametrize("history", [1, 4])
def test_a_problem_that_is_already_solved_stays(history: int) -> None:
    start = torch.ones(1, 2, dtype=torch.float64)
    *_, last = lbfgs(_objective(_rosenbrock), start, 6, history)
    torch.testing.assert_close(last.point, start)


def test_accelerated_gradients_solve_a_well_conditioned_problem() -> None:
    side = torch.tensor([[1.0, -2.0], [30.0, 4.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return (scale * x.square() / 2 - side * x).sum(1) + 1e3

    path = list(nesterov(_objective(function), torch.zeros_like(side), 120, step=0.2, momentum=0.6))
    assert len(path) == 120
    torch.testing.assert_close(path[-1].point, side / scale, rtol=1e-6, atol=1e-6)
    values = torch.stack([each.value for each in path])
    assert (values[1:] <= values[:-1]).all()


def test_a_step_that_is_far_too_long_is_shortened_for_that_problem_alone() -> None:
    scale = torch.tensor([[1.0, 3.0], [200.0, 500.0]], dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return (scale * (x - 1).square() / 2).sum(1)

    together = list(nesterov(_objective(function), torch.zeros_like(scale), 60, step=0.3, momentum=0.6))
    torch.testing.assert_close(together[-1].point, torch.ones_like(scale), rtol=1e-3, atol=1e-3)
    values = torch.stack([each.value for each in together])
    assert (values[1:] <= values[:-1]).all()
    scale = scale[:1]
    alone = list(nesterov(_objective(function), torch.zeros_like(scale), 60, step=0.3, momentum=0.6))
    torch.testing.assert_close(alone[-1].point[0], together[-1].point[0])


def test_a_budget_of_nothing_evaluates_nothing() -> None:
    start = torch.ones(1, 2)
    assert list(lbfgs(_objective(_rosenbrock), start, 0, 5)) == []
    assert list(nesterov(_objective(_rosenbrock), start, 0, 0.1, 0.5)) == []
