"""The training loop on a toy problem: resume, the best epoch, early stopping, a loss that blows up."""

from pathlib import Path

import pytest
import torch
from messages import says
from toy_training import ToyFeed, toy_fitter, validation_loss

from pipeline.core.errors import TrainingError
from pipeline.training.fitter import CHECKED_TOGETHER
from pipeline.training.optimizers import rate_factor


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "schedule": "plateau"}, {"ema": 0.9, "warmup": 0.3}])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, changes: dict[str, object]) -> None:
    undisturbed = toy_fitter(**changes)
    expected = undisturbed.run(ToyFeed(), tmp_path / "a", "toy")
    with pytest.raises(KeyboardInterrupt):
        toy_fitter(**changes).run(ToyFeed(fail_in_epoch=3), tmp_path / "b", "toy")
    resumed = toy_fitter(**changes)
    reached = resumed.run(ToyFeed(), tmp_path / "b", "toy")
    for name, tensor in undisturbed.raw.state_dict().items():
        assert torch.equal(tensor, resumed.raw.state_dict()[name]), name
    for name, tensor in undisturbed.best.items():
        assert torch.equal(tensor, resumed.best[name]), name
    timings = {"samples_per_second", "waiting_share"}
    for mine, theirs in zip(reached.history, expected.history, strict=True):
        assert {k: v for k, v in mine.items() if k not in timings} == {
            k: v for k, v in theirs.items() if k not in timings
        }


def test_it_learns_and_records_each_epoch(tmp_path: Path) -> None:
    fitter = toy_fitter(epochs=30)
    history = fitter.run(ToyFeed(), tmp_path / "state", "toy").history
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert history[-1]["validation_psnr"] > history[0]["validation_psnr"] + 3
    assert set(history[0]) == {
        *("epoch", "train_mse", "train_total", "validation_mse", "validation_total", "validation_psnr"),
        *("learning_rate", "samples_per_second", "waiting_share"),
    }


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    fitter = toy_fitter(optimizer="adam", learning_rate=0.9, schedule="constant", epochs=12, gradient_clip=0.0)
    reached = fitter.run(ToyFeed(), tmp_path / "state", "toy")
    losses = [row["validation_total"] for row in reached.history]
    assert losses.index(min(losses)) < len(losses) - 1, "the last epoch must not be the best, or nothing is tested"
    assert reached.best_loss == min(losses)
    assert reached.best_epoch == losses.index(min(losses)) + 1
    assert validation_loss(fitter.best) == pytest.approx(min(losses), rel=1e-6)


def test_early_stopping(tmp_path: Path) -> None:
    fitter = toy_fitter(optimizer="adam", learning_rate=0.9, schedule="constant", epochs=200, early_stopping=4)
    reached = fitter.run(ToyFeed(), tmp_path / "state", "toy")
    assert reached.epoch == reached.best_epoch + 4
    assert reached.epoch < 200


def test_no_epoch_is_kept_that_is_worse_than_a_warm_start(tmp_path: Path) -> None:
    changes = {"optimizer": "adam", "learning_rate": 0.9, "schedule": "constant", "epochs": 3}
    warm, cold = toy_fitter(linear=True, **changes), toy_fitter(**changes)
    start = {name: tensor.clone() for name, tensor in warm.raw.state_dict().items()}
    reached = warm.run(ToyFeed(), tmp_path / "warm", "toy")
    assert min(row["validation_total"] for row in reached.history) > reached.best_loss
    assert (reached.best_epoch, reached.epoch) == (0, 3)
    assert all(torch.equal(warm.best[name], tensor) for name, tensor in start.items())
    assert reached.best_loss == pytest.approx(validation_loss(warm.best), rel=1e-6)
    assert cold.run(ToyFeed(), tmp_path / "cold", "toy").best_epoch > 0


def test_training_goes_on_from_a_warm_start_to_what_is_better(tmp_path: Path) -> None:
    fitter = toy_fitter(linear=True, epochs=10)
    start = validation_loss(fitter.best)
    reached = fitter.run(ToyFeed(), tmp_path / "state", "toy")
    assert reached.best_epoch > 0
    assert reached.best_loss < start


@pytest.mark.parametrize(("epoch", "best"), [(0, 0), (1, 1)])
def test_a_loss_that_is_not_finite_stops_with_step_rate_and_remedy(tmp_path: Path, epoch: int, best: int) -> None:
    fitter = toy_fitter(epochs=3, schedule="cosine", warmup=0.5)
    with pytest.raises(TrainingError) as caught:
        fitter.run(ToyFeed(nan_from=(epoch, 1)), tmp_path / "state", "toy")
    rate = 1e-2 * rate_factor("cosine", 3 * epoch + 1, 9, 0.5)
    says(
        caught.value,
        "training loss became nan",
        f"epoch {epoch + 1}, step 2",
        f"learning rate {rate:.3g}",
        "protocols.*.learning_rate",
        "protocols.*.gradient_clip",
    )
    assert fitter.progress.best_epoch == best
    assert all(torch.isfinite(tensor).all() for tensor in fitter.best.values())
    if best:
        assert validation_loss(fitter.best) == pytest.approx(fitter.progress.history[0]["validation_total"], rel=1e-6)


def test_a_loss_that_is_not_finite_wastes_no_epoch(tmp_path: Path) -> None:
    feed = ToyFeed(steps=500, nan_from=(0, CHECKED_TOGETHER + 3))
    with pytest.raises(TrainingError, match=rf"in epoch 1, step {CHECKED_TOGETHER + 4}, .* or set protocols"):
        toy_fitter(gradient_clip=0.0).run(feed, tmp_path / "state", "toy")
    assert feed.drawn == 2 * CHECKED_TOGETHER


def test_weights_that_the_last_step_spoils_are_not_kept(tmp_path: Path) -> None:
    fitter = toy_fitter(optimizer="adam", epochs=1)
    (optimizer,) = fitter.raw_optimizers
    optimizer.register_step_post_hook(lambda *_: fitter.raw.body[0].weight.data.fill_(float("nan")))
    with pytest.raises(TrainingError, match="the validation loss became nan in epoch 1, after its last step, at"):
        fitter.run(ToyFeed(steps=1), tmp_path / "state", "toy")
    assert all(torch.isfinite(tensor).all() for tensor in fitter.best.values())
