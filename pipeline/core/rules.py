"""Rules of params.yaml that tie several keys together: names that must exist, and values that exclude each other.

Each problem is one sentence with the keys as the user wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.schema import Params
from pipeline.core.section import LINEAR, NONE, unknown_name


def problems(params: Params) -> Iterator[str]:
    """A sentence for every broken rule."""
    yield from _unknown_names(params)
    unknown = [*_unknown_sources(params)]
    yield from unknown or _numbers_of_sources(params)
    for name, distance in vars(params.perceptual).items():  # loss, metric
        if distance.backbone not in (NONE, *params.backbones):
            yield unknown_name(f"perceptual.{name}.backbone", distance.backbone, [*params.backbones, NONE])
        elif distance.backbone != NONE and not distance.layers:
            yield f"params.yaml: perceptual.{name}.layers is empty; list layers of {distance.backbone}"
    yield from _crops(params)
    if LINEAR not in params.decoders:
        yield (
            "params.yaml: the section decoders.linear is missing; warm starts and floors need it: "
            "add linear: {kernel: null}"
        )
    for name, slot in vars(params.ensemble).items():  # second, third, fourth
        if slot.backbone == NONE and slot.layer != NONE:
            key = f"ensemble.{name}"
            yield f"params.yaml: {key}.layer = {slot.layer!r} has no network; set {key}.backbone, or layer: none"
    for name, terms in params.losses.items():
        if not any(terms.values()):
            yield f"params.yaml: losses.{name} = {terms} has no term above 0; give at least one term a weight"
        if name == params.loss and terms.get("features") and params.perceptual.loss.backbone == NONE:
            yield f"params.yaml: loss = {name!r} has the term features, and no network; set perceptual.loss.backbone"
    for name, protocol in params.protocols.items():
        if protocol.schedule == "plateau" and protocol.warmup:
            yield (
                f"params.yaml: protocols.{name}.warmup = {protocol.warmup} has no meaning with schedule: plateau; "
                "set it to 0.0"
            )


def _unknown_names(params: Params) -> Iterator[str]:
    chosen = (
        ("dataset", params.dataset, params.datasets),
        ("decoder", params.decoder, params.decoders),
        ("loss", params.loss, params.losses),
        ("fusion", params.fusion, params.fusions),
        ("train.protocol", params.train.protocol, params.protocols),
        ("two_stage.refine", params.two_stage.refine, params.refiners),
        ("evaluate.refine", params.evaluate.refine, params.refiners),
    )
    for key, value, legal in chosen:
        if value not in legal:
            yield unknown_name(key, value, legal)


def _unknown_sources(params: Params) -> Iterator[str]:
    yield from _unknown_slot(params, "", params.backbone, params.layer)
    for name, slot in vars(params.ensemble).items():
        if slot.backbone != NONE:
            yield from _unknown_slot(params, f"ensemble.{name}.", slot.backbone, slot.layer)


def _unknown_slot(params: Params, prefix: str, backbone: str, layers: str) -> Iterator[str]:
    """`prefix` is that of the slot's keys: empty for the first slot, whose backbone may not be `none`."""
    networks = list(params.backbones)
    if backbone not in networks:
        yield unknown_name(f"{prefix}backbone", backbone, [*networks, NONE] if prefix else networks)
        return
    entry = params.backbone_params(backbone)
    for part in dict.fromkeys(layers.split("+")):
        try:
            entry.chosen(part)
        except KeyError:
            unknown = unknown_name(f"{prefix}layer", part, entry.layers)
            several = "" if part == layers else "; several are joined by +, and last2 or all are names too"
            yield f"{unknown} (or add it to backbones.{backbone}.layers){several}"


def _numbers_of_sources(params: Params) -> Iterator[str]:
    sources = params.sources
    if len(set(sources)) < len(sources):
        yield f"params.yaml: layer, or the ensemble, names a source twice ({', '.join(map(str, sources))})"
    if params.fusion != NONE and len(sources) < 2:
        yield (
            f"params.yaml: fusion = {params.fusion!r} needs a second source; name several layers (layer: all), or set "
            "ensemble.second.backbone and ensemble.second.layer, or fusion: none"
        )
    if params.fusion == NONE and len(sources) > 1 and params.decoder != LINEAR:
        yield (
            f"params.yaml: layer = {params.layer!r} names {len(sources)} layers, and decoder = {params.decoder!r} "
            "takes one feature map; set fusion: residual, or another one, or decoder: linear"
        )
    for key, chosen in (("two_stage", params.two_stage), ("evaluate", params.evaluate)):
        if chosen.refine != NONE and len(sources) > 1:
            yield (
                f"params.yaml: {key}.refine = {chosen.refine!r} matches the features of one source, and there are "
                f"{len(sources)}; set {key}.refine: none, or one layer and fusion: none"
            )


def _crops(params: Params) -> Iterator[str]:
    size, crop, views = params.prepare.size, params.prepare.crop, params.prepare.views
    different = 2 * (size - crop + 1) ** 2  # positions, mirrored or not
    if crop > size:
        yield (
            f"params.yaml: prepare.crop = {crop} is larger than prepare.size = {size}; a crop must fit into the stored "
            "image"
        )
    elif views > different:
        yield (
            f"params.yaml: prepare.views = {views}, but only {different} different crops of {crop} fit into {size}; "
            "lower prepare.views or prepare.crop"
        )
