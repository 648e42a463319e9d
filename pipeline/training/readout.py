"""The linear part of an inverter, fitted in closed form: one pass over the training rows, one over the validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.progress import progress
from pipeline.loading.loader import CachedFeatures
from pipeline.loading.sampler import READ_BATCH, batched
from pipeline.models.common.inverter import Inverter
from pipeline.models.common.ridge import NormalEquations, RidgeSolution, solve
from pipeline.stores.prepared import PreparedData


def solve_linear(inverter: Inverter, data: PreparedData, cached: CachedFeatures) -> RidgeSolution:
    """Solve the linear part over all training rows, its strength judged on the validation rows."""
    linear = inverter.linear
    assert linear is not None
    equations = {}
    for split in ("train", "validation"):
        equations[split] = NormalEquations(linear.shape.channels, linear.kernel, linear.ratio, inverter.device)
        _accumulate(equations[split], inverter, cached, data.rows(split), split)
    return solve(equations["train"], equations["validation"])


def ridge_summary(solution: RidgeSolution) -> dict[str, Any]:
    """For the model's description: the strength, and what each strength gave on the validation rows."""
    psnr = {f"{strength:g}": round(float(-10 * np.log10(error)), 3) for strength, error in solution.errors.items()}
    return {"strength": solution.strength, "validation_psnr_of_mean_error": psnr}


@torch.no_grad()
def _accumulate(
    equations: NormalEquations, inverter: Inverter, cached: CachedFeatures, rows: NDArray[np.int64], split: str
) -> None:
    with progress(f"ridge ({split})", len(rows)) as advance:
        for batch in cached.batches(batched(rows, READ_BATCH)):
            equations.update(inverter.stack(inverter.standardised(batch.features)), batch.targets)
            advance(len(batch.rows))
