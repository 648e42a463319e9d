"""The training and validation splits, for refiners that learn. The test split is not accessible."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import progress
from pipeline.loading.loader import Batch, CachedFeatures
from pipeline.loading.sampler import batched, spread
from pipeline.models.common.prior import ImagePrior
from pipeline.stores.prepared import PreparedData


class SplitExamples:
    """The examples from which a refiner may learn (`pipeline.refinement.base.Examples`)."""

    def __init__(
        self, data: PreparedData, cached: CachedFeatures, batch_size: int, prior: Callable[[], ImagePrior]
    ) -> None:
        """`prior` reads the image prior; only refiners that need it call it."""
        self._data, self._cached, self._batch_size, self._prior = data, cached, batch_size, prior

    def training(self, images: int) -> Iterator[Batch]:
        rows = self._data.rows("train")
        first = rows[np.unique(self._data.image[rows], return_index=True)[1]]
        return self._batches("train", first[spread(len(first), images)])

    def validation(self) -> Iterator[Batch]:
        return self._batches("validation", self._data.rows("validation"))

    def prior(self) -> ImagePrior:
        return self._prior().to(self._cached.device)

    def _batches(self, split: str, rows: NDArray[np.int64]) -> Iterator[Batch]:
        with progress(f"refiner learns ({split})", len(rows), "images") as advance:
            for batch in self._cached.batches(batched(rows, self._batch_size)):
                yield batch
                advance(len(batch.rows))
