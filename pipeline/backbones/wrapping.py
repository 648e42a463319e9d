"""Unwrap state dicts saved by trainers: inside a checkpoint, or with a prefix such as DataParallel's `module.`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.backbones.base import Network
from pipeline.backbones.checking import fits
from pipeline.core.errors import WeightsError


def unwrap(network: Network, state: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], str]:
    """Find the network's own state dict in `state`.

    At most one wrapper is removed (`{"state_dict": …}`, `{"model": …}`, any part that is itself a state dict) and one
    common prefix of all keys (`module.`, `model.backbone.`), and only if the remaining keys are exactly the network's.

    Returns:
        The state dict and a description of what was removed ("" for nothing). If nothing fits, the part of `state`
        that most likely is a state dict.

    Raises:
        WeightsError: several parts of a checkpoint fit.
    """
    if fits(network, state):
        return state, ""
    parts = {"": state} | {key: value for key, value in state.items() if isinstance(value, Mapping)}
    found = {key: fitting for key, part in parts.items() if (fitting := _without_prefix(network, part)) is not None}
    if len(found) > 1:
        names = " and ".join(f"'{key}'" for key in found)
        raise WeightsError(f"{file} holds this network {len(found)} times, as {names}; save one of them alone")
    for key, (stripped, prefix) in found.items():
        words = [f"its part '{key}'"] * bool(key) + [f"without the prefix '{prefix}'"] * bool(prefix)
        return stripped, ", ".join(words)
    likeliest = max(parts, key=lambda key: sum(hasattr(value, "shape") for value in parts[key].values()))
    return parts[likeliest], ""


def _without_prefix(network: Network, state: Mapping[Any, Any]) -> tuple[Mapping[str, Any], str] | None:
    if not all(isinstance(key, str) for key in state):  # an optimizer's part counts its parameters
        return None
    for prefix in _prefixes(state):
        stripped = {key.removeprefix(prefix): value for key, value in state.items()}
        if fits(network, stripped):
            return stripped, prefix
    return None


def _prefixes(state: Mapping[str, Any]) -> Iterator[str]:
    """Dotted prefixes that all keys share, starting with the empty one."""
    yield ""
    first, last = min(state, default=""), max(state, default="")  # all keys share what these two share
    for end, (one, other) in enumerate(zip(first, last, strict=False), start=1):
        if one != other:
            return
        if one == ".":
            yield first[:end]
