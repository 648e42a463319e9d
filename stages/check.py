"""check: report every problem of params.yaml, including incompatible choices. The first stage of the graph."""

from collections.abc import Mapping
from typing import Any

import torch
import typer

from pipeline.backbones.backbone import check_backbone, feature_shapes, published_weights
from pipeline.core.errors import ParamsError, ShapeError, WeightsError
from pipeline.core.params import NONE, Params
from pipeline.core.registry import Registry
from pipeline.core.section import parse_section, unknown_name
from pipeline.core.sources import ImageSize
from pipeline.data.preparation.dataset import DATASETS
from pipeline.models.common.decoder import DECODERS
from pipeline.models.common.fusion import FUSIONS
from pipeline.models.common.inverter import Blueprint, Inverter
from pipeline.refinement.base import REFINERS
from pipeline.training.losses import TERMS
from stages.proof import remember


def check(settings: Params) -> None:
    """Check every network, chosen or not, and remember that all of `settings` is valid."""
    check_networks(settings)
    remember(settings)
    for note in missing_weights(settings):
        typer.echo(note, err=True)


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
    crop = ImageSize(params.prepare.crop, params.prepare.crop)
    for name in sorted({distance.backbone for distance in params.distances.values()}):
        check_backbone(name, params.backbone_params(name), crop)
    shapes = {}
    for source in params.sources:
        entry = params.backbone_params(source.backbone)
        check_backbone(source.backbone, entry, crop)
        shapes[source] = feature_shapes(source.backbone, entry, (source.layer,), crop)[source.layer]
    for chosen in {params.two_stage.refine, params.evaluate.refine} - {NONE}:
        (source,) = params.sources
        REFINERS.get(chosen).check(source, params.backbone_params(source.backbone))
    try:
        with torch.device("meta"):
            Inverter(Blueprint.of(params, shapes, crop))
    except ShapeError as error:  # may name the read-out instead of the chosen decoder
        sources = " + ".join(map(str, params.sources))
        raise ShapeError(f"{sources} and decoder = {params.decoder!r} do not go together: {error}") from None


def check_networks(params: Params) -> None:
    """Check every network of params.yaml, chosen or not, with its library: model, layers, weights tag, crop size.

    Raises:
        ParamsError: all problems found, a line each.
    """
    crop = ImageSize(params.prepare.crop, params.prepare.crop)
    chosen = {source.backbone for source in params.sources} | {each.backbone for each in params.distances.values()}
    problems: list[str] = []
    for name, entry in params.backbones.items():
        try:
            check_backbone(name, entry, crop)
        except (ShapeError, WeightsError) as error:  # irrelevant if the experiment does not use the network
            problems += [str(error)] if name in chosen else []
        except ParamsError as error:
            problems.append(str(error))
    if problems:
        raise ParamsError("\n".join(problems))


def missing_weights(params: Params) -> list[str]:
    """A note for each chosen network whose published weights are not here yet.

    This is no error: `extract` downloads them if there is a network, and features may come from a remote.
    """
    notes = []
    for name in sorted({source.backbone for source in params.sources}):
        if params.backbone_params(name).kind != "imagenet":
            continue
        published = published_weights(name, params.backbone_params(name))
        if not published.file.present():
            notes.append(
                f"note: {published.file.name}, the weights of {published.label}, is not in {published.file.folder}; "
                f"extract will download it. Without network here, run `python -m stages weights {name} --to DIR` on a "
                f"machine that has it, bring DIR and run `python -m stages weights {name} --from DIR`"
            )
    return notes
