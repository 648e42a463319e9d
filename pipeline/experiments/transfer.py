"""Published weights: fetched to where the libraries look, or carried in a folder to a machine without network.

Weights that a package brings are listed too, and are fetched and carried by pip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torchvision.models import AlexNet_Weights

from pipeline.backbones.backbone import package_of, published_weights
from pipeline.backbones.base import Published
from pipeline.backbones.caches import TorchHubFile
from pipeline.backbones.normalization import Normalization
from pipeline.backbones.weights import obtain
from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.params import NONE, BackboneParams

LPIPS = "lpips"  # AlexNet's weights, which the perceptual loss and metric read; their linear heads come with lpips


def names(entries: Mapping[str, BackboneParams]) -> list[str]:
    """Everything whose weights can be carried: the networks of params.yaml, and `lpips`."""
    return [*(name for name in entries if name != NONE), LPIPS]


def find(name: str, entries: Mapping[str, BackboneParams]) -> Published:
    """The published weights of `name`, whatever else `weights:` of its entry asks for.

    Raises:
        ParamsError: neither a network of params.yaml nor `lpips`. WeightsError: none are published, or a package brings
            them.
    """
    if name not in names(entries):
        raise ParamsError(f"weights {name}: not in params.yaml; choose among: {', '.join(names(entries))}")
    if name == LPIPS:
        weights = AlexNet_Weights.IMAGENET1K_V1
        return Published(str(weights), Normalization(), TorchHubFile(weights.url))
    if entries[name].kind == "package":
        package = package_of(name, entries[name])
        raise WeightsError(f"the package {package.label} brings the weights of {name}; run `{package.command}`")
    return published_weights(name, entries[name])


def fetch(chosen: Iterable[str], entries: Mapping[str, BackboneParams]) -> list[str]:
    """Download what the libraries' caches lack to where the libraries look; the names that were missing.

    Raises:
        ParamsError: an unknown name (nothing is downloaded then). WeightsError: none are published, a file cannot be
            downloaded, or a package that brings them is not installed.
    """
    found = {name: find(name, entries) for name in chosen if _located(name, entries) is None}
    missing = [name for name, published in found.items() if not published.file.present()]
    for name in missing:
        obtain(name, found[name])
    return missing


def export(chosen: Iterable[str], entries: Mapping[str, BackboneParams], folder: Path) -> list[Path]:
    """Download what the libraries' caches lack, then copy it from them to `folder`; the files written there.

    Raises:
        WeightsError: a file cannot be downloaded, or `folder` cannot be written.
    """
    found = {name: find(name, entries) for name in chosen}
    written = []
    for name, published in found.items():
        obtain(name, published)
        written += published.file.copy(published.file.root, folder)
    return written


def install(chosen: Iterable[str], entries: Mapping[str, BackboneParams], folder: Path) -> list[Path]:
    """Copy from `folder`, as `export` filled it, to where the libraries look; the files written there.

    Raises:
        WeightsError: `folder` lacks one of them (nothing is copied then), or a cache cannot be written.
    """
    found = {name: find(name, entries) for name in chosen}
    for name, published in found.items():
        if not published.file.members(folder):
            raise WeightsError(
                f"{folder} does not hold {published.file.name}, the weights of {published.label}; fill it by "
                f"`python -m stages weights {name} --to DIR` on a machine with network"
            )
    return [path for published in found.values() for path in published.file.copy(folder, published.file.root)]


def status(name: str, entries: Mapping[str, BackboneParams]) -> str:
    """One line: which weights, whether they are here, and where the library looks for them."""
    try:
        if path := _located(name, entries):
            return f"{name}: {package_of(name, entries[name]).label}, present: {path}"
        published = find(name, entries)
    except WeightsError as error:
        return f"{name}: {error}"
    state = "present" if published.file.present() else "missing"
    return f"{name}: {published.label}, {state}: {published.file.name} in {published.file.folder}"


def _located(name: str, entries: Mapping[str, BackboneParams]) -> Path | None:
    """The file of weights that a package brings, None for those of another kind."""
    if name not in entries or entries[name].kind != "package":
        return None
    return package_of(name, entries[name]).locate()
