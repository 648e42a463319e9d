"""The named networks, and the choice of a network by an entry of params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import ParamsError
from pipeline.core.params import BackboneParams
from pipeline.core.section import did_you_mean

Library = Literal["torchvision", "timm"]


@dataclass(frozen=True)
class NetworkSpec:
    """A model of a library."""

    library: Library
    model: str


BACKBONES: dict[str, NetworkSpec] = {
    "vgg16": NetworkSpec("torchvision", "vgg16"),
    "resnet34": NetworkSpec("torchvision", "resnet34"),
    "resnet50": NetworkSpec("torchvision", "resnet50"),
    "vit_small": NetworkSpec("timm", "vit_small_patch16_224"),
    "vit_base": NetworkSpec("timm", "vit_base_patch16_224"),
    "pvt_v2_b2": NetworkSpec("timm", "pvt_v2_b2"),
    "efficientnet_lite0": NetworkSpec("timm", "tf_efficientnet_lite0"),
    "efficientnet_lite1": NetworkSpec("timm", "tf_efficientnet_lite1"),
    "efficientnet_lite2": NetworkSpec("timm", "tf_efficientnet_lite2"),
}


def resolve(name: str, entry: BackboneParams) -> NetworkSpec:
    """The model behind `backbones.<name>`: the table's, or the entry's own `library` and `model`.

    Raises:
        ParamsError: the name is not in the table and its entry lacks `library` or `model`, or the entry gives a name
            of the table to another model.
    """
    _check_normalization(name, entry)
    known = BACKBONES.get(name)
    if entry.library is None and entry.model is None:
        if known is None:
            raise ParamsError(
                f"params.yaml: backbones.{name} is not one of {', '.join(BACKBONES)}, so its entry must say which "
                f"model it is; add library: timm and model: <a name from timm.list_models()>"
            )
        return known
    if entry.library is None or entry.model is None:
        missing = "library" if entry.library is None else "model"
        raise ParamsError(f"params.yaml: backbones.{name} has no {missing}; library and model go together")
    spec = NetworkSpec(entry.library, entry.model)
    if known not in (None, spec):
        raise ParamsError(
            f"params.yaml: backbones.{name} is {known.library}'s {known.model} by definition, not "
            f"{spec.library}'s {spec.model}; give the entry another name"
        )
    return spec


def _check_normalization(name: str, entry: BackboneParams) -> None:
    if (entry.mean is None) != (entry.std is None):
        raise ParamsError(f"params.yaml: backbones.{name} has one of mean and std; give both or neither")
    if entry.mean is not None and entry.kind != "path":
        raise ParamsError(
            f"params.yaml: backbones.{name}.mean and .std are for weights from a file, and weights = "
            f"{entry.weights!r} bring their own; remove mean and std"
        )
    if entry.std is not None and min(entry.std) <= 0:
        raise ParamsError(f"params.yaml: backbones.{name}.std = {list(entry.std)}: must be above 0")


def check_layers(name: str, layers: Sequence[str], legal: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """`layers`, after a check that each is in `legal` or `paths` and is named once.

    Args:
        legal: the network's layer names. paths: the paths of its modules.

    Raises:
        ParamsError: the list is empty, repeats a layer, or has an unknown one; the message lists the legal names.
    """
    if not layers:
        raise ParamsError(f"params.yaml: backbones.{name}.layers is empty; list some of: {', '.join(legal)}")
    for layer in layers:
        if layer not in (*legal, *paths):
            near = did_you_mean(layer, legal) or did_you_mean(layer, paths)
            raise ParamsError(
                f"params.yaml: backbones.{name}.layers = {layer!r} is unknown{near}; choose one of: "
                f"{', '.join(legal)}, or a module by its path"
            )
    if len(set(layers)) < len(layers):
        raise ParamsError(f"params.yaml: backbones.{name}.layers names a layer twice: {', '.join(layers)}")
    return tuple(layers)
