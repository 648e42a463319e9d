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

TINY = 1e-12  # keeps the error of features that are all zero a number


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
        pairs = [
            (again.flatten(1), stored.float().flatten(1))
            for again, stored in zip(self.networks(images), features, strict=True)
        ]
        cosines = [torch.cosine_similarity(again, stored).double() for again, stored in pairs]
        errors = [
            ((again - stored).norm(dim=1) / stored.norm(dim=1).clamp(min=TINY)).double() for again, stored in pairs
        ]
        return {"cosine": torch.stack(cosines).mean(0), "relative_error": torch.stack(errors).mean(0)}


def _check_network(name: str, store: FeatureStore, now: dict[str, Any]) -> None:
    recorded = store.manifest.facts["backbone"]
    if not same_network(recorded, now):
        raise StoreError(
            f"{store.path} was written with {network_title(recorded)}, params.yaml now gives {network_title(now)}; "
            f"extract again: python -m stages extract --backbone {name}"
        )
