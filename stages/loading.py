"""What every stage does first: read params.yaml and validate it whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.params import Params, load_params


def load_checked(path: Path, overrides: Iterable[str] | None) -> Params:
    """Params whose every section is valid, chosen or not.

    Names, types and ranges come first and need no torch, so that a typo fails within a second.

    Raises:
        ParamsError: all problems found, a line each.
    """
    params = load_params(path, overrides or ())
    check_options(params)
    return params


def check_options(params: Params) -> None:
    """Hold every section against the code that takes it, and the chosen networks against layer, tag and crop size."""
    from pipeline.backbones import check_backbone
    from pipeline.datasets import DATASETS
    from pipeline.decoders import DECODERS
    from pipeline.errors import ParamsError, PipelineError
    from pipeline.fusion import FUSIONS
    from pipeline.losses import TERMS
    from pipeline.registry import Registry
    from pipeline.section import parse_section, unknown_name
    from pipeline.sources import ImageSize

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
    for name, terms in params.losses.items():
        unknown = (term for term in terms if term not in TERMS.names())
        problems += [unknown_name(f"losses.{name}", term, TERMS.names()) for term in unknown]
    crop = ImageSize(params.prepare.crop, params.prepare.crop)
    for source in params.sources:
        try:
            check_backbone(source.backbone, params.backbones[source.backbone], crop)
        except PipelineError as error:
            problems.append(str(error))
    if problems:
        raise ParamsError("\n".join(problems))
