"""Read params.yaml and validate all of it, the first step of every command; loads torch as late as possible."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import ParamsError, WeightsError
from pipeline.core.params import Params, load_params
from pipeline.core.section import unknown_name
from pipeline.metrics.alexnet import lpips_available
from pipeline.stores.format import FORMATS
from stages.proof import proved


def load_checked(path: Path, overrides: Iterable[str] | None, loss: bool = True) -> Params:
    """Load params and check every section, chosen or not.

    Names, types, ranges and missing weights of the loss come first and need no torch, so they fail within a second.
    Checks that `check` has passed for equal params, with this code and these libraries, are skipped.

    Args:
        loss: False for a command that computes no loss and needs no weights for it.

    Raises:
        ParamsError: all problems found, a line each. ShapeError: incompatible choices.
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
    """Raise WeightsError if the chosen loss needs weights that are missing here, or damaged."""
    if not params.loss_terms.get("lpips"):
        return
    if reason := lpips_available():
        raise WeightsError(f"params.yaml: loss = {params.loss!r} cannot be computed here: {reason}")
    from pipeline.metrics.similarity import load_lpips  # which loads torch

    load_lpips()  # only reading the whole file detects damage
