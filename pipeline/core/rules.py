"""Rules of params.yaml that tie several keys together: names that must exist, and values that exclude each other.

Each problem is one sentence with the keys as the user wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.schema import Params
from pipeline.core.section import LINEAR, NONE, unknown_name
from pipeline.core.sources import Source


def problems(params: Params) -> Iterator[str]:
    """A sentence for every broken rule."""
    slots = {
        f"ensemble.{name}.": Source(slot.backbone, slot.layer)
        for name, slot in vars(params.ensemble).items()  # second, third, fourth
    }
    yield from _unknown_names(params)
    yield from _unknown_source(params, "", Source(params.backbone, params.layer))
    for prefix, source in slots.items():
        if source.backbone != NONE:
            yield from _unknown_source(params, prefix, source)
    for name, distance in vars(params.perceptual).items():  # loss, metric
        if distance.backbone not in (NONE, *params.backbones):
            yield unknown_name(f"perceptual.{name}.backbone", distance.backbone, [*params.backbones, NONE])
        elif distance.backbone != NONE and not distance.layers:
            yield f"params.yaml: perceptual.{name}.layers is empty; list layers of {distance.backbone}"
    yield from _crops(params)
    if params.fusion != NONE and len(params.sources) < 2:
        yield (
            f"params.yaml: fusion = {params.fusion!r} needs a second source; set ensemble.second.backbone "
            "and ensemble.second.layer, or fusion: none"
        )
    for key, chosen in (("two_stage", params.two_stage), ("evaluate", params.evaluate)):
        if chosen.refine != NONE and len(params.sources) > 1:
            yield (
                f"params.yaml: {key}.refine = {chosen.refine!r} matches the features of one source, and fusion "
                f"= {params.fusion!r} has {len(params.sources)}; set {key}.refine: none, or fusion: none"
            )
    if LINEAR not in params.decoders:
        yield (
            "params.yaml: the section decoders.linear is missing; warm starts and floors need it: "
            "add linear: {kernel: null}"
        )
    for prefix, source in slots.items():
        if source.backbone == NONE and source.layer != NONE:
            yield f"params.yaml: {prefix}layer = {source.layer!r} has no network; set {prefix}backbone, or layer: none"
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
    if len(set(params.sources)) < len(params.sources):
        yield f"params.yaml: the ensemble names a source twice ({', '.join(map(str, params.sources))})"


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


def _unknown_source(params: Params, prefix: str, source: Source) -> Iterator[str]:
    """`prefix` is that of the source's keys: empty for the first source, whose backbone may not be `none`."""
    networks = list(params.backbones)
    if source.backbone not in networks:
        yield unknown_name(f"{prefix}backbone", source.backbone, [*networks, NONE] if prefix else networks)
    elif source.layer not in (legal := params.backbone_params(source.backbone).layers):
        unknown = unknown_name(f"{prefix}layer", source.layer, legal)
        yield f"{unknown} (or add it to backbones.{source.backbone}.layers)"


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
