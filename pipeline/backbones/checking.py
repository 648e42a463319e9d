"""Check that a state dict belongs to a network: every key, every shape, every number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.backbones.base import Network
from pipeline.core.errors import WeightsError

NAMED = 3  # problems listed in a message; the others are counted
UNUSED = ("num_batches_tracked",)  # last parts of keys that no feature depends on: older torch did not write them
REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # 8-bit floats need scales, which are missing

WHOLE = (torch.int64, torch.int32, torch.bool)  # of counters, positions and masks
BFLOAT16_OF_JAX = "|V2"  # NumPy's name of the type
LEARNED = ("weight", "bias", "kernel", "running_mean", "running_var")  # last parts of keys, in torch and in JAX
CODES = "is of type {}, which are not the weights but codes of them without their scale; save them as float32"


def is_unused(key: str) -> bool:
    """Whether no feature depends on this tensor; a file may lack it, and the network keeps its own value."""
    return key.rpartition(".")[2] in UNUSED


def check_state(network: Network, state: Mapping[str, Any], file: str) -> dict[str, Tensor]:
    """The network's tensors from `state`, converted to its types, after a check that all exist, fit and are finite.

    Tensors of the head are ignored, whatever their shape: a network fine-tuned on ten classes has the same trunk.
    Tensors on which no feature depends (`UNUSED`) get the network's own value.

    Raises:
        WeightsError: the message lists the first few problems and the number of the others; if no key is the network's,
            it shows the file's first keys beside the expected ones.
    """
    own = network.model.state_dict()
    problems = list(_problems(network, state))
    if problems:
        raise WeightsError(
            f"{file} does not hold the weights of this network: {_in_short(network, state, problems)}; "
            "save the state dict of the library's own model, or change backbones.<name>.model"
        )
    return {
        key: torch.zeros_like(tensor, device="cpu") if is_unused(key) else state[key].to(tensor.dtype)
        for key, tensor in own.items()
    }


def check_types(state: Mapping[str, Any], file: str) -> None:
    """Raise WeightsError if `file` holds integer or 8-bit codes of weights without their scale, under any key.

    The values of `state` are tensors or NumPy arrays.
    """
    real, whole = ({_name(dtype) for dtype in dtypes} for dtypes in (REAL, WHOLE))
    for key, tensor in state.items():
        learned = re.split(r"[./]", key)[-1] in LEARNED
        kind = _name(getattr(tensor, "dtype", REAL[0]))
        if kind not in real | {BFLOAT16_OF_JAX} and (learned or kind not in whole):
            raise WeightsError(f"{file} does not hold the weights of this network: '{key}' {CODES.format(kind)}")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def fits(network: Network, state: Mapping[str, Any]) -> bool:
    """Whether the keys of `state` are exactly the network's, with or without its head."""
    return not any(_foreign_keys(network, state))


def _foreign_keys(network: Network, state: Mapping[str, Any]) -> Iterator[str]:
    """Keys that are missing from `state`, and keys in it that the network does not have."""
    own = network.model.state_dict()
    yield from (key for key in own if key not in state and not is_unused(key))
    yield from (key for key in state if key not in own and key not in network.head_keys)


def _problems(network: Network, state: Mapping[str, Any]) -> Iterator[str]:
    own = network.model.state_dict()
    for key, tensor in own.items():
        if is_unused(key):
            continue
        problem = "is missing" if key not in state else _problem(key, state[key], tensor)
        if problem is not None:
            yield f"'{key}' {problem}"
    for key in state:
        if key not in own and key not in network.head_keys:
            yield f"'{key}' belongs to no part of it"


def _problem(key: str, found: Any, wanted: Tensor) -> str | None:
    """The problem of one tensor, or None. Above all, it finds numbers that would load but mean something else."""
    if not isinstance(found, Tensor):
        return f"is a {type(found).__name__}, not a tensor"
    if found.shape != wanted.shape:
        return f"is {_size(found)}, not {_size(wanted)}"
    if found.layout != torch.strided or found.is_meta:
        return "is sparse or without numbers; save it dense"
    kind = _name(found.dtype)
    if not wanted.is_floating_point():
        whole = not (found.is_floating_point() or found.is_complex() or found.is_quantized)
        return None if whole else f"is of type {kind}, not of whole numbers"
    if found.dtype not in REAL:
        return CODES.format(kind)
    if not torch.isfinite(found.to(wanted.dtype)).all():
        return "holds values that are not finite"
    if key.rpartition(".")[2] == "running_var" and (found < 0).any():
        return f"holds a variance of {float(found.min()):.3g}; variances must be at least 0"
    return None


def _in_short(network: Network, state: Mapping[str, Any], problems: list[str]) -> str:
    if not set(state) & set(network.model.state_dict()):
        found, wanted = (_first(keys) for keys in (state, network.model.state_dict()))
        return f"{len(problems)} keys do not fit: its first keys are {found}, the network's are {wanted}"
    more = f", and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return "; ".join(problems[:NAMED]) + more


def _first(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"'{key}'" for key in list(keys)[:NAMED]) or "none"


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"
