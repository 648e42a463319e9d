"""Does the network see the same thing in the reconstruction? Its features, computed again, against the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import StoreError
from pipeline.core.params import Params
from pipeline.core.sources import Source
from pipeline.refinement.networks import Networks, network_title, same_network
from pipeline.stores.base import FeatureStore

TINY = torch.finfo(torch.float64).tiny  # keeps the scores of features that are all zero numbers, in any unit


class Reencoder:
    """The frozen networks behind the stores, in the precision that the stores were computed in."""

    def __init__(
        self, params: Params, sources: Sequence[Source], stores: Sequence[FeatureStore], device: torch.device
    ) -> None:
        """`stores` belong to `sources`, in order.

        Raises:
            WeightsError: a network's weights cannot be had here.
            StoreError: a store was written with another network or other weights than params.yaml names now.
        """
        self.networks = Networks(params, sources, [store.manifest.facts["precision"] for store in stores], device)
        for source, store in zip(sources, stores, strict=True):
            _check_network(source.backbone, store, self.networks.backbones[source.backbone].describe())

    @torch.inference_mode()
    def compare(self, images: Tensor, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Agreement of the features of `images` (B, 3, H, W) with `features`, one (B, C, h, w) for each source.

        Returns `cosine` and `relative_error` (norm of the difference over the norm of `features`), each (B,)
        float64, averaged over the sources.
        """
        pairs = zip(self.networks(images), features, strict=True)
        cosines, errors = zip(*(agreement(again, stored.float()) for again, stored in pairs), strict=True)
        return {"cosine": torch.stack(cosines).mean(0), "relative_error": torch.stack(errors).mean(0)}


def agreement(again: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and relative error of features (B, C, h, w) of any scale against the stored ones, each (B,) float64."""
    again, stored = again.flatten(1).double(), stored.flatten(1).double()
    norms = [values.norm(dim=1).clamp_min(TINY) for values in (again, stored)]
    cosine = ((again / norms[0][:, None]) * (stored / norms[1][:, None])).sum(1)
    return cosine, (again - stored).norm(dim=1) / norms[1]


def _check_network(name: str, store: FeatureStore, now: dict[str, Any]) -> None:
    recorded = store.manifest.facts["backbone"]
    if not same_network(recorded, now):
        raise StoreError(
            f"{store.path} was written with {network_title(recorded)}, params.yaml now gives {network_title(now)}; "
            f"extract again: python -m stages extract --backbone {name}"
        )
