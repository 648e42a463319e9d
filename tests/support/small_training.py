"""Training on the stores of `small_extraction`: the read-out in closed form, then a few steps of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from small_experiment import MSE, PARAMS
from small_stores import CPU, SmallData

from pipeline.core.params import load_params
from pipeline.core.runtime import seed_everything
from pipeline.core.sources import Inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import SplitFeed
from pipeline.stores.base import FeatureStore
from pipeline.training.fitter import validate
from pipeline.training.losses import Loss
from pipeline.training.readout import load_readout, readout_state, solve_readout
from pipeline.training.run import build_fitter, build_inverter

SMALL = (
    "ensemble.second={backbone: vgg16, layer: block2}",  # some second one, without which no fusion is
    *(f"fusions.{name}.channels=16" for name in ("attention", "concat", "weighted")),
    "decoders.wavelet.band_channels=8",
    "protocols.fast.batch_size=8",
    "protocols.fast.epochs=1",
    "protocols.fast.warmup=0.0",
)


@dataclass(frozen=True)
class Trained:
    """Images (B, 3, H, W) of every row and the mean squared error on the validation rows, before and after training.

    best: the error of the weights that are kept.
    """

    start: np.ndarray
    start_loss: float
    images: np.ndarray
    loss: float
    best: float


def trained(stores: Sequence[FeatureStore], work: Path, *overrides: str) -> Trained:
    """As `train` does it, but for files; `decoder: linear` is not trained any further. `overrides` of params.yaml."""
    params = load_params(PARAMS, (*SMALL, *overrides))
    data, inputs = SmallData(), Inputs(tuple(sorted(stores, key=lambda store: store.source)))
    seed_everything(0)
    inverter = build_inverter(params, data, inputs)  # type: ignore[arg-type]
    loss = Loss(MSE)
    with CachedFeatures(data, inputs, CPU) as cached:  # type: ignore[arg-type]
        feed = SplitFeed(data, cached, params.recipe.batch_size, 0)  # type: ignore[arg-type]
        if inverter.linear is not None:
            load_readout(inverter, readout_state(solve_readout(inverter, data, cached)))  # type: ignore[arg-type]

        def now() -> tuple[np.ndarray, float]:
            found = validate(inverter, loss, feed.validation())["total"]
            with torch.no_grad():
                return np.concatenate([inverter(batch.inputs).numpy() for batch in cached.batches([ROWS])]), found

        start = now()
        if inverter.decoder is None:
            return Trained(*start, *start, start[1])
        fitter = build_fitter(inverter, loss, params)
        work.mkdir(exist_ok=True)
        best = fitter.run(feed, work / "state.pt", "train").best_loss
        return Trained(*start, *now(), best)


ROWS = np.arange(len(SmallData()))
