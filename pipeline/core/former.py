"""Defaults that options had in earlier versions, before params.yaml had to state them.

Models and refined images saved by those versions may not record such an option. For a key that params.yaml lacks, the
error message suggests the value from here; no computation uses it. Options that params.yaml had to state from the
beginning stand here for that message alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOKENS = {"heads": 8, "mlp_ratio": 4, "positions": "none", "max_width": 768}
ALIGNED = {"channels": 256, "grid": "largest"}

FORMER: Mapping[str, Mapping[str, Any]] = {  # section of params.yaml → its options
    "backbones": {"weights": "random", "seed": 0},  # of each entry
    "decoders.attention": {"blocks": 4, **TOKENS, "min_channels": 32},
    "decoders.frequency_aware": {"max_width": 256, "reduction": 16, "min_channels": 32},
    "decoders.linear": {"kernel": None},
    "decoders.patch_transformer": {"blocks": 1, **TOKENS},
    "decoders.residual": {
        "width": 64,
        "blocks": 3,
        "scale": 1,
        "dilations": [1],
        "norm": "batch",
        "activation": "relu",
    },
    "decoders.transposed_conv": {"min_channels": 32},
    "decoders.wavelet": {"band_channels": 64, "fusions": 2, "min_channels": 32},
    "fusions.attention": {**ALIGNED, "hidden": 64},
    "fusions.concat": ALIGNED,
    "fusions.residual": {"channels": 256},
    "fusions.routed": {**ALIGNED, "hidden": 64},
    "fusions.sum": ALIGNED,
    "fusions.weighted": ALIGNED,
    "refiners.block_inverse": {"damping": 0.6, "readout_images": 500},
    "refiners.lbfgs": {"history": 20},
    "refiners.map": {
        "strengths": [3e-3],
        "descent": "accelerated",
        "step": 0.15,
        "momentum": 0.85,
        "history": 20,
    },
}


def recorded(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded options of a saved model or store; options that the record lacks get their former defaults."""
    return {**FORMER.get(section, {}), **options}


def recorded_first_stage(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a saved first stage, in the form of `pipeline.loading.inputs.first_stage_facts`."""
    sections = {"options": f"refiners.{facts.get('refiner')}", "start": "decoders.linear"}
    return {key: recorded(sections[key], value) if key in sections else value for key, value in facts.items()}
