"""Gradient descent on any module that maps batches of inputs to images: epochs, best checkpoint, resume."""

from __future__ import annotations

import math
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.core.errors import TrainingError
from pipeline.core.files import whole_file
from pipeline.core.params import ProtocolParams
from pipeline.core.progress import Advance, progress
from pipeline.core.runtime import computing_in
from pipeline.loading.loader import Example
from pipeline.metrics.scores import capped_psnr
from pipeline.training.losses import Loss
from pipeline.training.optimizers import build_optimizers, rate_factor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKED_TOGETHER = 32  # steps between two checks of the loss; on a GPU, each check waits for all queued kernels


class Feed(Protocol):
    """A source of batches. `waited` is the time in seconds spent waiting for them so far."""

    @property
    def waited(self) -> float: ...
    def training(self, epoch: int) -> Iterable[Example]: ...
    def validation(self) -> Iterable[Example]: ...
    def training_images(self) -> int: ...


Report = Callable[[list[dict[str, float]]], None]  # takes a history: a row for each epoch


@dataclass
class Progress:
    """The state of a run besides weights and optimiser states."""

    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def stopped(self, patience: int) -> bool:
        return bool(patience) and self.epoch - self.best_epoch >= patience


class Fitter:
    """Fits `module` under one protocol.

    After `run`, even if it raised, `best` holds the weights of the epoch `progress.best_epoch` with the best validation
    loss. Epoch 0 means the start: no epoch was better than a warm start, or none has ended.
    """

    def __init__(
        self, module: nn.Module, readout: nn.Module | None, loss: Loss, protocol: ProtocolParams, fabric: Fabric
    ) -> None:
        self.protocol, self.loss, self.fabric = protocol, loss, fabric
        optimizers = build_optimizers(protocol.optimizer, protocol.learning_rate, module, readout)
        self.plateaus = [ReduceLROnPlateau(o, factor=0.5, patience=5, min_lr=1e-7) for o in optimizers]
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.raw, self.raw_optimizers = module, optimizers
        self.module, *self.optimizers = fabric.setup(module, *optimizers)
        average = get_ema_multi_avg_fn(protocol.ema)
        self.ema = AveragedModel(module, multi_avg_fn=average) if protocol.ema else None
        self.best: dict[str, Tensor] = _snapshot(module)
        self.progress = Progress()
        self._warm = readout is not None  # then no epoch may end worse than the start

    def run(self, feed: Feed, state: Path, label: str, report: Report = lambda history: None) -> Progress:
        """Train to the last epoch or to early stopping.

        Args:
            state: the file to resume from, if it exists; saved after each epoch.
            label: the name on the progress bar.
            report: gets the history after each epoch, and once before when resuming.

        Raises:
            TrainingError: a loss is not finite.
        """
        if state.is_file():
            self._restore(state)
            report(self.progress.history)
        elif self._warm:
            self.progress.best_loss = self._validate(feed)["total"]
            if not math.isfinite(self.progress.best_loss):  # before any step, so the learning rate is not the cause
                raise TrainingError(
                    f"the validation loss of the linear start is {self.progress.best_loss}: features or photographs "
                    "hold numbers that are not finite, or too large; extract again (python -m stages extract) with "
                    "extract.precision: fp32, or set train.warm_start: none"
                )
        epochs, images = self.protocol.epochs, feed.training_images()
        with progress(label, epochs * images, "images", done=self.progress.epoch * images) as advance:
            while self.progress.epoch < epochs and not self.progress.stopped(self.protocol.early_stopping):
                self._epoch(feed, advance)
                self._save(state)
                report(self.progress.history)
        return self.progress

    def _epoch(self, feed: Feed, advance: Advance) -> None:
        start, waited = time.perf_counter(), feed.waited
        train = self.train_epoch(feed, advance)
        seconds = time.perf_counter() - start
        waiting = (feed.waited - waited) / seconds
        rate = self.raw_optimizers[0].param_groups[0]["lr"]
        validation = self._validate(feed)
        if not math.isfinite(validation["total"]):
            raise self._not_finite("validation", validation["total"], "after its last step")
        epoch = self.progress.epoch = self.progress.epoch + 1
        row = {
            "epoch": epoch,
            **_prefixed("train", train),
            **_prefixed("validation", validation),
            "learning_rate": rate,
        }
        row |= {"samples_per_second": feed.training_images() / seconds, "waiting_share": waiting}
        self.progress.history.append(row)
        if self.protocol.schedule == "plateau":
            for plateau in self.plateaus:
                plateau.step(validation["total"])
        if validation["total"] < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = validation["total"], epoch
            self.best = _snapshot(self._judged())

    def train_epoch(self, feed: Feed, advance: Advance) -> dict[str, float]:
        """Take one optimiser step for each batch of the next epoch; return the mean of each loss term over the batches.

        Raises:
            TrainingError: a loss is not finite.
        """
        self.module.train()
        steps = math.ceil(feed.training_images() / self.protocol.batch_size)
        losses: list[dict[str, Tensor]] = []
        for index, batch in enumerate(feed.training(self.progress.epoch)):
            self._set_rate(self.progress.epoch * steps + index, self.protocol.epochs * steps)
            losses.append(self._step(batch))
            advance(len(batch.targets))
            if len(losses) % CHECKED_TOGETHER == 0:
                self._require_finite(losses, steps)
        self._require_finite(losses, steps)
        return {name: float(torch.stack([terms[name] for terms in losses]).mean()) for name in losses[0]}

    def _require_finite(self, losses: Sequence[Mapping[str, Tensor]], steps: int) -> None:
        """Check the last few of this epoch's `losses`, with one synchronisation. An epoch has `steps` steps."""
        first = (len(losses) - 1) // CHECKED_TOGETHER * CHECKED_TOGETHER
        totals = torch.stack([terms["total"] for terms in losses[first:]]).tolist()
        for step, value in enumerate(totals, first):
            if not math.isfinite(value):
                self._set_rate(self.progress.epoch * steps + step, self.protocol.epochs * steps)  # as it was then
                raise self._not_finite("training", value, f"step {step + 1}")

    def _step(self, batch: Example) -> dict[str, Tensor]:
        terms = self.loss(self.module(batch.inputs), batch.targets)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms["total"])
        if self.protocol.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.raw.parameters(), self.protocol.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.raw)
        return {name: value.detach() for name, value in terms.items()}

    def _set_rate(self, step: int, steps: int) -> None:
        if self.protocol.schedule == "plateau":
            return
        factor = rate_factor(self.protocol.schedule, step, steps, self.protocol.warmup)
        for optimizer, peaks in zip(self.raw_optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def _not_finite(self, which: str, value: float, when: str) -> TrainingError:
        rate = self.raw_optimizers[0].param_groups[0]["lr"]
        clip = "protocols.*.gradient_clip" if self.protocol.gradient_clip else "set protocols.*.gradient_clip"
        return TrainingError(
            f"the {which} loss became {value} in epoch {self.progress.epoch + 1}, {when}, at learning rate {rate:.3g}; "
            f"lower protocols.*.learning_rate or {clip}"
        )

    def _judged(self) -> nn.Module:
        return self.raw if self.ema is None else self.ema.module

    def _validate(self, feed: Feed) -> dict[str, float]:
        with self.fabric.autocast():
            return validate(self._judged(), self.loss, feed.validation())

    def _save(self, path: Path) -> None:
        state = {
            "module": self.raw.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "best": self.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.raw_optimizers],
            "plateaus": [plateau.state_dict() for plateau in self.plateaus],
            "progress": asdict(self.progress),
        }
        save_state(state, path)

    def _restore(self, path: Path) -> None:
        state = load_state(path, self.fabric.device)
        self.raw.load_state_dict(state["module"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.raw_optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for plateau, saved in zip(self.plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(saved)
        self.best, self.progress = state["best"], Progress(**state["progress"])


@torch.no_grad()
def validate(module: nn.Module, loss: Loss, batches: Iterable[Example]) -> dict[str, float]:
    """The loss, term by term, and the PSNR (dB) of `module` in evaluation mode: means over images."""
    module.eval()
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        image = module(batch.inputs)
        with computing_in("fp32", image.device):
            image = image.float()
            terms = {**loss(image, batch.targets), "psnr": capped_psnr(image, batch.targets).mean()}
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(image)
        count += len(image)
    return {name: value / count for name, value in sums.items()}


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """torch.save through a temporary name, flushed to the disk, so that `path` is complete or missing.

    Raises:
        OSError: the disk is full or cannot be written; torch, given a path, would raise another error.
    """
    with whole_file(path) as part, part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch fails to close its archive after the disk's error, and hides that error
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut might leave the name without the content


def load_state(path: Path, device: torch.device) -> Mapping[str, Any]:
    """Read a state that `save_state` wrote, with its tensors on `device`.

    Raises:
        TrainingError: the file is damaged, by the archive's checksums, which torch does not check.
    """
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except zipfile.BadZipFile as error:
        broken = str(error)
    if broken is not None:
        raise TrainingError(f"{path} is damaged ({broken}); delete it and run again")
    state: Mapping[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}
