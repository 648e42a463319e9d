"""What every command does first: read params.yaml and validate it whole. torch is loaded late, where it must be."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.params import Params, load_params
from pipeline.core.section import unknown_name
from pipeline.metrics.alexnet import lpips_available
from pipeline.stores.format import FORMATS
from stages.proof import proved


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
    if not proved(params):
        from stages.choices import check_choices  # which loads torch

        check_choices(params)
    return params


def check_loss(params: Params) -> None:
    """Raise WeightsError when the chosen loss needs weights that are missing on this machine, or damaged."""
    if not params.loss_terms.get("lpips"):
        return
    if reason := lpips_available():
        raise WeightsError(f"params.yaml: loss = {params.loss!r} cannot be computed here: {reason}")
    from pipeline.metrics.similarity import load_lpips  # which loads torch

    load_lpips()  # whole: nothing but reading it tells a damaged file
