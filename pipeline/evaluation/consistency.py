"""Does the network see the same thing in the reconstruction? Its features, computed again, against the stored ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.backbones import Backbone, load_backbone
from pipeline.errors import StoreError
from pipeline.params import Params
from pipeline.sources import Source
from pipeline.stores import FeatureStore

TINY = 1e-12  # keeps the error of features that are all zero a number


class Reencoder:
    """The frozen networks behind the stores, each run once a batch whatever the number of its layers."""

    def __init__(
        self, params: Params, sources: Sequence[Source], stores: Sequence[FeatureStore], device: torch.device
    ) -> None:
        """`stores` belong to `sources`, in order.

        Raises:
            WeightsError: a network's weights cannot be had here.
            StoreError: a store was written with other weights than params.yaml names now.
        """
        self.sources = tuple(sources)
        self.backbones = {
            name: load_backbone(name, params.backbones[name], device, [s.layer for s in sources if s.backbone == name])
            for name in dict.fromkeys(source.backbone for source in sources)
        }
        for source, store in zip(sources, stores, strict=True):
            _check_weights(self.backbones[source.backbone], store)

    @torch.inference_mode()
    def compare(self, images: Tensor, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Agreement of the features of `images` (B, 3, H, W) with `features`, one (B, C, h, w) for each source.

        Returns `cosine` and `relative_error` (norm of the difference over the norm of `features`), each (B,)
        float64, averaged over the sources.
        """
        outputs = {name: backbone(images) for name, backbone in self.backbones.items()}
        pairs = [
            (outputs[source.backbone][source.layer].float().flatten(1), stored.float().flatten(1))
            for source, stored in zip(self.sources, features, strict=True)
        ]
        cosines = [torch.cosine_similarity(again, stored).double() for again, stored in pairs]
        errors = [
            ((again - stored).norm(dim=1) / stored.norm(dim=1).clamp(min=TINY)).double() for again, stored in pairs
        ]
        return {"cosine": torch.stack(cosines).mean(0), "relative_error": torch.stack(errors).mean(0)}


def _check_weights(backbone: Backbone, store: FeatureStore) -> None:
    stored = store.manifest.facts["backbone"]["weights"]["sha256"]
    if backbone.weights.sha256 != stored:
        raise StoreError(
            f"{store.path} was written with {backbone.name} weights {stored[:12]}…, params.yaml now gives "
            f"{backbone.weights.sha256[:12]}…; extract again: python -m stages extract --backbone {backbone.name}"
        )
