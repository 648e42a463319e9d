"""`python -m benchmarks.train`: speed of training from the store, beside training that reads nothing.

For each decoder the same optimiser step is timed on batches from the store, on one batch kept in memory (no reading),
and on features that the backbone computes for every batch from photographs, in the step's precision. --compare also
times the step with one change. Ratios are taken within a round, in which all take turns. Exit code 1 if a bar does not
hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import get_args

import torch

from benchmarks.bars import Bar, Line, against, markdown, seconds, side_by_side
from benchmarks.decoders import UNASKED
from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.core.params import LINEAR, Params, TrainParams, load_params
from pipeline.core.runtime import choose_device, seed_everything
from pipeline.core.sources import Inputs
from pipeline.data.preparation.run import prepare
from pipeline.extraction.run import extract
from pipeline.loading.loader import Batch, CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.models.common.decoder import DECODERS
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store
from pipeline.stores.prepared import PreparedData
from pipeline.training.fitter import Feed, Fitter
from pipeline.training.losses import Loss
from pipeline.training.run import build_fitter, build_inverter

PRECISIONS = get_args(TrainParams.model_fields["precision"].annotation)
RESIDENT = get_args(TrainParams.model_fields["resident"].annotation)


class Shortened:
    """The first batches of another feed's epoch."""

    def __init__(self, feed: Feed, batches: int) -> None:
        self.feed, self._batches = feed, batches

    @property
    def waited(self) -> float:
        return self.feed.waited

    def training_images(self) -> int:
        return self.feed.training_images()

    def training(self, epoch: int) -> Iterable[Batch]:
        return islice(self.feed.training(epoch), self._batches)  # type: ignore[arg-type]

    def validation(self) -> Iterable[Batch]:
        return ()


class Ready(Shortened):
    """One batch, again and again: nothing is read."""

    def training(self, epoch: int) -> Iterator[Batch]:
        (batch,) = islice(self.feed.training(0), 1)
        return (batch for _ in range(self._batches))  # type: ignore[misc]


class EncoderInTheLoop(Shortened):
    """The features of each batch computed from its photographs. `feed` reads no features, `autocast` is the step's."""

    def __init__(
        self,
        feed: Feed,
        batches: int,
        backbone: Backbone,
        layer: str,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(feed, batches)
        self.backbone, self.layer, self._autocast = backbone, layer, autocast

    def training(self, epoch: int) -> Iterator[Batch]:
        for batch in super().training(epoch):
            with torch.no_grad(), self._autocast():
                features = self.backbone(batch.targets)[self.layer]
            yield Batch(batch.rows, Inputs((features.float(),)), batch.targets)


def fitter_of(params: Params, data: PreparedData, store: FeatureStore, device: torch.device) -> Fitter:
    """As `train` builds it."""
    seed_everything(params.seed)
    inverter = build_inverter(params, data, Inputs((store,))).to(device)
    return build_fitter(inverter, Loss(params.loss_terms, params).to(device), params)


def compiled(fitter: Fitter) -> None:
    """Through torch.compile; compiling itself falls into the round that warms up."""
    fitter.module = torch.compile(fitter.module)


def other_adam(fitter: Fitter) -> None:
    """torch's own choice where `train` takes the fused Adam, and the fused one where it does not."""
    for optimizer in fitter.raw_optimizers:
        for group in optimizer.param_groups:
            if "fused" in group:  # Muon has none
                group["fused"] = None if group["fused"] else True


CHANGES: dict[str, Callable[[Fitter], None]] = {"compiled": compiled, "other_adam": other_adam}


def decoder_lines(
    params: Params, data: PreparedData, store: FeatureStore, backbone: Backbone, options: argparse.Namespace
) -> list[Line]:
    """Images a second of one decoder, from the store, from memory, and with the encoder in the loop."""
    device, batches = next(backbone.parameters()).device, options.batches
    protocol = params.recipe
    fitter = fitter_of(params, data, store, device)
    waiting: list[float] = []

    def timed(feed: Feed) -> float:
        speed, share = timed_epoch(fitter, feed)
        waiting.append(share)
        return speed

    resident = params.train.resident
    with (
        CachedFeatures(data, Inputs((store,)), device, resident) as cached,
        CachedFeatures(data, Inputs(()), device, resident) as crops,
    ):
        feed, photographs = (SplitFeed(data, each, protocol.batch_size, params.seed) for each in (cached, crops))
        feeds: dict[str, Feed] = {
            "ready": Ready(feed, batches),
            "encoder": EncoderInTheLoop(photographs, batches, backbone, params.layer, fitter.fabric.autocast),
            "store": Shortened(feed, batches),  # last of a round: `waiting` below
        }
        runs: dict[str, Callable[[], float]] = {name: (lambda feed=feed: timed(feed)) for name, feed in feeds.items()}  # type: ignore[misc]
        found = side_by_side(runs, options.rounds)
        changed = []
        for name in options.compare:
            other = fitter_of(params, data, store, device)
            CHANGES[name](other)
            changed.append(changed_line(name, fitter, other, feeds["ready"], options.rounds))
    speeds = {name: f"{median(values):.1f}" for name, values in found.items()}
    label = f"{params.decoder}, batch {protocol.batch_size}, {device.type}"
    from_store = found["store"]
    return [
        Line(
            f"{label}: store / batch in memory",
            f"{speeds['store']} of {speeds['ready']} images/s",
            against(from_store, found["ready"]),
            Bar(at_least=0.95),
        ),
        Line(
            f"{label}: store / encoder in the loop",
            f"{speeds['store']} of {speeds['encoder']} images/s",
            against(from_store, found["encoder"]),
        ),
        Line(f"{label}: share of the time spent waiting", "", median(waiting[5::3]), Bar(at_most=0.05)),
        *changed,
    ]


def timed_epoch(fitter: Fitter, feed: Feed) -> tuple[float, float]:
    """Images a second of an epoch, and the share of its time that was spent waiting for batches."""
    images, waited = 0, feed.waited

    def advance(amount: int) -> None:
        nonlocal images
        images += amount

    def epoch() -> None:
        fitter.train_epoch(feed, advance)
        if fitter.fabric.device.type == "cuda":
            torch.cuda.synchronize(fitter.fabric.device)

    spent = seconds(epoch)
    return images / spent, (feed.waited - waited) / spent


def changed_line(name: str, usual: Fitter, changed: Fitter, feed: Feed, rounds: int) -> Line:
    """The same step with one of CHANGES."""
    runs = {"usual": lambda: timed_epoch(usual, feed)[0], "changed": lambda: timed_epoch(changed, feed)[0]}
    found = side_by_side(runs, rounds)
    speeds = f"{median(found['changed']):.1f} of {median(found['usual']):.1f} images/s"
    return Line(f"the same step: {name} / as train does it", speeds, against(found["changed"], found["usual"]))


def measure(options: argparse.Namespace) -> list[Line]:
    """Photographs and features of `options.source` in a temporary folder, and all lines measured on them."""
    device, (backbone_name, layer) = choose_device(options.device), options.source.split(".", 1)
    changes = [f"backbone={backbone_name}", f"layer={layer}", f"backbones.{backbone_name}.layers=[{layer}]"]
    changes += [f"train.precision={options.precision}", f"train.resident={options.resident}", *options.set]
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        params = load_params(overrides=changes)
        prepare(params, root / "prepared", root / "work")
        data = PreparedData.open(root / "prepared")
        backbone = load_backbone(backbone_name, params.backbone_params(backbone_name), device, [layer])
        backbone = backbone.to(memory_format=torch.channels_last)
        extract(backbone, data, root / "features", params.store, params.extract, device, root / "work")
        store = open_store(root / "features" / layer)
        for decoder in options.decoders:
            chosen = load_params(overrides=[*changes, f"decoder={decoder}"])
            lines += decoder_lines(chosen, data, store, backbone, options)
    return lines


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    trained = [name for name in DECODERS.names() if name != LINEAR]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="vgg16.block1")
    parser.add_argument(
        "--decoders",
        nargs="+",
        choices=trained,
        help="default: all that are trained; on vgg16.block1 without attention and patch_transformer, a step of which "
        "takes minutes on a CPU",
    )
    parser.add_argument("--resident", choices=RESIDENT, default="never", help="never: every batch is read from disk")
    parser.add_argument(
        "--compare",
        nargs="+",
        choices=CHANGES,
        default=[],
        help="time the step changed as well: compiled (which takes a minute each), or with the other one of Adam's "
        "fused and default forms (--set train.protocol=published: Muon leaves it little)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--batches", type=int, default=6, help="optimiser steps of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each measurement is repeated")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of params.yaml")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    options.decoders = options.decoders or [name for name in trained if (options.source, name) not in UNASKED]
    return options


def main() -> None:
    lines = measure(parse())
    print(markdown(lines))
    if not all(line.bar is None or line.bar.holds(line.ratio) for line in lines):
        sys.exit("a bar does not hold")


if __name__ == "__main__":
    main()
