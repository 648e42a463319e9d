"""The network behind the loss term or the metric `features`, as files describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def title(network: Mapping[str, Any]) -> str:
    """A description by `FeatureDistance.describe` in short: `efficientnet_lite0 (stage1, stage2)`."""
    return f"{network['backbone']['name']} ({', '.join(network['layers'])})"


def same_network(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two descriptions by `FeatureDistance.describe` have the same network and weights; layers may differ."""
    return all(first["backbone"][key] == second["backbone"][key] for key in ("library", "model", "weights"))
