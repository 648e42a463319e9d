"""Consistency: the features of a reconstruction, computed by the frozen network, compared with the stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pipeline.core.errors import StoreError
from pipeline.core.params import Params
from pipeline.refinement.base import TINY, relative_error
from pipeline.refinement.networks import Networks, network_title, same_network
from pipeline.stores.base import FeatureStore


def open_networks(params: Params, stores: Sequence[FeatureStore], device: torch.device) -> Networks:
    """The frozen networks behind the stores, in the precision that the stores were computed in.

    Raises:
        WeightsError: a network's weights are missing here.
        StoreError: a store was written with another network or other weights than those of params.yaml.
    """
    precisions = [store.manifest.facts["precision"] for store in stores]
    networks = Networks(params, [store.source for store in stores], precisions, device)
    for store in stores:
        name, recorded = store.source.backbone, store.manifest.facts["backbone"]
        now = networks.backbones[name].describe()
        if not same_network(recorded, now):
            raise StoreError(
                f"{store.path} was written with {network_title(recorded)}, params.yaml now gives {network_title(now)}; "
                f"extract again: python -m stages extract --backbone {name}"
            )
    return networks


@torch.inference_mode()
def consistency(again: Iterable[Tensor], stored: Iterable[Tensor]) -> dict[str, Tensor]:
    """Agreement of features with the stored ones, (B, C, h, w) for each source.

    Returns `cosine` and `relative_error` (norm of the difference over the norm of `stored`), each (B,) float64,
    averaged over the sources.
    """
    pairs = zip(again, stored, strict=True)
    cosines, errors = zip(*(agreement(one, other) for one, other in pairs), strict=True)
    return {"cosine": torch.stack(cosines).mean(0), "relative_error": torch.stack(errors).mean(0)}


def agreement(again: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and relative error of features (B, C, h, w) of any scale against the stored ones, each (B,) float64."""
    again, stored = again.flatten(1).double(), stored.flatten(1).double()
    unit, other = (values / values.norm(dim=1, keepdim=True).clamp_min(TINY) for values in (again, stored))
    return (unit * other).sum(1), relative_error(again - stored, stored)
