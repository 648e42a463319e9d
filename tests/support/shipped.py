"""Sections of the project's params.yaml as objects and as plain options, with changes: the code has no defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ruamel.yaml import YAML

from pipeline.core.params import BackboneParams, ExtractParams, PrepareParams, ProtocolParams, StoreParams
from pipeline.core.section import Section
from pipeline.core.sources import FeatureShape, ImageSize
from pipeline.models.common import decoder, fusion
from pipeline.models.common.decoder import Decoder
from pipeline.models.common.fusion import Fusion

if TYPE_CHECKING:
    from pipeline.refinement.base import KnownLayer, Refiner

PARAMS = Path(__file__).parents[2] / "params.yaml"
S = TypeVar("S", bound=Section)


def options(section: str, **changes: Any) -> dict[str, Any]:
    """The values of a section such as `decoders.wavelet`; nothing but `changes` where params.yaml has no such section.

    So a test that runs over every name of a registry takes a new one without its section.
    """
    values = _values()
    for part in section.split("."):
        values = values.get(part, {})
    return {**values, **changes}


@cache
def _values() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(PARAMS)


def _made(schema: type[S], section: str) -> Callable[..., S]:
    return lambda **changes: schema.model_validate(options(section, **changes))


prepare_params = _made(PrepareParams, "prepare")
extract_params = _made(ExtractParams, "extract")
store_params = _made(StoreParams, "store")
protocol_params = _made(ProtocolParams, "protocols.fast")


def backbone_params(**changes: Any) -> BackboneParams:
    """Random weights of seed 0, and no layers."""
    return BackboneParams.model_validate({"weights": "random", "seed": 0, "layers": [], **changes})


def build_decoder(name: str, changes: Mapping[str, Any], shape: FeatureShape, image: ImageSize) -> Decoder:
    return decoder.build_decoder(name, options(f"decoders.{name}", **changes), shape, image)


def build_fusion(name: str, changes: Mapping[str, Any], shapes: Sequence[FeatureShape]) -> Fusion:
    return fusion.build_fusion(name, options(f"fusions.{name}", **changes), shapes)


def build_refiner(name: str, changes: Mapping[str, Any], layer: KnownLayer, budget: int) -> Refiner:
    from pipeline.refinement import base  # which loads timm: processes of tests start without

    return base.build_refiner(name, options(f"refiners.{name}", **changes), layer, budget)
