"""Record that `check` has passed on this machine, for later stages."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from pipeline.core.code import digest
from pipeline.core.files import write_whole
from pipeline.core.params import Params
from stages.options import WORK


def proved(params: Params) -> bool:
    """Whether all checks of `params` have passed here with this code and these libraries."""
    return _place(params).is_file()


def remember(params: Params) -> None:
    """Note that all checks of `params` have passed."""
    write_whole(_place(params), b"")


def _place(params: Params) -> Path:
    """A file named after everything that a check depends on: params, code, libraries."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pydantic")]
    facts = [params.model_dump_json(), digest("stages.check", "stages.loading"), *libraries]
    return WORK / "checked" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
