"""List the weights of the networks of params.yaml, and whether they are here; loads torch only if necessary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.backbones.packaged import packaged
from pipeline.backbones.table import resolve
from pipeline.core.errors import WeightsError
from pipeline.core.params import BackboneParams
from pipeline.metrics.alexnet import lpips_weights_path


def lines(entries: Mapping[str, BackboneParams]) -> Iterator[str]:
    """One line for each network of params.yaml, and one for LPIPS's AlexNet.

    Raises:
        ParamsError: an entry that names no network, or an unknown model or tag.
    """
    for name, entry in entries.items():
        yield _line(name, entry, resolve(name, entry).model)
    path = lpips_weights_path()
    yield f"lpips: AlexNet, {_present(path)}: {path.name} in {path.parent}"


def _line(name: str, entry: BackboneParams, model: str) -> str:
    if entry.kind == "random":
        return f"{name}: random, seed {entry.seed}"
    if entry.kind == "package":
        try:
            package = packaged(name, model)
            return f"{name}: {package.label}, present: {package.locate()}"
        except WeightsError as error:
            return f"{name}: {error}"
    if entry.kind == "path":
        path = Path(entry.weights).expanduser()
        return f"{name}: a file, {_present(path)}: {path}"
    from pipeline.experiments.transfer import status  # asks the library, which loads torch

    return status(name, entries={name: entry})


def _present(path: Path) -> str:
    return "present" if path.is_file() else "missing"
