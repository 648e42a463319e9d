"""The checks of options and of choices that must fit together, for `check` and for stages that it has not preceded."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.core.errors import ParamsError, ShapeError
from pipeline.core.params import NONE, Params
from pipeline.core.registry import Registry
from pipeline.core.section import parse_section, unknown_name
from pipeline.core.sources import ImageSize, Source
from pipeline.data.preparation.dataset import DATASETS
from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.fusion import FUSIONS
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.training.losses import TERMS
from stages.proof import shapes


def check_choices(params: Params) -> None:
    """Check everything except the networks that are not chosen.

    Raises:
        ParamsError, ShapeError, WeightsError: as the checks below.
    """
    check_options(params)
    check_dataset(params)
    check_experiment(params)


def check_options(params: Params) -> None:
    """Check the options of all decoders, fusions, refiners and data sets, and the names of all loss terms.

    Raises:
        ParamsError: all problems found, a line each.
    """
    problems: list[str] = []

    def collect(section: str, registry: Registry[Any], entries: Mapping[str, Any]) -> None:
        for name, options in entries.items():
            try:
                if name not in registry.names():
                    raise ParamsError(unknown_name(section, name, registry.names()))
                parse_section(registry.get(name).Options, options, f"{section}.{name}")
            except ParamsError as error:
                problems.append(str(error))

    collect("datasets", DATASETS, params.datasets)
    collect("decoders", DECODERS, params.decoders)
    collect("fusions", FUSIONS, params.fusions)
    if shapes(params) is None:  # else proved; the refiners load the libraries of networks
        from pipeline.refinement.base import REFINERS

        collect("refiners", REFINERS, {name: section for name, section in params.refiners.items() if name != NONE})
    for name, terms in params.losses.items():
        unknown = (term for term in terms if term not in TERMS.names())
        problems += [unknown_name(f"losses.{name}", term, TERMS.names()) for term in unknown]
    if problems:
        raise ParamsError("\n".join(problems))


def check_dataset(params: Params) -> None:
    """Raise ParamsError if the data set is known to contain photographs that `prepare` would refuse."""
    whole = params.dataset_options.get("images") is None  # a subset may contain none
    stops = params.prepare.non_rgb == "refuse" and params.prepare.on_bad_image == "stop"
    if DATASETS.get(params.dataset).holds_non_rgb and whole and stops:
        raise ParamsError(
            f"params.yaml: dataset = {params.dataset!r} holds grayscale and CMYK photographs, and prepare.non_rgb = "
            "'refuse' stops at them; set prepare.non_rgb: convert to turn them into RGB, or prepare.on_bad_image: skip "
            "to leave them out"
        )


def check_experiment(params: Params) -> None:
    """Check that the chosen networks, layers, decoder, fusion and refiner fit together; needs no weights.

    Raises:
        ParamsError, ShapeError: two choices exclude each other; the message names both.
        WeightsError: weights of a network are missing.
    """
    known = shapes(params)
    distances = params.distances.values()
    wanted = {*params.sources, *(Source(each.backbone, layer) for each in distances for layer in each.layers)}
    if known is None or not wanted <= set(known):
        from stages.networks import source_shapes

        known = source_shapes(params)
    for chosen in {params.two_stage.refine, params.evaluate.refine} - {NONE}:
        from pipeline.refinement.base import REFINERS

        (source,) = params.sources
        REFINERS.get(chosen).check(source, params.backbone_params(source.backbone))
    try:
        with torch.device("meta"):
            crop = ImageSize(params.prepare.crop, params.prepare.crop)
            Inverter(Blueprint.of(params, {source: known[source] for source in params.sources}, crop))
    except ShapeError as error:  # may name the read-out instead of the chosen decoder
        sources = " + ".join(map(str, params.sources))
        raise ShapeError(f"{sources} and decoder = {params.decoder!r} do not go together: {error}") from None
