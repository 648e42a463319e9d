"""Distance in layers of a frozen network (Johnson et al. 2016); absent if params.yaml names no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.metrics.table import METRICS, Metric, Pair

if TYPE_CHECKING:
    from torch import Tensor


def distance(pair: Pair) -> Tensor | None:
    """(B,) float64."""
    return None if pair.judge is None else pair.judge(pair.prediction, pair.target).double()


METRICS.register("features")(
    Metric(place=5, label="features", digits=4, higher_is_better=False, measure=distance, judged=True)
)
