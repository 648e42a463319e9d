"""The frozen networks behind a decoder, run exactly as they were run for its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone, load_backbone
from pipeline.core.params import Params
from pipeline.core.sources import ImageSize, Source
from pipeline.refinement.base import KnownLayer

DETERMINES = ("library", "model", "mean", "std")  # with the weights' SHA-256; the weights' name changes nothing


class Networks:
    """Maps images to the features of several layers; each network runs once per batch for all its layers."""

    def __init__(
        self, params: Params, sources: Sequence[Source], precisions: Sequence[str], device: torch.device
    ) -> None:
        """`precisions` (fp32, bf16 or fp16) are those of `sources`, in order.

        Raises:
            WeightsError: a network's weights are missing here.
        """
        self.sources = tuple(sources)
        self.backbones: dict[str, Backbone] = {}
        self._precision: dict[str, str] = {}
        for source, precision in zip(sources, precisions, strict=True):
            name = source.backbone
            self._precision.setdefault(name, precision)  # all layers of a network come from one pass
            if name not in self.backbones:
                layers = [each.layer for each in sources if each.backbone == name]
                self.backbones[name] = load_backbone(name, params.backbone_params(name), device, layers)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] → (B, C, h, w) float32 of each source, in order."""
        outputs: dict[str, dict[str, Tensor]] = {}
        for name, backbone in self.backbones.items():
            outputs[name] = backbone.compute(images, self._precision[name])
        return [outputs[source.backbone][source.layer].float() for source in self.sources]

    def known_layer(self, source: Source, image: ImageSize) -> KnownLayer:
        """One layer as a differentiable function of images of one size."""
        return KnownLayer(source, self.backbones[source.backbone], image, self._precision[source.backbone])


def same_network(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two descriptions (`Backbone.describe`) are of networks with the same features."""
    weights = recorded["weights"]["sha256"] == now["weights"]["sha256"]
    return weights and all(recorded[key] == now[key] for key in DETERMINES)


def network_title(description: Mapping[str, Any]) -> str:
    """The network for a message: `torchvision vgg16, random (seed 0) weights 0123456789ab…`."""
    weights = description["weights"]
    network = f"{description['library']} {description['model']}"
    return f"{network}, {weights['kind']} ({weights['detail']}) weights {weights['sha256'][:12]}…"
