"""The upper bound of one photograph: its image refined through the known network, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import ParamsError
from pipeline.core.params import NONE, Params
from pipeline.core.sources import ImageSize, Inputs
from pipeline.experiments.reconstruction import Encoder
from pipeline.loading.sampler import batched, spread
from pipeline.models.common.prior import ImagePrior
from pipeline.refinement.base import REFINERS, Refiner, Step, build_refiner
from pipeline.stores.encoding import rgb
from pipeline.stores.prepared import PreparedData


@dataclass(frozen=True)
class Fresh:
    """Images with their features, computed now."""

    inputs: Inputs[Tensor]
    targets: Tensor


@dataclass(frozen=True)
class FreshExamples:
    """What a refiner may learn from, where no store is at hand (`pipeline.refinement.base.Examples`)."""

    data: PreparedData
    encoder: Encoder
    read_prior: Callable[[], ImagePrior]
    batch_size: int

    def training(self, images: int) -> Iterator[Fresh]:
        rows = self.data.rows("train")
        first = rows[np.unique(self.data.image[rows], return_index=True)[1]]
        return self._batches(first[spread(len(first), images)])

    def validation(self) -> Iterator[Fresh]:
        return self._batches(self.data.rows("validation"))

    def prior(self) -> ImagePrior:
        return self.read_prior().to(self.encoder.inverter.device)

    def _batches(self, rows: np.ndarray) -> Iterator[Fresh]:
        for part in batched(rows, self.batch_size):
            targets = rgb(torch.from_numpy(self.data.crops(part)).to(self.encoder.inverter.device))
            yield Fresh(Inputs(self.encoder.features(targets)), targets)


def usable_refiners(encoder: Encoder, params: Params) -> list[str]:
    """Names of the refiners that work on the layer behind this decoder; none where it has several."""
    sources = encoder.inverter.sources
    if len(sources) > 1:
        return []
    return [name for name in REFINERS.names() if name != NONE and _works(name, encoder, params)]


def build_bound(encoder: Encoder, params: Params, name: str, budget: int) -> Refiner:
    """The refiner `name` on the layer behind a decoder; it has learned nothing yet.

    Raises:
        ParamsError: it does not work on this layer, or the decoder has several.
    """
    usable = usable_refiners(encoder, params)
    if name not in usable:
        names = " or ".join(usable) or "another model, of one layer"
        raise ParamsError(f"the refiner {name!r} does not work on what is behind this decoder; choose {names}")
    (source,) = encoder.inverter.sources
    layer = encoder.networks.known_layer(source, ImageSize(encoder.rules.crop, encoder.rules.crop))
    return build_refiner(name, params.refiner_options(name), layer, budget)


def bound_steps(encoder: Encoder, refiner: Refiner, images: Tensor) -> Iterator[Step]:
    """The decoder's images (B, 3, crop, crop), then one step an evaluation: they approach what the features allow.

    The feature error of the first, which costs no evaluation, is not known (NaN).
    """
    (features,) = encoder.features(images)
    start = encoder.decode((features,)).clone()  # no tensor of inference mode: a refiner differentiates
    yield Step(start, torch.full((len(images),), torch.nan, dtype=torch.float64))
    yield from refiner.refine(features, start)


def _works(name: str, encoder: Encoder, params: Params) -> bool:
    (source,) = encoder.inverter.sources
    try:
        REFINERS.get(name).check(source, params.backbone_params(source.backbone))
    except ParamsError:
        return False
    return True
