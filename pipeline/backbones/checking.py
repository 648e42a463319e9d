"""Whether a state dict is that of a network: every key, every shape, every number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.backbones.base import Network
from pipeline.core.errors import WeightsError

NAMED = 3  # problems spelled out; the rest are counted


def check_state(network: Network, state: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    """The tensors of `state` that the network keeps, if every one is there, fits, and is finite.

    Tensors of the head may be there, in any shape, or not: a network fine-tuned on ten classes has the same trunk.

    Raises:
        WeightsError: one sentence with the first few problems and the number of the others.
    """
    problems = list(_problems(network, state))
    if problems:
        more = f", and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise WeightsError(
            f"{file} does not hold the weights of this network: {'; '.join(problems[:NAMED])}{more}; "
            "save the state dict of the library's own model, or change backbones.<name>.model"
        )
    return {key: state[key] for key in network.model.state_dict()}


def _problems(network: Network, state: Mapping[str, Any]) -> Iterator[str]:
    own = network.model.state_dict()
    for key, tensor in own.items():
        if key not in state:
            yield f"'{key}' is missing"
        elif not isinstance(state[key], Tensor):
            yield f"'{key}' is a {type(state[key]).__name__}, not a tensor"
        elif state[key].shape != tensor.shape:
            yield f"'{key}' is {_size(state[key])}, not {_size(tensor)}"
        elif not torch.isfinite(state[key]).all():
            yield f"'{key}' holds values that are not finite"
    for key in state:
        if key not in own and key not in network.head_keys:
            yield f"'{key}' belongs to no part of it"


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"
