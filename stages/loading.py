"""What every command does first: read params.yaml and validate it whole. torch is loaded late, where it must be."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from pipeline.core.code import digest
from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.files import write_whole
from pipeline.core.params import Params, load_params
from pipeline.core.section import unknown_name
from pipeline.metrics.alexnet import lpips_available
from pipeline.stores.format import FORMATS
from stages.options import WORK


def load_checked(path: Path, overrides: Iterable[str] | None, loss: bool = True) -> Params:
    """Params whose every section is valid, chosen or not.

    Names, types, ranges and missing weights of the loss come first and need no torch: they fail within a second. What
    `check` has proved of equal params, with this code and these libraries, is not proved again.
    `loss` is False for what computes none, and so needs no weights of it.

    Raises:
        ParamsError: all problems found, a line each. ShapeError: choices that do not go together.
        WeightsError: weights of the loss, or of a network, are missing or damaged.
    """
    params = load_params(path, overrides or ())
    if params.store.format not in FORMATS.names():
        raise ParamsError(unknown_name("store.format", params.store.format, FORMATS.names()))
    if loss:
        check_loss(params)
    if not _proof(params).is_file():
        from stages.check import check_choices  # which loads torch

        check_choices(params)
    return params


def remember(params: Params) -> None:
    """Note that all checks of `params` have passed, for the stages that follow on this machine."""
    write_whole(_proof(params), b"")


def _proof(params: Params) -> Path:
    """A file named after everything that a check depends on: params, code, libraries."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pydantic")]
    facts = [params.model_dump_json(), digest("stages.check", "stages.loading"), *libraries]
    return WORK / "checked" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def check_loss(params: Params) -> None:
    """Raise WeightsError when the chosen loss needs weights that are missing on this machine, or damaged."""
    if not params.loss_terms.get("lpips"):
        return
    if reason := lpips_available():
        raise WeightsError(f"params.yaml: loss = {params.loss!r} cannot be computed here: {reason}")
    from pipeline.metrics.similarity import load_lpips  # which loads torch

    load_lpips()  # whole: nothing but reading it tells a damaged file
