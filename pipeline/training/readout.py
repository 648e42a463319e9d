"""Solve an inverter's read-out in closed form: one pass over the training rows, one over the validation rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.core.errors import DeviceError
from pipeline.core.progress import counted, progress
from pipeline.loading.loader import CachedFeatures, free_memory
from pipeline.loading.sampler import READ_BATCH, batched
from pipeline.metrics.scores import decibels
from pipeline.models.common.inverter import Inverter, joined
from pipeline.models.common.linear import Linear
from pipeline.models.common.ridge import NormalEquations, RidgeSolution, columns_of, solve, solving_bytes
from pipeline.stores.prepared import PreparedData, Split

SPLITS: tuple[Split, ...] = ("train", "validation")
Reading = tuple[tuple[int, ...] | None, Linear]  # positions of the sources; None: all, on the largest grid


@dataclass(frozen=True)
class ReadoutSolution:
    """The ridge solution of all sources and, if sources of one grid are read `apart`, their own on that grid."""

    joint: RidgeSolution
    apart: tuple[int, ...] = ()
    own: RidgeSolution | None = None


def solve_readout(inverter: Inverter, data: PreparedData, cached: CachedFeatures) -> ReadoutSolution:
    """Solve the read-out over all training rows; the validation rows choose its strengths.

    On the largest grid, a coarse feature contributes alike to all pixels under it. If the sources of a coarser grid
    alone, with separate weights for each pixel, are more accurate on the validation rows, they are solved first, and
    all sources fit the residual in a second pass over the rows. So no source alone is better than the whole set.

    If the fusion has a leader that is not constant, it is read alone, and the weights of the others are zero.

    Raises:
        DeviceError: the normal equations do not fit the free memory.
    """
    linear = inverter.linear
    assert linear is not None
    leader = None if inverter.fusion is None else inverter.fusion.leader
    if leader is not None and inverter.varies(leader):
        return _solve_leader(inverter, linear, data, cached, leader)
    coarser = inverter.coarser() if inverter.blueprint.kernels else []  # an older model has one kernel for all sources
    readings: list[Reading] = [(None, linear), *coarser]
    _require_memory(inverter, readings)
    sums = [_accumulate(inverter, data, cached, readings, split) for split in SPLITS]
    (first, *own_sums) = zip(*sums, strict=True)
    tried_apart = [place for places, _ in coarser for place in places]
    joint = solve(first[0], first[1], elsewhere=tried_apart)
    others = [solve(train, judge) for train, judge in own_sums]
    best = min(range(len(others)), key=lambda each: others[each].error, default=None)
    if best is None or others[best].error >= joint.error:
        return ReadoutSolution(joint)
    places, reading = coarser[best]
    own = others[best]
    del sums, first, own_sums  # as large as those of the second pass
    reading.load_solution(own.weight[:-1], own.weight[-1])
    (train,), (judge,) = (
        _accumulate(inverter, data, cached, [(None, linear)], split, (places, reading)) for split in SPLITS
    )
    rest = solve(train, judge)
    if rest.error >= own.error:
        rest = replace(rest, weight=torch.zeros_like(rest.weight), error=own.error)
    return ReadoutSolution(rest, places, own)


def _solve_leader(
    inverter: Inverter, linear: Linear, data: PreparedData, cached: CachedFeatures, leader: int
) -> ReadoutSolution:
    """The read-out of the source at `leader`, which has the largest grid, as weights of the read-out of all sources."""
    readings: list[Reading] = [((leader,), inverter.reading((leader,)))]
    _require_memory(inverter, readings)
    (train,), (judge,) = (_accumulate(inverter, data, cached, readings, split) for split in SPLITS)
    alone, places = solve(train, judge), columns_of(linear.parts)
    weight = alone.weight.new_zeros(max(place.stop for place in places) + 1, alone.weight.shape[1])
    weight[places[leader]], weight[-1] = alone.weight[:-1], alone.weight[-1]
    return ReadoutSolution(replace(alone, weight=weight))


def _require_memory(inverter: Inverter, readings: Sequence[Reading]) -> None:
    """Print the size of the normal equations of several sources. Raises DeviceError: more than the free memory."""
    sources, linear = readings[0]
    unknowns = max(place.stop for place in columns_of(linear.parts))
    sums = sum(NormalEquations.bytes(each.parts, each.ratio) for _, each in readings)
    needed = len(SPLITS) * sums + max(solving_bytes(each.parts, each.ratio) for _, each in readings)
    free = free_memory(inverter.device)
    count = len(inverter.sources if sources is None else sources)
    size = f"{counted(count, 'source')}, {unknowns:,} unknowns for each value: {needed / 1e9:.1f} GB of memory"
    if needed > free:
        raise DeviceError(
            f"the read-out has {size}, and {inverter.device} has {free / 1e9:.1f} GB free; name fewer layers, or set "
            "decoders.linear.kernel: 1"
        )
    if count > 1:
        print(f"read-out: {size}", file=sys.stderr)


def load_readout(inverter: Inverter, state: Mapping[str, Any]) -> None:
    """Load a solution saved by `readout_state` into `inverter`."""
    assert inverter.linear is not None
    inverter.linear.load_solution(state["weight"][:-1], state["weight"][-1])
    if state["own"] is not None:
        reading = dict(inverter.coarser())[tuple(state["apart"])]
        reading.load_solution(state["own"][:-1], state["own"][-1])
        inverter.read_apart(state["apart"], reading)


def readout_state(solution: ReadoutSolution) -> dict[str, Any]:
    """A solution as plain values and tensors, for a file."""
    own = None if solution.own is None else solution.own.weight
    return {
        "weight": solution.joint.weight,
        "own": own,
        "apart": list(solution.apart),
        "summary": readout_summary(solution),
    }


def readout_summary(solution: ReadoutSolution) -> dict[str, Any]:
    """For the model's description: the chosen strengths, and the validation PSNR of each strength tried."""
    apart = {} if solution.own is None else {"apart": _summary(solution.own)}
    return _summary(solution.joint) | apart


def _summary(solution: RidgeSolution) -> dict[str, Any]:
    values = decibels(torch.tensor(list(solution.errors.values()), dtype=torch.float64)).tolist()
    psnr = {f"{strength:g}": round(value, 3) for strength, value in zip(solution.errors, values, strict=True)}
    own = {"strengths": list(solution.strengths)} if len(solution.strengths) > 1 else {}
    return {"strength": solution.strength, **own, "validation_psnr_of_mean_error": psnr}


@torch.no_grad()
def _accumulate(
    inverter: Inverter,
    data: PreparedData,
    cached: CachedFeatures,
    readings: Sequence[Reading],
    split: Split,
    explained: tuple[tuple[int, ...], Linear] | None = None,
) -> list[NormalEquations]:
    """One pass over the rows of `split`: the sums of each of `readings`.

    The prediction of `explained`, if given, is subtracted from the images.
    """
    sums = [NormalEquations(linear.parts, linear.ratio, inverter.device) for _, linear in readings]
    rows = data.rows(split)
    with progress(f"read-out ({split})", len(rows)) as advance:
        for batch in cached.batches(batched(rows, READ_BATCH)):
            features, targets = inverter.standardised(batch.inputs), batch.targets
            if explained is not None:
                targets = targets - explained[1].synthesize(joined(features, explained[0]))
            for equations, (places, _) in zip(sums, readings, strict=True):
                equations.update(inverter.stack(features) if places is None else joined(features, places), targets)
            advance(len(batch.rows))
    return sums
