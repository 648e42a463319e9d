"""Each step of the training loop on a toy problem: learning rates, gradient clipping, the moving average."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_training import ToyFeed, toy_fitter

from pipeline.training.optimizers import rate_factor


def test_a_plateau_halves_the_rate_after_more_than_five_epochs_without_a_better_one(tmp_path: Path) -> None:
    fitter = toy_fitter(optimizer="adam", learning_rate=0.5, schedule="plateau", epochs=40)
    history = fitter.run(ToyFeed(), tmp_path / "state", "toy").history
    rates = [row["learning_rate"] for row in history]
    assert rates == _plateau_rates([row["validation_total"] for row in history], 0.5)
    assert rates[-1] <= 0.5 / 4, "it must have fallen twice, or the wait between is not tested"


def _plateau_rates(losses: list[float], rate: float) -> list[float]:
    """The rate of each epoch, by hand: half after six epochs that were not better than the best by a ten-thousandth."""
    rates, best, bad = [], float("inf"), 0
    for loss in losses:
        rates.append(rate)
        bad = 0 if loss < best * (1 - 1e-4) else bad + 1
        best = min(best, loss) if bad == 0 else best
        if bad == 6:
            rate, bad = rate / 2, 0
    return rates


def test_a_plateau_ends_at_a_ten_millionth() -> None:
    fitter = toy_fitter(optimizer="adam", learning_rate=1.5e-7, schedule="plateau")
    (plateau,) = fitter.plateaus
    for _ in range(20):
        plateau.step(1.0)
    assert fitter.raw_optimizers[0].param_groups[0]["lr"] == 1e-7


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_the_history_gives_the_rate_of_each_epochs_last_step(tmp_path: Path, schedule: str) -> None:
    fitter = toy_fitter(optimizer="adam", learning_rate=1e-2, schedule=schedule, epochs=4, warmup=0.4)
    history = fitter.run(ToyFeed(), tmp_path / "state", "toy").history
    expected = [1e-2 * rate_factor(schedule, 3 * epoch - 1, 12, 0.4) for epoch in (1, 2, 3, 4)]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected, rel=1e-12)
    assert len({round(rate, 9) for rate in expected}) > 1


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_before_the_step(tmp_path: Path, clip: float) -> None:
    fitter = toy_fitter(optimizer="adam", gradient_clip=clip, epochs=2)
    norms = []
    (optimizer,) = fitter.raw_optimizers
    optimizer.register_step_pre_hook(lambda *_: norms.append(_gradient_norm(fitter.raw)))
    fitter.run(ToyFeed(), tmp_path / "state", "toy")
    assert len(norms) == 6
    if clip:
        assert norms == pytest.approx([clip] * 6, rel=1e-2)
    else:
        assert min(norms) > 1e-2


def _gradient_norm(module: nn.Module) -> float:
    return float(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm())


def test_the_best_weights_are_the_moving_average_of_all_steps(tmp_path: Path) -> None:
    fitter = toy_fitter(optimizer="adam", ema=0.9, epochs=1)
    steps: list[dict[str, Tensor]] = []
    (optimizer,) = fitter.raw_optimizers
    optimizer.register_step_post_hook(
        lambda *_: steps.append({name: p.detach().clone() for name, p in fitter.raw.named_parameters()})
    )
    fitter.run(ToyFeed(steps=5), tmp_path / "state", "toy")
    assert len(steps) == 5
    for name, last in fitter.raw.named_parameters():
        average = steps[0][name]  # the average begins with the first step's weights
        for weights in steps[1:]:
            average = 0.9 * average + 0.1 * weights[name]
        torch.testing.assert_close(fitter.best[name], average, msg=name)
        assert not torch.allclose(fitter.best[name], last)
