"""The training loop on a toy problem: resume, best epoch, early stopping, schedules, a loss that blows up."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.fitting import Fitter
from pipeline.losses import Loss
from pipeline.params import ProtocolParams


class Toy(nn.Module):
    """Features (B, 4, 8, 8) to an image (B, 3, 8, 8), with batch statistics so that buffers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.body(features[0])


@dataclass(frozen=True)
class ToyBatch:
    features: tuple[Tensor, ...]
    targets: Tensor


class ToyFeed:
    waited = 0.0

    def __init__(self, scale: float = 1.0, fail_in_epoch: int | None = None) -> None:
        self.scale, self.fail_in_epoch = scale, fail_in_epoch

    def training_images(self) -> int:
        return 12

    def _batch(self, seed: int, size: int) -> ToyBatch:
        features = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        return ToyBatch((features,), torch.sigmoid(features[:, :3]) * self.scale)

    def training(self, epoch: int) -> Iterator[ToyBatch]:
        for step in range(3):
            if epoch == self.fail_in_epoch and step == 1:
                raise KeyboardInterrupt
            yield self._batch(1000 * epoch + step, 4)

    def validation(self) -> Iterator[ToyBatch]:
        yield self._batch(7, 6)


def _fitter(**changes: object) -> Fitter:
    torch.manual_seed(0)
    protocol = ProtocolParams.model_validate(
        {"optimizer": "muon", "learning_rate": 1e-2, "epochs": 6, "gradient_clip": 1.0} | changes
    )
    return Fitter(Toy(), None, Loss({"mse": 1.0}), protocol, Fabric(accelerator="cpu", devices=1))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "schedule": "plateau"}, {"ema": 0.9, "warmup": 0.3}])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, changes: dict[str, object]) -> None:
    undisturbed = _fitter(**changes)
    expected = undisturbed.run(ToyFeed(), tmp_path / "a", "toy")
    with pytest.raises(KeyboardInterrupt):
        _fitter(**changes).run(ToyFeed(fail_in_epoch=3), tmp_path / "b", "toy")
    resumed = _fitter(**changes)
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
    fitter = _fitter(epochs=30)
    history = fitter.run(ToyFeed(), tmp_path / "state", "toy").history
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert history[-1]["validation_psnr"] > history[0]["validation_psnr"] + 3
    assert set(history[0]) == {
        *("epoch", "train_mse", "train_total", "validation_mse", "validation_total", "validation_psnr"),
        *("learning_rate", "samples_per_second", "waiting_share"),
    }


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    fitter = _fitter(optimizer="adam", learning_rate=0.9, schedule="constant", epochs=12, gradient_clip=0.0)
    reached = fitter.run(ToyFeed(), tmp_path / "state", "toy")
    losses = [row["validation_total"] for row in reached.history]
    assert reached.best_loss == min(losses)
    assert reached.best_epoch == losses.index(min(losses)) + 1


def test_early_stopping(tmp_path: Path) -> None:
    fitter = _fitter(optimizer="adam", learning_rate=0.9, schedule="constant", epochs=200, early_stopping=4)
    reached = fitter.run(ToyFeed(), tmp_path / "state", "toy")
    assert reached.epoch == reached.best_epoch + 4
    assert reached.epoch < 200


def test_a_plateau_lowers_the_rate(tmp_path: Path) -> None:
    fitter = _fitter(optimizer="adam", learning_rate=0.5, schedule="plateau", epochs=40)
    history = fitter.run(ToyFeed(), tmp_path / "state", "toy").history
    assert history[-1]["learning_rate"] < 0.5


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_remedy(tmp_path: Path) -> None:
    good = _fitter(epochs=1, schedule="constant")
    good.run(ToyFeed(), tmp_path / "state", "toy")
    fitter = _fitter(epochs=3, schedule="constant")
    with pytest.raises(TrainingError) as caught:
        fitter.run(ToyFeed(scale=float("nan")), tmp_path / "state", "toy")
    assert str(caught.value) == (
        "the training loss became nan in epoch 2, step 1, at learning rate 0.01; lower protocols.*.learning_rate or "
        f"set gradient_clip (the best weights, of epoch 1, are kept in {tmp_path / 'state'})"
    )
    assert all(torch.isfinite(tensor).all() for tensor in fitter.best.values())
