"""The devices a test runs on: its body is proven on the CPU, and runs on CUDA where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
DEVICES = ("cpu", pytest.param("cuda", marks=NEEDS_GPU))


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark `test` as one that only a CUDA device can run."""
    for mark in NEEDS_GPU:
        test = mark(test)
    return test
