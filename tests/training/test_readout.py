"""Solving the linear part from a store: what judges the strength, how often the sums are factorised, what is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_experiment import CPU, Experiment, experiment

from pipeline.core.sources import Inputs
from pipeline.loading.loader import CachedFeatures
from pipeline.models.common.inverter import Inverter
from pipeline.models.common.ridge import STRENGTHS
from pipeline.stores.base import FeatureStore
from pipeline.stores.opening import open_store
from pipeline.training import readout
from pipeline.training.readout import solve_readout
from pipeline.training.run import build_inverter


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment("linear")


def _parts(made: Experiment) -> tuple[Inverter, FeatureStore]:
    store = open_store(made.features / "vgg16/block1")
    return build_inverter(made.params, made.data(), Inputs((store,))).eval(), store


def _error(inverter: Inverter, cached: CachedFeatures, rows: NDArray[np.int64]) -> float:
    """Mean squared error of the linear part's own prediction, which is not clamped."""
    assert inverter.linear is not None
    (batch,) = cached.batches([rows])
    with torch.no_grad():
        image = inverter.linear.synthesize(inverter.stack(inverter.standardised(batch.inputs)))
    return float((image - batch.targets).double().square().mean())


def test_the_validation_split_picks_the_strength_from_one_factorisation(
    made: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    factorised = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: factorised.append(matrix.shape) or eigh(matrix))
    (inverter, store), data = _parts(made), made.data()
    assert inverter.linear is not None
    with CachedFeatures(data, Inputs((store,)), CPU) as cached:
        solution = solve_readout(inverter, data, cached).joint
        inverter.linear.load_solution(solution.weight[:-1], solution.weight[-1])
        found = {split: _error(inverter, cached, data.rows(split)) for split in ("train", "validation")}
    assert factorised == [(64 * 9, 64 * 9)]
    assert tuple(solution.errors) == STRENGTHS
    assert solution.errors[solution.strength] == min(solution.errors.values())
    assert solution.errors[solution.strength] == pytest.approx(found["validation"], rel=1e-3)
    assert found["train"] != pytest.approx(found["validation"], rel=1e-2), "or the split makes no difference"


def test_the_store_is_read_once_in_small_batches(made: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[NDArray[np.int64]] = []
    read_into = FeatureStore.read_into

    def note(self: FeatureStore, rows: NDArray[np.int64], out: NDArray[np.generic]) -> None:
        read.append(rows)
        read_into(self, rows, out)

    monkeypatch.setattr(FeatureStore, "read_into", note)
    monkeypatch.setattr(readout, "READ_BATCH", 4)
    (inverter, store), data = _parts(made), made.data()
    with CachedFeatures(data, Inputs((store,)), CPU, "never") as cached:
        solve_readout(inverter, data, cached)
    both = np.concatenate([data.rows("train"), data.rows("validation")])
    assert sorted(np.concatenate(read)) == sorted(both)
    assert max(map(len, read)) == 4 < len(both) / 4
