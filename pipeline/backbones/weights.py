"""Where a network's numbers come from, and the proof of it. There is no fallback from one source to another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline.backbones.base import Network


@dataclass(frozen=True)
class WeightsRecord:
    """What ran: goes into every store's manifest and every metrics file.

    `detail` is the seed, the library's name of the published weights, or the file's name; `sha256` is over every
    key, type, shape and byte of the network without its head.
    """

    kind: Literal["random", "imagenet", "path"]
    detail: str
    sha256: str


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over the state dict in order of keys: the same for the same numbers, wherever they came from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """The network as its library initialises it right after `torch.manual_seed(seed)`, always on the CPU.

    The process's own random state is left as it was, so the weights do not depend on what was built before and
    nothing built afterwards depends on them.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs too
        return build()
