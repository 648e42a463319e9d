"""A training problem of milliseconds: a module, its batches, and a Fitter for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from shipped import protocol_params
from torch import Tensor, nn

from pipeline.core.sources import Inputs
from pipeline.training.fitter import Fitter
from pipeline.training.losses import Loss


class Toy(nn.Module):
    """Features (B, 4, 8, 8) to an image (B, 3, 8, 8), with batch statistics so that buffers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, inputs: Inputs[Tensor]) -> Tensor:
        return self.body(*inputs.features)


@dataclass(frozen=True)
class ToyBatch:
    inputs: Inputs[Tensor]
    targets: Tensor


class ToyFeed:
    """Batches of 4; those of `nan_from` (epoch, step; from 0) and after have targets that are not numbers."""

    waited = 0.0

    def __init__(
        self,
        fail_in_epoch: int | None = None,
        steps: int = 3,
        nan_from: tuple[int, int] = (1000, 0),
        device: str = "cpu",
    ) -> None:
        self.fail_in_epoch, self.steps, self.nan_from, self.device = fail_in_epoch, steps, nan_from, device
        self.drawn = 0  # training batches so far

    def training_images(self) -> int:
        return 4 * self.steps

    def batch(self, seed: int, size: int) -> ToyBatch:
        features = torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        features = features.to(self.device)
        return ToyBatch(Inputs((features,)), torch.sigmoid(features[:, :3]))

    def training(self, epoch: int) -> Iterator[ToyBatch]:
        for step in range(self.steps):
            if epoch == self.fail_in_epoch and step == 1:
                raise KeyboardInterrupt
            self.drawn += 1
            batch = self.batch(1000 * epoch + step, 4)
            if (epoch, step) >= self.nan_from:
                batch.targets.fill_(float("nan"))
            yield batch

    def validation(self) -> Iterator[ToyBatch]:
        yield self.batch(7, 6)


def solve_last_layer(toy: Toy) -> None:
    """By least squares on a batch that neither split has."""
    batch = ToyFeed().batch(5, 12)
    with torch.no_grad():
        hidden = toy.eval().body[:-1](*batch.inputs.features).movedim(1, -1).flatten(0, 2)  # (B·H·W, 8)
        inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
        solution = torch.linalg.lstsq(inputs, batch.targets.movedim(1, -1).flatten(0, 2)).solution
        toy.body[-1].weight.copy_(solution[:-1].T[:, :, None, None])
        toy.body[-1].bias.copy_(solution[-1])


def toy_fitter(linear: bool = False, device: str = "cpu", **changes: object) -> Fitter:
    """`linear`: the last layer counts as a part that was solved in closed form, and the start is its solution."""
    torch.manual_seed(0)
    toy = Toy()
    if linear:
        solve_last_layer(toy)
    protocol = protocol_params(**{"learning_rate": 1e-2, "warmup": 0.0, "epochs": 6, **changes})
    toy.to(device)  # as `train` does, so that what is kept apart from the module is on the device too
    fabric = Fabric(accelerator=device, devices=1)
    return Fitter(toy, toy.body[-1] if linear else None, Loss({"mse": 1.0}), protocol, fabric)


def validation_loss(weights: dict[str, Tensor]) -> float:
    """Validation loss of these tensors in a module of their own."""
    module = Toy()
    module.load_state_dict(weights)
    (batch,) = ToyFeed().validation()
    with torch.no_grad():
        return float((module.eval()(batch.inputs) - batch.targets).square().mean())
