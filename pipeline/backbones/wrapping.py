"""State dicts as trainers save them: inside a checkpoint, behind a prefix such as DataParallel's `module.`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.backbones.base import Network
from pipeline.backbones.checking import fits
from pipeline.core.errors import WeightsError


def unwrap(network: Network, state: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], str]:
    """The network's own state dict within `state`, and in words what was taken off (empty: nothing).

    Taken off are one wrapper (`{"state_dict": …}`, `{"model": …}`, any part that is itself a state dict) and one
    prefix that all keys have (`module.`, `model.backbone.`), and only where the keys that remain are exactly the
    network's. Where nothing fits, `state` comes back, or the part of it that a state dict most likely is.

    Raises:
        WeightsError: several parts of a checkpoint fit, so that it does not say which is meant.
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
    """Whole dotted beginnings that all keys share, the empty one first."""
    yield ""
    first, last = min(state, default=""), max(state, default="")  # what these two share, all between them share
    for end, (one, other) in enumerate(zip(first, last, strict=False), start=1):
        if one != other:
            return
        if one == ".":
            yield first[:end]
