"""Record that `check` has passed on this machine, for later stages and for its own next run."""

import hashlib
import json
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.backbones.packaged import packaged
from pipeline.backbones.table import resolve
from pipeline.core.code import ROOT
from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.files import write_whole
from pipeline.core.params import BackboneParams, Params
from pipeline.core.sources import FeatureShape, Source
from stages.options import WORK


def proved(params: Params) -> bool:
    """Whether all checks of `params` have passed here with this code and these libraries."""
    return _place(_whole(params)).is_file()


def remember(params: Params) -> None:
    """Note that all checks of `params` have passed."""
    write_whole(_place(_whole(params)), b"")


def shapes(params: Params) -> dict[Source, FeatureShape] | None:
    """What `remember_shapes` noted of equal networks and refiners; None where it did not: they are to be checked."""
    place = _place(_networks(params))
    if not place.is_file():
        return None
    return {Source.parse(source): FeatureShape(*shape) for source, shape in json.loads(place.read_text()).items()}


def remember_shapes(params: Params, found: dict[Source, FeatureShape]) -> None:
    """Note that networks and refiners of `params` are valid, and the shapes of all layers that can be used."""
    noted = {str(source): (shape.channels, shape.height, shape.width) for source, shape in found.items()}
    write_whole(_place(_networks(params)), json.dumps(noted).encode())


def _whole(params: Params) -> str:
    return params.model_dump_json() + _networks(params)


def _networks(params: Params) -> str:
    """All that the checks of networks and refiners depend on; the files of weights among them, which may go."""
    facts = params.model_dump(mode="json", include={"backbones", "refiners"})
    files = {name: _weights_file(name, entry) for name, entry in params.backbones.items()}
    return json.dumps([facts, params.prepare.crop, files])


def _weights_file(name: str, entry: BackboneParams) -> tuple[int, int] | None:
    """Size and time of the file of weights that a package brings, or that params.yaml names; None: there is none."""
    if entry.kind not in ("package", "path"):
        return None
    try:
        package = packaged(name, resolve(name, entry).model) if entry.kind == "package" else None
        file = (package.place() if package else Path(entry.weights).expanduser()).stat()
    except (ParamsError, WeightsError, PackageNotFoundError, OSError):
        return None
    return file.st_size, file.st_mtime_ns


def _place(facts: str) -> Path:
    """A file named after what a check depends on: `facts`, code, libraries."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pydantic")]
    key = hashlib.sha256("\n".join([facts, code(), *libraries]).encode()).hexdigest()
    return WORK / "checked" / key[:32]


@lru_cache(maxsize=1)
def code() -> str:
    """SHA-256 over every file of the library and the stages, byte by byte: quicker than asking which of them count."""
    found = hashlib.sha256()
    for folder in ("pipeline", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            content = path.read_bytes()
            found.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return found.hexdigest()
